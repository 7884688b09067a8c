//! The prior's configuration, under diffusers' keys.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unclip_core::{
    checkpoint::{ConfigReader, Folder},
    nn::Activation,
};

use crate::Result;

/// The class that diffusers gives the network.
pub(crate) const CLASS: &str = "PriorTransformer";

/// Longer than any sequence in use (Shap-E's has 1026 tokens); the attention bias grows with its square.
const MAX_TOKENS: usize = 4096;
/// Wider than any layer in use.
const MAX_WIDTH: usize = 1 << 16;

/// A normalisation in a place where some priors have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormType {
    /// Layer normalisation.
    Layer,
}

/// How the caption's hidden states reach the width of the transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatesProjection {
    /// A linear layer.
    Linear,
}

/// A token behind the noisy embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddedToken {
    /// A learned token whose output is the prediction.
    Prd,
}

/// The sizes of a [`Prior`](crate::Prior).
///
/// ```
/// # use unclip_prior::PriorConfig;
/// let config = PriorConfig::karlo_v1_alpha();
/// assert_eq!((config.width(), config.clip_width()), (2048, 768));
/// assert_eq!(config.to_json()["_class_name"], "PriorTransformer");
/// let error = PriorConfig::from_bytes("config.json", br#"{"num_attention_heads": 0}"#).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "config.json: `num_attention_heads` is 0, expected an integer from 1 to 1024"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PriorConfig {
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Width of a head; the transformer is `num_attention_heads · attention_head_dim` wide.
    pub attention_head_dim: usize,
    /// Blocks of the transformer.
    pub num_layers: usize,
    /// Width of the noisy embedding and of the caption's hidden states.
    pub embedding_dim: usize,
    /// Tokens of a caption.
    pub num_embeddings: usize,
    /// Tokens behind the caption's: its embedding, the timestep, the noisy embedding, the added token.
    pub additional_embeddings: usize,
    /// Used in training only.
    pub dropout: f64,
    /// The activation between the two layers of the time embedding.
    pub time_embed_act_fn: Activation,
    /// What normalises the sequence in front of the first block.
    pub norm_in_type: Option<NormType>,
    /// What normalises the caption's embedding in front of its projection.
    pub embedding_proj_norm_type: Option<NormType>,
    /// How the caption's hidden states are projected; none leaves them as they are.
    pub encoder_hid_proj_type: Option<StatesProjection>,
    /// The token behind the noisy embedding; without one, the noisy embedding's own output is the prediction.
    pub added_emb_type: Option<AddedToken>,
    /// Width between the two layers of the time embedding, the transformer's where absent.
    pub time_embed_dim: Option<usize>,
    /// Width of the caption's embedding, `embedding_dim` where absent.
    pub embedding_proj_dim: Option<usize>,
    /// Width of the prediction, `embedding_dim` where absent.
    pub clip_embed_dim: Option<usize>,
}

/// A key whose value does not go with the others, and what would.
type Unfit = (&'static str, String);

impl PriorConfig {
    /// Karlo's prior (`kakaobrain/karlo-v1-alpha`): 1 022 030 080 parameters over CLIP ViT-L/14.
    pub fn karlo_v1_alpha() -> Self {
        Self {
            num_attention_heads: 32,
            attention_head_dim: 64,
            num_layers: 20,
            embedding_dim: 768,
            num_embeddings: 77,
            additional_embeddings: 4,
            dropout: 0.0,
            time_embed_act_fn: Activation::Silu,
            norm_in_type: None,
            embedding_proj_norm_type: None,
            encoder_hid_proj_type: Some(StatesProjection::Linear),
            added_emb_type: Some(AddedToken::Prd),
            time_embed_dim: None,
            embedding_proj_dim: None,
            clip_embed_dim: None,
        }
    }

    /// Width of the transformer.
    pub fn width(&self) -> usize {
        self.num_attention_heads.saturating_mul(self.attention_head_dim)
    }

    /// Width between the two layers of the time embedding.
    pub fn time_width(&self) -> usize {
        self.time_embed_dim.unwrap_or_else(|| self.width())
    }

    /// Width of the caption's embedding.
    pub fn text_width(&self) -> usize {
        self.embedding_proj_dim.unwrap_or(self.embedding_dim)
    }

    /// Width of the prediction.
    pub fn clip_width(&self) -> usize {
        self.clip_embed_dim.unwrap_or(self.embedding_dim)
    }

    /// Rows of the table of positions.
    pub fn positions(&self) -> usize {
        self.num_embeddings + self.additional_embeddings
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
        let activation = Activation::from_name(&reader.or("time_embed_act_fn", "silu".to_owned())?)
            .filter(|&activation| activation != Activation::QuickGelu)
            .ok_or_else(|| reader.error("time_embed_act_fn", "\"silu\", \"swish\" or \"gelu\""))?;
        // Here null says something else than a missing key, which older files leave out.
        let or_default = |reader: &mut ConfigReader, key| {
            if reader.keys().any(|found| found == key) {
                Ok(reader.optional::<String>(key)?.is_some())
            } else {
                Ok::<_, unclip_core::Error>(true)
            }
        };
        reader.only("encoder_hid_proj_type", &[Value::Null, json!("linear")])?;
        reader.only("added_emb_type", &[Value::Null, json!("prd")])?;
        for key in ["norm_in_type", "embedding_proj_norm_type"] {
            reader.only(key, &[Value::Null, json!("layer")])?;
        }
        let config = Self {
            num_attention_heads: reader.size("num_attention_heads", 1..=1024)?,
            attention_head_dim: reader.size("attention_head_dim", 1..=1024)?,
            num_layers: reader.size("num_layers", 1..=512)?,
            embedding_dim: reader.size("embedding_dim", 1..=MAX_WIDTH)?,
            num_embeddings: reader.size_or("num_embeddings", 77, 1..=MAX_TOKENS)?,
            additional_embeddings: reader.size_or("additional_embeddings", 4, 0..=64)?,
            dropout: reader.or("dropout", 0.0)?,
            time_embed_act_fn: activation,
            norm_in_type: reader.has("norm_in_type").then_some(NormType::Layer),
            embedding_proj_norm_type: reader
                .has("embedding_proj_norm_type")
                .then_some(NormType::Layer),
            encoder_hid_proj_type: or_default(&mut reader, "encoder_hid_proj_type")?
                .then_some(StatesProjection::Linear),
            added_emb_type: or_default(&mut reader, "added_emb_type")?.then_some(AddedToken::Prd),
            time_embed_dim: reader.optional_size("time_embed_dim", 1..=MAX_WIDTH)?,
            embedding_proj_dim: reader.optional_size("embedding_proj_dim", 1..=MAX_WIDTH)?,
            clip_embed_dim: reader.optional_size("clip_embed_dim", 1..=MAX_WIDTH)?,
        };
        config.check().map_err(|(key, expected)| reader.error(key, expected))?;
        reader.finish();
        Ok(config)
    }

    /// Checks that a network of these sizes can be built.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] naming the key that is at fault.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|(key, expected)| {
            let found = self.to_json()[key].clone();
            unclip_core::Error::invalid(key, found, expected).into()
        })
    }

    fn check(&self) -> Result<(), Unfit> {
        for (key, value) in [
            ("num_attention_heads", self.num_attention_heads),
            ("attention_head_dim", self.attention_head_dim),
            ("num_layers", self.num_layers),
            ("embedding_dim", self.embedding_dim),
            ("num_embeddings", self.num_embeddings),
            ("time_embed_dim", self.time_width()),
            ("embedding_proj_dim", self.text_width()),
            ("clip_embed_dim", self.clip_width()),
        ] {
            if value == 0 {
                return Err((key, "a positive integer".to_owned()));
            }
        }
        if self.width() > MAX_WIDTH {
            let limit = MAX_WIDTH / self.num_attention_heads;
            return Err((
                "attention_head_dim",
                format!("at most {limit} with {} heads", self.num_attention_heads),
            ));
        }
        if !(0.0..=1.0).contains(&self.dropout) {
            return Err(("dropout", "a number from 0 to 1".to_owned()));
        }
        Ok(())
    }

    /// The configuration as diffusers writes it.
    ///
    /// # Panics
    ///
    /// Never: its fields are numbers and names.
    pub fn to_json(&self) -> Value {
        let mut json = serde_json::to_value(self).expect("numbers and names are JSON");
        json["_class_name"] = json!(CLASS);
        json
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unclip_testkit::{changed, changes, device, recorded_configs};

    use super::*;

    const RECORDED: &str = "prior/config.json";

    fn read(json: &Value) -> Result<PriorConfig> {
        PriorConfig::from_bytes("prior/config.json", json.to_string().as_bytes())
    }

    #[test]
    fn every_key_survives_reading_and_writing() {
        for json in recorded_configs(RECORDED) {
            let written = read(&json).expect("a recorded configuration").to_json();
            // The type of a number is kept too.
            for (key, value) in json.as_object().expect("an object") {
                if key != "_diffusers_version" {
                    assert_eq!(&written[key], value, "{key}");
                }
            }
            assert_eq!(read(&written).expect("our own").to_json(), written);
        }
    }

    #[test]
    fn a_missing_key_is_the_default_where_null_is_none() {
        let mut json = PriorConfig::karlo_v1_alpha().to_json();
        for key in ["encoder_hid_proj_type", "added_emb_type"] {
            json.as_object_mut().expect("an object").remove(key);
        }
        assert_eq!(read(&json).expect("complete"), PriorConfig::karlo_v1_alpha());
        json["added_emb_type"] = Value::Null;
        assert_eq!(read(&json).expect("complete").added_emb_type, None);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (key, value) in [
            ("_class_name", json!("UNet2DModel")),
            ("time_embed_act_fn", json!("mish")),
            ("time_embed_act_fn", json!("quick_gelu")),
            ("norm_in_type", json!("batch")),
            ("embedding_proj_norm_type", json!("batch")),
            ("encoder_hid_proj_type", json!("conv")),
            ("added_emb_type", json!("time")),
            ("num_layers", json!(1_000_000_000)),
            ("attention_head_dim", json!(0)),
            ("embedding_dim", json!("768")),
            ("dropout", json!(-1)),
        ] {
            let mut json = PriorConfig::karlo_v1_alpha().to_json();
            json[key] = value.clone();
            let text = read(&json).expect_err(key).to_string();
            assert!(text.starts_with(&format!("prior/config.json: `{key}` is {value}")), "{text}");
        }
        let config = PriorConfig { num_layers: 0, ..PriorConfig::karlo_v1_alpha() };
        let text = config.validate().expect_err("no layers").to_string();
        assert_eq!(text, "`num_layers` is 0, expected a positive integer");
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
