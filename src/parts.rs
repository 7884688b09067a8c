//! The parts of a model, and whether they fit each other.

use burn::tensor::{Device, FloatDType};
use unclip_clip::{Preprocessor, TextConfig, TextEncoder, Tokenizer, VisionConfig, VisionEncoder};
use unclip_core::{
    Stage,
    checkpoint::{DIFFUSERS_STEM, Folder, ModelDir, TRANSFORMERS_STEM, WeightPrecision, Weights},
    sampler::SamplerConfig,
};
use unclip_decoder::{Decoder, DecoderConfig, TextProjectionConfig};
use unclip_prior::{Prior, PriorConfig};
use unclip_upsample::{Upsampler, UpsamplerConfig};

use crate::{
    error::{Error, Result},
    guidance::Guidance,
};

/// Captions in: CLIP's tokenizer and text encoder.
#[derive(Debug, Clone)]
pub struct TextPart {
    /// From captions to token ids.
    pub tokenizer: Tokenizer,
    /// From token ids to embeddings.
    pub encoder: TextEncoder,
}

/// Pictures in: CLIP's preprocessing and vision encoder.
#[derive(Debug, Clone)]
pub struct ImagePart {
    /// From pictures to the encoder's input.
    pub preprocessor: Preprocessor,
    /// From that input to embeddings.
    pub encoder: VisionEncoder,
}

/// The prior with its sampler.
#[derive(Debug, Clone)]
pub struct PriorPart {
    /// The network.
    pub prior: Prior,
    /// How it is sampled unless a request says otherwise.
    pub sampler: SamplerConfig,
}

/// The decoder with its sampler.
#[derive(Debug, Clone)]
pub struct DecoderPart {
    /// The network and the projections that condition it.
    pub decoder: Decoder,
    /// How it is sampled unless a request says otherwise.
    pub sampler: SamplerConfig,
}

/// An upsampler with its sampler.
#[derive(Debug, Clone)]
pub struct UpsamplerPart {
    /// The networks.
    pub upsampler: Upsampler,
    /// How it is sampled unless a request says otherwise.
    pub sampler: SamplerConfig,
}

/// What is known of a part without its weights, and where those are.
#[derive(Debug, Clone)]
pub(crate) struct Spec<C> {
    pub(crate) config: C,
    /// The folder to read weights from; `None` for a part that was given.
    pub(crate) dir: Option<Folder>,
}

/// An upsampler without its weights.
#[derive(Debug, Clone)]
pub(crate) struct UpsamplerSpec {
    pub(crate) first: Spec<UpsamplerConfig>,
    /// Present when the last step has a network of its own.
    pub(crate) last: Option<Spec<UpsamplerConfig>>,
    pub(crate) sampler: SamplerConfig,
}

/// A whole model without its weights.
#[derive(Debug, Clone)]
pub(crate) struct Specs {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) text: Spec<TextConfig>,
    pub(crate) image: Option<(Spec<VisionConfig>, Preprocessor)>,
    pub(crate) prior: Option<(Spec<PriorConfig>, SamplerConfig)>,
    pub(crate) projection: Spec<TextProjectionConfig>,
    pub(crate) decoder: Spec<DecoderConfig>,
    pub(crate) decoder_sampler: SamplerConfig,
    pub(crate) upsampler: Option<UpsamplerSpec>,
    pub(crate) upsampler_large: Option<UpsamplerSpec>,
    pub(crate) guidance: Guidance,
}

/// The folder of the third stage, which the published models do not have and diffusers' index has no name for.
pub(crate) const LARGE: &str = "super_res_large";

impl Specs {
    /// Reads every configuration of a model directory.
    pub(crate) fn read(model: &ModelDir, image_encoder: Option<&ModelDir>) -> Result<Self> {
        let spec = |part: &str| model.dir(part);
        let sampler = |part: &str| -> Result<SamplerConfig> {
            Ok(SamplerConfig::from_dir(model.dir(part)?)?)
        };
        let read_upsampler = |dir: Folder| -> Result<Spec<UpsamplerConfig>> {
            Ok(Spec { config: UpsamplerConfig::open(&dir)?, dir: Some(dir) })
        };
        let image_source = image_encoder.or_else(|| model.has("image_encoder").then_some(model));
        let image = image_source
            .map(|source| -> Result<_> {
                let dir = source.dir("image_encoder")?;
                let preprocessor = Preprocessor::from_dir(source.dir("feature_extractor")?)?;
                Ok((Spec { config: VisionConfig::open(&dir)?, dir: Some(dir) }, preprocessor))
            })
            .transpose()?;
        let prior = model
            .has("prior")
            .then(|| -> Result<_> {
                let dir = spec("prior")?;
                Ok((
                    Spec { config: PriorConfig::open(&dir)?, dir: Some(dir) },
                    sampler("prior_scheduler")?,
                ))
            })
            .transpose()?;
        let upsampler = model
            .has("super_res_first")
            .then(|| -> Result<_> {
                Ok(UpsamplerSpec {
                    first: read_upsampler(spec("super_res_first")?)?,
                    last: Some(read_upsampler(spec("super_res_last")?)?),
                    sampler: sampler("super_res_scheduler")?,
                })
            })
            .transpose()?;
        let large = model.folder().join(LARGE);
        let upsampler_large = large
            .has("config.json")
            .then(|| -> Result<_> {
                let scheduler = model.folder().join(&format!("{LARGE}_scheduler"));
                let sampler = SamplerConfig::from_dir(scheduler)?;
                Ok(UpsamplerSpec { first: read_upsampler(large)?, last: None, sampler })
            })
            .transpose()?;
        let text_dir = spec("text_encoder")?;
        let projection_dir = spec("text_proj")?;
        let decoder_dir = spec("decoder")?;
        Ok(Self {
            tokenizer: Tokenizer::from_dir(spec("tokenizer")?)?,
            text: Spec { config: TextConfig::open(&text_dir)?, dir: Some(text_dir) },
            image,
            prior,
            projection: Spec {
                config: TextProjectionConfig::open(&projection_dir)?,
                dir: Some(projection_dir),
            },
            decoder: Spec { config: DecoderConfig::open(&decoder_dir)?, dir: Some(decoder_dir) },
            decoder_sampler: sampler("decoder_scheduler")?,
            upsampler,
            upsampler_large,
            guidance: Guidance::read(model.folder())?,
        })
    }

    /// Checks that each stage takes what the stage before it gives.
    pub(crate) fn check(&self) -> Result<()> {
        let fits = |stage, what, expected: usize, found: usize| {
            if expected == found {
                Ok(())
            } else {
                Err(Error::StageMismatch { stage, what, expected, found })
            }
        };
        let text = &self.text.config;
        fits(Stage::Encode, "token ids", text.vocabulary_size, self.tokenizer.vocabulary_size())?;
        fits(Stage::Encode, "captions", text.max_length, self.tokenizer.max_length())?;
        let projection = &self.projection.config;
        if let Some((Spec { config: prior, .. }, _)) = &self.prior {
            fits(Stage::Prior, "text embeddings", prior.text_width(), text.embedding_width)?;
            if prior.encoder_hid_proj_type.is_some() {
                fits(Stage::Prior, "token states", prior.embedding_dim, text.width)?;
                fits(Stage::Prior, "tokens", prior.num_embeddings, text.max_length)?;
            }
            fits(
                Stage::Decoder,
                "image embeddings",
                projection.clip_embeddings_dim,
                prior.clip_width(),
            )?;
        }
        if let Some((Spec { config: image, .. }, preprocessor)) = &self.image {
            fits(
                Stage::Decoder,
                "image embeddings",
                projection.clip_embeddings_dim,
                image.embedding_width,
            )?;
            if let Some((height, width)) = preprocessor.output_size() {
                fits(Stage::Encode, "pictures", image.image_size, height)?;
                fits(Stage::Encode, "pictures", image.image_size, width)?;
            }
        }
        fits(
            Stage::Decoder,
            "text embeddings",
            projection.clip_embeddings_dim,
            text.embedding_width,
        )?;
        fits(Stage::Decoder, "token states", projection.clip_embeddings_dim, text.width)?;
        let decoder = &self.decoder.config;
        fits(
            Stage::Decoder,
            "context tokens",
            decoder.context_width(),
            projection.cross_attention_dim,
        )?;
        fits(Stage::Decoder, "time embeddings", decoder.time_width(), projection.time_embed_dim)?;
        fits(Stage::Decoder, "channels", decoder.in_channels, 3)?;
        let mut size = decoder.sample_size;
        for (stage, upsampler) in
            [(Stage::Upsample, &self.upsampler), (Stage::UpsampleLarge, &self.upsampler_large)]
        {
            let Some(UpsamplerSpec { first, last, .. }) = upsampler else { continue };
            for Spec { config, .. } in std::iter::once(first).chain(last) {
                fits(stage, "channels", config.in_channels, 6)?;
                fits(stage, "output channels", 3, config.out_channels)?;
            }
            if let Some(last) = last {
                first.config.fits(&last.config)?;
            }
            let grown = first.config.sample_size;
            if grown < size {
                return Err(Error::StageMismatch {
                    stage,
                    what: "pictures up to",
                    expected: grown,
                    found: size,
                });
            }
            size = grown;
        }
        Ok(())
    }

    /// Demands that every part that will be read has its files, and that their headers are sound.
    pub(crate) fn check_files(&self, variant: Option<&str>) -> Result<()> {
        let upsamplers = self.upsampler.iter().chain(&self.upsampler_large);
        let upsamplers = upsamplers.flat_map(|spec| std::iter::once(&spec.first).chain(&spec.last));
        let transformers =
            [self.text.dir.as_ref(), self.image.as_ref().and_then(|(spec, _)| spec.dir.as_ref())];
        let diffusers = [
            self.prior.as_ref().and_then(|(spec, _)| spec.dir.as_ref()),
            self.projection.dir.as_ref(),
            self.decoder.dir.as_ref(),
        ]
        .into_iter()
        .chain(upsamplers.map(|spec| spec.dir.as_ref()));
        let stems = transformers.map(|dir| (dir, TRANSFORMERS_STEM)).into_iter();
        for (dir, stem) in stems.chain(diffusers.map(|dir| (dir, DIFFUSERS_STEM))) {
            if let Some(dir) = dir {
                Weights::open(dir, stem, variant)?;
            }
        }
        Ok(())
    }

    /// The sizes that stages of this model give, with the stage that gives each, the smallest first.
    pub(crate) fn sizes(&self) -> Vec<(Stage, u32)> {
        let pixels = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let upsampler = |spec: &Option<UpsamplerSpec>| {
            spec.as_ref().map(|s| pixels(s.first.config.sample_size))
        };
        [
            (Stage::Decoder, Some(pixels(self.decoder.config.sample_size))),
            (Stage::Upsample, upsampler(&self.upsampler)),
            (Stage::UpsampleLarge, upsampler(&self.upsampler_large)),
        ]
        .into_iter()
        .filter_map(|(stage, size)| Some((stage, size?)))
        .collect()
    }
}

/// How parts are read from their folders.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) variant: Option<String>,
    pub(crate) precision: WeightPrecision,
    /// What the networks compute in, where it is not the type of their input.
    pub(crate) activations: Option<FloatDType>,
    pub(crate) device: Device,
}
