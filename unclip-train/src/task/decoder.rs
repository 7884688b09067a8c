//! Training the decoder, from the start with mask channels.
//!
//! Paper §2.1: the image embedding is dropped from one sample in ten and the caption from half, independently, so that
//! guidance has something to lead away from. An embedding is that of the very view that the network is to paint; noise
//! on it keeps the network from taking it for the picture's name (UNCLIP's embeddings come from a prior, not from a
//! picture).

use std::path::Path;

use burn::{
    module::Module,
    tensor::{Device, FloatDType, Tensor, TensorData},
};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unclip_core::{
    Error as CoreError,
    checkpoint::{SaveOptions, WeightPrecision},
    diffusion::Prediction,
    image::{to_images, to_tensor},
    nn::{TextConditioning, UNet, UNetInput, mask_bias},
    progress::Unobserved,
    sampler::{SamplerConfig, SamplerKind},
};
use unclip_decoder::{
    Decoder, DecoderConfig, DecoderInput, MaskChannels, TextProjection, TextProjectionConfig,
};

use super::{Batch, Gradients, Losses, Replica, Task, accumulate, agree, forward, on};
use crate::{
    Result,
    caption::choose,
    config::{RunConfig, are_known, are_shares},
    draws::{Draws, Purpose},
    export::{unet_fill, write_scheduler},
    frozen::Frozen,
    loss::diffusion::{Diffusion, DiffusionConfig},
    mask::MaskConfig,
    parameters::initialise,
    sheet::{DrawsNoise, grid},
    view::square,
};

/// How the decoder is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderTaskConfig {
    /// The network, with the keys of diffusers' `UNet2DConditionModel`.
    pub network: Value,
    /// The projections, with the keys of diffusers' `UnCLIPTextProjModel`.
    pub projection: Value,
    /// What the network learns.
    pub diffusion: DiffusionConfig,
    /// Which pixels are known in advance.
    #[serde(default)]
    pub mask: MaskConfig,
    /// How often a sample has no image embedding.
    #[serde(default = "tenth")]
    pub embedding_drop: f64,
    /// How often a sample has no caption.
    #[serde(default = "half")]
    pub caption_drop: f64,
    /// How often a word of a caption is left out.
    #[serde(default)]
    pub word_dropout: f64,
    /// The noise on image embeddings.
    #[serde(default)]
    pub embedding_noise: EmbeddingNoise,
    /// The smallest part of a picture that is shown, as a share of its side.
    #[serde(default = "one")]
    pub crop: f64,
    /// Steps of the pictures on sample sheets.
    #[serde(default = "twenty_five")]
    pub sheet_steps: usize,
    /// Their guidance.
    #[serde(default = "three")]
    pub sheet_guidance: f64,
}

/// Noise on the embeddings that the decoder is given.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingNoise {
    /// The share of samples with noise.
    pub share: f64,
    /// Its largest deviation, in units of the embedding's root mean square; each sample has its own up to it.
    pub largest: f64,
}

fn tenth() -> f64 {
    0.1
}

fn half() -> f64 {
    0.5
}

fn one() -> f64 {
    1.0
}

fn twenty_five() -> usize {
    25
}

fn three() -> f64 {
    3.0
}

impl DecoderTaskConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        self.network()?;
        self.projection()?;
        are_shares(&[
            ("decoder.embedding_drop", self.embedding_drop),
            ("decoder.caption_drop", self.caption_drop),
            ("decoder.word_dropout", self.word_dropout),
            ("decoder.embedding_noise.share", self.embedding_noise.share),
            ("decoder.crop", self.crop),
            ("decoder.mask.share", self.mask.share),
            ("decoder.mask.whole", self.mask.whole),
        ])
    }

    fn network(&self) -> Result<DecoderConfig> {
        let place = "stage.decoder.network";
        let network = DecoderConfig::from_bytes(place, self.network.to_string().as_bytes())?;
        are_known(place, &self.network, &network.to_json())?;
        Ok(network)
    }

    fn projection(&self) -> Result<TextProjectionConfig> {
        let place = "stage.decoder.projection";
        let text = self.projection.to_string();
        let projection = TextProjectionConfig::from_bytes(place, text.as_bytes())?;
        are_known(place, &self.projection, &projection.to_json())?;
        Ok(projection)
    }

    /// What a sample goes without: each of the two by itself, so that some go without both.
    fn dropped(&self, draws: &mut Draws) -> Dropped {
        Dropped {
            caption: draws.chance(self.caption_drop),
            embedding: draws.chance(self.embedding_drop),
        }
    }
}

/// What a sample goes without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dropped {
    caption: bool,
    embedding: bool,
}

/// The decoder's parts.
#[derive(Module, Debug)]
pub(crate) struct DecoderModel {
    projection: TextProjection,
    unet: UNet,
    mask: MaskChannels,
}

pub(crate) struct DecoderTask {
    config: DecoderTaskConfig,
    network: DecoderConfig,
    projection: TextProjectionConfig,
    diffusion: Diffusion,
    clip: Frozen,
}

/// What a part of a batch is painted from.
struct Conditioned {
    clean: Tensor<4>,
    embedding: Tensor<2>,
    /// 1 for a sample without its embedding, `[samples, 1]`.
    dropped: Tensor<2>,
    captions: TextConditioning,
}

impl DecoderTask {
    pub(crate) fn open(
        config: &DecoderTaskConfig,
        run: &RunConfig,
        device: &Device,
    ) -> Result<Self> {
        let network = config.network()?;
        let projection = config.projection()?;
        let clip = Frozen::open(&run.model, device)?;
        for (field, found, expected, whose) in [
            (
                "projection.clip_embeddings_dim",
                projection.clip_embeddings_dim,
                clip.embedding_width(),
                "CLIP's",
            ),
            (
                "projection.time_embed_dim",
                projection.time_embed_dim,
                network.time_width(),
                "the network's",
            ),
            (
                "projection.cross_attention_dim",
                projection.cross_attention_dim,
                network.context_width(),
                "the network's",
            ),
        ] {
            if found != expected {
                return Err(CoreError::invalid(field, found, format!("{whose} {expected}")).into());
            }
        }
        if network.class_embed_type.is_none() {
            let expected = "\"identity\", through which the image embedding enters";
            return Err(CoreError::invalid("network.class_embed_type", "null", expected).into());
        }
        let diffusion = Diffusion::new(config.diffusion.clone())?;
        Ok(Self { config: config.clone(), network, projection, diffusion, clip })
    }

    /// The views of samples, as many pixels wide as the network paints.
    fn views(&self, batch: &Batch<'_>) -> Result<Vec<RgbImage>> {
        let side = u32::try_from(self.network.sample_size).unwrap_or(u32::MAX);
        let draws = batch.samples.iter().zip(batch.draws(Purpose::View));
        draws
            .map(|(sample, mut draws)| {
                square(sample.picture()?, side, self.config.crop, &mut draws)
            })
            .collect()
    }

    fn condition(&self, batch: &Batch<'_>, device: &Device) -> Result<Conditioned> {
        let views = self.views(batch)?;
        let rows = views.len();
        let embedding = self.clip.embeddings(batch.samples, &views)?;
        let width = self.clip.embedding_width();
        let (mut captions, mut dropped, mut noise) = (Vec::new(), Vec::new(), Vec::new());
        let draws = batch.draws(Purpose::Caption).into_iter().zip(batch.draws(Purpose::Condition));
        for (sample, (mut caption, mut condition)) in batch.samples.iter().zip(draws) {
            let text = choose(&sample.captions, self.config.word_dropout, &mut caption);
            let without = self.config.dropped(&mut condition);
            captions.push(if without.caption { String::new() } else { text });
            dropped.push(f32::from(without.embedding));
            noise.extend(self.config.embedding_noise.draw(width, &mut condition));
        }
        let noise = Tensor::from_data(TensorData::new(noise, [rows, width]), device);
        let size = embedding.clone().square().mean_dim(1).sqrt();
        Ok(Conditioned {
            clean: to_tensor(&views, device)?,
            embedding: embedding + noise * size,
            dropped: Tensor::from_data(TensorData::new(dropped, [rows, 1]), device),
            captions: self.clip.captions(&captions)?,
        })
    }

    /// Which pixels of a part are known: `[samples, 1, side, side]`.
    fn known(&self, batch: &Batch<'_>, device: &Device) -> Tensor<4> {
        let side = self.network.sample_size;
        let draws = batch.draws(Purpose::Mask);
        let rows = draws.len();
        let values: Vec<f32> = draws
            .into_iter()
            .flat_map(|mut draws| self.config.mask.draw(side, &mut draws))
            .collect();
        Tensor::from_data(TensorData::new(values, [rows, 1, side, side]), device)
    }

    fn losses(&self, model: &DecoderModel, part: &Batch<'_>) -> Result<Losses> {
        let autodiff = model.unet.devices()[0].clone();
        let device = autodiff.clone().inner();
        let Conditioned { clean, embedding, dropped, captions } = self.condition(part, &device)?;
        let rows = part.samples.len();
        let timesteps = part.timesteps(&self.diffusion);
        let noised = self.diffusion.noised(&clean, timesteps, &mut part.draws(Purpose::Noise))?;

        let dropped = on(&autodiff, dropped);
        let embedding = on(&autodiff, embedding) * (dropped.clone() * -1.0 + 1.0)
            + model.projection.null_embedding(rows) * dropped;
        let conditions = model.projection.forward(
            embedding,
            on(&autodiff, captions.embedding),
            on(&autodiff, captions.states),
        );
        let bias = mask_bias(&captions.mask, self.projection.clip_extra_context_tokens, &device);
        let known = on(&autodiff, self.known(part, &device));
        let features = model.mask.forward(on(&autodiff, clean.clone()), known);
        let timesteps = noised.network_timesteps();
        let input = UNetInput::new(on(&autodiff, noised.noisy.clone()), &timesteps)
            .class_embedding(conditions.time)
            .context(conditions.context)
            .context_bias(on(&autodiff, bias))
            .first_features(features);
        let (output, further) = forward(&model.unet, input);
        let losses = if self.network.predicts_variance() {
            self.diffusion.hybrid_losses(output, &clean, &noised)
        } else {
            self.diffusion.losses(output, &clean, &noised)
        };
        Ok(Losses { losses, numbers: Vec::new(), further })
    }

    /// How the network is sampled: Karlo's way where it says its variance, and DDIM otherwise.
    fn sampler(&self) -> SamplerConfig {
        let DiffusionConfig { prediction, beta_schedule, timesteps, .. } = *self.diffusion.config();
        let ancestral = self.network.predicts_variance() && prediction != Prediction::V;
        let kind = if ancestral { SamplerKind::UnClip } else { SamplerKind::Ddim { eta: 0.0 } };
        SamplerConfig {
            prediction,
            beta_schedule,
            train_timesteps: timesteps,
            ..SamplerConfig::karlo_decoder().with_kind(kind)
        }
    }
}

impl EmbeddingNoise {
    /// The noise on one embedding, in units of its root mean square.
    fn draw(&self, width: usize, draws: &mut Draws) -> Vec<f32> {
        let deviation =
            if draws.chance(self.share) { draws.between(0.0, self.largest) } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, reason = "noise is 32 bits wide")]
        let deviation = deviation as f32;
        draws.normals(width).map(|value| value * deviation).collect()
    }
}

impl Task for DecoderTask {
    type Model = DecoderModel;

    fn architecture(&self) -> Value {
        json!({
            "stage": "decoder",
            "network": self.network.to_json(),
            "projection": self.projection.to_json(),
            "prediction": self.diffusion.config().prediction,
        })
    }

    fn foundation(&self) -> Option<&str> {
        Some(self.clip.digest())
    }

    fn init(&self, seed: u64, _fresh: bool, device: &Device) -> Result<DecoderModel> {
        let model = DecoderModel {
            projection: self.projection.init(device),
            unet: self.network.init(device),
            mask: self.network.init_mask_channels(device),
        };
        Ok(initialise(model, seed, unet_fill))
    }

    fn load(&self, initial: &Path, device: &Device) -> Result<DecoderModel> {
        let (folder, precision) = (initial.join("text_proj"), WeightPrecision::F32);
        let projection = TextProjection::from_dir(&*folder, None, precision, device)?;
        agree(&folder, &projection.config().to_json(), &self.projection.to_json())?;
        let folder = initial.join("decoder");
        let unet = self.network.load(&*folder, None, precision, device)?;
        let mask = MaskChannels::find(&*folder, &self.network, None, precision, device)?;
        let mask = mask.unwrap_or_else(|| self.network.init_mask_channels(device));
        Ok(DecoderModel { projection, unet, mask })
    }

    fn compute_in(model: DecoderModel, dtype: FloatDType) -> DecoderModel {
        DecoderModel { unet: model.unet.compute_in(dtype), ..model }
    }

    fn gradients(replicas: &[Replica<'_, Self>], batch: &Batch<'_>) -> Result<Gradients> {
        accumulate(replicas, batch, |replica, part| replica.task.losses(&replica.model, part))
    }

    fn export(&self, average: &DecoderModel, model: &Path) -> Result<()> {
        let options = SaveOptions::default();
        let DecoderModel { projection, unet, mask } = average.clone();
        let decoder = Decoder::from_parts(projection, unet, self.network.clone())?;
        decoder.save_dirs(model.join("text_proj"), model.join("decoder"), &options)?;
        mask.save_dir(model.join("decoder"), &options)?;
        write_scheduler(model, "decoder_scheduler", &self.sampler())
    }

    /// Two rows: what was seen, and what is painted of its embedding and caption.
    fn sheet(&self, average: &DecoderModel, batch: &Batch<'_>) -> Result<Option<RgbImage>> {
        let device = average.unet.devices()[0].clone();
        let views = self.views(batch)?;
        let embedding = self.clip.embeddings(batch.samples, &views)?;
        let rows = views.len();
        let captions: Vec<String> = batch
            .samples
            .iter()
            .map(|sample| sample.captions.first().cloned().unwrap_or_default())
            .collect();
        let input = DecoderInput::new(embedding, self.clip.captions(&captions)?)
            .unconditional(self.clip.captions(&vec![String::new(); rows])?);
        let DecoderModel { projection, unet, .. } = average.clone();
        let decoder = Decoder::from_parts(projection, unet, self.network.clone())?;
        let sampler = self.sampler().sampler(self.config.sheet_steps)?;
        let side = self.network.sample_size;
        let mut noise = DrawsNoise::new(batch.seed);
        let initial = noise.tensor([rows, self.network.in_channels, side, side], &device);
        let guidance = self.config.sheet_guidance;
        let painted =
            decoder.sample(&input, &sampler, guidance, initial, &mut noise, &mut Unobserved)?;
        Ok(Some(grid(&[views, to_images(painted)?])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_goes_without_its_embedding_and_half_without_a_caption_independently() {
        let config: DecoderTaskConfig = serde_json::from_value(json!({
            "network": {}, "projection": {},
            "diffusion": {"prediction": "sample", "weighting": "simple"}
        }))
        .expect("the rest has defaults");
        let count = 20_000;
        let drawn: Vec<Dropped> = (0..count)
            .map(|index| config.dropped(&mut Draws::new(3, Purpose::Condition, 0, index)))
            .collect();
        let share = |of: fn(&Dropped) -> bool| {
            drawn.iter().filter(|dropped| of(dropped)).count() as f64 / count as f64
        };
        // Five standard deviations of each.
        assert!((share(|d| d.embedding) - 0.1).abs() < 0.011);
        assert!((share(|d| d.caption) - 0.5).abs() < 0.018);
        assert!((share(|d| d.caption && d.embedding) - 0.05).abs() < 0.008);
    }

    #[test]
    fn noise_on_embeddings_is_as_frequent_and_as_large_as_configured() {
        let noise = EmbeddingNoise { share: 0.5, largest: 0.4 };
        let deviations: Vec<f64> = (0..2000)
            .map(|index| {
                let values = noise.draw(256, &mut Draws::new(3, Purpose::Condition, 0, index));
                (values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 256.0).sqrt()
            })
            .collect();
        let noisy: Vec<f64> = deviations.into_iter().filter(|&deviation| deviation > 0.0).collect();
        assert!((900..1100).contains(&noisy.len()), "{} of 2000", noisy.len());
        let mean = noisy.iter().sum::<f64>() / noisy.len() as f64;
        assert!((mean - 0.2).abs() < 0.02, "{mean}");
        assert!(noisy.iter().all(|&deviation| deviation < 0.5));
    }
}
