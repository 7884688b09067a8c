//! Comparisons that neither forgive a wrong shape nor a NaN.

use burn::tensor::Tensor;

use crate::Recorded;

/// How far a tensor is from the recorded one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The largest absolute difference.
    pub max_abs: f64,
    /// `max_abs` over `max(1, largest recorded magnitude)`.
    pub relative: f64,
    /// Flat index of the worst element.
    pub worst: usize,
}

/// Compares values with recorded ones.
///
/// # Panics
///
/// When the lengths differ or a value is not finite.
pub fn compare(actual: &[f32], expected: &[f32]) -> Comparison {
    assert_eq!(actual.len(), expected.len(), "the number of values differs");
    let mut result = Comparison { max_abs: 0.0, relative: 0.0, worst: 0 };
    let mut scale = 1.0f64;
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        assert!(a.is_finite() && e.is_finite(), "element {i} is {a}, recorded {e}");
        let difference = (f64::from(a) - f64::from(e)).abs();
        if difference > result.max_abs {
            result = Comparison { max_abs: difference, worst: i, ..result };
        }
        scale = scale.max(f64::from(e).abs());
    }
    Comparison { relative: result.max_abs / scale, ..result }
}

/// Demands that `actual` has the recorded shape and stays within `bound` of the recorded values, relative to
/// `max(1, largest recorded magnitude)`.
///
/// # Panics
///
/// When it does not.
pub fn assert_close<const D: usize>(
    actual: &Tensor<D>,
    recorded: &Recorded,
    name: &str,
    bound: f64,
) -> Comparison {
    assert_eq!(actual.dims().as_slice(), recorded.shape(name), "the shape of {name}");
    let values = actual.to_data_as::<f32>().try_to_vec::<f32>().expect("32-bit floats");
    let expected = recorded.floats(name);
    let comparison = compare(&values, &expected);
    assert!(
        comparison.relative <= bound,
        "{name}: element {} is {}, recorded {}: relative error {:.2e} exceeds {bound:.1e}",
        comparison.worst,
        values[comparison.worst],
        expected[comparison.worst],
        comparison.relative
    );
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_relative_to_the_largest_value_but_at_least_to_one() {
        let large = compare(&[10.0, 1.0], &[10.0, 1.5]);
        assert_eq!((large.max_abs, large.relative, large.worst), (0.5, 0.05, 1));
        assert_eq!(compare(&[0.25], &[0.0]).relative, 0.25);
    }

    #[test]
    #[should_panic(expected = "element 1 is NaN")]
    fn a_nan_never_passes() {
        compare(&[0.0, f32::NAN], &[0.0, f32::NAN]);
    }
}
