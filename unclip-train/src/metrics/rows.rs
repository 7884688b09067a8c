//! Rows of embeddings, checked and normalised.

use ndarray::{Array2, ArrayView2, Axis};
use unclip_core::Error as CoreError;

use crate::Result;

/// Two sets of rows as 64-bit numbers, if their widths agree and every number is finite.
pub(super) fn pair(
    a: (&'static str, ArrayView2<'_, f32>),
    b: (&'static str, ArrayView2<'_, f32>),
) -> Result<(Array2<f64>, Array2<f64>)> {
    if a.1.ncols() != b.1.ncols() {
        let expected = format!("{}, the width of `{}`", b.1.ncols(), b.0);
        return Err(CoreError::invalid(a.0, format_args!("{} wide", a.1.ncols()), expected).into());
    }
    Ok((checked(a.0, a.1)?, checked(b.0, b.1)?))
}

/// Rows as 64-bit numbers, if there are some and every number is finite.
pub(super) fn checked(field: &'static str, rows: ArrayView2<'_, f32>) -> Result<Array2<f64>> {
    if rows.is_empty() {
        let found = format_args!("{} × {}", rows.nrows(), rows.ncols());
        return Err(CoreError::invalid(field, found, "at least one row of one number").into());
    }
    match rows.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(CoreError::invalid(field, value, "finite numbers").into()),
        None => Ok(rows.mapv(f64::from)),
    }
}

/// Scales every row to length 1; a row of zeros stays.
pub(super) fn normalise(mut rows: Array2<f64>) -> Array2<f64> {
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row /= norm;
        }
    }
    rows
}

/// The error where two lists describe the same rows and differ in length.
pub(super) fn same_rows(field: &'static str, found: usize, expected: usize) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => {
            Err(CoreError::invalid(field, format_args!("{found} rows"), expected.to_string())
                .into())
        }
    }
}
