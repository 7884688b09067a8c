//! CLIP: captions and pictures in one space.
//!
//! Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", in the layout of
//! transformers: a [`Tokenizer`] turns a caption into ids and a [`TextEncoder`] those into an embedding; a
//! [`Preprocessor`] turns a picture into pixels and a [`VisionEncoder`] those into an embedding of the same space.
//!
//! [`Clip`] is all four together. unCLIP reads both ends: its prior starts from the text tower's output, and a variation
//! from a picture's embedding.

mod block;
mod clip;
mod config;
mod error;
mod preprocess;
mod text;
mod tokenizer;
mod vision;

pub use clip::{Clip, similarity};
pub use config::{Pooling, TextConfig, VisionConfig};
pub use error::{Error, Result};
pub use preprocess::{Preprocessor, Size};
pub use text::{TextEncoder, TextOutput};
pub use tokenizer::{Encoding, MAX_CAPTION_BYTES, Tokenizer};
pub use vision::{VisionEncoder, VisionOutput};
