//! The exponential moving average of a network's weights.
//!
//! The decay follows from a half-life in pictures seen, so that it means the same for every batch size; at the start of
//! a run, the half-life is a share of the pictures seen so far (Karras et al. 2022, `training_loop.py`).

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::parameters::Beside;

/// How an average is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmaConfig {
    /// Pictures after which a weight counts half.
    pub half_life: f64,
    /// The half-life is never longer than this share of the pictures seen.
    #[serde(default = "five_hundredths")]
    pub ramp: f64,
}

fn five_hundredths() -> f64 {
    0.05
}

impl EmaConfig {
    /// What the average keeps of itself in a step of `batch` pictures, after which `seen` were seen in all.
    pub fn decay(&self, batch: usize, seen: u64) -> f64 {
        let half_life = self.half_life.min(self.ramp * seen as f64);
        if half_life <= 0.0 { 0.0 } else { libm::exp2(-(batch as f64) / half_life) }
    }
}

/// `average · decay + model · (1 − decay)`, parameter by parameter. The average is without autodiff and has the
/// model's parameter ids.
pub(crate) fn update<M: Module>(average: M, model: &M, decay: f64) -> M {
    let mut collect = Collect(Beside::default());
    model.visit(&mut collect);
    average.map(&mut Update { model: collect.0, decay })
}

struct Collect(Beside);

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.put(param.id, param.val().inner());
    }
}

struct Update {
    model: Beside,
    decay: f64,
}

impl ModuleMapper for Update {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(value) = self.model.take::<D>(param.id) else { return param };
        let decay = self.decay;
        param.map(|average| average * decay + value * (1.0 - decay))
    }
}

#[cfg(test)]
mod tests {
    use unclip_core::nn::LinearConfig;
    use unclip_testkit::device;

    use super::*;

    #[test]
    fn a_half_life_halves_and_the_ramp_is_shorter_at_first() {
        let config = EmaConfig { half_life: 1000.0, ramp: 0.05 };
        assert!((config.decay(1000, 1_000_000) - 0.5).abs() < 1e-12);
        assert!((config.decay(100, 1_000_000).powi(10) - 0.5).abs() < 1e-12);
        assert!((config.decay(5, 100) - 0.5).abs() < 1e-12, "5 % of 100 pictures");
        assert_eq!(config.decay(5, 0), 0.0);
    }

    #[test]
    fn the_average_moves_by_its_share() {
        let device = device();
        let mut model = LinearConfig::new(1, 1).with_bias(false).init(&device);
        model.weight = model.weight.with_value(|weight| weight * 0.0 + 8.0);
        let average = model.valid();
        model.weight = model.weight.with_value(|weight| weight * 0.0 + 4.0);
        let average = update(average, &model, 0.75);
        assert_eq!(average.weight.val().into_scalar::<f32>(), 7.0);
        assert_eq!(model.weight.val().into_scalar::<f32>(), 4.0);
    }
}
