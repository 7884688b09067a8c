//! What can go wrong while training.

use std::path::PathBuf;

/// A result whose error is this crate's [`enum@Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while reading data, training and measuring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed below, or a value given is out of its range.
    #[error(transparent)]
    Core(#[from] unclip_core::Error),
    /// A data set has nothing to learn from.
    #[error("{} holds no samples: found {found}, expected {expected}", path.display())]
    NoSamples {
        /// The folder or file.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A whole pass over the data gave no sample.
    #[error("a whole pass over the data gave no sample: {reason}")]
    NothingUsable {
        /// Why: how many were skipped and the first of them, or that there are fewer than ranks.
        reason: String,
    },
    /// A shard is absent, damaged at its start, or no tar archive.
    #[error("{} is not a readable tar archive: {reason}", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of embeddings is damaged, or of a kind or shape that is not read.
    #[error("{} is not an array of embeddings: {reason}", path.display())]
    Npy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would be accepted.
        reason: String,
    },
    /// Two files that describe the same samples, row by row, differ in length.
    #[error("{} has {found} rows where {} has {expected}", path.display(), other.display())]
    RowsDisagree {
        /// The file that was checked.
        path: PathBuf,
        /// Its rows.
        found: usize,
        /// The file it was checked against.
        other: PathBuf,
        /// That file's rows.
        expected: usize,
    },
    /// A position was taken in other data, or with another seed, than the source it is given to.
    #[error(
        "the position does not belong to this data: its {part} is {found}, expected {expected}"
    )]
    ForeignCursor {
        /// What differs.
        part: &'static str,
        /// The position's value.
        found: String,
        /// The source's value.
        expected: String,
    },
    /// A sample lacks what the trainer reads, such as a picture where the data holds embeddings.
    #[error("sample {key} holds {found}, expected {expected}")]
    WrongContent {
        /// The sample.
        key: String,
        /// What it holds.
        found: &'static str,
        /// What is needed.
        expected: &'static str,
    },
    /// CLIP: its tokenizer, its towers, or their configurations.
    #[error(transparent)]
    Clip(#[from] unclip_clip::Error),
    /// The prior or its configuration.
    #[error(transparent)]
    Prior(#[from] unclip_prior::Error),
    /// The decoder or its configuration.
    #[error(transparent)]
    Decoder(#[from] unclip_decoder::Error),
    /// An upsampler or its configuration.
    #[error(transparent)]
    Upsampler(#[from] unclip_upsample::Error),
    /// A run's configuration is not what one looks like: the message names the key, line and column.
    #[error("{} is not the configuration of a run: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Where it breaks, and why.
        source: serde_json::Error,
    },
    /// The configuration of a network has a key that no such network has.
    #[error("{place} has the key `{key}`, expected none that the network does not read")]
    UnknownKey {
        /// Where in the run's configuration.
        place: String,
        /// The key.
        key: String,
    },
    /// The loss or a gradient is not a number any more. Nothing was saved since.
    #[error("step {step} has a loss of {loss} and gradients of norm {norm}: {}", last_good(.checkpoint))]
    NotFinite {
        /// The step, the first being 1.
        step: u64,
        /// Its loss.
        loss: f64,
        /// The norm of all its gradients together.
        norm: f64,
        /// The last checkpoint before it.
        checkpoint: Option<PathBuf>,
    },
    /// A run is to begin where another one has left its checkpoints.
    #[error("{} holds the checkpoints of a run: continue it, or choose another folder", output.display())]
    RunExists {
        /// The run's folder.
        output: PathBuf,
    },
    /// A run is to be continued, and there is no checkpoint.
    #[error("{} holds no checkpoint to continue from", output.display())]
    NoCheckpoint {
        /// The run's folder.
        output: PathBuf,
    },
    /// A checkpoint is damaged, or another program wrote it.
    #[error("{} is not a readable checkpoint: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint belongs to another run than the one configured.
    #[error("the checkpoint {} has {field} {found}, expected {expected}", path.display())]
    OtherRun {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// What the checkpoint has.
        found: String,
        /// What the run's configuration asks for.
        expected: String,
    },
}

fn last_good(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "there is no checkpoint yet".to_owned(),
    }
}
