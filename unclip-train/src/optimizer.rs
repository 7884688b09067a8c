//! AdamW over a whole network, or Muon for the matrices within it, with what long runs need of them.
//!
//! The arithmetic of a parameter is Burn's [`AdamW`] and [`Muon`]; here are which parameters decay and which are Muon's,
//! clipping by the norm of all gradients together, and the moments under the parameters' names, so that they can be
//! saved and read again.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::{
        AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, AdjustLrFn, GradientsParams, Muon,
        MuonConfig, Optimizer as _, decay::WeightDecayConfig, momentum::MomentumConfig,
    },
    tensor::{Tensor, TensorData},
};
use serde::{Deserialize, Serialize};

use crate::{
    Result,
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

/// Muon (Jordan et al. 2024): momentum, whose singular values are all brought near to 1.
///
/// It has the weights of linear layers and convolutions (as `[out, in · height · width]`), but for the first and last
/// layers of a network and for tables of embeddings, which stay with AdamW, as do all vectors. A step is scaled by
/// `0.2 √max(rows, columns)` (Liu et al. 2025, §2.2), which gives it the size of a step of AdamW, so both go by one
/// learning rate and one weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonSettings {
    /// The share that the sum of gradients keeps in a step.
    #[serde(default = "nineteen_twentieths")]
    pub momentum: f64,
}

fn nineteen_twentieths() -> f64 {
    0.95
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

/// The layers at a network's ends, and tables of embeddings, by the names that checkpoints have for them.
const ENDS: [&str; 10] = [
    "conv_in",
    "conv_out",
    "linear_1",
    "patch_embedding",
    "position_embedding",
    "proj_in",
    "proj_to_clip_embeddings",
    "text_projection",
    "token_embedding",
    "visual_projection",
];

/// Burn's Muon keeps its sum of gradients where no checkpoint could read it, so the sum is taken here.
const NO_MOMENTUM: MomentumConfig =
    MomentumConfig { momentum: 0.0, dampening: 0.0, nesterov: false };

/// The optimiser with its moments.
pub(crate) struct Optimizer {
    config: OptimizerConfig,
    decaying: AdamW,
    plain: AdamW,
    /// With its momentum.
    muon: Option<(Muon, f64)>,
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
            muon: config.muon.map(|settings| {
                let muon = MuonConfig::new()
                    .with_weight_decay(Some(WeightDecayConfig::new(config.weight_decay)))
                    .with_momentum(NO_MOMENTUM)
                    .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
                    .build();
                (muon, settings.momentum)
            }),
            time: 0,
            first: Beside::default(),
            second: Beside::default(),
        }
    }

    /// One step; parameters without a gradient stay as they are. `norm` is that of the gradients, which are clipped.
    pub(crate) fn step<M: Module>(
        &mut self,
        module: M,
        gradients: GradientsParams,
        norm: f64,
        rate: f64,
    ) -> M {
        let scale = match self.config.clip_norm {
            Some(limit) if norm > limit => limit / norm,
            _ => 1.0,
        };
        let module =
            module.map(&mut Step { path: Vec::new(), optimizer: self, gradients, rate, scale });
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
    path: Vec<String>,
    optimizer: &'a mut Optimizer,
    gradients: GradientsParams,
    rate: f64,
    scale: f64,
}

impl Step<'_> {
    /// Whether the parameter at this place is the matrix of a layer within the network.
    fn is_within(&self, dims: usize) -> bool {
        let mut names = self.path.iter().rev().map(String::as_str);
        let is_weight = names.next() == Some("weight");
        dims > 1 && is_weight && names.next().is_some_and(|layer| !ENDS.contains(&layer))
    }

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
        muon: &Muon,
        momentum: f64,
        id: ParamId,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
    ) -> Tensor<D> {
        let sum = match self.optimizer.first.take::<D>(id) {
            Some(sum) => sum * momentum + gradient.clone(),
            None => gradient.clone(),
        };
        self.optimizer.first.put(id, sum.clone());
        // What a run that AdamW began has left of this parameter.
        self.optimizer.second.take::<D>(id);
        let ahead = sum * momentum + gradient;
        let dims = tensor.dims();
        let flat = [dims[0], dims[1..].iter().product()];
        let (tensor, _) = muon.step(self.rate, tensor.reshape(flat), ahead.reshape(flat), None);
        tensor.reshape(dims)
    }
}

impl ModuleMapper for Step<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let gradient = if self.scale == 1.0 { gradient } else { gradient * self.scale };
        let (id, tensor, mapper) = param.consume();
        let required = tensor.is_require_grad();
        let strategy = tensor.gradient_checkpointing_strategy();
        let tensor = match self.optimizer.muon.clone() {
            Some((muon, momentum)) if self.is_within(D) => {
                self.muon(&muon, momentum, id, tensor.inner(), gradient)
            }
            _ => self.adamw(id, tensor.inner(), gradient),
        };
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
