//! The sizes of the text projection.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};
use unclip_core::checkpoint::{ConfigReader, Folder};

use crate::Result;

/// The class that diffusers gives the projections.
const CLASS: &str = "UnCLIPTextProjModel";
/// Wider than any layer in use.
const MAX_WIDTH: usize = 1 << 15;
/// More extra tokens than any model in use.
const MAX_TOKENS: usize = 1024;

/// The sizes of a [`TextProjection`](crate::TextProjection).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextProjectionConfig {
    /// Tokens that an image embedding becomes.
    pub clip_extra_context_tokens: usize,
    /// Width of CLIP's embeddings and of the caption's hidden states.
    pub clip_embeddings_dim: usize,
    /// Width of the decoder's time embedding.
    pub time_embed_dim: usize,
    /// Width of the decoder's context tokens.
    pub cross_attention_dim: usize,
}

impl TextProjectionConfig {
    /// Karlo's projections (`kakaobrain/karlo-v1-alpha`): 7 878 400 parameters over CLIP ViT-L/14.
    pub fn karlo_v1_alpha() -> Self {
        Self {
            clip_extra_context_tokens: 4,
            clip_embeddings_dim: 768,
            time_embed_dim: 1280,
            cross_attention_dim: 1536,
        }
    }

    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`] and [`unclip_core::Error::Json`] when it cannot be read,
    /// [`unclip_core::Error::Config`] when a key is missing or wrong.
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
        let config = Self {
            clip_extra_context_tokens: reader.size_or(
                "clip_extra_context_tokens",
                4,
                1..=MAX_TOKENS,
            )?,
            clip_embeddings_dim: reader.size_or("clip_embeddings_dim", 768, 1..=MAX_WIDTH)?,
            time_embed_dim: reader.size("time_embed_dim", 1..=MAX_WIDTH)?,
            cross_attention_dim: reader.size("cross_attention_dim", 1..=MAX_WIDTH)?,
        };
        reader.finish();
        Ok(config)
    }

    /// The configuration as diffusers writes it.
    pub fn to_json(&self) -> Value {
        let Self {
            clip_extra_context_tokens,
            clip_embeddings_dim,
            time_embed_dim,
            cross_attention_dim,
        } = self;
        json!({
            "_class_name": CLASS,
            "clip_extra_context_tokens": clip_extra_context_tokens,
            "clip_embeddings_dim": clip_embeddings_dim,
            "time_embed_dim": time_embed_dim,
            "cross_attention_dim": cross_attention_dim,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &Value) -> Result<TextProjectionConfig> {
        TextProjectionConfig::from_bytes("config.json", json.to_string().as_bytes())
    }

    #[test]
    fn every_key_survives_reading_and_writing() {
        let json = TextProjectionConfig::karlo_v1_alpha().to_json();
        assert_eq!(read(&json).expect("complete").to_json(), json);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (key, value) in [
            ("_class_name", json!("PriorTransformer")),
            ("time_embed_dim", json!(0)),
            ("cross_attention_dim", json!([1536])),
            ("clip_extra_context_tokens", json!(1_000_000)),
        ] {
            let mut json = TextProjectionConfig::karlo_v1_alpha().to_json();
            json[key] = value.clone();
            let text = read(&json).expect_err(key).to_string();
            assert!(text.starts_with(&format!("config.json: `{key}` is {value}")), "{text}");
        }
    }
}
