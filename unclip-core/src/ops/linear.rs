//! Linear layers.

use burn::{
    module::Param,
    tensor::{Tensor, module},
};

use super::{Activation, Weight, widen};

/// What a linear layer reads, and what is done on the way out.
///
/// In this order: the layer, [activation](Self::activation), [adding a residual](Self::residual).
#[derive(Debug, Clone)]
#[must_use]
pub struct LinearInput<const D: usize> {
    pub(super) x: Tensor<D>,
    pub(super) activation: Option<Activation>,
    pub(super) residual: Option<Tensor<D>>,
}

impl<const D: usize> LinearInput<D> {
    /// `[.., channels_in]`, as it is.
    pub fn new(x: Tensor<D>) -> Self {
        Self { x, activation: None, residual: None }
    }

    /// Applies an activation to the output.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }

    /// Adds a tensor of the output's shape.
    pub fn residual(mut self, residual: Tensor<D>) -> Self {
        self.residual = Some(residual);
        self
    }
}

/// `x Wᵀ + b`, with the weight in PyTorch's layout.
///
/// # Shapes
///
/// - `input`: `[.., channels_in]`
/// - `weight`: `[channels_out, channels_in]`
/// - `bias`: `[channels_out]`
/// - output: `[.., channels_out]`
///
/// # Panics
///
/// When the last axis of the input is not `channels_in`, or the residual does not have the output's shape.
pub fn linear<const D: usize>(
    input: LinearInput<D>,
    weight: &Weight<2>,
    bias: Option<&Param<Tensor<1>>>,
) -> Tensor<D> {
    let bias = bias.map(Param::val);
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::linear(&input, weight, bias.as_ref()) {
        return out;
    }
    let LinearInput { x, activation, residual } = input;
    let out = product(x, weight, bias);
    let out = match activation {
        Some(activation) => activation.forward(out),
        None => out,
    };
    match residual {
        Some(residual) => out + residual,
        None => out,
    }
}

/// The layer without what is done on the way out.
fn product<const D: usize>(x: Tensor<D>, weight: &Weight<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::linear(&LinearInput::new(x.clone()), weight, bias.as_ref()) {
        return out;
    }
    let weight = widen(weight.val(), &x);
    let bias = bias.map(|bias| widen(bias, &x));
    module::linear(x, weight.transpose(), bias)
}
