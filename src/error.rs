//! What a pipeline can say instead of a picture.

use std::path::PathBuf;

use unclip_core::Stage;
use unclip_safety::{MarkError, Verdict, provenance::ProvenanceError};

/// A result whose error is this crate's [`enum@Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a pipeline.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading a model, choosing a device, sampling, or a value of the request out of range.
    #[error(transparent)]
    Core(#[from] unclip_core::Error),
    /// CLIP's tokenizer or encoders.
    #[error(transparent)]
    Clip(#[from] unclip_clip::Error),
    /// The prior.
    #[error(transparent)]
    Prior(#[from] unclip_prior::Error),
    /// The decoder.
    #[error(transparent)]
    Decoder(#[from] unclip_decoder::Error),
    /// An upsampler.
    #[error(transparent)]
    Upsample(#[from] unclip_upsample::Error),
    /// A policy, a word list, or phrases to hold embeddings against.
    #[error(transparent)]
    Safety(#[from] unclip_safety::Error),
    /// Nothing to build a pipeline from, or two sources at once.
    #[error("the pipeline needs one source of models: {reason}")]
    Source {
        /// What was given instead.
        reason: String,
    },
    /// Two stages that meet disagree on a size.
    #[error("the {stage} stage takes {what} of {expected} where the stage before it gives {found}")]
    StageMismatch {
        /// The stage that takes the value.
        stage: Stage,
        /// What is of the wrong size.
        what: &'static str,
        /// The size it takes.
        expected: usize,
        /// The size it would be given.
        found: usize,
    },
    /// The model has no such part, so the operation cannot be done with it.
    #[error("this model has no {part}, which {operation} needs")]
    Unavailable {
        /// The operation.
        operation: &'static str,
        /// The part, as a model directory names it.
        part: &'static str,
    },
    /// A caption, an uploaded picture or a finished picture was refused by the safety filter.
    #[error("refused: {0}")]
    Refused(Box<Verdict>),
    /// The record of requests could not be written, so that no picture may leave.
    #[error("the request could not be recorded")]
    Record(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A finished picture could not be marked.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// A file's origin could not be read or written.
    #[error(transparent)]
    Provenance(#[from] ProvenanceError),
    /// A picture holds no request of this library, or a damaged one.
    #[error("{}: {reason}", path.display())]
    Metadata {
        /// The picture.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Whether the caller's own cancellation ended the work.
    pub fn is_cancelled(&self) -> bool {
        self.core().is_some_and(unclip_core::Error::is_cancelled)
    }

    /// The verdict, when the safety filter refused.
    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            Self::Refused(verdict) => Some(verdict),
            _ => None,
        }
    }

    /// The error of the crate that every stage stands on, when it is one.
    pub fn core(&self) -> Option<&unclip_core::Error> {
        match self {
            Self::Core(core)
            | Self::Clip(unclip_clip::Error::Core(core))
            | Self::Prior(unclip_prior::Error::Core(core))
            | Self::Decoder(unclip_decoder::Error::Core(core))
            | Self::Upsample(unclip_upsample::Error::Core(core)) => Some(core),
            _ => None,
        }
    }
}

/// An [`Error::Core`] about a value of the request.
pub(crate) fn invalid(
    field: &'static str,
    found: impl std::fmt::Display,
    expected: impl Into<String>,
) -> Error {
    unclip_core::Error::invalid(field, found, expected).into()
}
