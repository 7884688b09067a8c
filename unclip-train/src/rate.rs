//! The learning rate, step by step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate falls after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Not at all.
    Constant,
    /// In a straight line.
    Linear,
    /// Along half a cosine (Loshchilov & Hutter 2017).
    Cosine,
}

/// The learning rate of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// The largest rate.
    pub peak: f64,
    /// Steps in which the rate grows from 0 to its peak.
    #[serde(default)]
    pub warm_up: u64,
    /// How it falls then.
    #[serde(default = "cosine")]
    pub decay: Decay,
    /// The share of the steps after which it begins to fall.
    #[serde(default)]
    pub hold: f64,
    /// The rate that it falls to, as a share of the peak.
    #[serde(default)]
    pub end: f64,
}

fn cosine() -> Decay {
    Decay::Cosine
}

impl RateConfig {
    /// The rate of `step`, the first being 0, in a run of `steps`.
    ///
    /// The first step has a small rate and not none, and the last one still more than the end of the decay.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        if step < self.warm_up {
            return self.peak * (step + 1) as f64 / self.warm_up as f64;
        }
        let start = (self.hold * steps as f64).max(self.warm_up as f64);
        let length = (steps as f64 - start).max(1.0);
        let progress = ((step as f64 - start) / length).clamp(0.0, 1.0);
        let left = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - progress,
            Decay::Cosine => 0.5 * (1.0 + libm::cos(PI * progress)),
        };
        self.peak * (self.end + (1.0 - self.end) * left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(decay: Decay) -> RateConfig {
        RateConfig { peak: 2.0, warm_up: 10, decay, hold: 0.0, end: 0.1 }
    }

    #[test]
    fn it_grows_for_the_warm_up_and_then_falls_to_its_end() {
        for decay in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            let rate = rate(decay);
            assert!((rate.at(0, 110) - 0.2).abs() < 1e-12);
            assert!((rate.at(9, 110) - 2.0).abs() < 1e-12);
            assert!((rate.at(10, 110) - 2.0).abs() < 1e-12);
        }
        // Halfway: 2 · (0.1 + 0.9 · 0.5) for both that fall.
        for (decay, half, end) in
            [(Decay::Constant, 2.0, 2.0), (Decay::Linear, 1.1, 0.2), (Decay::Cosine, 1.1, 0.2)]
        {
            assert!((rate(decay).at(60, 110) - half).abs() < 1e-12, "{decay:?}");
            assert!((rate(decay).at(110, 110) - end).abs() < 1e-12, "{decay:?}");
        }
    }

    #[test]
    fn it_can_hold_before_it_falls() {
        let held = RateConfig { hold: 0.7, ..rate(Decay::Linear) };
        assert!((held.at(70, 100) - 2.0).abs() < 1e-12);
        assert!((held.at(85, 100) - 1.1).abs() < 1e-12);
    }
}
