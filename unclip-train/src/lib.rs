//! Training for every stage of unCLIP.
//!
//! | module | holds |
//! |---|---|
//! | [`data`] | captioned pictures from folders, WebDataset shards and arrays of embeddings: shuffled, resumable, dealt to ranks |
//! | [`hygiene`] | near-duplicates, caps by family, splits by concept |

pub mod data;
mod error;
pub mod hygiene;

pub use error::{Error, Result};
