//! Diffusers' `scheduler_config.json`.

use serde_json::{Map, Value, json};

use super::{SamplerConfig, SamplerKind, Variance};
use crate::diffusion::BetaSchedule;

impl SamplerConfig {
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
