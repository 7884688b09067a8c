//! Training for every stage of unCLIP.
//!
//! | module | holds |
//! |---|---|
//! | [`data`] | captioned pictures from folders, WebDataset shards and arrays of embeddings: shuffled, resumable, dealt to ranks |
//! | [`hygiene`] | near-duplicates, caps by family, splits by concept |
//! | [`metrics`] | recall, cosines, distances of distributions, R-precision, copies, signal-to-noise ratios |

pub mod data;
mod error;
pub mod hygiene;
pub mod metrics;

pub use error::{Error, Result};
