//! Convolution and the two resamplings of the UNet.

use burn::tensor::{
    Tensor, module,
    ops::{AvgPoolOptions, ConvOptions, InterpolateMode, InterpolateOptions},
};

use super::widen;

/// Two-dimensional convolution with equal stride and padding on both axes.
///
/// # Shapes
///
/// - `x`: `[batch, channels_in, height, width]`
/// - `weight`: `[channels_out, channels_in, kernel, kernel]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, channels_out, (height + 2·padding − kernel) / stride + 1, ..]`
///
/// # Panics
///
/// When the channels of `x` and `weight` differ.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let weight = widen(weight, &x);
    let bias = bias.map(|bias| widen(bias, &x));
    module::conv2d(x, weight, bias, ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1))
}

/// Mean over 2 × 2 windows, stride 2: halves both axes (an odd last row or column is dropped).
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, channels, height / 2, width / 2]`
pub fn avg_pool_2x2(x: Tensor<4>) -> Tensor<4> {
    module::avg_pool2d(x, AvgPoolOptions::new([2, 2]).with_stride([2, 2]))
}

/// Doubles both axes by repeating each value.
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, channels, 2·height, 2·width]`
pub fn upsample_nearest_2x(x: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let options =
        InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([2 * height, 2 * width]);
    module::interpolate(x, options)
}
