//! The sizes of both towers, as transformers' `config.json` states them.

use serde_json::{Value, json};
use unclip_core::{
    Error as CoreError,
    checkpoint::{ConfigReader, Folder},
    nn::Activation,
};

use crate::{Result, block::TransformerConfig};

/// Bounds of what is read from a file: far above any published model, far below what would exhaust a machine.
const WIDTHS: std::ops::RangeInclusive<usize> = 1..=16_384;
const MLP_WIDTHS: std::ops::RangeInclusive<usize> = 1..=65_536;
const LAYERS: std::ops::RangeInclusive<usize> = 1..=512;
const HEADS: std::ops::RangeInclusive<usize> = 1..=1_024;
const TOKENS: std::ops::RangeInclusive<usize> = 2..=16_384;
const VOCABULARY: std::ops::RangeInclusive<usize> = 3..=4_000_000;
const SIDES: std::ops::RangeInclusive<usize> = 1..=4_096;

/// Regularisation and generation: nothing that reaches an embedding.
const WITHOUT_EFFECT: &[&str] = &["attention_dropout", "bos_token_id", "dropout", "pad_token_id"];

/// Where in a caption the text tower reads its embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// At the largest id, the first one of several: CLIP's rule, whose end marker is the last of the vocabulary.
    /// Configurations say so with an `eos_token_id` of 2.
    LargestId,
    /// At the first token with this id, or at the start where there is none.
    FirstId(u32),
}

impl Pooling {
    /// The `eos_token_id` that old files give whatever the vocabulary, and that therefore stands for the largest id.
    const LARGEST: u32 = 2;

    /// The position in one caption.
    pub fn position(self, ids: &[u32]) -> usize {
        let end = match self {
            Self::LargestId => ids.iter().copied().max(),
            Self::FirstId(id) => Some(id),
        };
        ids.iter().position(|&id| Some(id) == end).unwrap_or(0)
    }
}

/// The sizes of a [`TextEncoder`](crate::TextEncoder).
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Rows of the token table (`vocab_size`).
    pub vocabulary_size: usize,
    /// Tokens of the longest caption (`max_position_embeddings`).
    pub max_length: usize,
    /// Width of a token (`hidden_size`).
    pub width: usize,
    /// Width inside a perceptron (`intermediate_size`).
    pub mlp_width: usize,
    /// Layers (`num_hidden_layers`).
    pub layers: usize,
    /// Attention heads, a divisor of the width (`num_attention_heads`).
    pub heads: usize,
    /// Width of the embedding (`projection_dim`).
    pub embedding_width: usize,
    /// The perceptrons' activation (`hidden_act`).
    pub activation: Activation,
    /// Epsilon of the normalisations (`layer_norm_eps`).
    pub epsilon: f64,
    /// Where the embedding is read (`eos_token_id`).
    pub pooling: Pooling,
}

/// The sizes of a [`VisionEncoder`](crate::VisionEncoder).
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Side of the square picture (`image_size`).
    pub image_size: usize,
    /// Side of a patch (`patch_size`).
    pub patch_size: usize,
    /// Channels of the picture (`num_channels`).
    pub channels: usize,
    /// Width of a token (`hidden_size`).
    pub width: usize,
    /// Width inside a perceptron (`intermediate_size`).
    pub mlp_width: usize,
    /// Layers (`num_hidden_layers`).
    pub layers: usize,
    /// Attention heads, a divisor of the width (`num_attention_heads`).
    pub heads: usize,
    /// Width of the embedding (`projection_dim`).
    pub embedding_width: usize,
    /// The perceptrons' activation (`hidden_act`).
    pub activation: Activation,
    /// Epsilon of the normalisations (`layer_norm_eps`).
    pub epsilon: f64,
}

/// A tower of a published model: width, layers, heads, embedding width.
type Sizes = (usize, usize, usize, usize);

impl TextConfig {
    /// OpenAI's ViT-B/32 (Radford et al. 2021, table 20).
    pub fn vit_b_32() -> Self {
        Self::published((512, 12, 8, 512), Activation::QuickGelu)
    }

    /// OpenAI's ViT-B/16, whose text tower is that of B/32.
    pub fn vit_b_16() -> Self {
        Self::vit_b_32()
    }

    /// OpenAI's ViT-L/14: Karlo's text encoder.
    pub fn vit_l_14() -> Self {
        Self::published((768, 12, 12, 768), Activation::QuickGelu)
    }

    /// OpenAI's ViT-L/14@336px, whose text tower is that of L/14.
    pub fn vit_l_14_336() -> Self {
        Self::vit_l_14()
    }

    /// LAION's ViT-H/14 (`laion/CLIP-ViT-H-14-laion2B-s32B-b79K`).
    pub fn vit_h_14() -> Self {
        Self::published((1024, 24, 16, 1024), Activation::Gelu)
    }

    /// LAION's ViT-bigG/14 (`laion/CLIP-ViT-bigG-14-laion2B-39B-b160k`).
    pub fn vit_big_g_14() -> Self {
        Self::published((1280, 32, 20, 1280), Activation::Gelu)
    }

    fn published((width, layers, heads, embedding_width): Sizes, activation: Activation) -> Self {
        Self {
            vocabulary_size: 49_408,
            max_length: 77,
            width,
            mlp_width: 4 * width,
            layers,
            heads,
            embedding_width,
            activation,
            epsilon: 1e-5,
            pooling: Pooling::LargestId,
        }
    }

    /// Reads the `config.json` in `dir`.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error`]: `Io` and `Json` for the file, and as [`read`](Self::read).
    pub fn open(dir: impl Into<Folder>) -> Result<Self> {
        let mut config = ConfigReader::open_in(dir, "config.json")?;
        let read = Self::read(&mut config)?;
        config.finish();
        Ok(read)
    }

    /// Reads a configuration of transformers' `CLIPTextModelWithProjection`. Absent keys have that class's defaults.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Config`] naming the key whose value is wrong or not implemented.
    pub fn read(config: &mut ConfigReader) -> Result<Self> {
        config.only("model_type", &[json!("clip_text_model")])?;
        config.ignore(WITHOUT_EFFECT);
        let read = Self {
            vocabulary_size: config.size_or("vocab_size", 49_408, VOCABULARY)?,
            max_length: config.size_or("max_position_embeddings", 77, TOKENS)?,
            width: config.size_or("hidden_size", 512, WIDTHS)?,
            mlp_width: config.size_or("intermediate_size", 2_048, MLP_WIDTHS)?,
            layers: config.size_or("num_hidden_layers", 12, LAYERS)?,
            heads: config.size_or("num_attention_heads", 8, HEADS)?,
            embedding_width: config.size_or("projection_dim", 512, WIDTHS)?,
            activation: read_activation(config)?,
            epsilon: config.positive_or("layer_norm_eps", 1e-5)?,
            pooling: match config.or("eos_token_id", 49_407)? {
                Pooling::LARGEST => Pooling::LargestId,
                id => Pooling::FirstId(id),
            },
        };
        match read.problem() {
            Some(Problem { key, expected, .. }) => Err(config.error(key, expected).into()),
            None => Ok(read),
        }
    }

    /// Checks the sizes against each other.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] naming the first size that does not fit.
    pub fn validate(&self) -> Result<()> {
        validate(self.problem())
    }

    fn problem(&self) -> Option<Problem> {
        let sizes = [
            ("vocab_size", self.vocabulary_size, VOCABULARY),
            ("max_position_embeddings", self.max_length, TOKENS),
            ("hidden_size", self.width, WIDTHS),
            ("intermediate_size", self.mlp_width, MLP_WIDTHS),
            ("num_hidden_layers", self.layers, LAYERS),
            ("num_attention_heads", self.heads, HEADS),
            ("projection_dim", self.embedding_width, WIDTHS),
        ];
        sizes.into_iter().find_map(Problem::size).or_else(|| {
            let in_vocabulary =
                |id: u32| usize::try_from(id).is_ok_and(|id| id < self.vocabulary_size);
            match self.pooling {
                Pooling::FirstId(id) if !in_vocabulary(id) => Some(Problem {
                    key: "eos_token_id",
                    found: id.to_string(),
                    expected: format!("an id below the `vocab_size` {}", self.vocabulary_size),
                }),
                _ => Problem::heads(self.width, self.heads),
            }
        })
    }

    /// The configuration as transformers would write it.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": ["CLIPTextModelWithProjection"],
            "model_type": "clip_text_model",
            "vocab_size": self.vocabulary_size,
            "max_position_embeddings": self.max_length,
            "hidden_size": self.width,
            "intermediate_size": self.mlp_width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "projection_dim": self.embedding_width,
            "hidden_act": activation_name(self.activation),
            "layer_norm_eps": self.epsilon,
            "eos_token_id": match self.pooling {
                Pooling::LargestId => Pooling::LARGEST,
                Pooling::FirstId(id) => id,
            },
        })
    }

    pub(crate) fn transformer(&self) -> TransformerConfig {
        TransformerConfig {
            width: self.width,
            mlp_width: self.mlp_width,
            layers: self.layers,
            heads: self.heads,
            activation: self.activation,
            epsilon: self.epsilon,
        }
    }
}

impl VisionConfig {
    /// OpenAI's ViT-B/32 (Radford et al. 2021, table 20).
    pub fn vit_b_32() -> Self {
        Self::published((768, 12, 12, 512), Activation::QuickGelu).with_patches(32, 224)
    }

    /// OpenAI's ViT-B/16.
    pub fn vit_b_16() -> Self {
        Self::published((768, 12, 12, 512), Activation::QuickGelu).with_patches(16, 224)
    }

    /// OpenAI's ViT-L/14: Karlo's image encoder.
    pub fn vit_l_14() -> Self {
        Self::published((1024, 24, 16, 768), Activation::QuickGelu)
    }

    /// OpenAI's ViT-L/14@336px.
    pub fn vit_l_14_336() -> Self {
        Self::vit_l_14().with_patches(14, 336)
    }

    /// LAION's ViT-H/14 (`laion/CLIP-ViT-H-14-laion2B-s32B-b79K`).
    pub fn vit_h_14() -> Self {
        Self::published((1280, 32, 16, 1024), Activation::Gelu)
    }

    /// LAION's ViT-bigG/14 (`laion/CLIP-ViT-bigG-14-laion2B-39B-b160k`).
    pub fn vit_big_g_14() -> Self {
        Self { mlp_width: 8_192, ..Self::published((1664, 48, 16, 1280), Activation::Gelu) }
    }

    fn published((width, layers, heads, embedding_width): Sizes, activation: Activation) -> Self {
        Self {
            image_size: 224,
            patch_size: 14,
            channels: 3,
            width,
            mlp_width: 4 * width,
            layers,
            heads,
            embedding_width,
            activation,
            epsilon: 1e-5,
        }
    }

    fn with_patches(self, patch_size: usize, image_size: usize) -> Self {
        Self { patch_size, image_size, ..self }
    }

    /// Reads the `config.json` in `dir`.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error`]: `Io` and `Json` for the file, and as [`read`](Self::read).
    pub fn open(dir: impl Into<Folder>) -> Result<Self> {
        let mut config = ConfigReader::open_in(dir, "config.json")?;
        let read = Self::read(&mut config)?;
        config.finish();
        Ok(read)
    }

    /// Reads the vision part of the `config.json` of a whole CLIP model in `dir`, whose embedding width is the model's.
    /// What it says of a text encoder is not looked at: there may be none.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error`]: `Io` and `Json` for the file, and as [`read`](Self::read).
    pub fn open_whole(dir: impl Into<Folder>) -> Result<Self> {
        let mut config = ConfigReader::open_in(dir, "config.json")?;
        config.ignore(&["text_config", "text_config_dict"]);
        let read = crate::clip::read_vision_config(&mut config)?;
        config.finish();
        Ok(read)
    }

    /// Reads a configuration of transformers' `CLIPVisionModelWithProjection`. Absent keys have that class's defaults.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Config`] naming the key whose value is wrong or not implemented.
    pub fn read(config: &mut ConfigReader) -> Result<Self> {
        config.only("model_type", &[json!("clip_vision_model")])?;
        config.ignore(WITHOUT_EFFECT);
        let read = Self {
            image_size: config.size_or("image_size", 224, SIDES)?,
            patch_size: config.size_or("patch_size", 32, SIDES)?,
            channels: config.size_or("num_channels", 3, 1..=64)?,
            width: config.size_or("hidden_size", 768, WIDTHS)?,
            mlp_width: config.size_or("intermediate_size", 3_072, MLP_WIDTHS)?,
            layers: config.size_or("num_hidden_layers", 12, LAYERS)?,
            heads: config.size_or("num_attention_heads", 12, HEADS)?,
            embedding_width: config.size_or("projection_dim", 512, WIDTHS)?,
            activation: read_activation(config)?,
            epsilon: config.positive_or("layer_norm_eps", 1e-5)?,
        };
        match read.problem() {
            Some(Problem { key, expected, .. }) => Err(config.error(key, expected).into()),
            None => Ok(read),
        }
    }

    /// Checks the sizes against each other.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] naming the first size that does not fit.
    pub fn validate(&self) -> Result<()> {
        validate(self.problem())
    }

    fn problem(&self) -> Option<Problem> {
        let sizes = [
            ("image_size", self.image_size, SIDES),
            ("patch_size", self.patch_size, SIDES),
            ("num_channels", self.channels, 1..=64),
            ("hidden_size", self.width, WIDTHS),
            ("intermediate_size", self.mlp_width, MLP_WIDTHS),
            ("num_hidden_layers", self.layers, LAYERS),
            ("num_attention_heads", self.heads, HEADS),
            ("projection_dim", self.embedding_width, WIDTHS),
        ];
        sizes.into_iter().find_map(Problem::size).or_else(|| {
            if self.patch_size > self.image_size {
                return Some(Problem {
                    key: "patch_size",
                    found: self.patch_size.to_string(),
                    expected: format!("at most the `image_size` {}", self.image_size),
                });
            }
            Problem::heads(self.width, self.heads)
        })
    }

    /// The configuration as transformers would write it.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": ["CLIPVisionModelWithProjection"],
            "model_type": "clip_vision_model",
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_channels": self.channels,
            "hidden_size": self.width,
            "intermediate_size": self.mlp_width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "projection_dim": self.embedding_width,
            "hidden_act": activation_name(self.activation),
            "layer_norm_eps": self.epsilon,
        })
    }

    /// Patches of a picture; an edge that no whole patch covers is left out.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    pub(crate) fn transformer(&self) -> TransformerConfig {
        TransformerConfig {
            width: self.width,
            mlp_width: self.mlp_width,
            layers: self.layers,
            heads: self.heads,
            activation: self.activation,
            epsilon: self.epsilon,
        }
    }
}

/// A size that does not fit, under the name that files give it.
struct Problem {
    key: &'static str,
    found: String,
    expected: String,
}

impl Problem {
    fn size(
        (key, found, range): (&'static str, usize, std::ops::RangeInclusive<usize>),
    ) -> Option<Self> {
        (!range.contains(&found)).then(|| Self {
            key,
            found: found.to_string(),
            expected: format!("an integer from {} to {}", range.start(), range.end()),
        })
    }

    fn heads(width: usize, heads: usize) -> Option<Self> {
        (!width.is_multiple_of(heads)).then(|| Self {
            key: "num_attention_heads",
            found: heads.to_string(),
            expected: format!("a divisor of the `hidden_size` {width}"),
        })
    }
}

fn validate(problem: Option<Problem>) -> Result<()> {
    match problem {
        Some(Problem { key, found, expected }) => {
            Err(CoreError::invalid(key, found, expected).into())
        }
        None => Ok(()),
    }
}

fn read_activation(config: &mut ConfigReader) -> Result<Activation> {
    let name: String = config.or("hidden_act", "quick_gelu".to_owned())?;
    match name.as_str() {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        _ => Err(config.error("hidden_act", "\"quick_gelu\" or \"gelu\"").into()),
    }
}

fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(value: &Value) -> ConfigReader {
        ConfigReader::from_bytes("config.json", value.to_string().as_bytes()).expect("an object")
    }

    #[test]
    fn the_end_is_the_largest_id_or_the_first_of_a_given_one() {
        assert_eq!(Pooling::LargestId.position(&[5, 9, 3, 9, 0]), 1);
        assert_eq!(Pooling::FirstId(3).position(&[5, 9, 3, 9, 3]), 2);
        assert_eq!(Pooling::FirstId(7).position(&[5, 9, 3]), 0);
        assert_eq!(Pooling::LargestId.position(&[]), 0);
    }

    #[test]
    fn an_end_id_of_two_means_the_largest_id() {
        let pooling =
            |id| TextConfig::read(&mut reader(&json!({"eos_token_id": id}))).map(|c| c.pooling);
        assert_eq!(pooling(2).expect("read"), Pooling::LargestId);
        assert_eq!(pooling(49_407).expect("read"), Pooling::FirstId(49_407));
        let message = pooling(60_000).expect_err("not in the vocabulary").to_string();
        assert!(message.contains("eos_token_id") && message.contains("49408"), "{message}");
    }

    #[test]
    fn what_is_written_reads_back() {
        for config in [TextConfig::vit_b_32(), TextConfig::vit_l_14(), TextConfig::vit_big_g_14()] {
            let mut reader = reader(&config.to_json());
            assert_eq!(TextConfig::read(&mut reader).expect("just written"), config);
            assert_eq!(reader.finish(), Vec::<String>::new());
        }
        for config in
            [VisionConfig::vit_b_16(), VisionConfig::vit_l_14_336(), VisionConfig::vit_h_14()]
        {
            let mut reader = reader(&config.to_json());
            assert_eq!(VisionConfig::read(&mut reader).expect("just written"), config);
            assert_eq!(reader.finish(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_value_out_of_place_is_refused_by_name() {
        for (key, value, said) in [
            ("hidden_act", json!("gelu_new"), "quick_gelu"),
            ("hidden_act", json!(3), "string"),
            ("num_attention_heads", json!(7), "divisor"),
            ("num_attention_heads", json!(0), "from 1"),
            ("num_hidden_layers", json!(1_000_000_000_u64), "to 512"),
            ("hidden_size", json!(-5), "from 1"),
            ("layer_norm_eps", json!("small"), "positive"),
            ("model_type", json!("M-CLIP"), "nothing else"),
            ("projection_dim", json!(1.5), "integer"),
        ] {
            let object = json!({key: value});
            let messages = [
                TextConfig::read(&mut reader(&object)).expect_err(key).to_string(),
                VisionConfig::read(&mut reader(&object)).expect_err(key).to_string(),
            ];
            for message in messages {
                assert!(message.contains("config.json") && message.contains(key), "{message}");
                assert!(message.contains(said), "{said:?} is not in {message:?}");
            }
        }
        let patch = json!({"patch_size": 300});
        let message = VisionConfig::read(&mut reader(&patch)).expect_err("too large").to_string();
        assert!(message.contains("patch_size") && message.contains("224"), "{message}");
    }

    #[test]
    fn sizes_set_by_hand_are_checked_alike() {
        let config = TextConfig { heads: 5, ..TextConfig::vit_b_32() };
        let message = config.validate().expect_err("5 does not divide 512").to_string();
        assert!(message.contains("num_attention_heads"), "{message}");
        TextConfig::vit_h_14().validate().expect("a published model");
        VisionConfig::vit_big_g_14().validate().expect("a published model");
    }
}
