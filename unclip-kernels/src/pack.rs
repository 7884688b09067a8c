//! Weights in the order in which kernels read them.
//!
//! A layer's weights become *panels* of 16 output channels. Within a panel come the rows of the kernel, the input
//! channels in chunks of 32, the columns of the kernel, the channels of the chunk, and the 16 columns: reading a panel
//! from front to back meets the same input pixels at three neighbouring columns in a row, while they are in the
//! first-level cache. In bf16, two neighbouring channels lie side by side, as both AVX-512 and AMX want them, and
//! channels are padded with zeros to a multiple of 32. All paths read the same order, so packed weights fit them all.

use half::bf16;

use crate::{
    element::Element,
    gemm::{CHUNK, Compute, Step, TILE},
    reorder,
    room::Room,
};

/// The number type of packed weights, and with it of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit floats throughout.
    F32,
    /// Weights and staged activations rounded to bf16, sums in f32.
    Bf16,
}

/// The weights of a convolution or of a linear layer, packed.
///
/// This is the only copy that a layer needs. Shapes follow PyTorch: `[channels_out, channels_in, rows, columns]`
/// for a convolution, `[channels_out, channels_in]` for a linear layer, which is a convolution with one tap.
///
/// ```
/// use unclip_kernels::{Format, Weights};
///
/// let weights = Weights::conv(&[1.0f32; 8 * 4 * 3 * 3], [8, 4, 3, 3], Format::Bf16);
/// assert_eq!((weights.channels_in(), weights.channels_out(), weights.kernel()), (4, 8, [3, 3]));
/// ```
#[derive(Debug, Clone)]
pub struct Weights {
    pub(crate) data: Data,
}

/// Packed weights of either format.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    F32(Packed<f32>),
    Bf16(Packed<bf16>),
}

/// Packed weights of one format.
#[derive(Debug, Clone)]
pub(crate) struct Packed<S: Compute> {
    pub(crate) values: Room<S>,
    /// Rows and columns of the kernel.
    pub(crate) kernel: [usize; 2],
    /// Channels that are summed over.
    pub(crate) depth: usize,
    /// Channels of the output.
    pub(crate) columns: usize,
}

impl Weights {
    /// Packs a convolution's weights.
    ///
    /// # Panics
    ///
    /// When the number of values is not what `shape` says, or an axis of it is 0.
    pub fn conv<T: Element>(values: &[T], shape: [usize; 4], format: Format) -> Self {
        let [columns, depth, rows, cols] = checked(values, shape);
        let data = match format {
            Format::F32 => Data::F32(reorder::pack(values, [rows, cols], depth, columns)),
            Format::Bf16 => Data::Bf16(reorder::pack(values, [rows, cols], depth, columns)),
        };
        Self { data }
    }

    /// Packs a convolution's weights for the gradient of its input: output and input channels change places, and the
    /// taps are turned by half a turn.
    ///
    /// # Panics
    ///
    /// As [`conv`](Self::conv).
    pub fn conv_transposed<T: Element>(values: &[T], shape: [usize; 4], format: Format) -> Self {
        let [depth, columns, rows, cols] = checked(values, shape);
        let data = match format {
            Format::F32 => {
                Data::F32(reorder::pack_transposed(values, [rows, cols], depth, columns))
            }
            Format::Bf16 => {
                Data::Bf16(reorder::pack_transposed(values, [rows, cols], depth, columns))
            }
        };
        Self { data }
    }

    /// Packs a linear layer's weights.
    ///
    /// # Panics
    ///
    /// As [`conv`](Self::conv).
    pub fn linear<T: Element>(values: &[T], shape: [usize; 2], format: Format) -> Self {
        Self::conv(values, [shape[0], shape[1], 1, 1], format)
    }

    /// Packs a linear layer's weights for the gradient of its input.
    ///
    /// # Panics
    ///
    /// As [`conv`](Self::conv).
    pub fn linear_transposed<T: Element>(values: &[T], shape: [usize; 2], format: Format) -> Self {
        Self::conv_transposed(values, [shape[0], shape[1], 1, 1], format)
    }

    /// The number type of the products.
    pub fn format(&self) -> Format {
        match self.data {
            Data::F32(_) => Format::F32,
            Data::Bf16(_) => Format::Bf16,
        }
    }

    /// Channels of the input.
    pub fn channels_in(&self) -> usize {
        match &self.data {
            Data::F32(packed) => packed.depth,
            Data::Bf16(packed) => packed.depth,
        }
    }

    /// Channels of the output.
    pub fn channels_out(&self) -> usize {
        match &self.data {
            Data::F32(packed) => packed.columns,
            Data::Bf16(packed) => packed.columns,
        }
    }

    /// Rows and columns of the kernel.
    pub fn kernel(&self) -> [usize; 2] {
        match &self.data {
            Data::F32(packed) => packed.kernel,
            Data::Bf16(packed) => packed.kernel,
        }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::F32(packed) => size_of_val::<[f32]>(&packed.values),
            Data::Bf16(packed) => size_of_val::<[bf16]>(&packed.values),
        }
    }
}

/// `shape`, once it fits `values`.
fn checked<T>(values: &[T], shape: [usize; 4]) -> [usize; 4] {
    let len = shape.iter().try_fold(1usize, |len, axis| len.checked_mul(*axis));
    assert!(
        len == Some(values.len()) && !values.is_empty(),
        "weights of shape {shape:?} cannot have {} values",
        values.len()
    );
    shape
}

impl<S: Compute> Packed<S> {
    /// Values of one panel.
    pub(crate) fn panel_len(&self) -> usize {
        panel_len::<S>(self.kernel, self.depth)
    }

    /// Panels, the last of which may be part zeros.
    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(TILE)
    }
}

/// Values of a panel of a layer of these sizes.
pub(crate) fn panel_len<S: Compute>(kernel: [usize; 2], depth: usize) -> usize {
    kernel[0] * kernel[1] * S::padded(depth) * TILE
}

/// Calls `run(row, column, first channel, channels)` for every run of a panel, in order.
pub(crate) fn for_each_run<S: Compute>(
    kernel: [usize; 2],
    depth: usize,
    mut run: impl FnMut(usize, usize, usize, usize),
) {
    let padded = S::padded(depth);
    for row in 0..kernel[0] {
        for first in (0..padded).step_by(CHUNK) {
            for col in 0..kernel[1] {
                run(row, col, first, CHUNK.min(padded - first));
            }
        }
    }
}

/// Values of a step, at most: short enough for panels of several to stay in the first-level cache.
const LONGEST: usize = 3 * CHUNK;

/// The steps through a panel, for an input staged with `row` values to a row and `pixel` to a pixel.
pub(crate) fn steps<S: Compute>(
    kernel: [usize; 2],
    depth: usize,
    row: usize,
    pixel: usize,
) -> Vec<Step> {
    let mut steps = Vec::with_capacity(kernel[0] * kernel[1] * depth.div_ceil(CHUNK));
    for_each_run::<S>(kernel, depth, |below, right, first, len| {
        let offset = below * row + right * pixel + first;
        match steps.last_mut() {
            // Neighbours without anything between them, of few channels, are one run.
            Some(Step { offset: before, len: so_far })
                if S::UNIT == 1 && *before + *so_far == offset && *so_far + len <= LONGEST =>
            {
                *so_far += len;
            }
            _ => steps.push(Step { offset, len }),
        }
    });
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::upto;

    fn sorted<S: Compute>(values: &[S]) -> Vec<f32> {
        let mut values: Vec<_> = values.iter().map(|v| v.widen()).filter(|v| *v != 0.0).collect();
        values.sort_by(f32::total_cmp);
        values
    }

    proptest! {
        #[test]
        fn every_weight_is_packed_once(
            columns in upto(40), depth in upto(70), rows in 1usize..4, cols in 1usize..4,
        ) {
            let len = columns * depth * rows * cols;
            // Small whole numbers are exact in bf16 too.
            let values: Vec<f32> = (0..len).map(|i| (i % 255 + 1) as f32).collect();
            let shape = [columns, depth, rows, cols];
            for weights in [
                Weights::conv(&values, shape, Format::F32),
                Weights::conv_transposed(&values, shape, Format::F32),
                Weights::conv(&values, shape, Format::Bf16),
            ] {
                let packed = match &weights.data {
                    Data::F32(packed) => sorted(&packed.values),
                    Data::Bf16(packed) => sorted(&packed.values),
                };
                prop_assert_eq!(packed, sorted(&values));
            }
        }
    }

    #[test]
    fn a_panel_holds_pairs_of_channels_column_by_column() {
        // Weight = 10 · column + channel.
        let values: Vec<f32> = (0..3 * 4).map(|i| (10 * (i / 4) + i % 4) as f32).collect();
        let weights = Weights::linear(&values, [3, 4], Format::Bf16);
        let Data::Bf16(packed) = &weights.data else { panic!("asked for bf16") };
        let row: Vec<_> = packed.values[..6].iter().map(|v| v.to_f32()).collect();
        assert_eq!(row, [0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
        assert_eq!(packed.values[2 * TILE].to_f32(), 2.0);
        assert_eq!(packed.values.len(), TILE * CHUNK);
    }

    #[test]
    #[should_panic(expected = "cannot have 5 values")]
    fn a_wrong_number_of_weights_is_refused() {
        Weights::linear(&[0.0f32; 5], [2, 3], Format::F32);
    }
}
