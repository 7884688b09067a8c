//! Numbers that `tests/metrics_reference.py` makes too, so that metrics are checked against NumPy, SciPy, scikit-learn
//! and scikit-image.

use ndarray::Array2;

/// Rows that are unlike each other and shift smoothly.
#[expect(clippy::cast_possible_truncation, reason = "embeddings are 32 bits wide")]
pub(super) fn waves(rows: usize, width: usize, shift: f64) -> Array2<f32> {
    Array2::from_shape_fn((rows, width), |(row, column)| {
        let (row, column) = (row as f64, column as f64);
        (1.7 * row + 0.9 * column + 0.31 * row * column + shift).sin() as f32
    })
}

pub(super) fn assert_near(found: f64, expected: f64, bound: f64) {
    assert!((found - expected).abs() <= bound, "{found}, expected {expected} within {bound}");
}
