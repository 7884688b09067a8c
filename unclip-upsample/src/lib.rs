//! The diffusion upsamplers of unCLIP: 64 to 256 to 1024 pixels.
//!
//! Paper §2.1. [`sample`] enlarges pictures with the networks that a [`Networks`] provides. An [`Upsampler`] provides
//! networks that are held in memory; an implementation of one's own may load each when its steps begin. The sizes are
//! in an [`UpsamplerConfig`], whatever the resolution.

mod config;
mod error;
mod sample;
mod upsampler;

pub use config::{DownBlock, UpBlock, UpsamplerConfig};
pub use error::{Error, Result};
pub use sample::{Networks, UpsampleInput, sample};
pub use upsampler::Upsampler;
