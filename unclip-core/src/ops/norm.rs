//! Normalisation.
//!
//! Statistics, and what is made of them, are in 32 bits whatever the type of the activations.

use burn::tensor::{DType, Tensor, module};

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
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::layer_norm(&x, &weight, &bias, epsilon) {
        return out;
    }
    let dtype = x.dtype();
    let x = wide(x);
    let weight = widen(weight, &x);
    let bias = widen(bias, &x);
    module::layer_norm(x, weight, Some(bias), epsilon).cast(dtype)
}

/// A factor and an offset for each channel of each picture, in 32 bits.
#[derive(Debug, Clone)]
pub struct Affine {
    /// `[batch, channels]`.
    pub scale: Tensor<2>,
    /// `[batch, channels]`.
    pub shift: Tensor<2>,
}

impl Affine {
    /// This, then `x · (1 + scale) + shift`, both `[batch, channels]`.
    #[must_use]
    pub fn then(self, scale: Tensor<2>, shift: Tensor<2>) -> Self {
        let factor = wide(scale) + 1.0;
        Self { scale: self.scale * factor.clone(), shift: self.shift * factor + wide(shift) }
    }
}

/// Group normalisation (Wu & He 2018) as a factor and an offset for each channel: each group of channels gets mean 0 and
/// biased variance 1 over its pixels, then every channel is scaled and shifted.
///
/// Whoever reads `x` next can [apply](super::ConvInput::affine) them on the way.
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - `weight`, `bias`: `[channels]`
///
/// # Panics
///
/// When `groups` does not divide `channels`, or `weight` is of another width.
pub fn group_norm_affine(
    x: &Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Affine {
    let [batch, channels, height, width] = x.dims();
    assert!(channels.is_multiple_of(groups), "{groups} groups do not divide {channels} channels");
    #[cfg(any(feature = "flex", test))]
    if let Some(affine) = super::kernels::group_norm_affine(x, groups, &weight, &bias, epsilon) {
        return affine;
    }
    let per_group = channels / groups;
    let x = wide(x.clone());
    let weight = widen(weight, &x).reshape([1, groups, per_group]);
    let bias = widen(bias, &x).reshape([1, groups, per_group]);
    let (variance, mean) = x.reshape([batch, groups, per_group * height * width]).var_mean_bias(2);
    let inverse_deviation = (variance + epsilon).sqrt().recip();
    let scale = weight * inverse_deviation;
    let shift = bias - mean * scale.clone();
    Affine { scale: scale.reshape([batch, channels]), shift: shift.reshape([batch, channels]) }
}

/// `x · scale + shift`, then [`silu`] where asked for.
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, channels, height, width]`
///
/// # Panics
///
/// When `affine` is for other sizes.
pub fn apply(x: Tensor<4>, affine: &Affine, with_silu: bool) -> Tensor<4> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::apply(&x, affine, with_silu) {
        return out;
    }
    let dtype = x.dtype();
    let each = |values: &Tensor<2>| values.clone().unsqueeze_dims::<4>(&[2, 3]);
    let out = wide(x) * each(&affine.scale) + each(&affine.shift);
    let out = if with_silu { silu(out) } else { out };
    out.cast(dtype)
}

/// In 32 bits, where it has 16.
fn wide<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}
