//! What can go wrong besides a refusal.

use std::{io, path::PathBuf};

/// A result whose error is this crate's [`enum@Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in reading policies and lists, and in running checks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of a policy or of a list cannot be read.
    #[error("{origin}, line {line}: {reason}")]
    Line {
        /// The file, or what the text is called.
        origin: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// A picture could not be checked.
    #[error(transparent)]
    Picture(#[from] crate::picture::PictureError),
    /// A value is outside its range.
    #[error("`{field}` is {found}, expected {expected}")]
    InvalidInput {
        /// The field or argument.
        field: &'static str,
        /// The value given.
        found: String,
        /// What would be accepted.
        expected: String,
    },
}
