//! Progress of a request.

use std::{fmt, ops::ControlFlow, ops::Range};

use burn::tensor::Tensor;
use image::RgbImage;
use unclip_core::{
    Stage,
    progress::{Observed, Observer, StepEvent},
};
use unclip_safety::Verdict;

use crate::{error::Result, pipeline::Inner};

/// A step of a request has been finished.
///
/// `generate_with` hands one to the caller's function after every denoising step of every batch.
/// [`ControlFlow::Break`] ends the request with an error whose
/// [`is_cancelled`](crate::Error::is_cancelled) is true.
pub struct Progress<'a> {
    /// The stage that is running.
    pub stage: Stage,
    /// Steps of this stage finished, over all batches.
    pub step: usize,
    /// Steps of this stage in all, over all batches.
    pub total: usize,
    /// The training timestep that was just denoised.
    pub timestep: usize,
    /// Which pictures of the request are being worked on.
    pub pictures: Range<usize>,
    clean: Observed<'a>,
    inner: &'a Inner,
}

impl Progress<'_> {
    /// What the pictures would be if denoising ended here, or `None` in the prior, which paints nothing.
    ///
    /// The prediction exists anyway; reading it back from the device costs, and checking and marking it as finished
    /// pictures are, so this is done when asked for. The filter sees no caption with them.
    ///
    /// # Errors
    ///
    /// When the device cannot be read, and [`Error::Refused`](crate::Error::Refused) when the filter refuses one.
    pub fn preview(&self) -> Option<Result<Vec<RgbImage>>> {
        self.preview_tensor().map(|clean| {
            unclip_core::image::to_images(clean)?
                .into_iter()
                .map(|picture| {
                    let nothing = Verdict::allow;
                    Ok(self.inner.release(picture, None, nothing(), nothing())?.0)
                })
                .collect()
        })
    }

    /// [`preview`](Self::preview) as a tensor on the device, `[pictures, 3, side, side]` in `[-1, 1]`, which carries
    /// neither check nor mark.
    pub fn preview_tensor(&self) -> Option<Tensor<4>> {
        match self.clean {
            Observed::Picture(clean) => Some(clean.clone()),
            Observed::Embedding(_) => None,
        }
    }
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, step, total, timestep, pictures, clean: _, inner: _ } = self;
        write!(f, "Progress({stage} {step}/{total}, timestep {timestep}, pictures {pictures:?})")
    }
}

/// The caller's function, under the interface that samplers know.
pub(crate) struct Watch<'f> {
    pub(crate) inner: &'f Inner,
    pub(crate) callback: &'f mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    pub(crate) stage: Stage,
    /// Steps of this stage that earlier batches have finished.
    pub(crate) before: usize,
    pub(crate) total: usize,
    pub(crate) pictures: Range<usize>,
}

impl Observer for Watch<'_> {
    fn step(&mut self, event: StepEvent, clean: Observed<'_>) -> ControlFlow<()> {
        (self.callback)(Progress {
            stage: self.stage,
            step: self.before + event.step,
            total: self.total,
            timestep: event.timestep,
            pictures: self.pictures.clone(),
            clean,
            inner: self.inner,
        })
    }
}
