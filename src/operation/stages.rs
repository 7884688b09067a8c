//! The sampling stages, batch by batch.

use std::{sync::Arc, time::Duration};

use burn::tensor::Tensor;
use image::RgbImage;
use unclip_core::{
    Stage,
    nn::{TextConditioning, UNet},
    sampler::{Sampler, SamplerConfig},
};
use unclip_decoder::DecoderInput;
use unclip_prior::PriorInput;
use unclip_upsample::{Networks, UpsampleInput, UpsamplerConfig};

use super::{
    run::{Run, batches},
    size::SizePlan,
};
use crate::{
    GenerateRequest, HostTensor, Painting, StageSettings, SuppliedNoise,
    error::Result,
    noise_plan::{NoiseRoot, StageNoise},
    parts::UpsamplerSpec,
    pipeline::Inner,
    resident::{InUse, Part},
};

/// The reference's defaults (KARLO's pipeline in diffusers).
const PRIOR_STEPS: usize = 25;
const DECODER_STEPS: usize = 25;
const UPSAMPLE_STEPS: usize = 7;

/// Candidates of a picture that pass through the prior together, at most: behind their caption they are some tokens each, but
/// what is cached of the caption takes memory for each.
const CANDIDATES_TOGETHER: usize = 4;

/// What pictures are conditioned on besides their image embeddings.
pub(super) struct Conditions {
    pub(super) text: TextConditioning,
    /// The negative or empty caption, one row, where a stage is guided.
    pub(super) opposite: Option<TextConditioning>,
    /// The caption of each picture.
    pub(super) caption_of: Vec<usize>,
    /// The scales, where they are not 1.
    pub(super) prior_guidance: Option<f64>,
    pub(super) decoder_guidance: Option<f64>,
}

impl Conditions {
    /// The text of some pictures, and the opposite repeated for them where `guidance` asks for it.
    fn of(
        &self,
        pictures: &[usize],
        guidance: Option<f64>,
    ) -> (TextConditioning, Option<TextConditioning>) {
        let captions: Vec<usize> = pictures.iter().map(|&k| self.caption_of[k]).collect();
        let opposite =
            guidance.and(self.opposite.as_ref()).map(|row| row.select(&vec![0; pictures.len()]));
        (self.text.select(&captions), opposite)
    }
}

/// CLIP image embeddings, one a picture.
pub(super) struct ImageEmbeddings {
    /// `[pictures, width]`, not normalised.
    pub(super) values: Tensor<2>,
}

/// The model's sampler unless the request names another, for the number of steps asked for.
fn sampler(own: &SamplerConfig, settings: &StageSettings, steps: usize) -> Result<Sampler> {
    let config = match settings.sampler {
        Some(kind) if kind != own.kind => own.clone().with_kind(kind),
        _ => own.clone(),
    };
    Ok(config.sampler(settings.steps.unwrap_or(steps))?)
}

impl Run<'_> {
    /// Draws image embeddings (paper §2.2), and where the request asks for several candidates keeps the one with the
    /// largest `z_t · z_i`.
    pub(super) fn sample_prior(
        &mut self,
        request: &GenerateRequest,
        conditions: &Conditions,
        noise: &mut NoiseRoot,
    ) -> Result<ImageEmbeddings> {
        const OPERATION: &str = "generating from captions";
        let inner = self.inner;
        let sampler = sampler(inner.prior_sampler(OPERATION)?, &request.prior, PRIOR_STEPS)?;
        let prior = inner.prior(OPERATION)?;
        let timer = self.start(Stage::Prior, prior.loading);
        let device = &inner.reading.device;
        let supplied = request.painting.supplied.prior_noise.as_ref();
        let own = if supplied.is_some() { 1 } else { inner.specs.guidance.prior_candidates };
        let (pictures, candidates) = (request.pictures(), request.prior_candidates.unwrap_or(own));
        let rows = pictures * candidates;
        let width = prior.part.config().embedding_dim;
        let mut expanded;
        let noise = match noise {
            NoiseRoot::Counter(seeds) if candidates > 1 => {
                expanded = NoiseRoot::Counter(
                    seeds
                        .iter()
                        .flat_map(|&seed| (0..candidates).map(move |c| candidate_seed(seed, c)))
                        .collect(),
                );
                &mut expanded
            }
            noise => noise,
        };
        let noise =
            StageNoise::new(noise, Stage::Prior, &[width], rows, sampler.draws(), supplied)?;
        let steps = sampler.timesteps().len();
        let captions: Vec<usize> =
            (0..rows).map(|row| conditions.caption_of[row / candidates]).collect();
        let opposite = conditions.prior_guidance.and(conditions.opposite.as_ref());
        let mut drawn = Vec::new();
        let together = inner.batch_limit.saturating_mul(candidates.min(CANDIDATES_TOGETHER));
        for mut batch in batches(rows, together, steps) {
            let range = batch.pictures;
            batch.pictures = range.start / candidates..range.end.div_ceil(candidates);
            let mut noise = noise.batch(range.clone())?;
            let initial = unclip_core::noise::draw(&mut *noise, [range.len(), width], device)?;
            let mut input = PriorInput::new(conditions.text.clone()).rows(captions[range].to_vec());
            if let Some(opposite) = opposite {
                input = input.unconditional(opposite.clone());
            }
            let scale = conditions.prior_guidance.unwrap_or(1.0);
            let mut watch = self.watch(Stage::Prior, &batch);
            drawn.push(prior.part.sample(
                &input,
                &sampler,
                scale,
                initial,
                &mut *noise,
                &mut watch,
            )?);
        }
        self.stop(timer, steps * drawn.len())?;
        let texts = conditions.text.select(&captions).embedding;
        Ok(ImageEmbeddings { values: keep_best(Tensor::cat(drawn, 0), texts, candidates)? })
    }

    /// Paints pictures from image embeddings up to the planned stage, one tensor a batch, in `[-1, 1]`.
    pub(super) fn paint(
        &mut self,
        embeddings: &ImageEmbeddings,
        conditions: &Conditions,
        painting: &Painting,
        plan: SizePlan,
        noise: &mut NoiseRoot,
    ) -> Result<Vec<Tensor<4>>> {
        let painted = self.decode(embeddings, conditions, painting, noise)?;
        self.enlarge(painted, painting, plan, noise)
    }

    /// Decodes image embeddings into small pictures (paper §2.1).
    pub(super) fn decode(
        &mut self,
        embeddings: &ImageEmbeddings,
        conditions: &Conditions,
        painting: &Painting,
        noise: &mut NoiseRoot,
    ) -> Result<Vec<Tensor<4>>> {
        let inner = self.inner;
        let device = &inner.reading.device;
        let sampler = sampler(&inner.specs.decoder_sampler, &painting.decoder, DECODER_STEPS)?;
        let decoder = inner.decoder()?;
        let timer = self.start(Stage::Decoder, decoder.loading);
        let side = inner.specs.decoder.config.sample_size;
        let pictures = embeddings.values.dims()[0];
        let supplied = painting.supplied.decoder_noise.as_ref();
        let noise = StageNoise::new(
            noise,
            Stage::Decoder,
            &[3, side, side],
            pictures,
            sampler.draws(),
            supplied,
        )?;
        let steps = sampler.timesteps().len();
        let mut painted = Vec::new();
        for batch in batches(pictures, inner.batch_limit, steps) {
            let range = batch.pictures.clone();
            let (text, opposite) =
                conditions.of(&range.clone().collect::<Vec<_>>(), conditions.decoder_guidance);
            let mut noise = noise.batch(range.clone())?;
            let initial =
                unclip_core::noise::draw(&mut *noise, [range.len(), 3, side, side], device)?;
            let embedding = embeddings.values.clone().narrow(0, range.start, range.len());
            let mut input = DecoderInput::new(embedding, text);
            if let Some(opposite) = opposite {
                input = input.unconditional(opposite);
            }
            let scale = conditions.decoder_guidance.unwrap_or(1.0);
            let mut watch = self.watch(Stage::Decoder, &batch);
            painted.push(decoder.part.sample(
                &input,
                &sampler,
                scale,
                initial,
                &mut *noise,
                &mut watch,
            )?);
        }
        self.stop(timer, steps * painted.len())?;
        Ok(painted)
    }

    /// Runs the upsamplers that the plan asks for.
    pub(super) fn enlarge(
        &mut self,
        mut painted: Vec<Tensor<4>>,
        painting: &Painting,
        plan: SizePlan,
        noise: &mut NoiseRoot,
    ) -> Result<Vec<Tensor<4>>> {
        let specs = &self.inner.specs;
        let supplied = &painting.supplied;
        for (stage, spec, settings, supplied, parts) in [
            (
                Stage::Upsample,
                &specs.upsampler,
                &painting.upsample,
                &supplied.upsample_noise,
                [Part::UpsampleFirst, Part::UpsampleLast],
            ),
            (
                Stage::UpsampleLarge,
                &specs.upsampler_large,
                &painting.upsample_large,
                &supplied.upsample_large_noise,
                [Part::UpsampleLarge, Part::UpsampleLarge],
            ),
        ] {
            if let Some(spec) = spec
                && plan.runs(stage)
            {
                painted =
                    self.upsample(stage, spec, parts, painted, settings, supplied.as_ref(), noise)?;
            }
        }
        Ok(painted)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "both upsamplers share this body, and each argument differs"
    )]
    fn upsample(
        &mut self,
        stage: Stage,
        spec: &UpsamplerSpec,
        parts: [Part; 2],
        small: Vec<Tensor<4>>,
        settings: &StageSettings,
        supplied: Option<&SuppliedNoise>,
        noise: &mut NoiseRoot,
    ) -> Result<Vec<Tensor<4>>> {
        let inner = self.inner;
        let device = &inner.reading.device;
        let sampler = sampler(&spec.sampler, settings, UPSAMPLE_STEPS)?;
        let side = spec.first.config.sample_size;
        let pictures = small.iter().map(|batch| batch.dims()[0]).sum();
        let noise =
            StageNoise::new(noise, stage, &[3, side, side], pictures, sampler.draws(), supplied)?;
        let steps = sampler.timesteps().len();
        let mut timer = self.start(stage, Duration::ZERO);
        let mut networks = Pair { inner, spec, parts, current: None, loading: Duration::ZERO };
        let mut painted = Vec::with_capacity(small.len());
        for (batch, small) in batches(pictures, inner.batch_limit, steps).zip(small) {
            let mut noise = noise.batch(batch.pictures.clone())?;
            let initial = unclip_core::noise::draw(
                &mut *noise,
                [batch.pictures.len(), 3, side, side],
                device,
            )?;
            let mut watch = self.watch(stage, &batch);
            let input = UpsampleInput::new(stage, small);
            let large = unclip_upsample::sample(
                &mut networks,
                &input,
                &sampler,
                initial,
                &mut *noise,
                &mut watch,
            )?;
            painted.push(large);
        }
        timer.loading_inside = networks.loading;
        self.stop(timer, steps * painted.len())?;
        Ok(painted)
    }

    /// The cosine between each picture's CLIP embedding and its caption's.
    pub(super) fn clip_similarity(
        &mut self,
        pictures: &[RgbImage],
        conditions: &Conditions,
    ) -> Result<Vec<f32>> {
        let images = self.embed_images("ranking pictures", pictures)?;
        let cosines =
            HostTensor::read(&unclip_clip::similarity(images, conditions.text.embedding.clone()))?;
        let captions = cosines.shape[1];
        Ok(conditions
            .caption_of
            .iter()
            .enumerate()
            .map(|(k, caption)| cosines.values[k * captions + caption])
            .collect())
    }

    /// CLIP embeddings of pictures, one picture at a time, so that no row depends on its neighbours.
    pub(super) fn embed_images(
        &mut self,
        operation: &'static str,
        pictures: &[RgbImage],
    ) -> Result<Tensor<2>> {
        let inner = self.inner;
        let preprocessor = inner.preprocessor(operation)?;
        let encoder = inner.image_encoder(operation)?;
        let timer = self.start(Stage::Encode, encoder.loading);
        let mut rows = Vec::with_capacity(pictures.len());
        for picture in pictures {
            let pixels = preprocessor.preprocess(picture, &inner.reading.device)?;
            rows.push(encoder.part.forward(pixels).image_embeds);
        }
        self.stop(timer, 0)?;
        Ok(Tensor::cat(rows, 0))
    }
}

/// The two networks of an upsampler, read when a step needs them: with one stage in memory, the second replaces the
/// first.
struct Pair<'a> {
    inner: &'a Inner,
    spec: &'a UpsamplerSpec,
    /// The part of every step but the last, and the last step's.
    parts: [Part; 2],
    current: Option<(Part, Arc<UNet>)>,
    loading: Duration,
}

impl Networks for Pair<'_> {
    fn config(&self) -> &UpsamplerConfig {
        &self.spec.first.config
    }

    fn network(&mut self, last_step: bool) -> unclip_upsample::Result<&UNet> {
        let part = self.parts[usize::from(last_step)];
        // A network of another part is let go of before the next is read.
        let current = self.current.take().filter(|(held, _)| *held == part);
        let current = match current {
            Some(current) => current,
            None => {
                let InUse { part: network, loading } = self.inner.upsampler(part, self.spec)?;
                self.loading += loading;
                (part, network)
            }
        };
        Ok(&self.current.insert(current).1)
    }
}

/// The seed of a picture's candidate `c`: the picture's own for the first, so that asking for one candidate or several
/// draws the same first one.
fn candidate_seed(seed: u64, c: usize) -> u64 {
    seed.wrapping_add((c as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// For each run of `candidates` rows the one with the largest `z_t · z_i` (paper §2.2).
fn keep_best(embeddings: Tensor<2>, texts: Tensor<2>, candidates: usize) -> Result<Tensor<2>> {
    if candidates == 1 {
        return Ok(embeddings);
    }
    let products = HostTensor::read(&(embeddings.clone() * texts).sum_dim(1))?.values;
    let best = products
        .chunks_exact(candidates)
        .enumerate()
        .map(|(picture, products)| {
            let best = (1..candidates)
                .fold(0, |best, c| if products[c] > products[best] { c } else { best });
            embeddings.clone().narrow(0, picture * candidates + best, 1)
        })
        .collect();
    Ok(Tensor::cat(best, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_nearest_to_its_caption_is_kept() {
        let device = unclip_testkit::device();
        let embeddings =
            Tensor::from_floats([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.5, 0.5]], &device);
        let texts = Tensor::from_floats([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], &device);
        let kept = HostTensor::read(&keep_best(embeddings, texts, 2).expect("two pictures"))
            .expect("readable");
        assert_eq!(kept.values, [0.0, 1.0, 0.5, 0.5]);
    }

    #[test]
    fn the_first_candidate_has_the_seed_of_the_picture() {
        assert_eq!(candidate_seed(7, 0), 7);
        assert_ne!(candidate_seed(7, 1), candidate_seed(8, 0));
    }
}
