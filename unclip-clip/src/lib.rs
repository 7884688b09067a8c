//! CLIP: captions and pictures in one space.
//!
//! Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", in the layout of
//! transformers.

mod error;
mod tokenizer;

pub use error::{Error, Result};
pub use tokenizer::{Encoding, MAX_CAPTION_BYTES, Tokenizer};
