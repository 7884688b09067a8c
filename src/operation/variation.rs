//! Variations of pictures (paper §3.1): the decoder paints from the picture's own CLIP embedding, without a caption.

use std::ops::ControlFlow;

use image::RgbImage;

use super::{
    generate::fresh_seed,
    run::Run,
    size::SizePlan,
    stages::{Conditions, ImageEmbeddings},
};
use crate::{
    GeneratedImage, Generation, HostTensor, PictureMetadata, Pipeline, Progress, VariationRequest,
    error::Result, noise_plan::NoiseRoot,
};

impl Pipeline {
    /// Paints variations of each picture.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate); [`Error::Unavailable`](crate::Error::Unavailable) when the model has no image
    /// encoder and the request supplies no embeddings.
    pub fn variations(
        &self,
        pictures: &[RgbImage],
        request: &VariationRequest,
    ) -> Result<Generation> {
        self.variations_with(pictures, request, |_| ControlFlow::Continue(()))
    }

    /// [`variations`](Self::variations), with a function that is told of every step and may stop the request.
    ///
    /// # Errors
    ///
    /// As [`variations`](Self::variations), and an error whose [`is_cancelled`](crate::Error::is_cancelled) is true
    /// when the function breaks off.
    pub fn variations_with(
        &self,
        pictures: &[RgbImage],
        request: &VariationRequest,
        mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let mut request = request.clone();
        let result = self.vary(pictures, &mut request, &mut progress);
        self.audited("variations", &request, &request.painting.supplied, result, |done| {
            done.images.iter().map(|image| image.verdict.clone()).collect()
        })
    }

    fn vary(
        &self,
        pictures: &[RgbImage],
        request: &mut VariationRequest,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        request.validate(pictures.len())?;
        let inner = &*self.inner;
        let plan = SizePlan::new(request.painting.size, &inner.specs.sizes())?;
        let seed = *request.painting.seed.get_or_insert_with(fresh_seed);
        let count = pictures.len() * request.images_per_picture;

        let mut run = Run::new(inner, progress);
        let (pictures, verdicts) = run.judge_uploads(pictures, request.painting.consent)?;
        let mut noise = NoiseRoot::new(request.painting.noise, seed, count);
        let embeddings = match &request.painting.supplied.image_embeddings {
            Some(given) => run.given_embeddings(given, count)?,
            None => {
                let rows = run.embed_images("making variations", &pictures)?;
                ImageEmbeddings { values: repeat_rows(rows, request.images_per_picture) }
            }
        };
        let conditions = run.no_caption(count, &request.painting)?;
        let host = HostTensor::read(&embeddings.values)?;
        let embedded = run.judge_picture_embeddings(&host, None)?;
        let painted = run.paint(&embeddings, &conditions, &request.painting, plan, &mut noise)?;
        let painted = run.finished_pictures(painted, plan)?;
        let finished = run.judge_finished(&painted, None)?;

        let width = host.shape[1];
        let mut images = Vec::with_capacity(count);
        for (k, (picture, finished)) in painted.into_iter().zip(finished).enumerate() {
            let source = k / request.images_per_picture;
            let before = verdicts[source].clone().and(embedded[k].clone());
            let (picture, verdict) = run.release(picture, None, before, finished)?;
            let seed = seed.wrapping_add(k as u64);
            images.push(GeneratedImage {
                picture,
                seed,
                source,
                image_embedding: host.values[k * width..(k + 1) * width].to_vec(),
                clip_similarity: None,
                verdict,
                metadata: PictureMetadata::varied(request, seed),
            });
        }
        let (timings, warnings) = run.into_timings();
        Ok(Generation { images, warnings, timings })
    }
}

impl Run<'_> {
    /// The conditions of pictures without captions: the empty caption in both halves of a guided batch.
    pub(super) fn no_caption(
        &mut self,
        pictures: usize,
        painting: &crate::Painting,
    ) -> Result<Conditions> {
        let scale = painting.decoder.guidance.unwrap_or(self.inner.specs.guidance.decoder);
        let text = self.encode_text(&[""])?.captions;
        // As in the reference, a scale of 1 or less means no guidance here: there is no caption to turn away from.
        let decoder_guidance = (scale > 1.0).then_some(scale);
        Ok(Conditions {
            opposite: decoder_guidance.map(|_| text.clone()),
            text,
            caption_of: vec![0; pictures],
            prior_guidance: None,
            decoder_guidance,
        })
    }
}

/// Each row `times` times in a row.
fn repeat_rows(rows: burn::tensor::Tensor<2>, times: usize) -> burn::tensor::Tensor<2> {
    let [count, width] = rows.dims();
    rows.reshape([count, 1, width]).expand([count, times, width]).reshape([count * times, width])
}
