//! How a stage is sampled.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Sampler, Spacing};
use crate::{
    Error, Result,
    diffusion::{BetaSchedule, Prediction},
};

/// A sampling algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SamplerKind {
    /// `unclip`: ancestral sampling as Karlo does it, with betas recomputed for the timesteps that are skipped.
    #[serde(rename = "unclip")]
    UnClip,
    /// `ddpm`: ancestral sampling (Ho et al. 2020).
    #[serde(rename = "ddpm")]
    Ddpm,
    /// `ddim`: denoising diffusion implicit models (Song et al. 2021).
    #[serde(rename = "ddim")]
    Ddim {
        /// The share of DDPM's noise that is added, 0 (deterministic) to 1.
        eta: f64,
    },
    /// `dpm_solver_pp_2m`: DPM-Solver++ of second order, multistep, midpoint (Lu et al. 2022); of first order in the
    /// first step and the last.
    #[serde(rename = "dpm_solver_pp_2m")]
    DpmSolverPp2M,
}

impl SamplerKind {
    /// The spacing of a configuration that names none: linspace for unCLIP and DPM-Solver++, leading for DDPM and
    /// DDIM, as in diffusers.
    pub fn default_spacing(self) -> Spacing {
        match self {
            Self::UnClip | Self::DpmSolverPp2M => Spacing::Linspace,
            Self::Ddpm | Self::Ddim { .. } => Spacing::Leading,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::UnClip => "unclip",
            Self::Ddpm => "ddpm",
            Self::Ddim { .. } => "ddim",
            Self::DpmSolverPp2M => "dpm_solver_pp_2m",
        }
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = Error;

    /// The kind by its name; `ddim` has an `eta` of 0.
    fn from_str(name: &str) -> Result<Self> {
        [Self::UnClip, Self::Ddpm, Self::Ddim { eta: 0.0 }, Self::DpmSolverPp2M]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                Error::invalid("sampler", name, "unclip, ddpm, ddim or dpm_solver_pp_2m")
            })
    }
}

/// The variance of the noise that ancestral samplers add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Variance {
    /// The posterior's variance, `β̃`.
    FixedSmall,
    /// The same, through its logarithm and not below 1e-20.
    FixedSmallLog,
    /// `β`.
    FixedLarge,
    /// The network says where between `ln β̃` and `ln β` (Nichol & Dhariwal 2021): it has twice the channels.
    LearnedRange,
}

impl fmt::Display for Variance {
    /// The name in diffusers' `scheduler_config.json`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FixedSmall => "fixed_small",
            Self::FixedSmallLog => "fixed_small_log",
            Self::FixedLarge => "fixed_large",
            Self::LearnedRange => "learned_range",
        })
    }
}

/// How a stage is sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplerConfig {
    /// The algorithm.
    pub kind: SamplerKind,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The variance of the added noise; DDIM and DPM-Solver++ do not read it.
    pub variance: Variance,
    /// Predicted clean samples are clipped to `±` this.
    pub clip_sample: Option<f64>,
    /// Timesteps that the network was trained on.
    pub train_timesteps: usize,
    /// The noise schedule that it was trained on.
    pub beta_schedule: BetaSchedule,
    /// How timesteps are chosen; the kind's [default](SamplerKind::default_spacing) where absent. unCLIP's is fixed.
    #[serde(default)]
    pub spacing: Option<Spacing>,
    /// Added to every timestep of leading spacing.
    #[serde(default)]
    pub steps_offset: usize,
    /// Whether DDIM's last step ends at the clean sample, rather than at the noise of timestep 0.
    #[serde(default = "yes")]
    pub set_alpha_to_one: bool,
}

fn yes() -> bool {
    true
}

impl SamplerConfig {
    /// Karlo's prior: predicts the clean embedding, clipped to ±5.
    pub fn karlo_prior() -> Self {
        Self {
            kind: SamplerKind::UnClip,
            prediction: Prediction::Sample,
            variance: Variance::FixedSmallLog,
            clip_sample: Some(5.0),
            train_timesteps: 1000,
            beta_schedule: BetaSchedule::SquaredCosine,
            spacing: None,
            steps_offset: 0,
            set_alpha_to_one: true,
        }
    }

    /// Karlo's decoder: predicts noise and variance.
    pub fn karlo_decoder() -> Self {
        Self { variance: Variance::LearnedRange, ..Self::karlo_super_res() }
    }

    /// Karlo's upsamplers: predict noise.
    pub fn karlo_super_res() -> Self {
        Self { prediction: Prediction::Epsilon, clip_sample: Some(1.0), ..Self::karlo_prior() }
    }

    /// The same network sampled by another algorithm, with that algorithm's default spacing: what diffusers' scheduler
    /// classes make of another's configuration, except that DPM-Solver++ goes on clipping.
    #[must_use]
    pub fn with_kind(self, kind: SamplerKind) -> Self {
        Self { kind, spacing: None, steps_offset: 0, set_alpha_to_one: true, ..self }
    }

    /// The spacing in force.
    pub fn spacing(&self) -> Spacing {
        self.spacing.unwrap_or_else(|| self.kind.default_spacing())
    }

    /// The sampler for a number of steps.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] naming the field, when the configuration is impossible or `steps` is not within 1
    /// (unCLIP: 2) and `train_timesteps`.
    pub fn sampler(&self, steps: usize) -> Result<Sampler> {
        Sampler::new(self.clone(), steps)
    }

    /// Whether steps that add noise need a predicted variance.
    pub(super) fn variance_is_needed(&self) -> bool {
        self.variance == Variance::LearnedRange
            && matches!(self.kind, SamplerKind::UnClip | SamplerKind::Ddpm)
    }

    /// Checks every field on its own.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] naming the first field that is impossible.
    pub(super) fn validate(&self) -> Result<()> {
        if let Some(range) = self.clip_sample
            && !(range > 0.0 && range.is_finite())
        {
            return Err(Error::invalid("clip_sample", range, "a finite range above 0"));
        }
        if let SamplerKind::Ddim { eta } = self.kind
            && !(0.0..=1.0).contains(&eta)
        {
            return Err(Error::invalid("eta", eta, "0 to 1"));
        }
        let logarithmic = matches!(self.variance, Variance::FixedSmallLog | Variance::LearnedRange);
        if self.kind == SamplerKind::UnClip && !logarithmic {
            return Err(Error::invalid(
                "variance",
                self.variance,
                "fixed_small_log or learned_range, for the unclip sampler",
            ));
        }
        self.beta_schedule.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_serialisation_and_short_ones_are_completed() {
        for kind in ["unclip", "ddpm", "ddim", "dpm_solver_pp_2m"] {
            let kind: SamplerKind = kind.parse().expect("a name of a sampler");
            let config = SamplerConfig::karlo_decoder().with_kind(kind);
            let json = serde_json::to_string(&config).expect("serialisable");
            assert_eq!(serde_json::from_str::<SamplerConfig>(&json).expect("its own"), config);
        }
        let short = r#"{
            "kind": {"ddim": {"eta": 0.5}}, "prediction": "v_prediction", "variance": "learned_range",
            "clip_sample": null, "train_timesteps": 100, "beta_schedule": "squared_cosine"
        }"#;
        let config: SamplerConfig = serde_json::from_str(short).expect("complete enough");
        assert_eq!(config.kind, SamplerKind::Ddim { eta: 0.5 });
        assert_eq!((config.spacing(), config.set_alpha_to_one), (Spacing::Leading, true));
    }

    #[test]
    fn an_unknown_sampler_is_refused_with_the_names_of_the_known() {
        let error = "euler".parse::<SamplerKind>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "`sampler` is euler, expected unclip, ddpm, ddim or dpm_solver_pp_2m"
        );
    }

    #[test]
    fn impossible_configurations_are_refused_by_name() {
        let base = SamplerConfig::karlo_decoder;
        let eta = |eta| base().with_kind(SamplerKind::Ddim { eta });
        let clip = |range| SamplerConfig { clip_sample: Some(range), ..base() };
        for (config, field) in [
            (eta(-0.1), "eta"),
            (eta(1.1), "eta"),
            (eta(f64::NAN), "eta"),
            (clip(0.0), "clip_sample"),
            (clip(-1.0), "clip_sample"),
            (clip(f64::NAN), "clip_sample"),
            (clip(f64::INFINITY), "clip_sample"),
            (SamplerConfig { variance: Variance::FixedLarge, ..base() }, "variance"),
            (SamplerConfig { train_timesteps: 0, ..base() }, "train_timesteps"),
            (SamplerConfig { train_timesteps: usize::MAX, ..base() }, "train_timesteps"),
        ] {
            let error = config.sampler(5).expect_err("impossible");
            assert!(
                matches!(error, Error::InvalidInput { field: named, .. } if named == field),
                "{field}: {error}"
            );
        }
    }
}
