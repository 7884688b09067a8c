//! Layers, and the blocks that the decoder and the upsamplers share.
//!
//! The layers hold their parameters under PyTorch's names and in PyTorch's layout (`weight`, `bias`; linear weights
//! `[channels_out, channels_in]`), so that a checkpoint's tensor names are the paths of the module tree and no tensor is
//! transposed while loading. Each forward pass is one call into [`ops`](crate::ops).

mod attention;
mod layer;
mod res_block;
mod text;
mod timestep;
mod unet;

pub use attention::{
    AddedKvAttention, AddedKvAttentionConfig, ContextKeysValues, join_heads, split_heads,
};
pub use layer::{
    Conv2d, Conv2dConfig, Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig, LayerNorm,
    LayerNormConfig, Linear, LinearConfig,
};
pub use res_block::{ResBlock, ResBlockConfig, TimeShift};
pub use text::{MASKED, TextConditioning, mask_bias};
pub use timestep::{Sinusoid, TimestepEmbedding, TimestepEmbeddingConfig, sinusoidal};
#[cfg(feature = "autodiff")]
pub use unet::Checkpointed;
pub use unet::{AttentionConfig, ContextCache, Misfit, UNET_NAMES, UNet, UNetConfig, UNetInput};

pub use crate::ops::{Activation, Resample};
