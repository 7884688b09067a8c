//! Resampling kernels, and the weights of every output.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// A resampling kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The triangle: linear interpolation where a picture grows, a weighted mean where it shrinks.
    Bilinear,
    /// Keys' cubic with a = −0.5, as Pillow and PyTorch's antialiased resize have it (not the a = −0.75 of its plain
    /// one).
    Bicubic,
    /// Lanczos' windowed sine with three lobes.
    Lanczos3,
}

impl Filter {
    /// Beyond this distance the kernel is zero.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos3 => 3.0,
        }
    }

    /// The kernel at distance `x`.
    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos3 => {
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { libm::sin(x * PI) / (x * PI) }
}

/// The inputs that one output is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    /// The first input.
    pub(super) first: usize,
    /// The weights of the inputs from there on; their sum is 1.
    pub(super) weights: Vec<f64>,
}

/// A window for each of `output` values out of `input`; neither is 0.
pub(super) fn windows(input: usize, output: usize, filter: Filter) -> Vec<Window> {
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let reach = filter.support() * stretch;
    (0..output)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "positions are truncated to inputs, and clamped to those there are"
            )]
            let [first, end] = [centre - reach, centre + reach]
                .map(|edge| ((edge + 0.5).max(0.0) as usize).min(input));
            let weight = |j: usize| filter.weight((j as f64 - centre + 0.5) / stretch);
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            Window { first, weights: weights.into_iter().map(|weight| weight / sum).collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fourfold_enlargement_has_the_reference_s_rows() {
        let rows = windows(64, 256, Filter::Bicubic);
        for (row, expected) in rows.iter().zip([
            &[1.11194, -0.11194][..],
            &[1.05224, -0.05224],
            &[0.91985, 0.08667, -0.00652],
            &[0.67789, 0.36306, -0.04095],
            &[0.37325, 0.69691, -0.07016],
            &[0.0902, 0.95732, -0.04753],
            &[-0.04785, 0.96387, 0.09082, -0.00684],
        ]) {
            assert_eq!(row.weights.len(), expected.len(), "{row:?}");
            for (found, expected) in row.weights.iter().zip(expected) {
                assert!((found - expected).abs() < 6e-6, "{row:?}");
            }
        }
    }

    #[test]
    fn equal_sizes_leave_every_value_alone() {
        for filter in [Filter::Bicubic, Filter::Lanczos3] {
            for (i, window) in windows(9, 9, filter).into_iter().enumerate() {
                for (j, weight) in (window.first..).zip(window.weights) {
                    let expected = f64::from(u8::from(i == j));
                    assert!((weight - expected).abs() < 1e-12, "{filter:?} {i} {j} {weight}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn weights_sum_to_one_and_stay_inside(
            input in 1usize..600,
            output in 1usize..600,
            lanczos in any::<bool>(),
        ) {
            let filter = if lanczos { Filter::Lanczos3 } else { Filter::Bicubic };
            let rows = windows(input, output, filter);
            prop_assert_eq!(rows.len(), output);
            for row in rows {
                prop_assert!(!row.weights.is_empty() && row.first + row.weights.len() <= input);
                prop_assert!((row.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                prop_assert!(row.weights.iter().all(|weight| weight.abs() < 2.0));
            }
        }
    }
}
