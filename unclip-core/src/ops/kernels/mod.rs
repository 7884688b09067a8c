//! The operations on a processor: tensors of flex, handed to `unclip-kernels` as slices.
//!
//! Each function gives nothing where the kernels do not apply (another backend, a type that they do not know), and its
//! caller then takes Burn's ordinary operations. Where an operand records gradients the result does too, and the
//! backward pass is the kernels' own; see [`record`].
//!
//! Code with a parameter is compiled again in every crate that calls it, and here the kernels of all instruction sets with it:
//! a function of tensors of any number of axes finds its operands and hands them on to one without parameters.
//!
//! Pictures keep the logical order `[batch, channels, height, width]`, and lie in memory channels-last: a layout is a
//! property of the storage, as in PyTorch. Whoever makes a picture here leaves it so, and whoever reads one that lies
//! otherwise reorders it first; between the first convolution of a network and the last none does.

mod attention;
mod conv;
mod linear;
mod norm;
mod picture;
mod record;
mod stored;
mod view;

pub(super) use attention::attention;
pub(super) use conv::conv2d;
pub(super) use linear::{activate, linear};
pub(super) use norm::{apply, group_norm_affine, layer_norm};
pub(super) use picture::{add, avg_pool_2x2, join_channels, max_pool_3x3, upsample_nearest_2x};
pub(super) use view::{from_tokens, shared, to_tokens};

use std::ops::{Deref, DerefMut};

use burn::{
    backend::flex::FlexTensor,
    tensor::{Bytes, DType, Element, Tensor, TensorData, bf16, f16},
};
use unclip_kernels::{Format, Size, cpu::Path, memory::zeros, room::Room};

use crate::memory::IntoBytes;
use record::{Operand, reach};

/// A type that kernels compute on.
trait Value: unclip_kernels::Element + Element + bytemuck::Pod {}

impl Value for f32 {}
impl Value for bf16 {}
impl Value for f16 {}

/// The instructions to use.
fn path() -> Path {
    Path::chosen()
}

/// The tensor as flex holds it, where kernels compute on its type.
fn activations<const D: usize>(x: &Tensor<D>) -> Option<Operand> {
    if matches!(x.dtype(), DType::F32 | DType::BF16) { reach(x) } else { None }
}

/// The type of the products between activations of type `dtype`.
fn format(dtype: DType) -> Format {
    if dtype == DType::BF16 { Format::Bf16 } else { Format::F32 }
}

/// The tensor's values in their logical order, copied only where they lie otherwise.
fn contiguous(x: FlexTensor) -> FlexTensor {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// The same values, their axes in another order.
fn permute(x: FlexTensor, axes: &[usize]) -> FlexTensor {
    let layout = x.layout().permute(axes);
    x.with_layout(layout)
}

/// The values of a contiguous tensor.
fn values<E: Value>(x: &FlexTensor) -> &[E] {
    x.as_slice().expect("a contiguous tensor of this type")
}

/// Memory for the values of a result.
enum Memory<E: Value> {
    /// Taken over from an earlier result, and left to a later one.
    Stored(Room<E>),
    Own(Vec<E>),
}

/// Memory for `len` values, each of which is then written. What is in a graph has its own: it is held until the backward pass,
/// so that little is left to take over, and Burn computes in place on what nobody else holds, which it cannot in a room.
fn room<E: Value>(len: usize, is_in_graph: bool) -> Memory<E> {
    if is_in_graph { Memory::Own(zeros(len)) } else { Memory::Stored(Room::new(len)) }
}

impl<E: Value> Deref for Memory<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        match self {
            Self::Stored(room) => room,
            Self::Own(values) => values,
        }
    }
}

impl<E: Value> DerefMut for Memory<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        match self {
            Self::Stored(room) => room,
            Self::Own(values) => values,
        }
    }
}

impl<E: Value> IntoBytes for Memory<E> {
    type Value = E;

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Stored(room) => room.into_bytes(),
            Self::Own(values) => values.into_bytes(),
        }
    }
}

/// A tensor of flex from contiguous values.
fn tensor<V: IntoBytes>(values: V, shape: impl Into<Vec<usize>>) -> FlexTensor {
    let data = TensorData::from_bytes(values.into_bytes(), shape.into(), V::Value::dtype());
    FlexTensor::from_data(data)
}

/// A tensor of type `dtype` from contiguous values, rounded where it has 16 bits.
fn rounded(values: Vec<f32>, dtype: DType, shape: impl Into<Vec<usize>>) -> FlexTensor {
    fn narrow<E: Value>(values: &[f32]) -> Vec<E> {
        let mut out = zeros::<E>(values.len());
        unclip_kernels::narrow(path(), values, &mut out);
        out
    }
    match dtype {
        DType::BF16 => tensor(narrow::<bf16>(&values), shape),
        DType::F16 => tensor(narrow::<f16>(&values), shape),
        _ => tensor(values, shape),
    }
}

/// A small operand, such as a bias, and its values in 32 bits.
#[derive(Debug, Clone)]
struct Floats {
    operand: Operand,
    values: FlexTensor,
}

impl Floats {
    fn new<const D: usize>(x: &Tensor<D>) -> Option<Self> {
        Self::of_operand(reach(x)?)
    }

    fn of_operand(operand: Operand) -> Option<Self> {
        fn widen<E: Value>(x: &FlexTensor) -> Vec<f32> {
            values::<E>(x).iter().map(|&x| unclip_kernels::Element::widen(x)).collect()
        }
        let x = contiguous(operand.tensor.clone());
        let shape = x.layout().shape().to_vec();
        let values = match x.dtype() {
            DType::F32 => x,
            DType::BF16 => tensor(widen::<bf16>(&x), shape),
            DType::F16 => tensor(widen::<f16>(&x), shape),
            _ => return None,
        };
        Some(Self { operand, values })
    }

    /// None of nothing, and nothing where kernels do not reach what there is.
    fn of<const D: usize>(x: Option<&Tensor<D>>) -> Option<Option<Self>> {
        match x {
            Some(x) => Self::new(x).map(Some),
            None => Some(None),
        }
    }

    fn values(&self) -> &[f32] {
        values(&self.values)
    }

    /// A gradient of this operand, in its type and shape.
    fn gradient(&self, values: Vec<f32>) -> FlexTensor {
        let own = &self.operand.tensor;
        rounded(values, own.dtype(), own.layout().shape().to_vec())
    }
}

/// A picture whose values lie channels-last.
#[derive(Debug, Clone)]
struct Picture {
    /// `[batch, height, width, channels]`, contiguous.
    tensor: FlexTensor,
    size: Size,
    channels: usize,
}

impl Picture {
    /// From `[batch, channels, height, width]`.
    fn new(x: FlexTensor) -> Self {
        let tensor = contiguous(permute(x, &[0, 2, 3, 1]));
        let [batch, height, width, channels] = tensor.layout().shape().dims();
        Self { tensor, size: Size::new(batch, height, width), channels }
    }

    /// From channels-last values.
    fn from_values(values: impl IntoBytes, size: Size, channels: usize) -> Self {
        let Size { batch, height, width } = size;
        Self { tensor: tensor(values, [batch, height, width, channels]), size, channels }
    }

    /// From channels-last values in 32 bits, rounded to `dtype`.
    fn rounded(values: Vec<f32>, dtype: DType, size: Size, channels: usize) -> Self {
        let Size { batch, height, width } = size;
        Self { tensor: rounded(values, dtype, [batch, height, width, channels]), size, channels }
    }

    fn dtype(&self) -> DType {
        self.tensor.dtype()
    }

    fn values<E: Value>(&self) -> &[E] {
        values(&self.tensor)
    }

    /// `[batch, channels, height, width]`, its values where they are.
    fn into_tensor(self) -> FlexTensor {
        permute(self.tensor, &[0, 3, 1, 2])
    }
}

/// Runs the same code for each type that kernels compute on, which `$type` names.
macro_rules! typed {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            burn::tensor::DType::F32 => {
                type $type = f32;
                $body
            }
            _ => {
                type $type = burn::tensor::bf16;
                $body
            }
        }
    };
}
use typed;
