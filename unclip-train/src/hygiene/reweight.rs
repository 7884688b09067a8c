//! Weights that undo the shift of a filter.
//!
//! A filter changes more than it means to: dropping unsafe pictures drops pictures of women more often than of men
//! (OpenAI, "DALL·E 2 pre-training mitigations", 2022, "Fixing bias amplification"). Weights on what was kept restore how
//! often each thing was there before.

use std::collections::BTreeMap;

use ndarray::{ArrayView2, Axis};
use unclip_core::Error as CoreError;

use crate::{
    Result,
    ridge::{cholesky, solve},
};

/// Steps of Newton's method; each squares the error near the end.
const STEPS: usize = 25;

/// Weights of the samples that were kept, in order: within each stratum they are as much as the stratum was before, and
/// their mean is 1. No weight exceeds `most` times the mean of the others before scaling.
///
/// A stratum that was dropped whole cannot be made up for. `strata` and `kept` are of the same samples.
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when `most` is less than 1, or the lists differ in length.
///
/// ```
/// # use unclip_train::hygiene::by_stratum;
/// let strata = ["beach", "beach", "beach", "desk"];
/// let weights = by_stratum(&strata, &[true, false, false, true], 10.0)?;
/// assert_eq!(weights, [1.5, 0.5]);
/// # Ok::<(), unclip_train::Error>(())
/// ```
pub fn by_stratum<S: AsRef<str>>(strata: &[S], kept: &[bool], most: f64) -> Result<Vec<f64>> {
    check(strata.len(), kept, most)?;
    let mut counts: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (stratum, &kept) in strata.iter().zip(kept) {
        let (before, after) = counts.entry(stratum.as_ref()).or_default();
        *before += 1.0;
        *after += f64::from(u8::from(kept));
    }
    let weights = strata.iter().zip(kept).filter(|(_, kept)| **kept).map(|(stratum, _)| {
        let (before, after) = counts[stratum.as_ref()];
        before / after
    });
    Ok(scaled(weights.collect(), most))
}

/// Weights of the samples that were kept, in order, from what the samples look like: the inverse of the probability of
/// being kept, which a logistic regression learns from `features`; their mean is 1.
///
/// # Shapes
///
/// - `features`: `[samples, width]`, such as CLIP's image embeddings, of all samples
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when `most` is less than 1, `features` and `kept` differ in length, or a feature
/// is not finite.
pub fn by_features(features: ArrayView2<'_, f32>, kept: &[bool], most: f64) -> Result<Vec<f64>> {
    check(features.nrows(), kept, most)?;
    if !features.iter().all(|value| value.is_finite()) {
        return Err(CoreError::invalid("features", "no number", "finite values").into());
    }
    let rows = standardised(features);
    let chances = chances(&rows, kept);
    let weights = chances.iter().zip(kept).filter(|(_, kept)| **kept).map(|(p, _)| 1.0 / p);
    Ok(scaled(weights.collect(), most))
}

fn check(samples: usize, kept: &[bool], most: f64) -> Result<()> {
    if samples != kept.len() {
        return Err(CoreError::invalid("kept", kept.len(), format!("{samples} samples")).into());
    }
    if most.is_nan() || most < 1.0 {
        return Err(CoreError::invalid("most", most, "1 or more").into());
    }
    Ok(())
}

/// Weights held below `most` times their mean, then scaled to a mean of 1.
fn scaled(mut weights: Vec<f64>, most: f64) -> Vec<f64> {
    let mean = |weights: &[f64]| weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    let highest = most * mean(&weights);
    weights.iter_mut().for_each(|weight| *weight = weight.min(highest));
    let mean = mean(&weights);
    weights.iter_mut().for_each(|weight| *weight /= mean);
    weights
}

/// Columns of mean 0 and deviation 1, and one of ones.
fn standardised(features: ArrayView2<'_, f32>) -> Vec<Vec<f64>> {
    let features = features.mapv(f64::from);
    let count = features.nrows().max(1) as f64;
    let mean = features.sum_axis(Axis(0)) / count;
    let spread = ((&features - &mean).mapv(|value| value * value).sum_axis(Axis(0)) / count)
        .mapv(|square| square.sqrt().max(1e-9));
    let rows = (&features - &mean) / &spread;
    rows.rows().into_iter().map(|row| row.iter().copied().chain([1.0]).collect()).collect()
}

/// The probability of each sample of being kept, by logistic regression with a unit penalty on all but the constant.
fn chances(rows: &[Vec<f64>], kept: &[bool]) -> Vec<f64> {
    let width = rows.first().map_or(0, Vec::len);
    let mut beta = vec![0.0; width];
    let chance = |beta: &[f64], row: &[f64]| {
        let logit: f64 = beta.iter().zip(row).map(|(b, x)| b * x).sum();
        (1.0 / (1.0 + (-logit).exp())).clamp(1e-6, 1.0 - 1e-6)
    };
    for _ in 0..STEPS {
        let mut hessian = vec![0.0; width * width];
        let mut gradient = vec![0.0; width];
        for (row, &kept) in rows.iter().zip(kept) {
            let p = chance(&beta, row);
            let error = f64::from(u8::from(kept)) - p;
            let lines = hessian.chunks_exact_mut(width);
            for ((gradient, line), x) in gradient.iter_mut().zip(lines).zip(row) {
                *gradient += error * x;
                let curve = p * (1.0 - p) * x;
                line.iter_mut().zip(row).for_each(|(sum, other)| *sum += curve * other);
            }
        }
        for (i, (gradient, beta)) in gradient.iter_mut().zip(&beta).enumerate() {
            // The constant is held loosely, so that a filter which keeps everything has an end.
            let penalty = if i + 1 < width { 1.0 } else { 1e-3 };
            *gradient -= penalty * beta;
            hessian[i * width + i] += penalty;
        }
        cholesky(&mut hessian, width);
        solve(&hessian, width, &mut gradient, 1);
        let largest = gradient.iter().fold(0.0_f64, |most, step| most.max(step.abs()));
        // Half steps where the curve is far from its quadratic.
        let length = if largest > 4.0 { 4.0 / largest } else { 1.0 };
        beta.iter_mut().zip(&gradient).for_each(|(b, step)| *b += length * step);
        if largest < 1e-9 {
            break;
        }
    }
    rows.iter().map(|row| chance(&beta, row)).collect()
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test features are made of 64-bit numbers")]
mod tests {
    use ndarray::Array2;

    use super::*;

    fn share(weights: &[f64], of: impl Fn(usize) -> bool) -> f64 {
        let total: f64 = weights.iter().sum();
        weights.iter().enumerate().filter(|(k, _)| of(*k)).map(|(_, w)| w).sum::<f64>() / total
    }

    #[test]
    fn every_stratum_weighs_as_much_as_before() {
        // Six of a, three of b, one of c; the filter takes four of a and all of c.
        let strata = ["a", "a", "a", "a", "a", "a", "b", "b", "b", "c"];
        let kept = [true, true, false, false, false, false, true, true, true, false];
        let weights = by_stratum(&strata, &kept, 100.0).expect("valid");
        assert_eq!(weights.len(), 5);
        assert!((share(&weights, |k| k < 2) - 6.0 / 9.0).abs() < 1e-12, "{weights:?}");
        assert!((weights.iter().sum::<f64>() / 5.0 - 1.0).abs() < 1e-12, "a mean of 1");
        let capped = by_stratum(&strata, &kept, 1.0).expect("valid");
        assert!(capped[0] < weights[0], "{capped:?}");
    }

    #[test]
    fn features_alone_restore_the_mean_that_a_filter_moved() {
        // Points on a line; the further right, the more often dropped.
        let count = 4000;
        let place = |k: usize| super::super::split::place("test", 1, &k.to_string());
        let x = Array2::from_shape_fn((count, 1), |(k, _)| place(k) as f32);
        let kept: Vec<bool> = (0..count)
            .map(|k| super::super::split::place("keep", 2, &k.to_string()) > 0.8 * place(k))
            .collect();
        let places: Vec<f64> = (0..count).filter(|&k| kept[k]).map(place).collect();
        let before = (0..count).map(place).sum::<f64>() / count as f64;
        let after = places.iter().sum::<f64>() / places.len() as f64;
        let weights = by_features(x.view(), &kept, 100.0).expect("valid");
        let restored =
            places.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>() / places.len() as f64;
        assert!(before - after > 0.05, "the filter moved it: {before} {after}");
        assert!((restored - before).abs() < 0.01, "{before} {restored}");
    }

    #[test]
    fn a_filter_that_keeps_everything_needs_no_weights() {
        let x = Array2::from_shape_fn((40, 3), |(i, j)| ((i * 7 + j * 3) % 11) as f32);
        for weights in [
            by_features(x.view(), &[true; 40], 10.0).expect("valid"),
            by_stratum(&["a"; 40], &[true; 40], 10.0).expect("valid"),
        ] {
            assert!(weights.iter().all(|weight| (weight - 1.0).abs() < 1e-3), "{weights:?}");
        }
        let nothing = by_stratum(&["a"; 4], &[false; 4], 10.0).expect("valid");
        assert!(nothing.is_empty(), "{nothing:?}");
    }

    #[test]
    fn lists_that_disagree_and_caps_below_1_are_refused() {
        assert!(by_stratum(&["a"], &[true, true], 10.0).is_err(), "lengths");
        assert!(by_stratum(&["a"], &[true], 0.5).is_err(), "a cap below 1");
        let nan = Array2::from_elem((1, 1), f32::NAN);
        assert!(by_features(nan.view(), &[true], 10.0).is_err(), "not finite");
    }
}
