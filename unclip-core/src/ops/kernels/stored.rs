//! The order in which values lie in memory, which for pictures is not that of their axes.

use burn::backend::flex::FlexTensor;
use unclip_kernels::{memory::zeros, picture::add};

use super::{contiguous, path, permute, tensor, typed, values};

/// Values in the order of their storage, for operations that treat each by itself.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Contiguous.
    pub(super) values: FlexTensor,
    /// What brings the axes of `values` into their logical order.
    axes: Vec<usize>,
}

impl Stored {
    pub(super) fn new(x: FlexTensor) -> Self {
        let identity: Vec<usize> = (0..x.layout().num_dims()).collect();
        let mut by_stride = identity.clone();
        by_stride.sort_by_key(|&axis| std::cmp::Reverse(x.layout().strides()[axis]));
        let sorted = permute(x.clone(), &by_stride);
        if sorted.is_contiguous() {
            let mut axes = identity;
            for (place, &axis) in by_stride.iter().enumerate() {
                axes[axis] = place;
            }
            Self { values: sorted, axes }
        } else {
            Self { values: contiguous(x), axes: identity }
        }
    }

    /// Values that lie as these do, in their logical order.
    pub(super) fn like(&self, values: FlexTensor) -> FlexTensor {
        permute(values, &self.axes)
    }

    /// The values of a tensor of the same logical shape, in this order of storage.
    pub(super) fn order(&self, x: FlexTensor) -> FlexTensor {
        let mut stored: Vec<usize> = self.axes.clone();
        for (axis, &place) in self.axes.iter().enumerate() {
            stored[place] = axis;
        }
        contiguous(permute(x, &stored))
    }
}

/// The sum of two tensors of one shape and type, which lies as the first does.
pub(super) fn sum(left: FlexTensor, right: FlexTensor) -> FlexTensor {
    let left = Stored::new(left);
    let right = left.order(right);
    typed!(right.dtype(), E => {
        let mut out = zeros::<E>(right.layout().num_elements());
        add::<E>(path(), values(&left.values), values(&right), &mut out);
        left.like(tensor(out, right.layout().shape().to_vec()))
    })
}
