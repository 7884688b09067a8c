//! Convolution and the two resamplings of the UNet.

use burn::{
    module::Param,
    tensor::{
        Tensor,
        activation::relu,
        module,
        ops::{
            AvgPoolOptions, ConvOptions, InterpolateMode, InterpolateOptions, MaxPoolOptions,
            PadMode,
        },
    },
};

use super::{Affine, Weight, apply, widen};

/// A change of resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// Mean over 2 × 2 windows.
    Down,
    /// Nearest-neighbour doubling.
    Up,
}

/// The parameters of a two-dimensional convolution with equal stride and padding on both axes.
#[derive(Debug, Clone, Copy)]
pub struct Convolution<'a> {
    /// `[channels_out, channels_in, kernel, kernel]`.
    pub weight: &'a Weight<4>,
    /// `[channels_out]`.
    pub bias: Option<&'a Param<Tensor<1>>>,
    /// Step between outputs.
    pub stride: usize,
    /// Zeros added on every side.
    pub padding: usize,
}

/// What a convolution reads, and what is done on the way in and out.
///
/// In this order: [normalise](Self::affine), [SiLU](Self::silu), [resample](Self::resample), the convolution,
/// [add to channels](Self::add_each), [add a residual](Self::residual), [rectify](Self::rectify). A processor does all of
/// it in one pass.
#[derive(Debug, Clone)]
#[must_use]
pub struct ConvInput {
    pub(super) x: Tensor<4>,
    pub(super) affine: Option<Affine>,
    pub(super) silu: bool,
    pub(super) resample: Option<Resample>,
    pub(super) added: Option<Tensor<2>>,
    pub(super) residual: Option<Tensor<4>>,
    pub(super) rectified: bool,
}

impl ConvInput {
    /// `[batch, channels_in, height, width]`, as it is.
    pub fn new(x: Tensor<4>) -> Self {
        Self {
            x,
            affine: None,
            silu: false,
            resample: None,
            added: None,
            residual: None,
            rectified: false,
        }
    }

    /// Scales and shifts the input.
    pub fn affine(mut self, affine: Affine) -> Self {
        self.affine = Some(affine);
        self
    }

    /// Applies [`silu`](super::silu()) to the input.
    pub fn silu(mut self) -> Self {
        self.silu = true;
        self
    }

    /// Changes the input's resolution.
    pub fn resample(mut self, resample: Option<Resample>) -> Self {
        self.resample = resample;
        self
    }

    /// Adds `[batch, channels_out]` to every pixel of the output.
    pub fn add_each(mut self, added: Tensor<2>) -> Self {
        self.added = Some(added);
        self
    }

    /// Adds a tensor of the output's shape.
    pub fn residual(mut self, residual: Tensor<4>) -> Self {
        self.residual = Some(residual);
        self
    }

    /// Sets negative values of the output to zero, after all else (ReLU).
    pub fn rectify(mut self) -> Self {
        self.rectified = true;
        self
    }
}

impl Convolution<'_> {
    /// Applies the convolution.
    ///
    /// # Shapes
    ///
    /// - output: `[batch, channels_out, (height + 2·padding − kernel) / stride + 1, ..]`, of the resampled height
    ///
    /// # Panics
    ///
    /// When the channels of input and weight differ, or what is added does not have the output's shape.
    pub fn apply(&self, input: ConvInput) -> Tensor<4> {
        let bias = self.bias.map(Param::val);
        #[cfg(any(feature = "flex", test))]
        if let Some(out) = super::kernels::conv2d(&input, self, bias.as_ref()) {
            return out;
        }
        let ConvInput { x, affine, silu, resample, added, residual, rectified } = input;
        let x = match affine {
            Some(affine) => apply(x, &affine, silu),
            None if silu => super::silu(x),
            None => x,
        };
        let x = match resample {
            Some(Resample::Down) => avg_pool_2x2(x),
            Some(Resample::Up) => upsample_nearest_2x(x),
            None => x,
        };
        let weight = widen(self.weight.val(), &x);
        let bias = bias.map(|bias| widen(bias, &x));
        let options = ConvOptions::new([self.stride; 2], [self.padding; 2], [1, 1], 1);
        let out = module::conv2d(x, weight, bias, options);
        let out = match added {
            Some(added) => {
                let added = widen(added, &out);
                out + added.unsqueeze_dims::<4>(&[2, 3])
            }
            None => out,
        };
        let out = match residual {
            Some(residual) => out + residual,
            None => out,
        };
        if rectified { relu(out) } else { out }
    }
}

/// Changes the resolution.
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - output: both axes halved or doubled
pub fn resample(x: Tensor<4>, by: Resample) -> Tensor<4> {
    match by {
        Resample::Down => avg_pool_2x2(x),
        Resample::Up => upsample_nearest_2x(x),
    }
}

/// Mean over 2 × 2 windows, stride 2: halves both axes (an odd last row or column is dropped).
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, channels, height / 2, width / 2]`
pub fn avg_pool_2x2(x: Tensor<4>) -> Tensor<4> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::avg_pool_2x2(&x) {
        return out;
    }
    module::avg_pool2d(x, AvgPoolOptions::new([2, 2]).with_stride([2, 2]))
}

/// The largest value of each window of 3 × 3, stride 2; the last windows reach beyond the picture where its side is even,
/// as Caffe's do.
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`, sides of at least 3
/// - output: `[batch, channels, height / 2, width / 2]`
pub fn max_pool_3x3(x: Tensor<4>) -> Tensor<4> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::max_pool_3x3(&x) {
        return out;
    }
    let [_, _, height, width] = x.dims();
    let beyond = |side: usize| (0, 1 - side % 2);
    let x = x.pad([beyond(height), beyond(width)], PadMode::Constant(f32::NEG_INFINITY));
    module::max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([2, 2]))
}

/// Doubles both axes by repeating each value.
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, channels, 2·height, 2·width]`
pub fn upsample_nearest_2x(x: Tensor<4>) -> Tensor<4> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::upsample_nearest_2x(&x) {
        return out;
    }
    let [_, _, height, width] = x.dims();
    let options =
        InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([2 * height, 2 * width]);
    module::interpolate(x, options)
}

/// Puts the channels of `right` behind those of `left`.
///
/// # Shapes
///
/// - `left`, `right`: `[batch, channels, height, width]` with channels of their own
/// - output: both channels
///
/// # Panics
///
/// When another axis differs.
pub fn join_channels(left: Tensor<4>, right: Tensor<4>) -> Tensor<4> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::join_channels(&left, &right) {
        return out;
    }
    Tensor::cat(vec![left, right], 1)
}

/// `left + right` of pictures that may lie in memory differently.
///
/// # Panics
///
/// When their shapes differ.
pub fn add(left: Tensor<4>, right: Tensor<4>) -> Tensor<4> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::add(&left, &right) {
        return out;
    }
    left + right
}
