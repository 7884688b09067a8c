//! The hot operations, one door each.
//!
//! Every network of this library reaches convolution, linear layers, attention and normalisation through these
//! functions and nowhere else, so that a faster implementation replaces one here without touching a model.
//!
//! Weights may be held in a 16-bit type while activations are 32-bit: each operation widens the weights it is about
//! to use to the type of its input, one layer at a time, so that sums are always taken at the input's precision.

mod activation;
mod attention;
mod conv;
mod linear;
mod norm;

pub use activation::{gelu, quick_gelu, silu};
pub use attention::attention;
pub use conv::{avg_pool_2x2, conv2d, upsample_nearest_2x};
pub use linear::linear;
pub use norm::{group_norm, group_norm_silu, layer_norm};

use burn::tensor::Tensor;

/// `weight` in the float type of `like`, unchanged when it already is.
fn widen<const D: usize, const E: usize>(weight: Tensor<D>, like: &Tensor<E>) -> Tensor<D> {
    if weight.dtype() == like.dtype() { weight } else { weight.cast(like.dtype()) }
}
