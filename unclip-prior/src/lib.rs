//! The diffusion prior of unCLIP: a CLIP image embedding from a caption.
//!
//! Paper §2.2. [`Prior`] is the network, opened from a folder of a model directory with [`Prior::from_dir`] or made
//! from a [`PriorConfig`]; [`Prior::sample`] draws image embeddings with it. The crate speaks tensors: a caption is a
//! [`TextConditioning`](unclip_core::nn::TextConditioning), whichever tower it came from.
//!
//! Every key of diffusers' `PriorTransformer` is honoured, so that priors beyond Karlo's load too.

mod config;
mod error;
mod prior;
mod sample;
mod transformer;
mod weights;

pub use config::{AddedToken, NormType, PriorConfig, StatesProjection};
pub use error::{Error, Result};
pub use prior::{CaptionCache, PRIOR_NAMES, Prior, PriorStep};
pub use sample::PriorInput;
