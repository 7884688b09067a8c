//! What can go wrong below the pipeline.

use std::{fmt, io, path::PathBuf};

use crate::Stage;

/// A result whose error is this crate's [`enum@Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while reading models, choosing devices and sampling.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that should hold JSON does not, or not of the expected form.
    #[error("{} is not the JSON expected here", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it breaks, and why.
        source: serde_json::Error,
    },
    /// A configuration holds a value that is wrong or that this library does not implement.
    #[error("{}: `{key}` is {found}, expected {expected}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The key, dotted where it is nested.
        key: String,
        /// The value found.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A model directory lacks a file or folder that it needs.
    #[error("{} lacks {part}: expected {expected}", dir.display())]
    MissingPart {
        /// The model directory.
        dir: PathBuf,
        /// The component, as the index names it.
        part: String,
        /// The file or folder that was looked for.
        expected: String,
    },
    /// A weights file is damaged or not in the safetensors format.
    #[error("{} is not a readable safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint does not fit its network. Lists every tensor that does not.
    #[error(transparent)]
    Weights(Box<WeightsMismatch>),
    /// A device name is unknown, its backend is not built in, or the device does not answer.
    #[error("device `{name}`: {reason}")]
    Device {
        /// The name that was asked for.
        name: String,
        /// Why it cannot be had, and what can.
        reason: String,
    },
    /// A value that the caller gave is out of its range.
    #[error("`{field}` is {found}, expected {expected}")]
    InvalidInput {
        /// The field or argument.
        field: &'static str,
        /// The value given, shortened when long.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A picture could not be decoded or encoded.
    #[error("cannot {action} the picture {origin}")]
    Picture {
        /// What was tried: `decode`, `encode`.
        action: &'static str,
        /// The file name, or where the bytes came from.
        origin: String,
        /// What the image library said.
        source: ::image::ImageError,
    },
    /// A download or a look into the hub's cache failed.
    #[error("model repository `{repository}`: {reason}")]
    Hub {
        /// The repository id.
        repository: String,
        /// What went wrong, with the file or cache path concerned.
        reason: String,
    },
    /// The caller cancelled, through the progress callback or a token.
    #[error("cancelled in the {stage} stage after {completed} of {total} steps")]
    Cancelled {
        /// The stage that was running.
        stage: Stage,
        /// Steps of that stage that had been finished.
        completed: usize,
        /// Steps that the stage would have taken.
        total: usize,
    },
    /// The device failed while computing.
    #[error("the device failed while {action}: {reason}")]
    Execution {
        /// What was being computed or read.
        action: &'static str,
        /// What the backend said.
        reason: String,
    },
}

impl Error {
    /// An [`Error::Io`] from its parts, for `map_err`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// An [`Error::InvalidInput`], with a long value shortened.
    pub fn invalid(
        field: &'static str,
        found: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        let mut found = found.to_string();
        const SHOWN: usize = 80;
        if let Some((cut, _)) = found.char_indices().nth(SHOWN) {
            found.truncate(cut);
            found.push('…');
        }
        Self::InvalidInput { field, found, expected: expected.into() }
    }

    /// Whether the caller's own cancellation ended the work.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled { .. })
    }
}

/// Every tensor of a checkpoint that does not fit the network it is loaded into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WeightsMismatch {
    /// The weights file, or the folder of a sharded checkpoint.
    pub path: PathBuf,
    /// Tensors that the network has and the checkpoint lacks, by checkpoint name.
    pub missing: Vec<String>,
    /// Tensors that the checkpoint has and the network lacks.
    pub unexpected: Vec<String>,
    /// Tensors that both have, in different shapes.
    pub mismatched: Vec<ShapeMismatch>,
    /// Tensors that should hold floating-point numbers and do not.
    pub mistyped: Vec<TypeMismatch>,
}

/// A tensor whose shape in the checkpoint differs from the network's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// The shape that the network's configuration asks for.
    pub expected: Vec<usize>,
    /// The shape in the checkpoint.
    pub found: Vec<usize>,
}

/// A tensor that should hold floating-point numbers and does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeMismatch {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// The type in the checkpoint, by its name in the safetensors format.
    pub found: String,
}

impl WeightsMismatch {
    /// Whether the checkpoint fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.mismatched.is_empty()
            && self.mistyped.is_empty()
    }
}

impl fmt::Display for WeightsMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} does not fit its network: {} missing, {} unexpected, {} of another shape, {} of \
             another kind",
            self.path.display(),
            self.missing.len(),
            self.unexpected.len(),
            self.mismatched.len(),
            self.mistyped.len()
        )?;
        for name in &self.missing {
            write!(f, "\n  missing {name}")?;
        }
        for name in &self.unexpected {
            write!(f, "\n  unexpected {name}")?;
        }
        for ShapeMismatch { name, expected, found } in &self.mismatched {
            write!(f, "\n  {name} is {found:?}, expected {expected:?}")?;
        }
        for TypeMismatch { name, found } in &self.mistyped {
            write!(f, "\n  {name} holds {found}, expected floating-point numbers")?;
        }
        Ok(())
    }
}

impl std::error::Error for WeightsMismatch {}

impl From<WeightsMismatch> for Error {
    fn from(report: WeightsMismatch) -> Self {
        Self::Weights(Box::new(report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_every_tensor() {
        let report = WeightsMismatch {
            path: "decoder/model.safetensors".into(),
            missing: vec!["conv_in.weight".into()],
            unexpected: vec!["extra.bias".into()],
            mismatched: vec![ShapeMismatch {
                name: "conv_out.bias".into(),
                expected: vec![6],
                found: vec![3],
            }],
            mistyped: vec![TypeMismatch { name: "conv_in.bias".into(), found: "I64".into() }],
        };
        let text = Error::from(report).to_string();
        for part in [
            "decoder/model.safetensors",
            "conv_in.weight",
            "extra.bias",
            "conv_out.bias is [3], expected [6]",
            "conv_in.bias holds I64",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    #[test]
    fn a_long_value_is_shortened_at_a_character() {
        let text = Error::invalid("caption", "é".repeat(1000), "a short one").to_string();
        assert!(text.len() < 400, "{} bytes", text.len());
    }
}
