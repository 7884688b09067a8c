//! CLIP: captions and pictures in one space.
//!
//! Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", in the layout of
//! transformers: a [`Tokenizer`] turns a caption into ids and a [`TextEncoder`] those into an embedding; a
//! [`VisionEncoder`] turns the pixels of a picture into an embedding of the same space.
//!
//! unCLIP reads both ends: its prior starts from the text tower's output, and a variation
//! from a picture's embedding.

mod block;
mod config;
mod error;
mod text;
mod tokenizer;
mod vision;

pub use config::{Pooling, TextConfig, VisionConfig};
pub use error::{Error, Result};
pub use text::{TextEncoder, TextOutput};
pub use tokenizer::{Encoding, MAX_CAPTION_BYTES, Tokenizer};
pub use vision::{VisionEncoder, VisionOutput};
