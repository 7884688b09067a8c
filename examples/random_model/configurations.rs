//! What sizes the parts have.

use std::path::{Path, PathBuf};

use anyhow::Context;
use unclip::{
    clip::{Preprocessor, TextConfig, Tokenizer, VisionConfig},
    decoder::{DecoderConfig, TextProjectionConfig},
    prior::PriorConfig,
    upsample::UpsamplerConfig,
};

/// The configurations of a model.
pub(crate) struct Configurations {
    pub(crate) text: TextConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) image: Option<(VisionConfig, Preprocessor)>,
    pub(crate) prior: Option<PriorConfig>,
    pub(crate) projection: TextProjectionConfig,
    pub(crate) decoder: DecoderConfig,
    pub(crate) upsampler: UpsamplerConfig,
}

impl Configurations {
    /// The published sizes, of text to image or of variations.
    pub(crate) fn karlo(variations: bool) -> anyhow::Result<Self> {
        let vocabulary = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/clip_vocabulary/merges.txt"];
        let merges = std::fs::read_to_string(vocabulary.iter().collect::<PathBuf>())
            .context("CLIP's merge list")?;
        Ok(Self {
            text: TextConfig::vit_l_14(),
            tokenizer: Tokenizer::from_merges(&merges, "!")?,
            image: variations.then(|| (VisionConfig::vit_l_14(), Preprocessor::clip(224))),
            prior: (!variations).then(PriorConfig::karlo_v1_alpha),
            projection: TextProjectionConfig::karlo_v1_alpha(),
            decoder: DecoderConfig::karlo_v1_alpha(),
            upsampler: UpsamplerConfig::karlo_v1_alpha(),
        })
    }

    /// Those of a model directory, which may lack its weights.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Self> {
        let part = |name: &str| dir.join(name);
        let image = part("image_encoder")
            .is_dir()
            .then(|| -> anyhow::Result<_> {
                let preprocessor = Preprocessor::from_dir(part("feature_extractor"))?;
                Ok((VisionConfig::open(part("image_encoder"))?, preprocessor))
            })
            .transpose()?;
        Ok(Self {
            text: TextConfig::open(part("text_encoder"))?,
            tokenizer: Tokenizer::from_dir(part("tokenizer"))?,
            image,
            prior: part("prior").is_dir().then(|| PriorConfig::open(part("prior"))).transpose()?,
            projection: TextProjectionConfig::open(part("text_proj"))?,
            decoder: DecoderConfig::open(part("decoder"))?,
            upsampler: UpsamplerConfig::open(part("super_res_first"))?,
        })
    }
}
