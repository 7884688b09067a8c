//! The hot operations, one door each.
//!
//! Every network of this library reaches convolution, linear layers, attention and normalisation through these
//! functions and nowhere else, so that a faster implementation replaces one here without touching a model. On a
//! processor `unclip-kernels` is that implementation; every other backend, and training, takes Burn's operations.
//!
//! The type of the activations decides in which type an operation computes: given 32-bit activations, products are in
//! 32 bits; given `bf16`, factors are rounded to it and sums stay in 32 bits. Weights may be held in another type
//! than activations: each operation converts the weights it is about to use, one layer at a time. Norms and softmax
//! are computed in 32 bits always.

mod activation;
mod attention;
mod conv;
#[cfg(any(feature = "flex", test))]
#[cfg_attr(
    not(any(feature = "autodiff", test)),
    expect(dead_code, reason = "backward passes are called where gradients are recorded")
)]
mod kernels;
mod linear;
mod norm;
mod packed;
mod view;
mod weight;

pub use activation::{Activation, gelu, quick_gelu, silu};
pub use attention::attention;
pub use conv::{
    ConvInput, Convolution, Resample, add, avg_pool_2x2, join_channels, max_pool_3x3, resample,
    upsample_nearest_2x,
};
pub use linear::{LinearInput, linear};
pub use norm::{Affine, apply, group_norm_affine, layer_norm};
pub use view::{from_tokens, shared, to_tokens};
pub use weight::Weight;

use burn::tensor::Tensor;

/// `weight` in the float type of `like`, unchanged when it already is.
fn widen<const D: usize, const E: usize>(weight: Tensor<D>, like: &Tensor<E>) -> Tensor<D> {
    if weight.dtype() == like.dtype() { weight } else { weight.cast(like.dtype()) }
}

#[cfg(test)]
mod tests;
