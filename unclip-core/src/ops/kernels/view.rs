//! The same values under other axes. Of a picture that lies channels-last nothing is moved.
//!
//! Burn's own operations would do as well, but for the gradients: what several operations read has the sum of their
//! gradients, and the kernels take that only for outputs of their own.

use burn::{
    backend::flex::FlexTensor,
    tensor::{Shape, Tensor},
};
use unclip_kernels::Size;

use super::{
    Picture, activations, contiguous,
    record::{Operand, Operation, Output, record},
};

/// `[batch, channels, height, width]` as `[batch, height · width, channels]`.
pub(in crate::ops) fn to_tokens(x: &Tensor<4>) -> Option<Tensor<3>> {
    let operand = activations(x)?;
    let Picture { tensor, size, channels } = Picture::new(operand.tensor.clone());
    let Size { batch, height, width } = size;
    let out = tensor.reshape(Shape::from(vec![batch, height * width, channels]));
    Some(record([Some(&operand)], out, || Unrolled { size, channels }).into())
}

/// A picture as rows of its pixels.
#[derive(Debug, Clone, Copy)]
struct Unrolled {
    size: Size,
    channels: usize,
}

impl Operation<1> for Unrolled {
    fn backward(&self, gradient: FlexTensor, _wanted: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(rolled(gradient, self.size, self.channels).into_tensor())]
    }
}

/// `[batch, height · width, channels]` as `[batch, channels, height, width]`.
pub(in crate::ops) fn from_tokens(x: &Tensor<3>, size: Size) -> Option<Tensor<4>> {
    let operand = activations(x)?;
    let [_, _, channels] = x.dims();
    let out = rolled(operand.tensor.clone(), size, channels).into_tensor();
    Some(record([Some(&operand)], out, || Rolled).into())
}

/// Rows as the pixels of a picture.
#[derive(Debug, Clone, Copy)]
struct Rolled;

impl Operation<1> for Rolled {
    fn backward(&self, gradient: FlexTensor, _wanted: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let Picture { tensor, size, channels } = Picture::new(gradient);
        let Size { batch, height, width } = size;
        [Some(tensor.reshape(Shape::from(vec![batch, height * width, channels])))]
    }
}

fn rolled(rows: FlexTensor, size: Size, channels: usize) -> Picture {
    let Size { batch, height, width } = size;
    let shape = Shape::from(vec![batch, height, width, channels]);
    Picture { tensor: contiguous(rows).reshape(shape), size, channels }
}

/// The tensor itself.
pub(in crate::ops) fn shared<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    Some(share(&activations(x)?).into())
}

/// [`shared`].
fn share(operand: &Operand) -> Output {
    record([Some(operand)], operand.tensor.clone(), || Shared)
}

/// A tensor under the same axes.
#[derive(Debug, Clone, Copy)]
struct Shared;

impl Operation<1> for Shared {
    fn backward(&self, gradient: FlexTensor, _wanted: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(gradient)]
    }
}
