//! Normalisation.

use std::sync::Arc;

use burn::{backend::flex::FlexTensor, tensor::Tensor};
use unclip_kernels::norm::{self, GroupStatistics, Pixels};

use super::{
    Floats, Picture, activations, contiguous, path,
    record::{Operand, Operation, Output, record},
    room, rounded, tensor, typed, values,
};
use crate::ops::Affine;

pub(super) fn pixels(x: &Picture) -> Pixels {
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
    let (weight, bias) = (Floats::new(weight)?, Floats::new(bias)?);
    let operand = activations(x)?;
    let x = Picture::new(operand.tensor.clone());
    let shape = pixels(&x);
    let statistics = typed!(x.dtype(), E => {
        norm::group_statistics::<E>(path(), x.values(), shape, groups, epsilon)
    });
    let (scale, shift) = statistics.affine(shape.batch, weight.values(), bias.values());
    // One output, so that one backward pass hears of both.
    let both = [scale, shift].concat();
    let operands = [Some(&operand), Some(&weight.operand), Some(&bias.operand)];
    let both: Tensor<3> =
        record(operands, tensor(both, [2, shape.batch, shape.channels]), || Normalised {
            x: x.clone(),
            statistics: Arc::new(statistics),
            weight: weight.clone(),
            bias: bias.clone(),
        })
        .into();
    let part = |i| both.clone().narrow(0, i, 1).squeeze_dim::<2>(0);
    Some(Affine { scale: part(0), shift: part(1) })
}

/// A group normalisation with what it read.
#[derive(Debug, Clone)]
struct Normalised {
    x: Picture,
    statistics: Arc<GroupStatistics>,
    weight: Floats,
    bias: Floats,
}

impl Operation<3> for Normalised {
    fn backward(&self, gradient: FlexTensor, wanted: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let [x, weight, bias] = wanted;
        let gradient = contiguous(gradient);
        let gradient = values::<f32>(&gradient);
        let (by_scale, by_shift) = gradient.split_at(gradient.len() / 2);
        let found = typed!(self.x.dtype(), E => norm::group_backward::<E>(
            path(),
            self.x.values(),
            pixels(&self.x),
            &self.statistics,
            self.weight.values(),
            by_scale,
            by_shift,
        ));
        let Picture { size, channels, .. } = self.x;
        [
            x.then(|| Picture::rounded(found.x, self.x.dtype(), size, channels).into_tensor()),
            weight.then(|| self.weight.gradient(found.weight)),
            bias.then(|| self.bias.gradient(found.bias)),
        ]
    }
}

/// `x · scale + shift`, and SiLU of it where asked for.
pub(in crate::ops) fn apply(x: &Tensor<4>, affine: &Affine, silu: bool) -> Option<Tensor<4>> {
    let (scale, shift) = (Floats::new(&affine.scale)?, Floats::new(&affine.shift)?);
    let operand = activations(x)?;
    let x = Picture::new(operand.tensor.clone());
    let out = typed!(x.dtype(), E => {
        let values = x.values::<E>();
        let mut out = room::<E>(values.len(), operand.is_in_graph());
        norm::apply(path(), values, pixels(&x), scale.values(), shift.values(), silu, &mut out);
        Picture::from_values(out, x.size, x.channels)
    });
    let operands = [Some(&operand), Some(&scale.operand), Some(&shift.operand)];
    let out = record(operands, out.into_tensor(), || Applied {
        x: x.clone(),
        scale: scale.clone(),
        shift: shift.clone(),
        silu,
    });
    Some(out.into())
}

/// A scaling and shifting with what it read.
#[derive(Debug, Clone)]
struct Applied {
    x: Picture,
    scale: Floats,
    shift: Floats,
    silu: bool,
}

impl Operation<3> for Applied {
    fn backward(&self, gradient: FlexTensor, wanted: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let [x, scale, shift] = wanted;
        let gradient = Picture::new(gradient);
        let found = typed!(self.x.dtype(), E => norm::apply_backward::<E>(
            path(),
            self.x.values(),
            pixels(&self.x),
            self.scale.values(),
            self.shift.values(),
            self.silu,
            gradient.values(),
        ));
        let Picture { size, channels, .. } = self.x;
        [
            x.then(|| Picture::rounded(found.x, self.x.dtype(), size, channels).into_tensor()),
            scale.then(|| self.scale.gradient(found.scale)),
            shift.then(|| self.shift.gradient(found.shift)),
        ]
    }
}

/// Layer normalisation over the last axis.
pub(in crate::ops) fn layer_norm<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    epsilon: f64,
) -> Option<Tensor<D>> {
    let (weight, bias) = (Floats::new(weight)?, Floats::new(bias)?);
    assert_eq!(x.dims()[D - 1], weight.values().len(), "the last axis of the input and the weight");
    Some(level(&activations(x)?, &weight, &bias, epsilon).into())
}

/// [`layer_norm`].
fn level(operand: &Operand, weight: &Floats, bias: &Floats, epsilon: f64) -> Output {
    let x = contiguous(operand.tensor.clone());
    #[expect(clippy::cast_possible_truncation, reason = "kernels add it to a 32-bit variance")]
    let epsilon = epsilon as f32;
    let out = typed!(x.dtype(), E => {
        let values = values::<E>(&x);
        let mut out = room::<E>(values.len(), operand.is_in_graph());
        norm::layer_norm(path(), values, weight.values(), bias.values(), epsilon, &mut out);
        tensor(out, x.layout().shape().to_vec())
    });
    let operands = [Some(operand), Some(&weight.operand), Some(&bias.operand)];
    record(operands, out, || Levelled {
        x: x.clone(),
        weight: weight.clone(),
        bias: bias.clone(),
        epsilon,
    })
}

/// A layer normalisation with what it read.
#[derive(Debug, Clone)]
struct Levelled {
    /// `[.., width]`, contiguous.
    x: FlexTensor,
    weight: Floats,
    bias: Floats,
    epsilon: f32,
}

impl Operation<3> for Levelled {
    fn backward(&self, gradient: FlexTensor, wanted: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let [x, weight, bias] = wanted;
        let gradient = contiguous(gradient);
        let found = typed!(self.x.dtype(), E => norm::layer_norm_backward::<E>(
            path(),
            values(&self.x),
            self.weight.values(),
            self.epsilon,
            values(&gradient),
        ));
        [
            x.then(|| rounded(found.x, self.x.dtype(), self.x.layout().shape().to_vec())),
            weight.then(|| self.weight.gradient(found.weight)),
            bias.then(|| self.bias.gradient(found.bias)),
        ]
    }
}
