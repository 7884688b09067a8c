//! Normalisation.

use burn::tensor::Tensor;
use unclip_kernels::norm::{self, Pixels};

use super::{Picture, contiguous, floats, path, picture, reach, tensor, typed, values};
use crate::ops::Affine;

fn pixels(x: &Picture) -> Pixels {
    let pixels = x.size.height * x.size.width;
    Pixels { batch: x.size.batch, pixels, channels: x.channels }
}

/// The scale and shift that normalise `x`, each `[batch, channels]`.
pub(in crate::ops) fn group_norm_affine(
    x: &Tensor<4>,
    groups: usize,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    epsilon: f64,
) -> Option<Affine> {
    let (weight, bias) = (floats(weight)?, floats(bias)?);
    let x = Picture::new(x)?;
    let shape = pixels(&x);
    let statistics = typed!(x.dtype(), E => {
        norm::group_statistics::<E>(path(), x.values(), shape, groups, epsilon)
    });
    let (scale, shift) = statistics.affine(shape.batch, &weight, &bias);
    let sizes = [shape.batch, shape.channels];
    Some(Affine { scale: tensor(scale, sizes), shift: tensor(shift, sizes) })
}

/// `x · scale + shift`, and SiLU of it where asked for.
pub(in crate::ops) fn apply(x: &Tensor<4>, affine: &Affine, silu: bool) -> Option<Tensor<4>> {
    let (scale, shift) = (floats(&affine.scale)?, floats(&affine.shift)?);
    let x = Picture::new(x)?;
    Some(typed!(x.dtype(), E => {
        let values = x.values::<E>();
        let mut out = bytemuck::zeroed_vec::<E>(values.len());
        norm::apply(path(), values, pixels(&x), &scale, &shift, silu, &mut out);
        picture(out, x.size, x.channels)
    }))
}

/// Layer normalisation over the last axis.
pub(in crate::ops) fn layer_norm<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    epsilon: f64,
) -> Option<Tensor<D>> {
    let (weight, bias) = (floats(weight)?, floats(bias)?);
    let shape = x.dims();
    assert_eq!(shape[D - 1], weight.len(), "the last axis of the input and the weight");
    let x = contiguous(reach(x)?);
    #[expect(clippy::cast_possible_truncation, reason = "kernels add it to a 32-bit variance")]
    let epsilon = epsilon as f32;
    Some(typed!(x.dtype(), E => {
        let values = values::<E>(&x);
        let mut out = bytemuck::zeroed_vec::<E>(values.len());
        norm::layer_norm(path(), values, &weight, &bias, epsilon, &mut out);
        tensor(out, shape)
    }))
}
