//! Linear layers, and the weights of all layers.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, f16};
use unclip_kernels::{self as kernels, Epilogue, Format, Weights};

use super::{contiguous, floats, path, reach, tensor, typed, values};
use crate::ops::{Activation, LinearInput, Weight, packed::Packed};

/// `activation(x Wᵀ + b) + residual`.
pub(in crate::ops) fn linear<const D: usize>(
    input: &LinearInput<D>,
    weight: &Weight<2>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<D>> {
    let LinearInput { x, activation, residual } = input;
    let dtype = x.dtype();
    let [channels_out, channels_in] = weight.dims();
    let mut shape = x.dims();
    assert_eq!(shape[D - 1], channels_in, "the last axis of the input and of the weight");
    shape[D - 1] = channels_out;
    let rows: usize = shape[..D - 1].iter().product();
    let residual = match residual {
        Some(residual) => {
            assert_eq!(residual.dims(), shape, "the shapes of a residual and the output");
            (residual.dtype() == dtype).then_some(())?;
            Some(contiguous(reach(residual)?))
        }
        None => None,
    };
    let bias = match bias {
        Some(bias) => Some(floats(bias)?),
        None => None,
    };
    let x = contiguous(reach(x)?);
    let weights = weights(dtype, weight)?;
    let activation = activation.map(Activation::kernel).unwrap_or_default();
    Some(typed!(dtype, E => {
        let mut epilogue = Epilogue::<E>::new().activation(activation);
        if let Some(bias) = &bias {
            epilogue = epilogue.bias(bias);
        }
        if let Some(residual) = &residual {
            epilogue = epilogue.residual(values(residual));
        }
        let mut out = bytemuck::zeroed_vec::<E>(rows * channels_out);
        kernels::linear(path(), &weights.0, values::<E>(&x), epilogue, &mut out);
        tensor(out, shape)
    }))
}

/// `activation(x)`.
pub(in crate::ops) fn activate<const D: usize>(
    x: &Tensor<D>,
    activation: kernels::Activation,
) -> Option<Tensor<D>> {
    let shape = x.dims();
    let x = reach(x)?;
    // Each value is on its own, so any order in memory without gaps may stay.
    let x = contiguous(x);
    Some(typed!(x.dtype(), E => {
        let values = values::<E>(&x);
        let mut out = bytemuck::zeroed_vec::<E>(values.len());
        kernels::activation::activate(path(), activation, values, &mut out);
        tensor(out, shape)
    }))
}

/// The weight as the kernels read it, for activations of type `dtype`.
///
/// Where the weight has that type too, the packed form takes its place for good. Otherwise the weight is packed for
/// this call alone: widened where activations are wider, and rounded where they are narrower, so that a weight in 32
/// bits stays one.
pub(super) fn weights<const D: usize>(dtype: DType, weight: &Weight<D>) -> Option<Arc<Packed>> {
    let format = if dtype == DType::BF16 { Format::Bf16 } else { Format::F32 };
    let own = |value: &Tensor<D>| match value.dtype() {
        DType::F32 => Some(Format::F32),
        DType::BF16 => Some(Format::Bf16),
        _ => None,
    };
    let held = weight.packed(|value| (own(value)? == format).then(|| pack(value, format))?);
    match held {
        Some(packed) if packed.0.format() == format => Some(packed),
        _ => pack(&weight.val(), format).map(Arc::new),
    }
}

fn pack<const D: usize>(value: &Tensor<D>, format: Format) -> Option<Packed> {
    let mut shape = [1; 4];
    shape[..D].copy_from_slice(&value.dims());
    if shape.contains(&0) {
        return None;
    }
    let value = contiguous(value.clone().try_into_primitive::<burn::backend::Flex>().ok()?);
    Some(Packed(match value.dtype() {
        DType::F32 => Weights::conv(values::<f32>(&value), shape, format),
        DType::BF16 => Weights::conv(values::<burn::tensor::bf16>(&value), shape, format),
        DType::F16 => Weights::conv(value.as_slice::<f16>()?, shape, format),
        _ => return None,
    }))
}
