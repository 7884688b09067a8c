//! Pictures from captions: the whole of the paper's §2.

use std::ops::ControlFlow;

use burn::tensor::Tensor;

use super::{
    run::Run,
    size::SizePlan,
    stages::{Conditions, ImageEmbeddings},
};
use crate::{
    GenerateRequest, GeneratedImage, Generation, HostTensor, PictureMetadata, Pipeline, Progress,
    Warning, error::Result, noise_plan::NoiseRoot,
};

impl Pipeline {
    /// Paints pictures of the request's captions; a `&str` is a request for one picture.
    ///
    /// # Errors
    ///
    /// - [`Error::Core`](crate::Error::Core) with `InvalidInput` when a field is out of range, which is found before
    ///   anything is computed
    /// - [`Error::Refused`](crate::Error::Refused) when the safety filter refuses a caption or a picture
    /// - [`Error::Unavailable`](crate::Error::Unavailable) when the model has no prior, or no image encoder to rank with
    /// - whatever reading weights says, where the policy reads them late
    pub fn generate(&self, request: impl Into<GenerateRequest>) -> Result<Generation> {
        self.generate_with(request, |_| ControlFlow::Continue(()))
    }

    /// [`generate`](Self::generate), with a function that is told of every step and may stop the request.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate), and an error whose [`is_cancelled`](crate::Error::is_cancelled) is true when
    /// the function breaks off.
    pub fn generate_with(
        &self,
        request: impl Into<GenerateRequest>,
        mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let mut request: GenerateRequest = request.into();
        let result = self.paint_captions(&mut request, &mut progress);
        self.audited("generate", &request, &request.painting.supplied, result, |done| {
            done.images.iter().map(|image| image.verdict.clone()).collect()
        })
    }

    fn paint_captions(
        &self,
        request: &mut GenerateRequest,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        request.validate()?;
        let inner = &*self.inner;
        let plan = SizePlan::new(request.painting.size, &inner.specs.sizes())?;
        if request.rank_images {
            inner.preprocessor("ranking pictures")?;
        }
        let seed = *request.painting.seed.get_or_insert_with(fresh_seed);
        let pictures = request.pictures();
        let source = |picture: usize| picture / request.images_per_caption;

        let mut run = Run::new(inner, progress);
        let verdicts = run.judge_captions(request.captions.iter().map(String::as_str))?;
        run.judge_captions(request.negative_caption.as_deref())?;

        let mut noise = NoiseRoot::new(request.painting.noise, seed, pictures);
        let conditions = run.conditions(request)?;
        let embedded = run.judge_caption_embeddings(&conditions.text.embedding)?;
        let verdicts: Vec<_> = verdicts.into_iter().zip(embedded).map(|(a, b)| a.and(b)).collect();
        let embeddings = match &request.painting.supplied.image_embeddings {
            Some(given) => run.given_embeddings(given, pictures)?,
            None => run.sample_prior(request, &conditions, &mut noise)?,
        };
        let host = HostTensor::read(&embeddings.values)?;
        let joint = run.judge_picture_embeddings(&host, Some(&conditions))?;
        let painted = run.paint(&embeddings, &conditions, &request.painting, plan, &mut noise)?;
        let painted = run.finished_pictures(painted, plan)?;
        let similarity = match request.rank_images {
            true => Some(run.clip_similarity(&painted, &conditions)?),
            false => None,
        };

        let finished = run.judge_finished(&painted, Some(&conditions))?;

        let width = host.shape[1];
        let mut images = Vec::with_capacity(pictures);
        for (k, (picture, finished)) in painted.into_iter().zip(finished).enumerate() {
            let caption = source(k);
            let (picture, verdict) = run.release(
                picture,
                request.captions.get(caption).map(String::as_str),
                verdicts[caption].clone().and(joint[k].clone()),
                finished,
            )?;
            let seed = seed.wrapping_add(k as u64);
            images.push(GeneratedImage {
                picture,
                seed,
                source: caption,
                image_embedding: host.values[k * width..(k + 1) * width].to_vec(),
                clip_similarity: similarity.as_ref().map(|values| values[k]),
                verdict,
                metadata: PictureMetadata::generated(request, caption, seed),
            });
        }
        if request.rank_images {
            // Stable, so that equal pictures keep the order of their seeds; a NaN sorts last.
            let key = |image: &GeneratedImage| image.clip_similarity.unwrap_or(f32::NEG_INFINITY);
            images.sort_by(|a, b| a.source.cmp(&b.source).then(key(b).total_cmp(&key(a))));
        }
        let (timings, warnings) = run.into_timings();
        Ok(Generation { images, warnings, timings })
    }

    /// The CLIP image embeddings that the prior draws for the request's captions, `[pictures, width]`, not normalised:
    /// the prior alone.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate).
    pub fn sample_prior(&self, request: impl Into<GenerateRequest>) -> Result<Tensor<2>> {
        let mut request: GenerateRequest = request.into();
        let result = self.draw_embeddings(&mut request);
        let supplied = &request.painting.supplied;
        self.audited("sample_prior", &request, supplied, result, |_| Vec::new())
    }

    fn draw_embeddings(&self, request: &mut GenerateRequest) -> Result<Tensor<2>> {
        request.validate()?;
        let seed = *request.painting.seed.get_or_insert_with(fresh_seed);
        let mut progress = |_: Progress<'_>| ControlFlow::Continue(());
        let mut run = Run::new(&self.inner, &mut progress);
        run.judge_captions(
            request.captions.iter().chain(&request.negative_caption).map(String::as_str),
        )?;
        let mut noise = NoiseRoot::new(request.painting.noise, seed, request.pictures());
        let conditions = run.conditions(request)?;
        run.judge_caption_embeddings(&conditions.text.embedding)?;
        Ok(run.sample_prior(request, &conditions, &mut noise)?.values)
    }
}

impl Run<'_> {
    /// The captions' embeddings, the opposite's where a stage is guided, and which caption each picture has.
    fn conditions(&mut self, request: &GenerateRequest) -> Result<Conditions> {
        let default = self.inner.specs.guidance;
        let prior = request.prior.guidance.unwrap_or(default.prior);
        let decoder = request.painting.decoder.guidance.unwrap_or(default.decoder);
        // One switch for both stages, as in the reference: with either scale above 1 both are guided by their own
        // scale, which at exactly 1 needs no second pass.
        let guided = prior > 1.0 || decoder > 1.0;
        let captions: Vec<&str> = request.captions.iter().map(String::as_str).collect();
        let text = self.encode_text(&captions)?;
        let opposite = if guided && (prior != 1.0 || decoder != 1.0) {
            let mut opposite =
                self.encode_text(&[request.negative_caption.as_deref().unwrap_or("")])?;
            for warning in opposite.warnings.drain(..) {
                if let Warning::CaptionTruncated { kept, dropped, .. } = warning {
                    self.warnings.push(Warning::CaptionTruncated { caption: None, kept, dropped });
                }
            }
            Some(opposite.captions)
        } else {
            None
        };
        for warning in &text.warnings {
            tracing::warn!("{warning}");
        }
        self.warnings.extend(text.warnings.iter().cloned());
        let caption_of = (0..request.pictures()).map(|k| k / request.images_per_caption).collect();
        let scale = |scale: f64| (guided && scale != 1.0).then_some(scale);
        Ok(Conditions {
            text: text.captions,
            opposite,
            caption_of,
            prior_guidance: scale(prior),
            decoder_guidance: scale(decoder),
        })
    }

    /// The embeddings that the caller supplied instead of the prior's.
    pub(super) fn given_embeddings(
        &self,
        given: &HostTensor,
        pictures: usize,
    ) -> Result<ImageEmbeddings> {
        let width = self.inner.specs.projection.config.clip_embeddings_dim;
        given.expect_shape("supplied.image_embeddings", &[pictures, width])?;
        Ok(ImageEmbeddings { values: given.on(&self.inner.reading.device)? })
    }
}

/// A seed from the system, where the caller left it open.
pub(super) fn fresh_seed() -> u64 {
    // The standard library seeds its hash maps from the system's random source; nothing here needs more than that.
    use std::hash::{BuildHasher, Hasher, RandomState};
    // 53 bits survive readers of JSON that hold numbers as floats.
    RandomState::new().build_hasher().finish() >> 11
}
