//! The configuration of a run: one file that reproduces it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use unclip_core::{Error as CoreError, Precision};

use crate::{
    Error, Result,
    data::DataConfig,
    ema::EmaConfig,
    optimizer::OptimizerConfig,
    rate::RateConfig,
    task::{ClipTaskConfig, DecoderTaskConfig, PriorTaskConfig, UpsamplerTaskConfig},
};

/// A run. Unknown keys are refused, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// What every random number of the run follows from.
    pub seed: u64,
    /// The folder of the run: checkpoints, logs, sample sheets.
    pub output: PathBuf,
    /// The model directory that the stage is written into, and in which it finds the stages before it.
    pub model: PathBuf,
    /// A model directory whose weights of this stage the run starts from, in place of random ones: fine-tuning. They have
    /// to be of the configuration's sizes; CLIP takes the vocabulary along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<PathBuf>,
    /// What is learned from.
    pub data: DataConfig,
    /// What is learned.
    pub stage: StageConfig,
    /// How.
    pub training: TrainingConfig,
}

/// The stage that a run trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StageConfig {
    /// Both towers of CLIP, and a vocabulary for it.
    Clip(ClipTaskConfig),
    /// The diffusion prior.
    Prior(PriorTaskConfig),
    /// The decoder, with its mask channels.
    Decoder(DecoderTaskConfig),
    /// An upsampler.
    Upsampler(UpsamplerTaskConfig),
}

/// How a stage is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Steps of the whole run.
    pub steps: u64,
    /// Samples of a step; several devices share them.
    pub batch: usize,
    /// Samples that go through the network of a device at once; all that it has where absent. The gradients are those of
    /// the whole batch either way.
    #[serde(default)]
    pub part: Option<usize>,
    /// The type that the network computes in, forward and backward. Weights, their average, the optimiser's moments,
    /// the loss and what is summed over a batch are 32 bits wide whatever this says.
    #[serde(default)]
    pub precision: Precision,
    /// The learning rate.
    pub rate: RateConfig,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// The average of the weights, which is what is written into the model directory.
    pub ema: EmaConfig,
    /// Steps between checkpoints; there is one at the end besides.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept, the newest ones.
    #[serde(default = "three")]
    pub keep: usize,
    /// Steps between sample sheets; none where absent.
    #[serde(default)]
    pub sheet_every: Option<u64>,
    /// Steps between lines of the log.
    #[serde(default = "one")]
    pub log_every: u64,
    /// Whether the decoder and upsamplers keep only what lies between their blocks, and compute each block again on the way
    /// back: memory for the time of a pass forward. Of the other stages, Burn computes again what is cheap, which saves
    /// nothing on a processor; theirs is the size of a [`part`](Self::part).
    #[serde(default)]
    pub gradient_checkpointing: bool,
}

fn three() -> usize {
    3
}

fn one() -> u64 {
    1
}

impl RunConfig {
    /// Reads a JSON file.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`] when it cannot be read, [`Error::Config`] when it is no configuration, and what
    /// [`validate`](Self::validate) finds.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read(path).map_err(CoreError::io("read", path))?;
        Self::from_bytes(path, &text)
    }

    /// Reads a configuration from `text`; errors call it `path`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(path: impl Into<PathBuf>, text: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(text)
            .map_err(|source| Error::Config { path: path.into(), source })?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every number, and the configurations of the networks.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] naming the first number that is out of its range; [`Error::UnknownKey`] naming
    /// a key of a network that none has; what the networks' own configurations report.
    pub fn validate(&self) -> Result<()> {
        let TrainingConfig { steps, batch, part, rate, optimizer, ema, .. } = &self.training;
        let refuse = |field, found: String, expected: &str| {
            Err(CoreError::invalid(field, found, expected).into())
        };
        for (field, number) in [
            ("steps", *steps),
            ("batch", *batch as u64),
            ("part", part.unwrap_or(1) as u64),
            ("checkpoint_every", self.training.checkpoint_every),
            ("keep", self.training.keep as u64),
            ("sheet_every", self.training.sheet_every.unwrap_or(1)),
            ("log_every", self.training.log_every),
        ] {
            if number == 0 {
                return refuse(field, number.to_string(), "1 or more");
            }
        }
        let shares = [
            ("rate.hold", rate.hold),
            ("rate.end", rate.end),
            ("ema.ramp", ema.ramp),
            ("optimizer.beta_1", f64::from(optimizer.beta_1)),
            ("optimizer.beta_2", f64::from(optimizer.beta_2)),
            ("optimizer.muon.momentum", optimizer.muon.map_or(0.0, |muon| muon.momentum)),
        ];
        are_shares(&shares)?;
        let positive = [
            ("rate.peak", rate.peak),
            ("ema.half_life", ema.half_life),
            ("optimizer.epsilon", f64::from(optimizer.epsilon)),
            ("optimizer.clip_norm", optimizer.clip_norm.unwrap_or(1.0)),
        ];
        if let Some((field, number)) =
            positive.iter().find(|(_, number)| !(number.is_finite() && *number > 0.0))
        {
            return refuse(field, number.to_string(), "a number above 0");
        }
        let decay = optimizer.weight_decay;
        if !(decay.is_finite() && decay >= 0.0) {
            return refuse("optimizer.weight_decay", decay.to_string(), "a number from 0");
        }
        match &self.stage {
            StageConfig::Clip(stage) => stage.validate(),
            StageConfig::Prior(stage) => stage.validate(),
            StageConfig::Decoder(stage) => stage.validate(),
            StageConfig::Upsampler(stage) => stage.validate(),
        }
    }
}

/// Refuses the first of some numbers that is no share of a whole.
pub(crate) fn are_shares(numbers: &[(&'static str, f64)]) -> Result<()> {
    match numbers.iter().find(|(_, number)| !(0.0..=1.0).contains(number)) {
        Some((field, number)) => Err(CoreError::invalid(field, number, "0 to 1").into()),
        None => Ok(()),
    }
}

/// Refuses a key of a network's configuration that the network does not have, where `known` has them all.
pub(crate) fn are_known(place: &str, given: &Value, known: &Value) -> Result<()> {
    let (Some(given), Some(known)) = (given.as_object(), known.as_object()) else { return Ok(()) };
    // Names with a low line in front are the libraries' that wrote the file.
    let is_unknown = |key: &&String| !key.starts_with('_') && !known.contains_key(*key);
    let unknown: Vec<&str> = given.keys().filter(is_unknown).map(String::as_str).collect();
    none_is_unknown(place, &unknown)
}

/// Refuses the first of some keys that nobody reads.
pub(crate) fn none_is_unknown<S: AsRef<str>>(place: &str, unknown: &[S]) -> Result<()> {
    match unknown.first() {
        Some(key) => {
            Err(Error::UnknownKey { place: place.to_owned(), key: key.as_ref().to_owned() })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn example() -> Value {
        json!({
            "seed": 1,
            "output": "runs/prior",
            "model": "model",
            "data": {"kind": "folder", "path": "icons"},
            "stage": {"prior": {
                "network": {
                    "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
                    "embedding_dim": 32, "num_embeddings": 12, "additional_embeddings": 4
                },
                "diffusion": {"prediction": "sample", "weighting": "simple"}
            }},
            "training": {
                "steps": 10, "batch": 4, "rate": {"peak": 1e-3}, "optimizer": {},
                "ema": {"half_life": 1000}, "checkpoint_every": 5
            }
        })
    }

    fn read(value: &Value) -> Result<RunConfig> {
        RunConfig::from_bytes("run.json", value.to_string().as_bytes())
    }

    #[test]
    fn a_configuration_survives_being_written() {
        let config = read(&example()).expect("a configuration");
        let text = serde_json::to_value(&config).expect("JSON");
        assert_eq!(read(&text).expect("the same"), config);
    }

    #[test]
    fn unknown_keys_are_refused_by_name_at_every_depth() {
        for place in [
            "",
            "/training",
            "/training/rate",
            "/training/ema",
            "/stage/prior",
            "/stage/prior/diffusion",
            "/stage/prior/network",
        ] {
            let mut value = example();
            value.pointer_mut(place).expect("a place")["leraning_rate"] = json!(1);
            let text = read(&value).expect_err(place).to_string();
            assert!(text.contains("leraning_rate"), "{text}");
            let file =
                if place == "/stage/prior/network" { "stage.prior.network" } else { "run.json" };
            assert!(text.contains(file), "{text}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        for (place, number, field) in [
            ("/training/steps", json!(0), "steps"),
            ("/training/batch", json!(0), "batch"),
            ("/training/checkpoint_every", json!(0), "checkpoint_every"),
            ("/training/rate/peak", json!(-1.0), "rate.peak"),
            ("/training/ema/half_life", json!(0.0), "ema.half_life"),
            ("/stage/prior/caption_drop", json!(10.0), "prior.caption_drop"),
            ("/training/optimizer/weight_decay", json!(-0.1), "optimizer.weight_decay"),
            ("/training/optimizer/muon", json!({"momentum": 1.5}), "optimizer.muon.momentum"),
        ] {
            let mut value = example();
            let (object, key) = place.rsplit_once('/').expect("a path");
            value.pointer_mut(object).expect("an object")[key] = number;
            let text = read(&value).expect_err(field).to_string();
            assert!(text.contains(&format!("`{field}`")), "{text}");
        }
        let mut value = example();
        value["training"]["optimizer"]["beta_2"] = json!(1.5);
        let text = read(&value).expect_err("a share").to_string();
        assert!(text.contains("`optimizer.beta_2`"), "{text}");
    }
}
