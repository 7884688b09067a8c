//! The operations on a processor: tensors of flex, handed to `unclip-kernels` as slices.
//!
//! Each function gives nothing where the kernels do not apply (another backend, a type that they do not know, a tensor
//! that records gradients), and its caller then takes Burn's ordinary operations.
//!
//! Pictures keep the logical order `[batch, channels, height, width]`, and lie in memory channels-last: a layout is a
//! property of the storage, as in PyTorch. Whoever makes a picture here leaves it so, and whoever reads one that lies
//! otherwise reorders it first; between the first convolution of a network and the last none does.

mod attention;
mod conv;
mod linear;
mod norm;
mod picture;

pub(super) use attention::attention;
pub(super) use conv::conv2d;
pub(super) use linear::{activate, linear};
pub(super) use norm::{apply, group_norm_affine, layer_norm};
pub(super) use picture::{add, avg_pool_2x2, join_channels, upsample_nearest_2x};

use burn::{
    backend::{
        Flex,
        flex::{FlexTensor, Layout},
    },
    tensor::{DType, Element, Float, Shape, Tensor, TensorData, bf16},
};
use unclip_kernels::{Size, cpu::Path};

/// A type that kernels compute on.
pub(super) trait Value: unclip_kernels::Element + Element + bytemuck::Pod {}

impl Value for f32 {}
impl Value for bf16 {}

/// The instructions to use.
fn path() -> Path {
    Path::chosen()
}

/// The tensor as flex holds it, where kernels can work on it.
fn reach<const D: usize>(x: &Tensor<D>) -> Option<FlexTensor> {
    if !matches!(x.dtype(), DType::F32 | DType::BF16) {
        return None;
    }
    x.clone().try_into_primitive::<Flex>().ok()
}

/// The tensor's values in their logical order, copied only where they lie otherwise.
fn contiguous(x: FlexTensor) -> FlexTensor {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// The values of a contiguous tensor.
fn values<E: Value>(x: &FlexTensor) -> &[E] {
    x.as_slice().expect("a contiguous tensor of this type")
}

/// A small tensor's values in 32 bits.
fn floats<const D: usize>(x: &Tensor<D>) -> Option<Vec<f32>> {
    let x = contiguous(reach(x)?);
    Some(match x.dtype() {
        DType::F32 => values::<f32>(&x).to_vec(),
        _ => values::<bf16>(&x).iter().map(|x| x.to_f32()).collect(),
    })
}

/// A tensor of flex from contiguous values.
fn tensor<E: Value, const D: usize>(values: Vec<E>, shape: [usize; D]) -> Tensor<D> {
    wrap(FlexTensor::from_data(TensorData::new(values, shape)))
}

fn wrap<const D: usize>(tensor: FlexTensor) -> Tensor<D> {
    Tensor::<D, Float>::from_primitive::<Flex>(tensor)
}

/// A picture whose values lie channels-last.
struct Picture {
    /// `[batch, height, width, channels]`, contiguous.
    tensor: FlexTensor,
    size: Size,
    channels: usize,
}

impl Picture {
    fn new(x: &Tensor<4>) -> Option<Self> {
        let [batch, channels, height, width] = x.dims();
        let x = reach(x)?;
        let (strides, start) = (x.layout().strides(), x.layout().start_offset());
        let layout = Layout::new(
            Shape::from([batch, height, width, channels]),
            vec![strides[0], strides[2], strides[3], strides[1]],
            start,
        );
        let tensor = contiguous(x.with_layout(layout));
        Some(Self { tensor, size: Size::new(batch, height, width), channels })
    }

    fn dtype(&self) -> DType {
        self.tensor.dtype()
    }

    fn values<E: Value>(&self) -> &[E] {
        values(&self.tensor)
    }
}

/// A picture from channels-last values.
fn picture<E: Value>(values: Vec<E>, size: Size, channels: usize) -> Tensor<4> {
    let Size { batch, height, width } = size;
    let tensor = FlexTensor::from_data(TensorData::new(values, [batch, height, width, channels]));
    let stride = |n: usize| isize::try_from(n).expect("a tensor fits in memory");
    let layout = Layout::new(
        Shape::from([batch, channels, height, width]),
        vec![stride(height * width * channels), 1, stride(width * channels), stride(channels)],
        0,
    );
    wrap(tensor.with_layout(layout))
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
