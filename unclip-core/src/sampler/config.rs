//! What a `scheduler_config.json` says.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

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

    /// The content of diffusers' `scheduler_config.json`, with `_class_name`.
    ///
    /// Two things have no place there: DDIM's `eta`, an argument of every call in diffusers, and a clipping range with
    /// DPM-Solver++.
    pub fn to_json(&self) -> Value {
        let mut config = Map::new();
        let mut put = |key: &str, value: Value| {
            config.insert(key.to_owned(), value);
        };
        put("_class_name", json!(self.class_name()));
        put("num_train_timesteps", json!(self.train_timesteps));
        put("prediction_type", json!(self.prediction));
        match self.beta_schedule {
            BetaSchedule::SquaredCosine => put("beta_schedule", json!("squaredcos_cap_v2")),
            BetaSchedule::Linear { start, end } | BetaSchedule::ScaledLinear { start, end } => {
                let scaled = matches!(self.beta_schedule, BetaSchedule::ScaledLinear { .. });
                put("beta_schedule", json!(if scaled { "scaled_linear" } else { "linear" }));
                put("beta_start", json!(start));
                put("beta_end", json!(end));
            }
        }
        if self.kind != SamplerKind::DpmSolverPp2M {
            put("clip_sample", json!(self.clip_sample.is_some()));
            put("clip_sample_range", json!(self.clip_sample.unwrap_or(1.0)));
        }
        if matches!(self.kind, SamplerKind::UnClip | SamplerKind::Ddpm) {
            put("variance_type", json!(self.variance));
        }
        if self.kind != SamplerKind::UnClip {
            put("timestep_spacing", json!(self.spacing()));
            put("steps_offset", json!(self.steps_offset));
        }
        match self.kind {
            SamplerKind::UnClip | SamplerKind::Ddpm => {}
            SamplerKind::Ddim { .. } => put("set_alpha_to_one", json!(self.set_alpha_to_one)),
            SamplerKind::DpmSolverPp2M => {
                let learned = self.variance == Variance::LearnedRange;
                put("variance_type", if learned { json!(self.variance) } else { Value::Null });
                put("algorithm_type", json!("dpmsolver++"));
                put("solver_order", json!(2));
                put("solver_type", json!("midpoint"));
                put("lower_order_final", json!(true));
                put("final_sigmas_type", json!("zero"));
            }
        }
        Value::Object(config)
    }

    /// The diffusers class of this kind.
    fn class_name(&self) -> &'static str {
        match self.kind {
            SamplerKind::UnClip => "UnCLIPScheduler",
            SamplerKind::Ddpm => "DDPMScheduler",
            SamplerKind::Ddim { .. } => "DDIMScheduler",
            SamplerKind::DpmSolverPp2M => "DPMSolverMultistepScheduler",
        }
    }
}
