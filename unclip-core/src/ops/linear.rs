//! Linear layers.

use burn::tensor::{Tensor, module};

use super::widen;

/// `x Wᵀ + b`, with the weight in PyTorch's layout.
///
/// # Shapes
///
/// - `x`: `[.., channels_in]`
/// - `weight`: `[channels_out, channels_in]`
/// - `bias`: `[channels_out]`
/// - output: `[.., channels_out]`
///
/// # Panics
///
/// When the last axis of `x` is not `channels_in`.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let weight = widen(weight, &x);
    let bias = bias.map(|bias| widen(bias, &x));
    module::linear(x, weight.transpose(), bias)
}
