//! What can go wrong around CLIP.

use std::path::PathBuf;

/// A result whose error is this crate's [`enum@Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while reading a CLIP model and using it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading a folder, a configuration or weights failed, or a value given is out of its range.
    #[error(transparent)]
    Core(#[from] unclip_core::Error),
    /// A vocabulary is not one that byte-pair encoding can run on.
    #[error("{}, {place}: {found}, expected {expected}", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Where in it: `line 12`, or the entry.
        place: String,
        /// What stands there.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A caption is longer than the tokenizer takes.
    #[error("the caption has {bytes} bytes, expected at most {limit}")]
    CaptionTooLong {
        /// Its length.
        bytes: usize,
        /// The longest one that is read.
        limit: usize,
    },
    /// The tokenizer could not be built, or gave up on a caption.
    #[error("the tokenizer failed while {action}")]
    Tokenizer {
        /// What it was doing.
        action: &'static str,
        /// What it said.
        source: tokenizers::Error,
    },
    /// Two parts of a model that meet disagree on a size.
    #[error("the {part} has {field} {found} where the {other} has {expected}")]
    PartsDisagree {
        /// The part that was checked.
        part: &'static str,
        /// What it holds, in words.
        field: &'static str,
        /// Its value.
        found: usize,
        /// The part it was checked against.
        other: &'static str,
        /// That part's value.
        expected: usize,
    },
}

impl Error {
    /// An [`Error::Tokenizer`] from its source, for `map_err`.
    pub(crate) fn tokenizer(action: &'static str) -> impl FnOnce(tokenizers::Error) -> Self {
        move |source| Self::Tokenizer { action, source }
    }
}
