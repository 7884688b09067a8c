//! The sizes of an upsampler, under diffusers' keys.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unclip_core::{
    checkpoint::{ConfigReader, Folder},
    nn::{Activation, Misfit, TimeShift, UNetConfig},
};

use crate::Result;

/// The class that diffusers gives the network.
const CLASS: &str = "UNet2DModel";
/// Wider than any layer in use.
const MAX_WIDTH: usize = 1 << 15;
/// Larger than any picture that an upsampler paints.
const MAX_SIDE: usize = 8192;

/// Keys of which one value is implemented: any other would change the network or its weights.
fn implemented() -> [(&'static str, Value); 5] {
    [
        ("mid_block_type", json!("UNetMidBlock2D")),
        ("add_attention", json!(false)),
        ("time_embedding_type", json!("positional")),
        ("class_embed_type", Value::Null),
        ("num_class_embeds", Value::Null),
    ]
}

/// Keys that reach other kinds of blocks only, with diffusers' defaults. Their values are kept, to be written back.
fn without_effect() -> [(&'static str, Value); 7] {
    [
        ("downsample_padding", json!(1)),
        ("downsample_type", json!("conv")),
        ("upsample_type", json!("conv")),
        ("dropout", json!(0.0)),
        ("attention_head_dim", json!(8)),
        ("attn_norm_num_groups", Value::Null),
        ("num_train_timesteps", Value::Null),
    ]
}

/// A level of the way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks.
    #[serde(rename = "ResnetDownsampleBlock2D")]
    Residual,
}

/// A level of the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks.
    #[serde(rename = "ResnetUpsampleBlock2D")]
    Residual,
}

/// The sizes of an upsampler's network.
///
/// ```
/// # use unclip_upsample::UpsamplerConfig;
/// let mut config = UpsamplerConfig::karlo_v1_alpha();
/// assert_eq!((config.sample_size, config.time_width()), (256, 1280));
/// config.in_channels = 3;
/// let error = config.validate().unwrap_err();
/// assert_eq!(error.to_string(), "`in_channels` is 3, expected twice `out_channels` (3)");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpsamplerConfig {
    /// Side of the large picture.
    pub sample_size: usize,
    /// Channels of the input: the noisy picture's and the small one's.
    pub in_channels: usize,
    /// Channels of the prediction, which are the picture's.
    pub out_channels: usize,
    /// Whether the input is first mapped from `[0, 1]` to `[-1, 1]`.
    pub center_input_sample: bool,
    /// Whether the cosine half of the timestep's sinusoids comes first.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in their divisor.
    pub freq_shift: u32,
    /// Width of the time embedding, four times the finest level's where absent.
    pub time_embedding_dim: Option<usize>,
    /// The levels of the way down, the finest first.
    pub down_block_types: Vec<DownBlock>,
    /// The levels of the way up, the coarsest first.
    pub up_block_types: Vec<UpBlock>,
    /// Channels of each level, the finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level on the way down; the way up has one more.
    pub layers_per_block: usize,
    /// What the sums of the middle's residual blocks are divided by.
    pub mid_block_scale_factor: f64,
    /// The activation of the residual blocks. Elsewhere diffusers always takes SiLU, so no other is accepted.
    pub act_fn: Activation,
    /// Groups of every normalisation.
    pub norm_num_groups: usize,
    /// Added to the variance in every normalisation.
    pub norm_eps: f64,
    /// How the time embedding enters residual blocks.
    pub resnet_time_scale_shift: TimeShift,
    /// Known keys that have no effect on these blocks.
    #[serde(flatten)]
    without_effect: BTreeMap<String, Value>,
}

impl UpsamplerConfig {
    /// Karlo's upsamplers (`kakaobrain/karlo-v1-alpha`): 691 579 523 parameters each, 64 to 256 pixels.
    pub fn karlo_v1_alpha() -> Self {
        Self {
            sample_size: 256,
            in_channels: 6,
            out_channels: 3,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0,
            time_embedding_dim: None,
            down_block_types: vec![DownBlock::Residual; 4],
            up_block_types: vec![UpBlock::Residual; 4],
            block_out_channels: vec![320, 640, 960, 1280],
            layers_per_block: 3,
            mid_block_scale_factor: 1.0,
            act_fn: Activation::Silu,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeShift::Add,
            without_effect: without_effect().map(|(key, value)| (key.to_owned(), value)).into(),
        }
    }

    /// Width of the time embedding.
    pub fn time_width(&self) -> usize {
        let finest = self.block_out_channels.first().copied().unwrap_or_default();
        self.time_embedding_dim.unwrap_or(finest.saturating_mul(4))
    }

    /// The sizes as the shared network takes them.
    pub fn unet(&self) -> UNetConfig {
        let levels = self.block_out_channels.len();
        UNetConfig {
            channels_in: self.in_channels,
            channels_out: self.out_channels,
            level_channels: self.block_out_channels.clone(),
            level_blocks: vec![self.layers_per_block; levels],
            down_attention: vec![false; self.down_block_types.len()],
            up_attention: vec![false; self.up_block_types.len()],
            mid_attention: false,
            attention: None,
            groups: self.norm_num_groups,
            epsilon: self.norm_eps,
            time_shift: self.resnet_time_scale_shift,
            time_width: self.time_width(),
            activation: self.act_fn,
            cosine_first: self.flip_sin_to_cos,
            frequency_shift: f64::from(self.freq_shift),
            center_input: self.center_input_sample,
            time_embedding_activation: None,
            time_post_activation: None,
            skip_time_activation: false,
            output_scale: 1.0,
            mid_output_scale: self.mid_block_scale_factor,
            kernel_in: 3,
            kernel_out: 3,
        }
    }

    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`] and [`unclip_core::Error::Json`] when it cannot be read,
    /// [`unclip_core::Error::Config`] when a key is missing, wrong or not implemented.
    pub fn open(dir: impl Into<Folder>) -> Result<Self> {
        Self::read(ConfigReader::open_in(dir, "config.json")?)
    }

    /// Reads a configuration from `text`; errors call it `path`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), except for [`unclip_core::Error::Io`].
    pub fn from_bytes(path: impl Into<PathBuf>, text: &[u8]) -> Result<Self> {
        Self::read(ConfigReader::from_bytes(path, text)?)
    }

    fn read(mut reader: ConfigReader) -> Result<Self> {
        reader.only("_class_name", &[json!(CLASS)])?;
        for (key, value) in implemented() {
            reader.only(key, &[value])?;
        }
        // Where diffusers finds no value it adds attention.
        let _: bool = reader.required("add_attention")?;
        reader.only("act_fn", &[json!("silu"), json!("swish")])?;
        let mut kept = BTreeMap::new();
        for (key, default) in without_effect() {
            kept.insert(key.to_owned(), reader.or(key, default)?);
        }
        let config = Self {
            sample_size: reader.size("sample_size", 1..=MAX_SIDE)?,
            in_channels: reader.size("in_channels", 1..=MAX_WIDTH)?,
            out_channels: reader.size("out_channels", 1..=MAX_WIDTH)?,
            center_input_sample: reader.or("center_input_sample", false)?,
            flip_sin_to_cos: reader.or("flip_sin_to_cos", true)?,
            freq_shift: reader.or("freq_shift", 0)?,
            time_embedding_dim: reader.optional_size("time_embedding_dim", 1..=MAX_WIDTH)?,
            down_block_types: reader.required("down_block_types")?,
            up_block_types: reader.required("up_block_types")?,
            block_out_channels: reader.sizes("block_out_channels", 1..=MAX_WIDTH)?,
            layers_per_block: reader.size("layers_per_block", 1..=MAX_WIDTH)?,
            mid_block_scale_factor: reader.positive_or("mid_block_scale_factor", 1.0)?,
            act_fn: Activation::Silu,
            norm_num_groups: reader.size_or("norm_num_groups", 32, 1..=MAX_WIDTH)?,
            norm_eps: reader.positive_or("norm_eps", 1e-5)?,
            resnet_time_scale_shift: reader.or("resnet_time_scale_shift", TimeShift::Add)?,
            without_effect: kept,
        };
        if let Some(Misfit { key, expected }) = config.misfit() {
            return Err(reader.error(key, expected).into());
        }
        reader.finish();
        Ok(config)
    }

    /// Checks that a network of these sizes can be built.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] naming the key that is at fault.
    pub fn validate(&self) -> Result<()> {
        match self.misfit() {
            None => Ok(()),
            Some(Misfit { key, expected }) => {
                let found = self.to_json()[key].clone();
                Err(unclip_core::Error::invalid(key, found, expected).into())
            }
        }
    }

    fn misfit(&self) -> Option<Misfit> {
        if self.act_fn != Activation::Silu {
            return Some(Misfit { key: "act_fn", expected: "\"silu\"".to_owned() });
        }
        if self.in_channels != 2 * self.out_channels {
            let expected = format!("twice `out_channels` ({})", self.out_channels);
            return Some(Misfit { key: "in_channels", expected });
        }
        let unet = self.unet();
        unet.misfit().or_else(|| {
            let reduction = unet.reduction();
            let fits = self.sample_size > 0 && self.sample_size.is_multiple_of(reduction);
            (!fits).then(|| Misfit {
                key: "sample_size",
                expected: format!("a positive multiple of {reduction}"),
            })
        })
    }

    /// The configuration as diffusers writes it.
    ///
    /// # Panics
    ///
    /// Never: its fields are numbers, names and JSON.
    pub fn to_json(&self) -> Value {
        let mut json = serde_json::to_value(self).expect("numbers, names and JSON are JSON");
        json["_class_name"] = json!(CLASS);
        for (key, value) in implemented() {
            json[key] = value;
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unclip_testkit::{assert_config_kept, changed, changes, device, recorded_configs};

    use super::*;

    const RECORDED: &str = "super_res_first/config.json";

    fn read(json: &Value) -> Result<UpsamplerConfig> {
        UpsamplerConfig::from_bytes("config.json", json.to_string().as_bytes())
    }

    #[test]
    fn every_key_survives_reading_and_writing() {
        for json in recorded_configs(RECORDED) {
            let written = read(&json).expect("a recorded configuration").to_json();
            assert_config_kept(&json, &written);
            assert_eq!(read(&written).expect("our own").to_json(), written);
        }
    }

    #[test]
    fn what_is_not_implemented_or_does_not_fit_is_refused_by_name() {
        for (key, value) in [
            ("_class_name", json!("UNet2DConditionModel")),
            ("down_block_types", json!(vec!["AttnDownBlock2D"; 4])),
            ("up_block_types", json!(vec!["ResnetUpsampleBlock2D"; 3])),
            ("mid_block_type", Value::Null),
            ("add_attention", json!(true)),
            ("class_embed_type", json!("timestep")),
            ("num_class_embeds", json!(10)),
            ("time_embedding_type", json!("learned")),
            ("act_fn", json!("gelu")),
            ("resnet_time_scale_shift", json!("spatial")),
            ("layers_per_block", json!(1000)),
            ("norm_num_groups", json!(7)),
            ("sample_size", json!(250)),
            ("in_channels", json!(3)),
            ("freq_shift", json!(160)),
            ("block_out_channels", json!([])),
        ] {
            let mut json = UpsamplerConfig::karlo_v1_alpha().to_json();
            json[key] = value.clone();
            let text = read(&json).expect_err(key).to_string();
            let beginning = format!("config.json: `{key}` is ");
            assert!(text.starts_with(&beginning), "{key}, {value}: {text}");
            assert!(text.contains(&value.to_string()), "{key}, {value}: {text}");
        }
    }

    #[test]
    fn attention_must_be_ruled_out() {
        let mut json = UpsamplerConfig::karlo_v1_alpha().to_json();
        json.as_object_mut().expect("an object").remove("add_attention");
        let text = read(&json).expect_err("diffusers would add it").to_string();
        assert!(text.contains("`add_attention` is absent"), "{text}");
    }

    proptest! {
        #[test]
        fn a_hostile_configuration_is_refused_or_built(changes in changes()) {
            if let Ok(config) = read(&changed(recorded_configs(RECORDED).remove(0), changes)) {
                prop_assert!(config.validate().is_ok(), "{config:?}");
                config.init(&device());
            }
        }
    }
}
