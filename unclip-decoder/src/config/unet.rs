//! The sizes of the decoder's network.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unclip_core::{
    checkpoint::{ConfigReader, Folder},
    nn::{Activation, AttentionConfig, Misfit, TimeShift, UNetConfig},
};

use crate::Result;

/// The class that diffusers gives the network.
const CLASS: &str = "UNet2DConditionModel";
/// Wider than any layer in use.
const MAX_WIDTH: usize = 1 << 15;
/// Larger than any picture that a decoder paints.
const MAX_SIDE: usize = 4096;

/// Keys of which one value is implemented: any other would change the network or its weights.
fn implemented() -> [(&'static str, Value); 13] {
    [
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("time_embedding_type", json!("positional")),
        ("time_cond_proj_dim", Value::Null),
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("addition_embed_type", Value::Null),
        ("num_attention_heads", Value::Null),
        ("num_class_embeds", Value::Null),
        ("class_embeddings_concat", json!(false)),
        ("cross_attention_norm", Value::Null),
        ("dual_cross_attention", json!(false)),
        ("attention_type", json!("default")),
        ("reverse_transformer_layers_per_block", Value::Null),
    ]
}

/// Keys that reach other kinds of blocks only, with diffusers' defaults. Their values are kept, to be written back.
fn without_effect() -> [(&'static str, Value); 8] {
    [
        ("downsample_padding", json!(1)),
        ("dropout", json!(0.0)),
        ("use_linear_projection", json!(false)),
        ("upcast_attention", json!(false)),
        ("transformer_layers_per_block", json!(1)),
        ("addition_embed_type_num_heads", json!(64)),
        ("addition_time_embed_dim", Value::Null),
        ("projection_class_embeddings_input_dim", Value::Null),
    ]
}

/// A level of the way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks alone.
    #[serde(rename = "ResnetDownsampleBlock2D")]
    Residual,
    /// Residual blocks, each followed by attention.
    #[serde(rename = "SimpleCrossAttnDownBlock2D")]
    Attention,
}

/// A level of the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks alone.
    #[serde(rename = "ResnetUpsampleBlock2D")]
    Residual,
    /// Residual blocks, each followed by attention.
    #[serde(rename = "SimpleCrossAttnUpBlock2D")]
    Attention,
}

/// What is added to the time embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassEmbedding {
    /// A vector, as it is given.
    Identity,
}

/// One value for all levels, or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// The same everywhere.
    Same(T),
    /// The finest level first.
    Each(Vec<T>),
}

impl<T: Clone> PerLevel<T> {
    /// A value for each of `levels`; as many as there are in a list of another length.
    pub fn each(&self, levels: usize) -> Vec<T> {
        match self {
            Self::Same(value) => vec![value.clone(); levels],
            Self::Each(values) => values.clone(),
        }
    }
}

/// The sizes of the decoder's network.
///
/// ```
/// # use unclip_decoder::DecoderConfig;
/// let mut config = DecoderConfig::karlo_v1_alpha();
/// assert_eq!((config.time_width(), config.unet().reduction()), (1280, 8));
/// config.sample_size = 60;
/// let error = config.validate().unwrap_err();
/// assert_eq!(error.to_string(), "`sample_size` is 60, expected a positive multiple of 8");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecoderConfig {
    /// Side of the picture.
    pub sample_size: usize,
    /// Channels of the picture.
    pub in_channels: usize,
    /// Channels of the prediction: the picture's, or twice as many where the variance is predicted too.
    pub out_channels: usize,
    /// Whether pictures are first mapped from `[0, 1]` to `[-1, 1]`.
    pub center_input_sample: bool,
    /// Whether the cosine half of the timestep's sinusoids comes first.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in their divisor.
    pub freq_shift: u32,
    /// The levels of the way down, the finest first.
    pub down_block_types: Vec<DownBlock>,
    /// The levels of the way up, the coarsest first.
    pub up_block_types: Vec<UpBlock>,
    /// Whether pixels see the context alone, for each level of the way down.
    pub only_cross_attention: PerLevel<bool>,
    /// Whether pixels see the context alone in the middle; where absent, as `only_cross_attention` if that is one
    /// value, otherwise not.
    pub mid_block_only_cross_attention: Option<bool>,
    /// Channels of each level, the finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level on the way down; the way up has one more.
    pub layers_per_block: PerLevel<usize>,
    /// What the sums of the middle's residual blocks are divided by.
    pub mid_block_scale_factor: f64,
    /// The activation everywhere.
    pub act_fn: Activation,
    /// Groups of every normalisation.
    pub norm_num_groups: usize,
    /// Added to the variance in the normalisations outside attention.
    pub norm_eps: f64,
    /// Width of a context token.
    pub cross_attention_dim: PerLevel<usize>,
    /// Width of a head. In a list, entry `i` is that of level `i` on the way down and of step `i` on the way up, which
    /// starts at the coarsest level; the middle takes the last.
    pub attention_head_dim: PerLevel<usize>,
    /// What is added to the time embedding.
    pub class_embed_type: Option<ClassEmbedding>,
    /// How the time embedding enters residual blocks.
    pub resnet_time_scale_shift: TimeShift,
    /// Whether residual blocks project the time embedding without an activation in front.
    pub resnet_skip_time_act: bool,
    /// What the sums of residual blocks outside the middle are divided by.
    pub resnet_out_scale_factor: f64,
    /// Width of the time embedding, four times the finest level's where absent.
    pub time_embedding_dim: Option<usize>,
    /// An activation after the class embedding was added to the time embedding.
    pub time_embedding_act_fn: Option<Activation>,
    /// An activation after the time embedding's second layer.
    pub timestep_post_act: Option<Activation>,
    /// Side of the first convolution's kernel.
    pub conv_in_kernel: usize,
    /// Side of the last convolution's kernel.
    pub conv_out_kernel: usize,
    /// Known keys that have no effect on these blocks.
    #[serde(flatten)]
    without_effect: BTreeMap<String, Value>,
}

impl DecoderConfig {
    /// Karlo's decoder (`kakaobrain/karlo-v1-alpha`): 885 439 686 parameters, 64 × 64 pixels.
    pub fn karlo_v1_alpha() -> Self {
        use {DownBlock as Down, UpBlock as Up};
        Self {
            sample_size: 64,
            in_channels: 3,
            out_channels: 6,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0,
            down_block_types: vec![
                Down::Residual,
                Down::Attention,
                Down::Attention,
                Down::Attention,
            ],
            up_block_types: vec![Up::Attention, Up::Attention, Up::Attention, Up::Residual],
            only_cross_attention: PerLevel::Same(false),
            mid_block_only_cross_attention: None,
            block_out_channels: vec![320, 640, 960, 1280],
            layers_per_block: PerLevel::Same(3),
            mid_block_scale_factor: 1.0,
            act_fn: Activation::Silu,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerLevel::Same(1536),
            attention_head_dim: PerLevel::Same(64),
            class_embed_type: Some(ClassEmbedding::Identity),
            resnet_time_scale_shift: TimeShift::ScaleShift,
            resnet_skip_time_act: false,
            resnet_out_scale_factor: 1.0,
            time_embedding_dim: None,
            time_embedding_act_fn: None,
            timestep_post_act: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            without_effect: without_effect().map(|(key, value)| (key.to_owned(), value)).into(),
        }
    }

    /// Width of the time embedding.
    pub fn time_width(&self) -> usize {
        let finest = self.block_out_channels.first().copied().unwrap_or_default();
        self.time_embedding_dim.unwrap_or(finest.saturating_mul(4))
    }

    /// Width of a context token.
    pub fn context_width(&self) -> usize {
        self.cross_attention_dim.each(1).first().copied().unwrap_or_default()
    }

    /// Whether the network predicts the variance beside the noise.
    pub fn predicts_variance(&self) -> bool {
        self.out_channels == 2 * self.in_channels
    }

    /// The sizes as the shared network takes them.
    pub fn unet(&self) -> UNetConfig {
        let levels = self.block_out_channels.len();
        let head_widths = self.attention_head_dim.each(levels);
        let mid_only_context =
            match (self.mid_block_only_cross_attention, &self.only_cross_attention) {
                (Some(only), _) => only,
                (None, PerLevel::Same(only)) => *only,
                (None, PerLevel::Each(_)) => false,
            };
        UNetConfig {
            channels_in: self.in_channels,
            channels_out: self.out_channels,
            level_channels: self.block_out_channels.clone(),
            level_blocks: self.layers_per_block.each(levels),
            down_attention: self
                .down_block_types
                .iter()
                .map(|&block| block == DownBlock::Attention)
                .collect(),
            up_attention: self
                .up_block_types
                .iter()
                .map(|&block| block == UpBlock::Attention)
                .collect(),
            mid_attention: true,
            attention: Some(AttentionConfig {
                context_width: self.context_width(),
                mid_head_width: head_widths.last().copied().unwrap_or_default(),
                up_head_widths: head_widths.clone(),
                down_head_widths: head_widths,
                only_context: self.only_cross_attention.each(levels),
                mid_only_context,
            }),
            groups: self.norm_num_groups,
            epsilon: self.norm_eps,
            time_shift: self.resnet_time_scale_shift,
            time_width: self.time_width(),
            activation: self.act_fn,
            cosine_first: self.flip_sin_to_cos,
            frequency_shift: f64::from(self.freq_shift),
            center_input: self.center_input_sample,
            time_embedding_activation: self.time_embedding_act_fn,
            time_post_activation: self.timestep_post_act,
            skip_time_activation: self.resnet_skip_time_act,
            output_scale: self.resnet_out_scale_factor,
            mid_output_scale: self.mid_block_scale_factor,
            kernel_in: self.conv_in_kernel,
            kernel_out: self.conv_out_kernel,
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
        let mut kept = BTreeMap::new();
        for (key, default) in without_effect() {
            kept.insert(key.to_owned(), reader.or(key, default)?);
        }
        let down_block_types: Vec<DownBlock> = reader.required("down_block_types")?;
        let levels = down_block_types.len();
        let config = Self {
            sample_size: reader.size("sample_size", 1..=MAX_SIDE)?,
            in_channels: reader.size("in_channels", 1..=MAX_WIDTH)?,
            out_channels: reader.size("out_channels", 1..=MAX_WIDTH)?,
            center_input_sample: reader.or("center_input_sample", false)?,
            flip_sin_to_cos: reader.or("flip_sin_to_cos", true)?,
            freq_shift: reader.or("freq_shift", 0)?,
            down_block_types,
            up_block_types: reader.required("up_block_types")?,
            only_cross_attention: flags(&mut reader, "only_cross_attention", levels)?,
            mid_block_only_cross_attention: reader.optional("mid_block_only_cross_attention")?,
            block_out_channels: reader.sizes("block_out_channels", 1..=MAX_WIDTH)?,
            layers_per_block: sizes(&mut reader, "layers_per_block", levels)?,
            mid_block_scale_factor: reader.positive_or("mid_block_scale_factor", 1.0)?,
            act_fn: activation(&mut reader, "act_fn")?.unwrap_or(Activation::Silu),
            norm_num_groups: reader.size_or("norm_num_groups", 32, 1..=MAX_WIDTH)?,
            norm_eps: reader.positive_or("norm_eps", 1e-5)?,
            cross_attention_dim: sizes(&mut reader, "cross_attention_dim", levels)?,
            attention_head_dim: sizes(&mut reader, "attention_head_dim", levels)?,
            class_embed_type: reader.optional("class_embed_type")?,
            resnet_time_scale_shift: reader.or("resnet_time_scale_shift", TimeShift::Add)?,
            resnet_skip_time_act: reader.or("resnet_skip_time_act", false)?,
            resnet_out_scale_factor: reader.positive_or("resnet_out_scale_factor", 1.0)?,
            time_embedding_dim: reader.optional_size("time_embedding_dim", 1..=MAX_WIDTH)?,
            time_embedding_act_fn: activation(&mut reader, "time_embedding_act_fn")?,
            timestep_post_act: activation(&mut reader, "timestep_post_act")?,
            conv_in_kernel: reader.size_or("conv_in_kernel", 3, 1..=MAX_WIDTH)?,
            conv_out_kernel: reader.size_or("conv_out_kernel", 3, 1..=MAX_WIDTH)?,
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
        let widths = self.cross_attention_dim.each(1);
        if widths.windows(2).any(|pair| pair[0] != pair[1]) {
            // One context serves all levels.
            let expected = "the same width for every level".to_owned();
            return Some(Misfit { key: "cross_attention_dim", expected });
        }
        if self.out_channels != self.in_channels && !self.predicts_variance() {
            let expected = format!("`in_channels` ({}) or twice that", self.in_channels);
            return Some(Misfit { key: "out_channels", expected });
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

/// A size, or one for each level.
fn sizes(reader: &mut ConfigReader, key: &str, levels: usize) -> Result<PerLevel<usize>> {
    let Some(sizes) = reader.size_per(key, levels, 1..=MAX_WIDTH)? else {
        return Err(reader.error(key, "a size").into());
    };
    let listed = reader.required::<Value>(key)?.is_array();
    Ok(match sizes.first() {
        Some(&size) if !listed => PerLevel::Same(size),
        _ => PerLevel::Each(sizes),
    })
}

/// True or false, or one of them for each level.
fn flags(reader: &mut ConfigReader, key: &str, levels: usize) -> Result<PerLevel<bool>> {
    match reader.or(key, Value::Bool(false))? {
        Value::Bool(flag) => Ok(PerLevel::Same(flag)),
        Value::Array(list) if list.len() == levels && list.iter().all(Value::is_boolean) => {
            Ok(PerLevel::Each(list.iter().filter_map(Value::as_bool).collect()))
        }
        _ => Err(reader.error(key, format!("true or false, or a list of {levels}")).into()),
    }
}

/// An activation by name, or none.
fn activation(reader: &mut ConfigReader, key: &str) -> Result<Option<Activation>> {
    let Some(name) = reader.optional::<String>(key)? else { return Ok(None) };
    match Activation::from_name(&name) {
        // CLIP's activation has no name in diffusers.
        None | Some(Activation::QuickGelu) => {
            Err(reader.error(key, "\"silu\", \"swish\" or \"gelu\"").into())
        }
        known => Ok(known),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unclip_testkit::{assert_config_kept, changed, changes, device, recorded_configs};

    use super::*;

    const RECORDED: &str = "decoder/config.json";

    fn read(json: &Value) -> Result<DecoderConfig> {
        DecoderConfig::from_bytes("config.json", json.to_string().as_bytes())
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
            ("_class_name", json!("UNet2DModel")),
            ("down_block_types", json!(vec!["DownBlock2D"; 4])),
            ("up_block_types", json!(vec!["ResnetUpsampleBlock2D"; 3])),
            ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
            ("class_embed_type", json!("projection")),
            ("time_embedding_type", json!("fourier")),
            ("time_cond_proj_dim", json!(8)),
            ("encoder_hid_dim", json!(8)),
            ("encoder_hid_dim_type", json!("image_proj")),
            ("addition_embed_type", json!("image")),
            ("num_attention_heads", json!(8)),
            ("num_class_embeds", json!(10)),
            ("class_embeddings_concat", json!(true)),
            ("cross_attention_norm", json!("layer_norm")),
            ("dual_cross_attention", json!(true)),
            ("attention_type", json!("gated")),
            ("act_fn", json!("mish")),
            ("time_embedding_act_fn", json!("quick_gelu")),
            ("timestep_post_act", json!("relu")),
            ("resnet_time_scale_shift", json!("spatial")),
            ("cross_attention_dim", json!([1536, 1536, 1536, 768])),
            ("only_cross_attention", json!([true, false])),
            ("attention_head_dim", json!(48)),
            ("attention_head_dim", json!([64, 64, 64])),
            ("layers_per_block", json!([3, 3])),
            ("layers_per_block", json!(1000)),
            ("norm_num_groups", json!(7)),
            ("sample_size", json!(60)),
            ("out_channels", json!(4)),
            ("freq_shift", json!(160)),
            ("conv_in_kernel", json!(4)),
            ("norm_eps", json!(0.0)),
            ("block_out_channels", json!([])),
        ] {
            let mut json = DecoderConfig::karlo_v1_alpha().to_json();
            json[key] = value.clone();
            let text = read(&json).expect_err(key).to_string();
            let beginning = format!("config.json: `{key}` is ");
            assert!(text.starts_with(&beginning), "{key}, {value}: {text}");
            assert!(text.contains(&value.to_string()), "{key}, {value}: {text}");
        }
    }

    #[test]
    fn lists_give_each_level_its_own() {
        let mut json = DecoderConfig::karlo_v1_alpha().to_json();
        json["attention_head_dim"] = json!([32, 64, 96, 128]);
        json["layers_per_block"] = json!([1, 2, 3, 4]);
        json["only_cross_attention"] = json!([true, false, false, true]);
        json["up_block_types"] = json!(vec!["ResnetUpsampleBlock2D"; 4]);
        json["cross_attention_dim"] = json!(vec![1536; 4]);
        let config = read(&json).expect("lists are implemented");
        assert_eq!(config.to_json(), json);
        let unet = config.unet();
        assert_eq!(unet.level_blocks, [1, 2, 3, 4]);
        let attention = unet.attention.expect("there is attention");
        assert_eq!(attention.down_head_widths, [32, 64, 96, 128]);
        assert_eq!(attention.up_head_widths, [32, 64, 96, 128]);
        assert_eq!((attention.mid_head_width, attention.context_width), (128, 1536));
        assert_eq!(attention.only_context, [true, false, false, true]);
        assert!(!attention.mid_only_context, "a list says nothing of the middle");

        json["only_cross_attention"] = json!(true);
        let attention = read(&json).expect("a flag").unet().attention.expect("there is attention");
        assert!(attention.mid_only_context, "one flag covers the middle");
    }

    #[test]
    fn a_changed_configuration_is_checked_too() {
        let mut config = DecoderConfig::karlo_v1_alpha();
        config.validate().expect("Karlo's own");
        config.norm_num_groups = 7;
        let text = config.validate().expect_err("no divisor").to_string();
        assert_eq!(text, "`norm_num_groups` is 7, expected a divisor of 320 channels");
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
