//! The decoder's configurations, under diffusers' keys.

mod projection;
mod unet;

pub use projection::TextProjectionConfig;
pub use unet::{ClassEmbedding, DecoderConfig, DownBlock, PerLevel, UpBlock};
