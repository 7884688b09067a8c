//! Captioned pictures to learn from.
//!
//! A [`DataConfig`] names a folder, WebDataset shards or arrays of embeddings, and opens as a [`Source`]: a stream of
//! [`Sample`]s, shuffled by a seed, dealt out to ranks, and continued from a [`Cursor`] at the exact sample. What is
//! broken is skipped, counted and named in [`Skipped`].
//!
//! ```no_run
//! use unclip_train::data::{DataConfig, FolderConfig};
//!
//! let config = DataConfig::Folder(FolderConfig::new("pictures"));
//! let mut source = config.open(7, 0, 1)?;
//! while let Some(sample) = source.next()? {
//!     println!("{}: {:?}", sample.key, sample.captions);
//! #   break;
//! }
//! # Ok::<(), unclip_train::Error>(())
//! ```

mod config;
mod embeddings;
mod folder;
mod metadata;
mod npy;
mod order;
mod picture;
mod portion;
mod sample;
mod shards;
mod skipped;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

pub use config::{
    DataConfig, EmbeddingsConfig, FolderConfig, RepeatedPath, ShardPath, ShardsConfig,
};
pub use npy::write_npy;
pub use order::Cursor;
pub use portion::Portion;
pub use sample::{Content, Sample};
pub use skipped::{Fault, Skipped};
pub use stream::Source;
pub use writer::{ShardSummary, ShardWriter};
