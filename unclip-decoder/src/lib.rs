//! The decoder of unCLIP: a 64 × 64 picture from a CLIP image embedding.
//!
//! Paper §2.1. A [`Decoder`] is two parts: the [`TextProjection`], through which an image embedding and a caption enter,
//! and the [network](unclip_core::nn::UNet) that denoises the picture. [`Decoder::from_dirs`] opens both from their
//! folders in a model directory; [`Decoder::sample`] paints with them. The crate speaks tensors: a caption is a
//! [`TextConditioning`](unclip_core::nn::TextConditioning), whichever tower it came from.

mod config;
mod decoder;
mod error;
mod mask;
mod projection;
mod sample;

pub use config::{
    ClassEmbedding, DecoderConfig, DownBlock, PerLevel, TextProjectionConfig, UpBlock,
};
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use mask::MaskChannels;
pub use projection::{Conditions, TextProjection};
pub use sample::DecoderInput;
