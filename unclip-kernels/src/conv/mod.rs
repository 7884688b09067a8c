//! Two-dimensional convolution, and everything that is one.
//!
//! A convolution is a product of matrices whose left side has a row for each output pixel; see [`forward`] for how
//! that matrix is never built. A linear layer is a convolution with one tap, the gradient of a convolution's input
//! is a convolution with [transposed weights](Weights::conv_transposed).

mod forward;
mod patches;
mod plan;
mod weight_gradient;
mod winograd;

use half::bf16;

use crate::{
    cpu::Path,
    element::Element,
    epilogue::{Epilogue, Output},
    pack::{Data, Format, Weights},
    stage::{Grid, Input, Resample, Size},
};
use patches::Patches;

/// A convolution with a square kernel, equal stride and equal padding on both axes, channels last.
///
/// ```
/// use unclip_kernels::{Conv, Epilogue, Format, Input, Size, Weights, cpu::Path};
///
/// // Sums over 3 × 3 neighbourhoods.
/// let weights = Weights::conv(&[1.0f32; 9], [1, 1, 3, 3], Format::F32);
/// let conv = Conv::new(3).padding(1);
/// let size = Size::new(1, 2, 3);
/// let mut sums = [0.0f32; 6];
/// conv.forward(Path::chosen(), &weights, Input::new(&[1.0f32; 6], size), Epilogue::new(), &mut sums);
/// assert_eq!(sums, [4.0, 6.0, 4.0, 4.0, 6.0, 4.0]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conv {
    kernel: usize,
    stride: usize,
    padding: usize,
    resample: Resample,
}

/// A convolution as the driver sees it: where the window of each output pixel begins, and what it steps over.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    grid: Grid,
    /// Row and column of the first window; negative in the padding.
    origin: isize,
    stride: usize,
    output: Size,
}

impl Conv {
    /// A convolution with stride 1, without padding.
    ///
    /// # Panics
    ///
    /// When `kernel` is 0.
    pub fn new(kernel: usize) -> Self {
        assert!(kernel > 0, "a kernel has at least one tap");
        Self { kernel, stride: 1, padding: 0, resample: Resample::Keep }
    }

    /// Steps over `stride` pixels on both axes.
    ///
    /// # Panics
    ///
    /// When `stride` is 0.
    #[must_use]
    pub fn stride(mut self, stride: usize) -> Self {
        assert!(stride > 0, "a convolution cannot stand still");
        self.stride = stride;
        self
    }

    /// Surrounds the picture with `padding` rows and columns of zeros.
    #[must_use]
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = padding;
        self
    }

    /// Changes the resolution of the input in front of the convolution.
    #[must_use]
    pub fn resample(mut self, resample: Resample) -> Self {
        self.resample = resample;
        self
    }

    /// The change of resolution in front of the convolution.
    pub fn resampling(&self) -> Resample {
        self.resample
    }

    /// The size of what the convolution sees of an input of size `input`, after the change of resolution.
    pub fn seen_size(&self, input: Size) -> Size {
        let grid = Grid::Resampled(self.resample);
        let (height, width) = (grid.extent(input.height), grid.extent(input.width));
        Size { batch: input.batch, height, width }
    }

    /// The size of the output for an input of size `input`; empty where the kernel does not fit in it.
    pub fn output_size(&self, input: Size) -> Size {
        let grid = Grid::Resampled(self.resample);
        let extent = |len: usize| {
            let padded = grid.extent(len).saturating_add(self.padding.saturating_mul(2));
            let room = padded.checked_sub(self.kernel);
            room.map_or(0, |room| room / self.stride + 1)
        };
        Size { batch: input.batch, height: extent(input.height), width: extent(input.width) }
    }

    /// Computes the convolution.
    ///
    /// # Shapes
    ///
    /// - `input`: `[batch, height, width, channels_in]`
    /// - `output`: `[batch, height, width, channels_out]` of [`output_size`](Self::output_size)
    ///
    /// # Panics
    ///
    /// When a length differs from these shapes, an operand of `epilogue` from the output's, or the kernel of `weights`
    /// from this one.
    pub fn forward<T: Element, U: Element>(
        &self,
        path: Path,
        weights: &Weights,
        input: Input<'_, T>,
        epilogue: Epilogue<'_, U>,
        output: &mut [U],
    ) {
        self.check(weights);
        if let Some(patches) = Patches::of_input(self, &input, weights.channels_in()) {
            return patches.forward(path, weights, &input, epilogue, output);
        }
        let geometry = Geometry {
            grid: Grid::Resampled(self.resample),
            origin: 0isize.saturating_sub_unsigned(self.padding),
            stride: self.stride,
            output: self.output_size(input.size),
        };
        run(path, weights, &geometry, &input, epilogue, output);
    }

    /// Computes the gradient of the input: a convolution of the output's gradient, its pixels spread by the stride.
    ///
    /// With a change of resolution this is the gradient of what the convolution sees after it.
    ///
    /// # Shapes
    ///
    /// - `transposed`: packed by [`Weights::conv_transposed`]
    /// - `gradient`: `[batch, height, width, channels_out]`, of the output
    /// - `output`: `[batch, height, width, channels_in]` of size `input`, of what the convolution sees
    ///
    /// # Panics
    ///
    /// When a length differs from these shapes, `gradient` is not of the size that `input` leads to, or the kernel of
    /// `transposed` differs from this one.
    pub fn input_gradient<T: Element, U: Element>(
        &self,
        path: Path,
        transposed: &Weights,
        gradient: Input<'_, T>,
        input: Size,
        output: &mut [U],
    ) {
        self.check(transposed);
        let expected = self.resample(Resample::Keep).output_size(input);
        assert!(
            gradient.size == expected,
            "the gradient is of {:?}, an input of {input:?} leads to {expected:?}",
            gradient.size
        );
        let kept = self.resample(Resample::Keep);
        if let Some(patches) = Patches::new(&kept, input, transposed.channels_out()) {
            return patches.input_gradient(path, transposed, gradient, output);
        }
        let reach = self.kernel - 1;
        let geometry = Geometry {
            grid: if self.stride == 1 {
                Grid::Resampled(Resample::Keep)
            } else {
                Grid::Spread(self.stride)
            },
            origin: 0isize.saturating_sub_unsigned(reach).saturating_add_unsigned(self.padding),
            stride: 1,
            output: input,
        };
        run(path, transposed, &geometry, &gradient, Epilogue::new(), output);
    }

    /// Computes the gradient of the weights.
    ///
    /// # Shapes
    ///
    /// - `input`: `[batch, height, width, channels_in]`, as the forward pass read it
    /// - `gradient`: `[batch, height, width, channels_out]`, of the output
    /// - `output`: `[channels_out, channels_in, kernel, kernel]`
    ///
    /// # Panics
    ///
    /// When `gradient` is not of the size that `input` leads to, or no whole numbers of channels make the lengths fit.
    pub fn weight_gradient<T: Element, U: Element>(
        &self,
        path: Path,
        format: Format,
        input: Input<'_, T>,
        gradient: Input<'_, U>,
        output: &mut [f32],
    ) {
        let expected = self.output_size(input.size);
        assert!(
            gradient.size == expected,
            "the gradient is of {:?}, an input of {:?} leads to {expected:?}",
            gradient.size,
            input.size
        );
        let channels = input.values.len() / input.size.pixels().max(1);
        if let Some(patches) = Patches::of_input(self, &input, channels) {
            return patches.weight_gradient(path, format, &input, gradient, output);
        }
        match format {
            Format::F32 => weight_gradient::run::<f32, _, _>(path, self, &input, &gradient, output),
            Format::Bf16 => {
                weight_gradient::run::<bf16, _, _>(path, self, &input, &gradient, output);
            }
        }
    }

    /// # Panics
    ///
    /// When the kernel of `weights` is another one.
    fn check(&self, weights: &Weights) {
        assert!(
            weights.kernel() == [self.kernel; 2],
            "weights of a kernel of {:?} for a convolution with {} × {}",
            weights.kernel(),
            self.kernel,
            self.kernel
        );
    }
}

/// Computes a convolution in the format of its weights.
///
/// # Panics
///
/// When the length of `input`, of `output` or of an operand of `epilogue` does not fit the sizes.
fn run<T: Element, U: Element>(
    path: Path,
    weights: &Weights,
    geometry: &Geometry,
    input: &Input<'_, T>,
    epilogue: Epilogue<'_, U>,
    output: &mut [U],
) {
    input.check(weights.channels_in());
    let output = &Output::new(output, geometry.output, weights.channels_out(), epilogue);
    if geometry.output.pixels() == 0 {
        return;
    }
    match &weights.data {
        Data::F32(packed) if winograd::suits(path, packed, geometry) => {
            winograd::run(path, packed, geometry, input, output);
        }
        Data::F32(packed) => {
            forward::run(path, packed, geometry, input, output);
        }
        Data::Bf16(packed) => {
            forward::run(path, packed, geometry, input, output);
        }
    }
}
