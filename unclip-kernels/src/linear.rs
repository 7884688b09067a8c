//! The linear layer, a convolution with one tap over rows instead of pixels.

use crate::{
    conv::Conv,
    cpu::Path,
    element::Element,
    epilogue::Epilogue,
    pack::Weights,
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

/// Rows as a picture one pixel wide, so that a tile takes any number of them.
fn rows_of(rows: usize) -> Size {
    Size::new(1, rows, 1)
}
