//! AdamW over a whole network, with what long runs need of it.
//!
//! The arithmetic of a parameter is Burn's [`AdamW`]; here are which parameters decay, clipping by the norm of all
//! gradients together, and the moments under the parameters' names, so that they can be saved and read again.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::{
        AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, Optimizer as _,
    },
    tensor::{Tensor, TensorData},
};
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    parameters::{Beside, Find, read, write},
};

/// The settings of AdamW (Loshchilov & Hutter 2019).
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

/// AdamW with its moments.
pub(crate) struct Optimizer {
    config: OptimizerConfig,
    decaying: AdamW,
    plain: AdamW,
    /// Steps taken.
    time: usize,
    first: Beside,
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
        gradients: GradientsParams,
        norm: f64,
        rate: f64,
    ) -> M {
        let scale = match self.config.clip_norm {
            Some(limit) if norm > limit => limit / norm,
            _ => 1.0,
        };
        let module = module.map(&mut Step { optimizer: self, gradients, rate, scale });
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
    gradients: GradientsParams,
    rate: f64,
    scale: f64,
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let gradient = if self.scale == 1.0 { gradient } else { gradient * self.scale };
        let optimizer = &mut *self.optimizer;
        let adam = if D > 1 { &optimizer.decaying } else { &optimizer.plain };
        let (id, tensor, mapper) = param.consume();
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
        let required = tensor.is_require_grad();
        let strategy = tensor.gradient_checkpointing_strategy();
        let (tensor, state) = adam.step(self.rate, tensor.inner(), gradient, state);
        if let Some(AdamWState { momentum }) = state {
            optimizer.first.put(id, momentum.moment_1);
            optimizer.second.put(id, momentum.moment_2);
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
}
