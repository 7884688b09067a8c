//! Diffusers' `scheduler_config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{SamplerConfig, SamplerKind, Spacing, Variance};
use crate::{
    Error, Result,
    checkpoint::{ConfigReader, Folder},
    diffusion::{BetaSchedule, MAX_TRAIN_TIMESTEPS, NoiseSchedule, Prediction},
};

/// The file that diffusers writes for a scheduler.
const FILE: &str = "scheduler_config.json";
/// Larger than any such file.
const MAX_FILE: u64 = 1 << 20;

impl SamplerConfig {
    /// Reads the `scheduler_config.json` in `dir`, of diffusers' `UnCLIPScheduler`, `DDPMScheduler`, `DDIMScheduler` or
    /// `DPMSolverMultistepScheduler`.
    ///
    /// Keys that are absent have that class's defaults.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Json`] when the file cannot be read, and [`Error::Config`] naming the key when a value
    /// is wrong or not implemented.
    pub fn from_dir(dir: impl Into<Folder>) -> Result<Self> {
        let dir = dir.into();
        let text = dir.read(FILE, MAX_FILE)?;
        Self::from_text(&dir.path().join(FILE), text)
    }

    /// Reads the content of a `scheduler_config.json`, which errors call `path`.
    pub(super) fn from_text(path: &Path, text: Vec<u8>) -> Result<Self> {
        let mut reader = ConfigReader::from_bytes(path, &without_infinities(text))?;
        let config = Self::from_reader(&mut reader)?;
        reader.finish();
        Ok(config)
    }

    fn from_reader(reader: &mut ConfigReader) -> Result<Self> {
        let kind = match reader.required::<String>("_class_name")?.as_str() {
            "UnCLIPScheduler" => SamplerKind::UnClip,
            "DDPMScheduler" => SamplerKind::Ddpm,
            "DDIMScheduler" => SamplerKind::Ddim { eta: 0.0 },
            "DPMSolverMultistepScheduler" => SamplerKind::DpmSolverPp2M,
            _ => {
                let expected = "UnCLIPScheduler, DDPMScheduler, DDIMScheduler or \
                                DPMSolverMultistepScheduler";
                return Err(reader.error("_class_name", expected));
            }
        };
        for switch in ["thresholding", "rescale_betas_zero_snr"] {
            reader.only(switch, &[json!(false)])?;
        }
        reader.only("trained_betas", &[Value::Null])?;
        reader.ignore(&["dynamic_thresholding_ratio", "sample_max_value"]);
        let train_timesteps =
            reader.size_or("num_train_timesteps", 1000, 1..=MAX_TRAIN_TIMESTEPS)?;
        let beta_schedule = beta_schedule(reader, kind, train_timesteps)?;
        let prediction = reader.or("prediction_type", Prediction::Epsilon)?;
        let mut config = Self {
            kind,
            prediction,
            variance: Variance::FixedSmallLog,
            clip_sample: None,
            train_timesteps,
            beta_schedule,
            spacing: None,
            steps_offset: 0,
            set_alpha_to_one: true,
        };
        if kind != SamplerKind::DpmSolverPp2M {
            let range = reader.positive_or("clip_sample_range", 1.0)?;
            config.clip_sample = reader.or("clip_sample", true)?.then_some(range);
        }
        if kind != SamplerKind::UnClip {
            config.spacing =
                Some(reader.or::<Spacing>("timestep_spacing", kind.default_spacing())?);
            config.steps_offset = reader.size_or("steps_offset", 0, 0..=train_timesteps - 1)?;
        }
        match kind {
            SamplerKind::UnClip => {
                reader.only(
                    "variance_type",
                    &[json!(Variance::FixedSmallLog), json!(Variance::LearnedRange)],
                )?;
                config.variance = reader.or("variance_type", Variance::FixedSmallLog)?;
            }
            SamplerKind::Ddpm => {
                config.variance = reader.or("variance_type", Variance::FixedSmall)?;
            }
            SamplerKind::Ddim { .. } => {
                config.set_alpha_to_one = reader.or("set_alpha_to_one", true)?;
            }
            SamplerKind::DpmSolverPp2M => config.variance = dpm_solver(reader)?,
        }
        Ok(config)
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

/// The noise schedule, checked as a whole.
fn beta_schedule(
    reader: &mut ConfigReader,
    kind: SamplerKind,
    train_timesteps: usize,
) -> Result<BetaSchedule> {
    const COSINE: &str = "squaredcos_cap_v2";
    let unclip = kind == SamplerKind::UnClip;
    let name = reader.or("beta_schedule", if unclip { COSINE } else { "linear" }.to_owned())?;
    let (start, end) = (reader.or("beta_start", 1e-4)?, reader.or("beta_end", 0.02)?);
    let schedule = match name.as_str() {
        COSINE => BetaSchedule::SquaredCosine,
        "linear" if !unclip => BetaSchedule::Linear { start, end },
        "scaled_linear" if !unclip => BetaSchedule::ScaledLinear { start, end },
        _ => {
            let accepted =
                if unclip { COSINE } else { "squaredcos_cap_v2, linear or scaled_linear" };
            return Err(reader.error("beta_schedule", accepted));
        }
    };
    match NoiseSchedule::new(schedule, train_timesteps) {
        Ok(_) => Ok(schedule),
        Err(Error::InvalidInput { found, expected, .. }) => {
            Err(reader.error("beta_schedule", format!("{expected}, not {found}")))
        }
        Err(error) => Err(error),
    }
}

/// What only DPM-Solver++'s file has; returns the variance.
fn dpm_solver(reader: &mut ConfigReader) -> Result<Variance> {
    for (key, implemented) in [
        ("algorithm_type", json!("dpmsolver++")),
        ("solver_order", json!(2)),
        ("solver_type", json!("midpoint")),
        ("final_sigmas_type", json!("zero")),
        ("lambda_min_clipped", Value::Null),
        ("use_karras_sigmas", json!(false)),
        ("use_exponential_sigmas", json!(false)),
        ("use_beta_sigmas", json!(false)),
        ("use_lu_lambdas", json!(false)),
        ("use_flow_sigmas", json!(false)),
        ("use_dynamic_shifting", json!(false)),
        ("variance_type", json!(Variance::LearnedRange)),
    ] {
        reader.only(key, &[implemented, Value::Null])?;
    }
    // Of no effect where the last noise level is zero and the order is two; and those of flow models.
    reader.ignore(&["lower_order_final", "euler_at_final", "flow_shift", "time_shift_type"]);
    reader.or("variance_type", Variance::FixedSmall)
}

/// Python writes infinities that JSON does not have; the one that diffusers writes, for `lambda_min_clipped`, means
/// that nothing is clipped.
fn without_infinities(text: Vec<u8>) -> Vec<u8> {
    match String::from_utf8(text) {
        Ok(text) => text.replace(": -Infinity", ": null").into_bytes(),
        Err(error) => error.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use unclip_testkit::fixture_sets;

    use super::*;

    fn read(text: &str) -> Result<SamplerConfig> {
        SamplerConfig::from_text(Path::new("scheduler_config.json"), text.as_bytes().to_vec())
    }

    #[test]
    fn karlo_s_three_files_are_read() {
        for set in fixture_sets() {
            for (stage, expected) in [
                ("prior", SamplerConfig::karlo_prior()),
                ("decoder", SamplerConfig::karlo_decoder()),
                ("super_res", SamplerConfig::karlo_super_res()),
            ] {
                let dir = set.model_dir().join(format!("{stage}_scheduler"));
                assert_eq!(SamplerConfig::from_dir(dir).expect("a scheduler"), expected, "{stage}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let kinds = ["unclip", "ddpm", "ddim", "dpm_solver_pp_2m"];
        for kind in kinds.map(|kind| kind.parse::<SamplerKind>().expect("a name")) {
            let mut config = SamplerConfig::karlo_decoder().with_kind(kind);
            match kind {
                SamplerKind::UnClip => {}
                SamplerKind::Ddim { .. } => {
                    // Not in a DDIM file, because DDIM does not read it.
                    config.variance = Variance::FixedSmallLog;
                    config.set_alpha_to_one = false;
                }
                SamplerKind::Ddpm => {
                    config.beta_schedule = BetaSchedule::Linear { start: 1e-3, end: 0.01 };
                    config.clip_sample = None;
                }
                SamplerKind::DpmSolverPp2M => {
                    config.beta_schedule = BetaSchedule::ScaledLinear { start: 1e-3, end: 0.01 };
                    config.clip_sample = None;
                }
            }
            if kind != SamplerKind::UnClip {
                config.spacing = Some(Spacing::Trailing);
                config.steps_offset = 1;
            }
            let text = config.to_json().to_string();
            assert_eq!(read(&text).expect("its own"), config, "{text}");
        }
    }

    #[test]
    fn absent_keys_have_the_class_s_defaults() {
        let unclip = read(r#"{"_class_name": "UnCLIPScheduler"}"#).expect("defaults");
        assert_eq!(unclip, SamplerConfig::karlo_super_res());
        let ddpm = read(r#"{"_class_name": "DDPMScheduler"}"#).expect("defaults");
        assert_eq!(ddpm.beta_schedule, BetaSchedule::Linear { start: 1e-4, end: 0.02 });
        assert_eq!((ddpm.variance, ddpm.spacing()), (Variance::FixedSmall, Spacing::Leading));
    }

    #[test]
    fn values_that_are_wrong_or_not_implemented_are_refused_by_key() {
        for (class, key, value) in [
            ("EulerDiscreteScheduler", "_class_name", ""),
            ("UnCLIPScheduler", "beta_schedule", r#", "beta_schedule": "linear""#),
            ("UnCLIPScheduler", "variance_type", r#", "variance_type": "fixed_large""#),
            ("UnCLIPScheduler", "prediction_type", r#", "prediction_type": "flow""#),
            ("UnCLIPScheduler", "num_train_timesteps", r#", "num_train_timesteps": 1e300"#),
            ("UnCLIPScheduler", "num_train_timesteps", r#", "num_train_timesteps": 0"#),
            ("UnCLIPScheduler", "clip_sample_range", r#", "clip_sample_range": -1"#),
            ("UnCLIPScheduler", "clip_sample", r#", "clip_sample": "yes""#),
            ("DDPMScheduler", "variance_type", r#", "variance_type": "learned""#),
            ("DDPMScheduler", "beta_schedule", r#", "beta_schedule": "sigmoid""#),
            ("DDPMScheduler", "beta_schedule", r#", "beta_end": 1.5"#),
            ("DDPMScheduler", "trained_betas", r#", "trained_betas": [0.1]"#),
            ("DDPMScheduler", "thresholding", r#", "thresholding": true"#),
            ("DDIMScheduler", "timestep_spacing", r#", "timestep_spacing": "log""#),
            ("DDIMScheduler", "steps_offset", r#", "steps_offset": 1000"#),
            ("DDIMScheduler", "rescale_betas_zero_snr", r#", "rescale_betas_zero_snr": true"#),
            ("DPMSolverMultistepScheduler", "solver_order", r#", "solver_order": 3"#),
            ("DPMSolverMultistepScheduler", "algorithm_type", r#", "algorithm_type": "deis""#),
            (
                "DPMSolverMultistepScheduler",
                "lambda_min_clipped",
                r#", "lambda_min_clipped": -5.1"#,
            ),
            ("DPMSolverMultistepScheduler", "use_karras_sigmas", r#", "use_karras_sigmas": true"#),
        ] {
            let text = format!(r#"{{"_class_name": "{class}"{value}}}"#);
            let error = read(&text).expect_err(&text);
            assert!(
                matches!(&error, Error::Config { key: named, .. } if named == key),
                "{text}: {error}"
            );
        }
    }
}
