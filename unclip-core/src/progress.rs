//! Stages, progress events, and the caller's way to stop.

use std::{
    fmt,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A stage of the cascade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// CLIP encodes the captions, or the picture of a variation.
    Encode,
    /// The prior draws image embeddings (paper §2.2).
    Prior,
    /// The decoder paints the small picture (paper §2.1).
    Decoder,
    /// The first upsampler, 64 → 256 in the published models.
    Upsample,
    /// The second upsampler, 256 → 1024, where a model has one.
    UpsampleLarge,
    /// Everything after the networks: exact size, ranking, checks and marks.
    Finish,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encode => "encode",
            Self::Prior => "prior",
            Self::Decoder => "decoder",
            Self::Upsample => "upsample",
            Self::UpsampleLarge => "upsample-large",
            Self::Finish => "finish",
        })
    }
}

/// One step of a sampling loop has been finished.
#[derive(Debug, Clone)]
pub struct StepEvent {
    /// Steps finished so far, from 1.
    pub step: usize,
    /// Steps in all.
    pub total: usize,
    /// The training timestep that was just denoised.
    pub timestep: usize,
}

/// Watches a sampling loop, and may stop it.
///
/// Samplers call [`step`](Self::step) after every step. The predicted clean sample is computed by the sampler anyway;
/// reading it back from the device is what costs, so observers that want a preview read it and others do not.
pub trait Observer {
    /// Called after each step with the predicted clean sample (`x0`, before the next step's noise).
    ///
    /// Returning [`ControlFlow::Break`] ends the loop with [`Error::Cancelled`].
    fn step(&mut self, event: StepEvent, clean: Observed<'_>) -> ControlFlow<()>;
}

/// The predicted clean sample of a step: embeddings or pictures.
#[derive(Debug, Clone, Copy)]
pub enum Observed<'a> {
    /// `[batch, width]`.
    Embedding(&'a Tensor<2>),
    /// `[batch, channels, height, width]`, in `[-1, 1]`.
    Picture(&'a Tensor<4>),
}

/// The observer that watches nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn step(&mut self, _event: StepEvent, _clean: Observed<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// A switch that another thread may throw to stop a run; it takes effect within one step.
///
/// ```
/// # use unclip_core::progress::CancelToken;
/// let token = CancelToken::new();
/// let remote = token.clone();
/// remote.cancel();
/// assert!(token.is_cancelled());
/// ```
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that has not been thrown.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every run that holds this token to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// What a progress callback returns for this token: go on, or break off once it has been thrown.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Whether [`cancel`](Self::cancel) has been called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Turns an observer's answer into a result.
///
/// # Errors
///
/// [`Error::Cancelled`] when the observer broke off.
pub fn check(flow: ControlFlow<()>, stage: Stage, completed: usize, total: usize) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled { stage, completed, total }),
    }
}
