//! Distances between the made pictures and the real ones, by features of a network.

use ndarray::{Array2, ArrayView2, Axis};
use rand::seq::index;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::Serialize;
use unclip_core::Error as CoreError;

use super::rows;
use crate::Result;

/// A mean with the standard deviation of what it is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanAndDeviation {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, dividing by the count.
    pub deviation: f64,
}

/// Kernel inception distance (Bińkowski et al. 2018, "Demystifying MMD GANs"): the unbiased estimate of the squared
/// maximum mean discrepancy with the kernel `(x·y / width + 1)³`. It may be slightly negative.
///
/// On features of one's own it compares runs with each other, and not with numbers from papers.
///
/// # Shapes
///
/// - `real`: `[pictures, width]`; `made`: `[pictures, width]`
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when widths differ, a number is not finite, or there are fewer than two rows.
pub fn kid(real: ArrayView2<'_, f32>, made: ArrayView2<'_, f32>) -> Result<f64> {
    let (real, made) = rows::pair(("real", real), ("made", made))?;
    at_least_two(&real, &made)?;
    Ok(unbiased(&real, &made))
}

/// [`kid`] over `subsets` random subsets of `size` rows each, which the literature reports with its deviation.
///
/// # Shapes
///
/// - as [`kid`]
///
/// # Errors
///
/// As [`kid`]; also when `size` is below 2 or above either count, or `subsets` is 0.
pub fn kid_of_subsets(
    real: ArrayView2<'_, f32>,
    made: ArrayView2<'_, f32>,
    size: usize,
    subsets: usize,
    seed: u64,
) -> Result<MeanAndDeviation> {
    let (real, made) = rows::pair(("real", real), ("made", made))?;
    let most = real.nrows().min(made.nrows());
    if size < 2 || size > most {
        return Err(CoreError::invalid("size", size, format!("2 to {most}")).into());
    }
    if subsets == 0 {
        return Err(CoreError::invalid("subsets", 0, "1 or more").into());
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut pick = |rows: &Array2<f64>| {
        rows.select(Axis(0), &index::sample(&mut rng, rows.nrows(), size).into_vec())
    };
    let values: Vec<f64> = (0..subsets).map(|_| unbiased(&pick(&real), &pick(&made))).collect();
    let mean = values.iter().sum::<f64>() / subsets as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / subsets as f64;
    Ok(MeanAndDeviation { mean, deviation: variance.sqrt() })
}

/// CLIP maximum mean discrepancy (Jayasumana et al. 2024): the squared discrepancy of features of length 1, with the
/// Gaussian kernel of width `sigma`, times 1000.
///
/// As in the published implementation the estimate is the one of least variance, which counts each picture with itself.
/// The paper's `sigma` is 10, for CLIP ViT-L/14 at 336 pixels.
///
/// # Shapes
///
/// - as [`kid`]
///
/// # Errors
///
/// As [`kid`]; also when `sigma` is not above 0.
pub fn cmmd(real: ArrayView2<'_, f32>, made: ArrayView2<'_, f32>, sigma: f64) -> Result<f64> {
    if !(sigma > 0.0 && sigma.is_finite()) {
        return Err(CoreError::invalid("sigma", sigma, "a finite number above 0").into());
    }
    let (real, made) = rows::pair(("real", real), ("made", made))?;
    at_least_two(&real, &made)?;
    let [real, made] = [real, made].map(rows::normalise);
    let mean_kernel = |a: &Array2<f64>, b: &Array2<f64>| {
        // |a − b|² of rows of length 1, and of rows of zeros, from their products.
        let [aa, bb] = [a, b].map(|rows| (rows * rows).sum_axis(Axis(1)));
        let mut kernel = a.dot(&b.t());
        for ((row, column), value) in kernel.indexed_iter_mut() {
            let squared = (aa[row] + bb[column] - 2.0 * *value).max(0.0);
            *value = (-squared / (2.0 * sigma * sigma)).exp();
        }
        kernel.sum() / kernel.len() as f64
    };
    let within = mean_kernel(&real, &real) + mean_kernel(&made, &made);
    Ok(1000.0 * (within - 2.0 * mean_kernel(&real, &made)))
}

fn at_least_two(real: &Array2<f64>, made: &Array2<f64>) -> Result<()> {
    for (field, rows) in [("real", real.nrows()), ("made", made.nrows())] {
        if rows < 2 {
            return Err(CoreError::invalid(field, format_args!("{rows} rows"), "2 or more").into());
        }
    }
    Ok(())
}

/// The unbiased estimate with the cubic kernel.
fn unbiased(real: &Array2<f64>, made: &Array2<f64>) -> f64 {
    let width = real.ncols() as f64;
    let kernel =
        |a: &Array2<f64>, b: &Array2<f64>| a.dot(&b.t()).mapv(|v| (v / width + 1.0).powi(3));
    let within = |rows: &Array2<f64>| {
        let kernel = kernel(rows, rows);
        let count = rows.nrows() as f64;
        (kernel.sum() - kernel.diag().sum()) / (count * (count - 1.0))
    };
    let across = kernel(real, made);
    within(real) + within(made) - 2.0 * across.sum() / across.len() as f64
}

#[cfg(test)]
mod tests {
    use unclip_core::{
        Stage,
        noise::{CounterNoise, NoiseSource},
    };

    use super::*;
    use crate::metrics::reference::{assert_near, waves};

    #[test]
    fn kid_is_that_of_scikit_learns_kernel() {
        let (real, made) = (waves(40, 8, 0.0), waves(31, 8, 1.0).mapv(|v| v * v));
        assert_near(kid(real.view(), made.view()).expect("valid"), KID, 1e-6);
        let subsets = kid_of_subsets(real.view(), made.view(), 20, 200, 3).expect("valid");
        assert!(
            (subsets.mean - KID).abs() < 4.0 * subsets.deviation / 200_f64.sqrt(),
            "{subsets:?}"
        );
        assert!(subsets.deviation > 0.0, "{subsets:?}");
    }

    #[test]
    fn cmmd_is_that_of_scikit_learns_kernel() {
        let (real, made) = (waves(40, 8, 0.0), waves(31, 8, 1.0).mapv(|v| v * v));
        assert_near(cmmd(real.view(), made.view(), 10.0).expect("valid"), CMMD_10, 1e-6);
        assert_near(cmmd(real.view(), made.view(), 0.5).expect("valid"), CMMD_HALF, 1e-4);
        assert_near(cmmd(real.view(), real.view(), 10.0).expect("valid"), 0.0, 1e-9);
    }

    #[test]
    fn samples_of_one_distribution_are_at_no_distance_on_average() {
        let values = CounterNoise::new(&[4], Stage::Encode).draw(&[1, 600 * 8]).expect("valid");
        let all = Array2::from_shape_vec((600, 8), values).expect("600 rows");
        let rows = |start: usize| all.slice_axis(Axis(0), ndarray::Slice::from(start..start + 20));
        let distances: Vec<f64> =
            (0..600).step_by(40).map(|at| kid(rows(at), rows(at + 20)).expect("valid")).collect();
        let count = distances.len() as f64;
        let mean = distances.iter().sum::<f64>() / count;
        let deviation = (distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / count).sqrt();
        assert!(mean.abs() < 3.0 * deviation / count.sqrt(), "{mean} with {deviation}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let rows = waves(4, 3, 0.0);
        let one = waves(1, 3, 0.0);
        assert!(kid(rows.view(), one.view()).is_err(), "one row");
        assert!(cmmd(rows.view(), rows.view(), 0.0).is_err(), "no width");
        assert!(kid_of_subsets(rows.view(), rows.view(), 5, 1, 0).is_err(), "more than there are");
        assert!(kid_of_subsets(rows.view(), rows.view(), 2, 0, 0).is_err(), "no subsets");
    }

    const KID: f64 = 0.913_712_780_5;
    const CMMD_10: f64 = 7.139_371_187;
    const CMMD_HALF: f64 = 320.178_302_3;
}
