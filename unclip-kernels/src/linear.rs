//! The linear layer, a convolution with one tap over rows instead of pixels.

use crate::{
    conv::Conv,
    cpu::Path,
    element::Element,
    epilogue::Epilogue,
    pack::{Format, Weights},
    stage::{Input, Size},
};

/// Computes `x · Wᵀ` and what `epilogue` adds.
///
/// # Shapes
///
/// - `x`: `[rows, channels_in]`
/// - `output`: `[rows, channels_out]`
///
/// # Panics
///
/// When a length differs from these shapes, `x` is no whole number of rows, or the weights have more than one tap.
pub fn linear<T: Element, U: Element>(
    path: Path,
    weights: &Weights,
    x: &[T],
    epilogue: Epilogue<'_, U>,
    output: &mut [U],
) {
    let rows = x.len() / weights.channels_in();
    Conv::new(1).forward(path, weights, Input::new(x, rows_of(rows)), epilogue, output);
}

/// Computes the gradient of a linear layer's weights. That of its input is [`linear`] with
/// [transposed](Weights::linear_transposed) weights.
///
/// # Shapes
///
/// - `x`: `[rows, channels_in]`
/// - `gradient`: `[rows, channels_out]`, of the output
/// - `output`: `[channels_out, channels_in]`
///
/// # Panics
///
/// When no whole numbers of channels make these lengths fit.
pub fn linear_weight_gradient<T: Element, U: Element>(
    path: Path,
    format: Format,
    rows: usize,
    x: &[T],
    gradient: &[U],
    output: &mut [f32],
) {
    let size = rows_of(rows);
    let (x, gradient) = (Input::new(x, size), Input::new(gradient, size));
    Conv::new(1).weight_gradient(path, format, x, gradient, output);
}

/// Rows as a picture one pixel wide, so that a tile takes any number of them.
fn rows_of(rows: usize) -> Size {
    Size::new(1, rows, 1)
}
