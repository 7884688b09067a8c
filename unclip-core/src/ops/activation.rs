//! Activations.

use burn::tensor::{Tensor, activation};

/// `x · σ(x)`, also called swish.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::silu(x)
}

/// The exact Gaussian error linear unit, `x · Φ(x)` (not the tanh approximation).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu(x)
}

/// `x · σ(1.702 x)`, the activation of OpenAI's CLIP.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::sigmoid(x.clone() * 1.702) * x
}
