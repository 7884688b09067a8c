//! One request on its way through the stages.

use std::{
    borrow::Cow,
    ops::{ControlFlow, Range},
    time::{Duration, Instant},
};

use burn::tensor::Tensor;
use image::RgbImage;
use unclip_core::Stage;
use unclip_safety::{Action, Embedded, Upload, Verdict};

use super::stages::Conditions;
use crate::{
    HostTensor, Progress, StageTiming, Timings, Warning,
    error::{Error, Result},
    pipeline::Inner,
    progress::Watch,
};

/// A request in progress: what it has measured and noticed so far.
pub(super) struct Run<'a> {
    pub(super) inner: &'a Inner,
    pub(super) callback: &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    pub(super) warnings: Vec<Warning>,
    timings: Vec<StageTiming>,
    start: Instant,
}

/// A stage being timed.
pub(super) struct Timer {
    stage: Stage,
    /// Reading weights before the timer started.
    loading: Duration,
    /// Reading weights since.
    pub(super) loading_inside: Duration,
    start: Instant,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        callback: &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Self {
        Self { inner, callback, warnings: Vec::new(), timings: Vec::new(), start: Instant::now() }
    }

    /// Starts timing a stage whose weights took `loading` to read.
    pub(super) fn start(&self, stage: Stage, loading: Duration) -> Timer {
        Timer { stage, loading, loading_inside: Duration::ZERO, start: Instant::now() }
    }

    /// Waits for the device, so that the time is the stage's own, and notes it.
    pub(super) fn stop(&mut self, timer: Timer, steps: usize) -> Result<()> {
        self.inner.reading.device.sync().map_err(|error| unclip_core::Error::Execution {
            action: "finishing a stage",
            reason: format!("{error:?}"),
        })?;
        unclip_core::device::release_unused_memory();
        let Timer { stage, loading, loading_inside, start } = timer;
        let computing = start.elapsed().saturating_sub(loading_inside);
        let loading = loading + loading_inside;
        tracing::info!(%stage, seconds = computing.as_secs_f64(), steps, "finished a stage");
        match self.timings.iter_mut().find(|timing| timing.stage == stage) {
            Some(timing) => {
                timing.loading += loading;
                timing.computing += computing;
                timing.steps += steps;
            }
            None => self.timings.push(StageTiming { stage, loading, computing, steps }),
        }
        Ok(())
    }

    pub(super) fn into_timings(self) -> (Timings, Vec<Warning>) {
        (Timings { stages: self.timings, total: self.start.elapsed() }, self.warnings)
    }

    /// What watches one batch of a stage.
    pub(super) fn watch(&mut self, stage: Stage, batch: &Batch) -> Watch<'_> {
        Watch {
            inner: self.inner,
            callback: &mut *self.callback,
            stage,
            before: batch.index * batch.steps,
            total: batch.batches * batch.steps,
            pictures: batch.pictures.clone(),
        }
    }

    /// Asks the filter about every caption before anything is computed.
    pub(super) fn judge_captions<'c>(
        &self,
        captions: impl IntoIterator<Item = &'c str>,
    ) -> Result<Vec<Verdict>> {
        captions
            .into_iter()
            .map(|caption| passed(self.inner.filter.check_caption(caption)))
            .collect()
    }

    /// Asks the filter about every given picture before anything is computed, and gives back the pictures to use: those
    /// given, with the regions blurred that the filter wants blurred.
    pub(super) fn judge_uploads<'p>(
        &self,
        pictures: &'p [RgbImage],
        consent: bool,
    ) -> Result<(Cow<'p, [RgbImage]>, Vec<Verdict>)> {
        let mut used = Cow::Borrowed(pictures);
        let mut verdicts = Vec::with_capacity(pictures.len());
        for (k, picture) in pictures.iter().enumerate() {
            let verdict = self.inner.filter.check_upload(&Upload::new(picture).consent(consent));
            match verdict.regions_to_blur() {
                Some(regions) => {
                    let picture = &mut used.to_mut()[k];
                    regions.into_iter().for_each(|region| region.blur(picture));
                    verdicts.push(verdict);
                }
                None => verdicts.push(passed(verdict)?),
            }
        }
        Ok((used, verdicts))
    }
}

impl Run<'_> {
    /// Asks the filter about the captions' embeddings, `[captions, width]`, where it has anything to say about them.
    pub(super) fn judge_caption_embeddings(&self, embeddings: &Tensor<2>) -> Result<Vec<Verdict>> {
        let [count, width] = embeddings.dims();
        if !self.inner.filter.wants_embeddings() {
            return Ok(vec![Verdict::allow(); count]);
        }
        let rows = HostTensor::read(embeddings)?.values;
        rows.chunks_exact(width)
            .map(|row| passed(self.inner.filter.check_embedded(&Embedded::caption(row))))
            .collect()
    }

    /// Asks the filter about the embeddings that pictures are to be painted from, each together with its caption's.
    pub(super) fn judge_picture_embeddings(
        &self,
        pictures: &HostTensor,
        conditions: Option<&Conditions>,
    ) -> Result<Vec<Verdict>> {
        if !self.inner.filter.wants_embeddings() {
            return Ok(vec![Verdict::allow(); pictures.shape[0]]);
        }
        self.judge_pairs(pictures, conditions, false)?.into_iter().map(passed).collect()
    }

    /// Asks the filter about finished pictures as CLIP sees them, each together with its caption, where the filter wants
    /// embeddings and the model has an image encoder: what was painted may show more than the caption and the picture it
    /// was made from.
    pub(super) fn judge_finished(
        &mut self,
        pictures: &[RgbImage],
        conditions: Option<&Conditions>,
    ) -> Result<Vec<Verdict>> {
        if !self.inner.filter.wants_embeddings() || self.inner.specs.image.is_none() {
            return Ok(vec![Verdict::allow(); pictures.len()]);
        }
        let seen = HostTensor::read(&self.embed_images("checking pictures", pictures)?)?;
        self.judge_pairs(&seen, conditions, true)
    }

    /// What the filter says of each row of `pictures` together with its caption.
    fn judge_pairs(
        &self,
        pictures: &HostTensor,
        conditions: Option<&Conditions>,
        finished: bool,
    ) -> Result<Vec<Verdict>> {
        let width = pictures.shape[1];
        let captions = match conditions {
            Some(conditions) => Some((
                HostTensor::read(&conditions.text.embedding)?.values,
                conditions.text.embedding.dims()[1],
                &conditions.caption_of,
            )),
            None => None,
        };
        let judged = pictures
            .values
            .chunks_exact(width)
            .enumerate()
            .map(|(k, picture)| {
                let embedded = match &captions {
                    Some((rows, width, caption_of)) => {
                        let start = caption_of[k] * width;
                        Embedded::pair(&rows[start..start + width], picture)
                    }
                    None => Embedded::picture(picture),
                };
                let embedded = if finished { embedded.finished() } else { embedded };
                self.inner.filter.check_embedded(&embedded)
            })
            .collect();
        Ok(judged)
    }
}

/// A caption is either let through or refused: there is nothing yet to blur or withhold.
fn passed(verdict: Verdict) -> Result<Verdict> {
    if verdict.action > Action::Flag { Err(Error::Refused(Box::new(verdict))) } else { Ok(verdict) }
}

/// One batch of a stage.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// Which pictures of the request.
    pub(super) pictures: Range<usize>,
    pub(super) index: usize,
    pub(super) batches: usize,
    /// Steps that the stage takes for each batch.
    pub(super) steps: usize,
}

/// `count` pictures in batches of at most `limit`.
pub(super) fn batches(count: usize, limit: usize, steps: usize) -> impl Iterator<Item = Batch> {
    let batches = count.div_ceil(limit);
    (0..batches).map(move |index| Batch {
        pictures: index * limit..((index + 1) * limit).min(count),
        index,
        batches,
        steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_every_picture_once() {
        let ranges: Vec<_> = batches(7, 3, 5).map(|batch| batch.pictures).collect();
        assert_eq!(ranges, [0..3, 3..6, 6..7]);
        assert_eq!(batches(2, 10, 5).count(), 1);
    }
}
