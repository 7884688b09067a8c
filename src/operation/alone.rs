//! Stages alone: encoders, decoder and upsamplers without their neighbours.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use image::RgbImage;
use serde::Serialize;
use unclip_core::{
    Stage,
    resize::{Filter, resize_rgb8},
};

use super::{
    generate::fresh_seed,
    run::{Run, batches},
    size::SizePlan,
    stages::{Conditions, ImageEmbeddings},
    text::TextEmbedding,
};
use crate::{
    EnlargedImage, Painting, Pipeline, Progress, Supplied,
    error::{Error, Result, invalid},
    noise_plan::NoiseRoot,
};

/// Requests that are no data of their own, as the record shows them.
#[derive(Serialize)]
struct Captions<'a> {
    captions: &'a [&'a str],
}

#[derive(Serialize)]
struct Pictures {
    pictures: usize,
}

#[derive(Serialize)]
struct Decoding<'a> {
    caption: &'a str,
    painting: &'a Painting,
}

impl Pipeline {
    /// What CLIP's text encoder says of captions.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when the safety filter refuses a caption, and what encoding says.
    pub fn embed_text(&self, captions: &[&str]) -> Result<TextEmbedding> {
        let result = self.encode_captions(captions);
        let nothing = Supplied::default();
        self.audited("embed_text", &Captions { captions }, &nothing, result, |_| Vec::new())
    }

    fn encode_captions(&self, captions: &[&str]) -> Result<TextEmbedding> {
        if captions.is_empty() {
            return Err(invalid("captions", "an empty list", "at least one caption"));
        }
        let mut progress = quiet;
        let mut run = Run::new(&self.inner, &mut progress);
        run.judge_captions(captions.iter().copied())?;
        run.encode_text(captions)
    }

    /// CLIP embeddings of pictures, `[pictures, width]`, not normalised.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when the model has no image encoder, [`Error::Refused`] when the safety filter refuses a
    /// picture.
    pub fn embed_images(&self, pictures: &[RgbImage]) -> Result<Tensor<2>> {
        let (count, result) =
            (Pictures { pictures: pictures.len() }, self.encode_pictures(pictures));
        self.audited("embed_images", &count, &Supplied::default(), result, |_| Vec::new())
    }

    fn encode_pictures(&self, pictures: &[RgbImage]) -> Result<Tensor<2>> {
        if pictures.is_empty() {
            return Err(invalid("pictures", "an empty list", "at least one picture"));
        }
        let mut progress = quiet;
        let mut run = Run::new(&self.inner, &mut progress);
        let (pictures, _) = run.judge_uploads(pictures, false)?;
        run.embed_images("embedding pictures", &pictures)
    }

    /// Decodes CLIP image embeddings `[pictures, width]` into small pictures `[pictures, 3, side, side]` in `[-1, 1]`:
    /// the decoder alone, with one caption for all (empty for none).
    ///
    /// The tensors carry neither check nor mark.
    ///
    /// # Errors
    ///
    /// When the embeddings are of another width, and as [`generate`](Self::generate).
    pub fn decode_tensor(
        &self,
        embeddings: Tensor<2>,
        caption: &str,
        painting: &Painting,
    ) -> Result<Tensor<4>> {
        let result = self.decode_embeddings(embeddings, caption, painting);
        let request = Decoding { caption, painting };
        self.audited("decode_tensor", &request, &painting.supplied, result, |_| Vec::new())
    }

    fn decode_embeddings(
        &self,
        embeddings: Tensor<2>,
        caption: &str,
        painting: &Painting,
    ) -> Result<Tensor<4>> {
        painting.validate()?;
        let [pictures, width] = embeddings.dims();
        let expected = self.inner.specs.projection.config.clip_embeddings_dim;
        if width != expected || pictures == 0 {
            return Err(invalid(
                "embeddings",
                format!("[{pictures}, {width}]"),
                format!("[1.., {expected}]"),
            ));
        }
        let mut progress = quiet;
        let mut run = Run::new(&self.inner, &mut progress);
        run.judge_captions([caption])?;
        let text = run.encode_text(&[caption])?.captions;
        let scale = painting.decoder.guidance.unwrap_or(self.inner.specs.guidance.decoder);
        let guidance = (scale != 1.0).then_some(scale);
        let opposite =
            guidance.map(|_| run.encode_text(&[""])).transpose()?.map(|text| text.captions);
        let conditions = Conditions {
            text,
            opposite,
            caption_of: vec![0; pictures],
            prior_guidance: None,
            decoder_guidance: guidance,
        };
        let seed = painting.seed.unwrap_or_else(fresh_seed);
        let mut noise = NoiseRoot::new(painting.noise, seed, pictures);
        let painted =
            run.decode(&ImageEmbeddings { values: embeddings }, &conditions, painting, &mut noise)?;
        Ok(Tensor::cat(painted, 0))
    }

    /// Enlarges small pictures `[pictures, 3, side, side]` in `[-1, 1]` to the size that `painting` asks for: the
    /// upsamplers alone.
    ///
    /// The tensors carry neither check nor mark; a size that no stage gives is refused.
    ///
    /// # Errors
    ///
    /// When the pictures are not of the decoder's size, and as [`generate`](Self::generate).
    pub fn upscale_tensor(&self, small: Tensor<4>, painting: &Painting) -> Result<Tensor<4>> {
        let result = self.enlarge_tensor(small, painting);
        self.audited("upscale_tensor", painting, &painting.supplied, result, |_| Vec::new())
    }

    fn enlarge_tensor(&self, small: Tensor<4>, painting: &Painting) -> Result<Tensor<4>> {
        painting.validate()?;
        let inner = &self.inner;
        let side = inner.specs.decoder.config.sample_size;
        let [pictures, channels, height, width] = small.dims();
        if [channels, height, width] != [3, side, side] || pictures == 0 {
            let found = format!("[{pictures}, {channels}, {height}, {width}]");
            return Err(invalid("small", found, format!("[1.., 3, {side}, {side}]")));
        }
        let plan = SizePlan::new(painting.size, &inner.specs.sizes())?;
        if plan.native != plan.size {
            let own: Vec<String> = self.sizes().iter().map(u32::to_string).collect();
            return Err(invalid("size", plan.size, format!("a stage's own, {}", own.join(", "))));
        }
        let mut progress = quiet;
        let mut run = Run::new(inner, &mut progress);
        let painted = run.enlarge_all(small, painting, plan)?;
        Ok(Tensor::cat(painted, 0))
    }

    /// Enlarges pictures: each is fitted to the decoder's size first (a square picture loses nothing it had there),
    /// then the upsamplers run; the results are checked and marked.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when the model has no upsampler, [`Error::Refused`] when the safety filter refuses a
    /// picture, and as [`generate`](Self::generate).
    pub fn upscale(
        &self,
        pictures: &[RgbImage],
        painting: &Painting,
    ) -> Result<Vec<EnlargedImage>> {
        let result = self.enlarge_pictures(pictures, painting);
        self.audited("upscale", painting, &painting.supplied, result, |done| {
            done.iter().map(|image| image.verdict.clone()).collect()
        })
    }

    fn enlarge_pictures(
        &self,
        pictures: &[RgbImage],
        painting: &Painting,
    ) -> Result<Vec<EnlargedImage>> {
        painting.validate()?;
        let inner = &self.inner;
        if pictures.is_empty() {
            return Err(invalid("pictures", "an empty list", "at least one picture"));
        }
        if inner.specs.upsampler.is_none() {
            return Err(Error::Unavailable {
                operation: "enlarging pictures",
                part: "super_res_first",
            });
        }
        let plan = SizePlan::new(painting.size, &inner.specs.sizes())?;
        let mut progress = quiet;
        let mut run = Run::new(inner, &mut progress);
        let (pictures, verdicts) = run.judge_uploads(pictures, painting.consent)?;
        let side = u32::try_from(inner.specs.decoder.config.sample_size).unwrap_or(u32::MAX);
        let fitted = pictures
            .iter()
            .map(|picture| resize_rgb8(picture, side, side, Filter::Bicubic))
            .collect::<unclip_core::Result<Vec<_>>>()?;
        let small = unclip_core::image::to_tensor(&fitted, &inner.reading.device)?;
        let painted = run.enlarge_all(small, painting, plan)?;
        let painted = run.finished_pictures(painted, plan)?;
        let finished = run.judge_finished(&painted, None)?;
        painted
            .into_iter()
            .zip(verdicts.into_iter().zip(finished))
            .map(|(picture, (before, finished))| {
                let (picture, verdict) = run.release(picture, None, before, finished)?;
                Ok(EnlargedImage { picture, verdict })
            })
            .collect()
    }
}

impl Run<'_> {
    /// Cuts pictures into batches and enlarges them.
    fn enlarge_all(
        &mut self,
        small: Tensor<4>,
        painting: &Painting,
        plan: SizePlan,
    ) -> Result<Vec<Tensor<4>>> {
        let pictures = small.dims()[0];
        let cut = batches(pictures, self.inner.batch_limit, 0)
            .map(|batch| small.clone().narrow(0, batch.pictures.start, batch.pictures.len()))
            .collect();
        let seed = painting.seed.unwrap_or_else(fresh_seed);
        let mut noise = NoiseRoot::new(painting.noise, seed, pictures);
        debug_assert!(plan.runs(Stage::Decoder), "every plan begins with the decoder");
        self.enlarge(cut, painting, plan, &mut noise)
    }
}

/// Watches nothing and never stops.
fn quiet(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
