//! AdamW over a whole network, or Muon for the matrices within it, with what long runs need of them.
//!
//! AdamW's arithmetic is Burn's [`AdamW`], Muon's directions are [`muon`]'s; here are which parameters decay, clipping by
//! the norm of all gradients together, and the moments under the parameters' names, so that they can be saved and read
//! again.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::{
        AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, Optimizer as _,
    },
    tensor::{Tensor, TensorData},
};
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    muon::{self, MuonSettings},
    parameters::{Beside, Find, read, write},
};

/// The settings of AdamW (Loshchilov & Hutter 2019), and of Muon where it has the matrices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The share that the mean of gradients keeps in a step.
    #[serde(default = "nine_tenths")]
    pub beta_1: f32,
    /// The share that the mean of squared gradients keeps in a step.
    #[serde(default = "ninety_nine_hundredths")]
    pub beta_2: f32,
    /// Added to the root of the mean square.
    #[serde(default = "hundred_millionth")]
    pub epsilon: f32,
    /// The decay of weights a step, times the learning rate. Biases and the scales of normalisations, which are
    /// parameters of one axis, do not decay.
    #[serde(default)]
    pub weight_decay: f32,
    /// The norm of all gradients together is at most this.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Muon for the matrices within the network; AdamW for all parameters where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon: Option<MuonSettings>,
}

fn nine_tenths() -> f32 {
    0.9
}

fn ninety_nine_hundredths() -> f32 {
    0.99
}

fn hundred_millionth() -> f32 {
    1e-8
}

/// The optimiser with its moments.
pub(crate) struct Optimizer {
    config: OptimizerConfig,
    decaying: AdamW,
    plain: AdamW,
    /// Steps taken.
    time: usize,
    /// AdamW's mean of gradients, Muon's sum of them.
    first: Beside,
    /// AdamW's mean of squared gradients.
    second: Beside,
}

impl Optimizer {
    pub(crate) fn new(config: OptimizerConfig) -> Self {
        let build = |decay| {
            AdamWConfig::new()
                .with_beta_1(config.beta_1)
                .with_beta_2(config.beta_2)
                .with_epsilon(config.epsilon)
                .with_weight_decay(decay)
                .build()
        };
        Self {
            config,
            decaying: build(config.weight_decay),
            plain: build(0.0),
            time: 0,
            first: Beside::default(),
            second: Beside::default(),
        }
    }

    /// One step; parameters without a gradient stay as they are. `norm` is that of the gradients, which are clipped.
    pub(crate) fn step<M: Module>(
        &mut self,
        module: M,
        mut gradients: GradientsParams,
        norm: f64,
        rate: f64,
    ) -> M {
        let scale = match self.config.clip_norm {
            Some(limit) if norm > limit => limit / norm,
            _ => 1.0,
        };
        let directions = match self.config.muon {
            Some(settings) => {
                muon::directions(&module, &mut gradients, scale, settings, &mut self.first)
            }
            None => Beside::default(),
        };
        let module = module.map(&mut Step { optimizer: self, gradients, directions, rate, scale });
        self.time += 1;
        module
    }

    /// The moments under the names of `module`'s parameters.
    pub(crate) fn read<M: Module>(
        &self,
        module: &M,
        out: &mut Vec<(String, TensorData)>,
    ) -> Result<()> {
        read(module, "first_moment", Some(&self.first), out)?;
        read(module, "second_moment", Some(&self.second), out)
    }

    /// Takes the moments that [`read`](Self::read) gave after `time` steps.
    pub(crate) fn write<M: Module>(
        &mut self,
        module: M,
        time: usize,
        find: &mut Find<'_>,
    ) -> Result<M> {
        self.time = time;
        let module = write(module, "first_moment", Some(&mut self.first), find)?;
        write(module, "second_moment", Some(&mut self.second), find)
    }
}

struct Step<'a> {
    optimizer: &'a mut Optimizer,
    /// Of the parameters that are AdamW's.
    gradients: GradientsParams,
    /// Of those that are Muon's.
    directions: Beside,
    rate: f64,
    scale: f64,
}

impl Step<'_> {
    fn adamw<const D: usize>(
        &mut self,
        id: ParamId,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
    ) -> Tensor<D> {
        let optimizer = &mut *self.optimizer;
        let adam = if D > 1 { &optimizer.decaying } else { &optimizer.plain };
        let moments = (optimizer.first.take::<D>(id), optimizer.second.take::<D>(id));
        let state = match moments {
            (Some(moment_1), Some(moment_2)) => Some(AdamWState::new(AdaptiveMomentumState {
                time: optimizer.time,
                moment_1,
                moment_2,
                max_moment_2: None,
            })),
            _ => None,
        };
        let (tensor, state) = adam.step(self.rate, tensor, gradient, state);
        if let Some(AdamWState { momentum }) = state {
            optimizer.first.put(id, momentum.moment_1);
            optimizer.second.put(id, momentum.moment_2);
        }
        tensor
    }

    fn muon<const D: usize>(
        &mut self,
        id: ParamId,
        tensor: Tensor<D>,
        direction: Tensor<2>,
    ) -> Tensor<D> {
        // What a run that AdamW began has left of this parameter.
        self.optimizer.second.take::<D>(id);
        let decay = self.rate * f64::from(self.optimizer.config.weight_decay);
        let length = self.rate * muon::stretch(direction.dims());
        let dims = tensor.dims();
        tensor * (1.0 - decay) - direction.reshape(dims) * length
    }
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.gradients.remove::<D>(param.id);
        let direction = self.directions.take::<2>(param.id);
        if gradient.is_none() && direction.is_none() {
            return param;
        }
        let (id, mut tensor, mapper) = param.consume();
        let required = tensor.is_require_grad();
        let strategy = tensor.gradient_checkpointing_strategy();
        tensor = tensor.inner();
        if let Some(direction) = direction {
            tensor = self.muon(id, tensor, direction);
        }
        if let Some(gradient) = gradient {
            tensor = self.adamw(id, tensor, scaled(gradient, self.scale));
        }
        let tensor = match strategy {
            Some(strategy) => {
                let tensor = tensor.autodiff().with_gradient_checkpointing_strategy(strategy);
                tensor.set_require_grad(required)
            }
            None => tensor,
        };
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// Clipping as a factor, which is 1 as a rule.
pub(crate) fn scaled<const D: usize>(gradient: Tensor<D>, scale: f64) -> Tensor<D> {
    if scale == 1.0 { gradient } else { gradient * scale }
}

/// The norm of all gradients together.
pub(crate) fn norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    struct Sum<'a>(&'a GradientsParams, f64);
    impl ModuleVisitor for Sum<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                self.1 += f64::from(gradient.square().sum().into_scalar::<f32>());
            }
        }
    }
    let mut sum = Sum(gradients, 0.0);
    module.visit(&mut sum);
    sum.1.sqrt()
}

#[cfg(test)]
mod tests {
    use burn::module::Initializer;
    use serde_json::Value;
    use unclip_testkit::device;

    use super::*;

    #[derive(Module, Debug)]
    struct Weights {
        matrix: Param<Tensor<2>>,
        vector: Param<Tensor<1>>,
        unused: Param<Tensor<1>>,
    }

    fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().expect("floats")
    }

    /// Recorded by `tests/reference/record_gradients.py`: three steps of `torch.optim.AdamW` over gradients clipped to a
    /// norm of 3.
    #[test]
    fn steps_are_pytorch_s() {
        let text = include_str!("../tests/reference/gradients.json");
        let recorded = &serde_json::from_str::<Value>(text).expect("JSON")["adamw"];
        for device in [device().autodiff(), device().autodiff().gradient_checkpointing()] {
            let zeros = Initializer::Zeros;
            let mut weights = Weights {
                matrix: Param::from_data([[0.5f32, -1.0], [2.0, 0.25]], &device),
                vector: Param::from_data([1.0f32, -0.5], &device),
                unused: zeros.init([2], &device),
            };
            let mut optimizer = Optimizer::new(OptimizerConfig {
                beta_1: 0.9,
                beta_2: 0.99,
                epsilon: 1e-8,
                weight_decay: 0.1,
                clip_norm: Some(3.0),
                muon: None,
            });
            let mut last = 0.0;
            for step in 0..3 {
                let (matrix, vector) = (weights.matrix.val(), weights.vector.val());
                let loss = matrix.clone().square().sum()
                    + vector.clone().square().sum()
                    + (matrix.sum() + vector.sum()) * f64::from(step);
                let gradients = GradientsParams::from_grads(loss.backward(), &weights);
                last = norm(&weights, &gradients);
                weights = optimizer.step(weights, gradients, last, 0.05);
            }
            assert!((last - recorded["norm"].as_f64().expect("a number")).abs() < 1e-5, "{last}");
            for (name, found) in
                [("matrix", floats(weights.matrix.val())), ("vector", floats(weights.vector.val()))]
            {
                let expected = recorded[name].as_array().expect("a list");
                for (found, expected) in found.iter().zip(expected) {
                    let expected = expected.as_f64().expect("a number");
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-6,
                        "{name}: {found} is not {expected}"
                    );
                }
            }
            assert_eq!(floats(weights.unused.val()), [0.0, 0.0], "no gradient, no decay");
        }
    }

    #[derive(Module, Debug)]
    struct Layer<const D: usize> {
        weight: Param<Tensor<D>>,
    }

    #[derive(Module, Debug)]
    struct Layers {
        hidden: Layer<4>,
        wide: Layer<2>,
        conv_out: Layer<2>,
    }

    #[expect(clippy::cast_possible_truncation, reason = "weights are 32 bits wide")]
    fn waves<const D: usize>(shape: [usize; D], device: &burn::tensor::Device) -> Layer<D> {
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|i| libm::sin(i as f64 * 0.7) as f32).collect();
        Layer { weight: Param::from_data(TensorData::new::<f32, _>(values, shape), device) }
    }

    /// Recorded by `tests/reference/record_muon.py`: three steps of `torch.optim.Muon` on a tall and on a wide matrix,
    /// the tall one a convolution's, and of `torch.optim.AdamW` on a last layer.
    #[test]
    fn steps_of_muon_are_pytorch_s() {
        let text = include_str!("../tests/reference/muon.json");
        let recorded: Value = serde_json::from_str(text).expect("JSON");
        let device = device().autodiff();
        let mut layers = Layers {
            hidden: waves([6, 2, 1, 2], &device),
            wide: waves([2, 5], &device),
            conv_out: waves([2, 3], &device),
        };
        let mut optimizer = Optimizer::new(OptimizerConfig {
            beta_1: 0.9,
            beta_2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: None,
            muon: Some(MuonSettings { momentum: 0.95 }),
        });
        let left = Tensor::<4>::zeros([6, 2, 1, 2], &device.clone().inner());
        optimizer.second.put(layers.hidden.weight.id, left);
        for step in 0..3 {
            let (hidden, wide) = (layers.hidden.weight.val(), layers.wide.weight.val());
            let last = layers.conv_out.weight.val();
            let squares = hidden.clone().square().sum()
                + wide.clone().square().sum()
                + last.clone().square().sum();
            let loss = squares + (hidden.sum() + wide.sum() + last.sum()) * f64::from(step);
            let gradients = GradientsParams::from_grads(loss.backward(), &layers);
            layers = optimizer.step(layers, gradients, 1.0, 0.05);
        }
        for (name, found) in [
            ("hidden", floats(layers.hidden.weight.val())),
            ("wide", floats(layers.wide.weight.val())),
            ("conv_out", floats(layers.conv_out.weight.val())),
        ] {
            let expected = recorded[name].as_array().expect("a list");
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let expected = expected.as_f64().expect("a number");
                let off = (f64::from(*found) - expected).abs();
                assert!(off < 1e-5, "{name}: {found} is not {expected}");
            }
        }
        let mut kept = Vec::new();
        optimizer.read(&layers, &mut kept).expect("on the host");
        let mut names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let expected = [
            "first_moment.conv_out.weight",
            "first_moment.hidden.weight",
            "first_moment.wide.weight",
            "second_moment.conv_out.weight",
        ];
        assert_eq!(names, expected, "what AdamW left of a matrix is dropped");
    }
}
