//! Linear layers and activations, and the weights of all layers.

use std::sync::Arc;

use burn::{
    backend::flex::FlexTensor,
    tensor::{DType, Tensor, bf16, f16},
};
use unclip_kernels::{
    self as kernels, Epilogue, Format, Input, Size, Values, Weights, memory::zeros,
};

use super::{
    Floats, activations, contiguous, format, path,
    record::{Operand, Operation, Output, reach, record},
    room, rounded,
    stored::Stored,
    tensor, typed, values,
};
use crate::ops::{Activation, LinearInput, Weight, packed::Packed};

/// `activation(x Wᵀ + b) + residual`.
pub(in crate::ops) fn linear<const D: usize>(
    input: &LinearInput<D>,
    weight: &Weight<2>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<D>> {
    let LinearInput { x, activation, residual } = input;
    let [channels_out, channels_in] = weight.dims();
    let mut shape = x.dims();
    assert_eq!(shape[D - 1], channels_in, "the last axis of the input and of the weight");
    shape[D - 1] = channels_out;
    let residual = match residual {
        Some(residual) => {
            assert_eq!(residual.dims(), shape, "the shapes of a residual and the output");
            (residual.dtype() == x.dtype()).then_some(())?;
            Some(activations(residual)?)
        }
        None => None,
    };
    let bias = Floats::of(bias)?;
    let out = project(activations(x)?, weight, bias, *activation, residual, &shape)?;
    Some(out.into())
}

/// [`linear`] from the rows of `x` to those of `shape`.
fn project(
    x: Operand,
    weight: &Weight<2>,
    bias: Option<Floats>,
    activation: Option<Activation>,
    residual: Option<Operand>,
    shape: &[usize],
) -> Option<Output> {
    let dtype = x.tensor.dtype();
    let layer = Layer::new(dtype, weight)?;
    let [channels_out, _] = layer.shape;
    let rows = shape.iter().product::<usize>() / channels_out;
    let operands =
        [Some(&x), layer.operand(), bias.as_ref().map(|bias| &bias.operand), residual.as_ref()];
    if activation.is_some() && operands.iter().flatten().any(|operand| operand.is_recorded()) {
        // The gradient of the activation reads what it was applied to, so that is written.
        return None;
    }
    let read = contiguous(x.tensor.clone());
    let activation = activation.map(Activation::kernel).unwrap_or_default();
    let out = typed!(dtype, E => {
        let mut epilogue = Epilogue::<E>::new().activation(activation);
        if let Some(bias) = &bias {
            epilogue = epilogue.bias(bias.values());
        }
        let residual = residual.as_ref().map(|operand| contiguous(operand.tensor.clone()));
        if let Some(residual) = &residual {
            epilogue = epilogue.residual(values(residual));
        }
        let is_in_graph = operands.iter().flatten().any(|operand| operand.is_in_graph());
        let mut out = room::<E>(rows * channels_out, is_in_graph);
        kernels::linear(path(), &layer.packed().0, values::<E>(&read), epilogue, &mut out);
        tensor(out, shape)
    });
    let operation =
        || Projected { x: read.clone(), rows, layer: layer.clone(), bias: bias.clone() };
    Some(record(operands, out, operation))
}

/// A linear layer with what it read.
#[derive(Debug, Clone)]
struct Projected {
    /// `[.., channels_in]`, contiguous.
    x: FlexTensor,
    rows: usize,
    layer: Layer<2>,
    bias: Option<Floats>,
}

impl Operation<4> for Projected {
    fn backward(&self, gradient: FlexTensor, wanted: [bool; 4]) -> [Option<FlexTensor>; 4] {
        let [x, weight, bias, residual] = wanted;
        let [channels_out, channels_in] = self.layer.shape;
        let Self { rows, .. } = *self;
        let whole = gradient.clone();
        let gradient = contiguous(gradient);
        let dtype = self.x.dtype();
        typed!(dtype, E => {
            let gradient = values::<E>(&gradient);
            let by_x = x.then(|| {
                let mut out = zeros::<E>(rows * channels_in);
                let transposed = self.layer.transposed(format(dtype));
                kernels::linear(path(), &transposed, gradient, Epilogue::<E>::new(), &mut out);
                tensor(out, self.x.layout().shape().to_vec())
            });
            let by_weight = weight.then(|| {
                let mut out = vec![0.0; channels_out * channels_in];
                let x = values::<E>(&self.x);
                let products = format(dtype);
                kernels::linear_weight_gradient(path(), products, rows, x, gradient, &mut out);
                rounded(out, self.layer.dtype, self.layer.shape)
            });
            let by_bias = self.bias.as_ref().filter(|_| bias).map(|bias| {
                let mut out = vec![0.0; channels_out];
                let gradient = Input::new(gradient, Size::new(1, rows, 1));
                kernels::bias_gradient(path(), gradient, &mut out);
                bias.gradient(out)
            });
            [by_x, by_weight, by_bias, residual.then_some(whole)]
        })
    }
}

/// `activation(x)`.
pub(in crate::ops) fn activate<const D: usize>(
    x: &Tensor<D>,
    activation: kernels::Activation,
) -> Option<Tensor<D>> {
    Some(activate_operand(&activations(x)?, activation).into())
}

/// [`activate`].
fn activate_operand(operand: &Operand, activation: kernels::Activation) -> Output {
    let stored = Stored::new(operand.tensor.clone());
    let out = typed!(stored.values.dtype(), E => {
        let values = values::<E>(&stored.values);
        let mut out = room::<E>(values.len(), operand.is_in_graph());
        kernels::activation::activate(path(), activation, values, &mut out);
        stored.like(tensor(out, stored.values.layout().shape().to_vec()))
    });
    record([Some(operand)], out, || Activated { x: stored.clone(), activation })
}

/// An activation with what it was applied to.
#[derive(Debug, Clone)]
struct Activated {
    x: Stored,
    activation: kernels::Activation,
}

impl Operation<1> for Activated {
    fn backward(&self, gradient: FlexTensor, _wanted: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let gradient = self.x.order(gradient);
        let by_x = typed!(self.x.values.dtype(), E => {
            let (x, gradient) = (values::<E>(&self.x.values), values::<E>(&gradient));
            let mut out = zeros::<E>(x.len());
            kernels::activation::activate_backward(path(), self.activation, x, gradient, &mut out);
            self.x.like(tensor(out, self.x.values.layout().shape().to_vec()))
        });
        [Some(by_x)]
    }
}

/// The weight of a layer as its kernel reads it, for activations of one type.
#[derive(Debug, Clone)]
pub(super) struct Layer<const D: usize> {
    packed: Arc<Packed>,
    /// The weight, where the packed form has not taken its place.
    weight: Option<Operand>,
    pub(super) shape: [usize; D],
    pub(super) dtype: DType,
}

impl<const D: usize> Layer<D> {
    /// Where the weight has the type of the activations and records nothing, the packed form takes its place for good.
    /// Otherwise the weight is packed for this call alone: widened where activations are wider, and rounded where they
    /// are narrower, so that a weight in 32 bits stays one.
    pub(super) fn new(activations: DType, weight: &Weight<D>) -> Option<Self> {
        let format = format(activations);
        let shape = weight.dims();
        if shape.contains(&0) {
            return None;
        }
        let held = weight.packed(|value| {
            let own = reach(value).filter(|own| !own.is_in_graph())?;
            let exact = match own.tensor.dtype() {
                DType::F32 => format == Format::F32,
                DType::BF16 => format == Format::Bf16,
                _ => false,
            };
            if exact { pack(&own.tensor, shape, format) } else { None }
        });
        if let Some(packed) = held.filter(|packed| packed.0.format() == format) {
            return Some(Self { packed, weight: None, shape, dtype: activations });
        }
        let weight = reach(&weight.val())?;
        let packed = pack(&weight.tensor, shape, format)?;
        let dtype = weight.tensor.dtype();
        Some(Self { packed: Arc::new(packed), weight: Some(weight), shape, dtype })
    }

    pub(super) fn packed(&self) -> &Packed {
        &self.packed
    }

    pub(super) fn operand(&self) -> Option<&Operand> {
        self.weight.as_ref()
    }

    /// The weight as the gradient of the layer's input reads it.
    pub(super) fn transposed(&self, format: Format) -> Weights {
        let shape = four(self.shape);
        match &self.weight {
            Some(weight) => {
                let weight = contiguous(weight.tensor.clone());
                match weight.dtype() {
                    DType::F32 => Weights::conv_transposed(values::<f32>(&weight), shape, format),
                    DType::BF16 => Weights::conv_transposed(values::<bf16>(&weight), shape, format),
                    _ => Weights::conv_transposed(values::<f16>(&weight), shape, format),
                }
            }
            None => match self.packed.0.unpack() {
                Values::F32(values) => Weights::conv_transposed(&values, shape, format),
                Values::Bf16(values) => Weights::conv_transposed(&values, shape, format),
            },
        }
    }
}

/// A linear layer's weight has the axes of a convolution with one tap.
fn four<const D: usize>(shape: [usize; D]) -> [usize; 4] {
    let mut four = [1; 4];
    four[..D].copy_from_slice(&shape);
    four
}

fn pack<const D: usize>(weight: &FlexTensor, shape: [usize; D], format: Format) -> Option<Packed> {
    let weight = contiguous(weight.clone());
    let shape = four(shape);
    Some(Packed(match weight.dtype() {
        DType::F32 => Weights::conv(values::<f32>(&weight), shape, format),
        DType::BF16 => Weights::conv(values::<bf16>(&weight), shape, format),
        DType::F16 => Weights::conv(values::<f16>(&weight), shape, format),
        _ => return None,
    }))
}
