//! Normalisation.

use burn::tensor::{Tensor, module};

use super::{silu, widen};

/// Layer normalisation over the last axis (Ba et al. 2016), with the biased variance.
///
/// # Shapes
///
/// - `x`: `[.., width]`
/// - `weight`, `bias`: `[width]`
/// - output: `[.., width]`
///
/// # Panics
///
/// When `width` differs between them.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let weight = widen(weight, &x);
    let bias = widen(bias, &x);
    module::layer_norm(x, weight, Some(bias), epsilon)
}

/// Group normalisation (Wu & He 2018): each group of channels has mean 0 and biased variance 1 over its pixels, then
/// every channel is scaled and shifted.
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - `weight`, `bias`: `[channels]`
/// - output: `[batch, channels, height, width]`
///
/// # Panics
///
/// When `groups` does not divide `channels`, or `weight` is of another width.
pub fn group_norm(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    assert!(channels.is_multiple_of(groups), "{groups} groups do not divide {channels} channels");
    let per_group = channels / groups;
    let (variance, mean) =
        x.clone().reshape([batch, groups, per_group * height * width]).var_mean_bias(2);
    // One multiplication and one addition a value, as PyTorch does on the CPU: the statistics are folded into the
    // channel's weight and bias first.
    let inverse_deviation = (variance + epsilon).sqrt().recip();
    let weight = widen(weight, &x).reshape([1, groups, per_group]);
    let bias = widen(bias, &x).reshape([1, groups, per_group]);
    let scale = weight * inverse_deviation;
    let shift = bias - mean * scale.clone();
    x * scale.reshape([batch, channels, 1, 1]) + shift.reshape([batch, channels, 1, 1])
}

/// [`group_norm`] followed by [`silu`], the pair in front of every convolution of a residual block.
///
/// # Panics
///
/// As [`group_norm`].
pub fn group_norm_silu(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<4> {
    silu(group_norm(x, groups, weight, bias, epsilon))
}
