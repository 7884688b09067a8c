//! Group normalisation (Wu & He 2018): what a picture's values say about its groups of channels.

use super::{Pixels, for_each_run};
use crate::{
    cpu::Path,
    element::Element,
    lanes::{by_path, pixels_of_whole_vectors},
    parallel::map,
};

/// Pixels whose sums are taken in `f32`, before they are added up in `f64`.
const RUN: usize = 64;
/// Pixels of one task. It is no function of the number of threads, and neither is the result.
const TASK: usize = 8 * RUN;

/// The mean and spread of each group of channels of each picture, `[batch, groups]`.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupStatistics {
    /// The mean of a group's values.
    pub mean: Vec<f32>,
    /// `1 / √(variance + epsilon)`, the variance being the biased one.
    pub inverse_deviation: Vec<f32>,
}

/// The gradients of [`GroupStatistics::affine`] and what lies before it.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupGradients {
    /// By each value, `[batch, pixels, channels]`.
    pub x: Vec<f32>,
    /// `[channels]`.
    pub weight: Vec<f32>,
    /// `[channels]`.
    pub bias: Vec<f32>,
}

/// Reads the activations once.
///
/// # Shapes
///
/// - `x`: `[batch, pixels, channels]`
///
/// # Panics
///
/// When `x` has another length than its shape says, or `groups` does not divide the channels.
pub fn group_statistics<E: Element>(
    path: Path,
    x: &[E],
    shape: Pixels,
    groups: usize,
    epsilon: f64,
) -> GroupStatistics {
    let Pixels { batch, pixels, channels } = shape;
    check(x.len(), shape, groups);
    let mut statistics = GroupStatistics {
        mean: Vec::with_capacity(batch * groups),
        inverse_deviation: Vec::with_capacity(batch * groups),
    };
    if shape.is_empty() {
        statistics.mean.resize(batch * groups, 0.0);
        statistics.inverse_deviation.resize(batch * groups, 0.0);
        return statistics;
    }
    let per_group = channels / groups;
    // Some pixels together are one with more channels, whose sums are added up at the end.
    let together = pixels_of_whole_vectors(channels);
    let width = together * channels;
    for values in x.chunks_exact(pixels * channels) {
        // Sums are of differences to the first pixel: where a mean is far from zero, the square of it would swallow
        // the variance.
        let origin: Vec<f32> = values[..channels].iter().map(|x| x.widen()).collect();
        let origins = origin.repeat(together);
        let parts: Vec<Vec<f64>> = map(pixels.div_ceil(TASK), |index| {
            let values =
                &values[index * TASK * channels..pixels.min((index + 1) * TASK) * channels];
            let mut totals = vec![0f64; 2 * channels];
            let mut run = vec![0f32; 2 * width];
            for values in values.chunks(RUN * channels) {
                run.fill(0.0);
                let (sums, squares) = run.split_at_mut(width);
                add_differences(path, values, &origins, sums, squares);
                for (totals, run) in totals.chunks_exact_mut(channels).zip([sums, squares]) {
                    for pixel in run.chunks_exact(channels) {
                        for (total, &part) in totals.iter_mut().zip(pixel) {
                            *total += f64::from(part);
                        }
                    }
                }
            }
            totals
        });
        let mut totals = vec![0f64; 2 * channels];
        for part in &parts {
            for (total, part) in totals.iter_mut().zip(part) {
                *total += part;
            }
        }
        let (sums, squares) = totals.split_at(channels);
        let count = pixels as f64;
        for group in 0..groups {
            let mut means = Vec::with_capacity(per_group);
            let mut spread = 0.0;
            for channel in group * per_group..(group + 1) * per_group {
                means.push(f64::from(origin[channel]) + sums[channel] / count);
                spread += squares[channel] - sums[channel] * sums[channel] / count;
            }
            let mean = means.iter().sum::<f64>() / per_group as f64;
            spread += count * means.iter().map(|m| (m - mean) * (m - mean)).sum::<f64>();
            let variance = (spread / (count * per_group as f64)).max(0.0);
            statistics.mean.push(narrow(mean));
            statistics.inverse_deviation.push(narrow((variance + epsilon).sqrt().recip()));
        }
    }
    statistics
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "statistics are used at the activations' precision"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn check(len: usize, shape: Pixels, groups: usize) {
    let channels = shape.channels;
    assert_eq!(len, shape.len(), "activations of {shape:?}");
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "{groups} groups do not divide {channels} channels"
    );
}

by_path! {
    /// Adds the difference of every pixel to `origin`, and its square. The last pixel may be a part of one.
    fn add_differences<F, E: Element>(
        values: &[E],
        origin: &[f32],
        sums: &mut [f32],
        squares: &mut [f32],
    ) {
        let channels = origin.len();
        let (sums, squares) = (&mut sums[..channels], &mut squares[..channels]);
        // Four pixels a pass, so that the sums are read and written a quarter as often.
        let mut blocks = values.chunks_exact(4 * channels);
        for block in &mut blocks {
            let (a, rest) = block.split_at(channels);
            let (b, rest) = rest.split_at(channels);
            let (c, d) = rest.split_at(channels);
            let (a, b, c, d) = (&a[..channels], &b[..channels], &c[..channels], &d[..channels]);
            for i in 0..channels {
                let a = a[i].widen() - origin[i];
                let b = b[i].widen() - origin[i];
                let c = c[i].widen() - origin[i];
                let d = d[i].widen() - origin[i];
                sums[i] += (a + b) + (c + d);
                squares[i] += F::mul_add(a, a, b * b) + F::mul_add(c, c, d * d);
            }
        }
        for pixels in blocks.remainder().chunks(channels) {
            for (i, value) in pixels.iter().enumerate() {
                let difference = value.widen() - origin[i];
                sums[i] += difference;
                squares[i] = F::mul_add(difference, difference, squares[i]);
            }
        }
    }
}

impl GroupStatistics {
    /// The scale and the shift that normalise, and then apply `weight` and `bias`:
    /// `(x − mean) · inverse_deviation · weight + bias`; each `[batch, channels]`.
    ///
    /// # Panics
    ///
    /// When the lengths do not fit the statistics of `batch` pictures.
    pub fn affine(&self, batch: usize, weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let channels = weight.len();
        assert_eq!(bias.len(), channels, "one bias a channel");
        let groups = self.mean.len() / batch.max(1);
        assert!(
            groups * batch == self.mean.len() && groups > 0 && channels.is_multiple_of(groups),
            "{} groups of {batch} pictures, weights for {channels} channels",
            self.mean.len()
        );
        let per_group = channels / groups;
        let mut scale = Vec::with_capacity(batch * channels);
        let mut shift = Vec::with_capacity(batch * channels);
        for i in 0..batch * channels {
            let by = weight[i % channels] * self.inverse_deviation[i / per_group];
            scale.push(by);
            shift.push(bias[i % channels] - self.mean[i / per_group] * by);
        }
        (scale, shift)
    }
}

/// The gradients by everything that [`GroupStatistics::affine`] came from, given those by its scale and shift.
///
/// # Shapes
///
/// - `x`: `[batch, pixels, channels]`
/// - `weight`: `[channels]`
/// - `scale_gradient`, `shift_gradient`: `[batch, channels]`
///
/// # Panics
///
/// When a slice has another length than its shape says.
pub fn group_backward<E: Element>(
    path: Path,
    x: &[E],
    shape: Pixels,
    statistics: &GroupStatistics,
    weight: &[f32],
    scale_gradient: &[f32],
    shift_gradient: &[f32],
) -> GroupGradients {
    let Pixels { batch, pixels, channels } = shape;
    let groups = statistics.mean.len() / batch.max(1);
    check(x.len(), shape, groups);
    assert_eq!(weight.len(), channels, "one weight a channel");
    assert_eq!(scale_gradient.len(), batch * channels, "one gradient a picture and channel");
    assert_eq!(shift_gradient.len(), batch * channels, "one gradient a picture and channel");
    let per_group = channels / groups;
    let count = (pixels * per_group) as f64;
    let mut weight_gradient = vec![0f64; channels];
    let mut bias_gradient = vec![0f64; channels];
    // x enters through the mean and the deviation alone, so its gradient is a line a channel: `slope · x + level`.
    let mut slope = vec![0f32; batch * channels];
    let mut level = vec![0f32; batch * channels];
    for picture in 0..batch {
        for group in 0..groups {
            let at = picture * groups + group;
            let mean = f64::from(statistics.mean[at]);
            let inverse = f64::from(statistics.inverse_deviation[at]);
            let mut by_mean = 0.0;
            let mut by_inverse = 0.0;
            let own = group * per_group..(group + 1) * per_group;
            for channel in own.clone() {
                let i = picture * channels + channel;
                let weight = f64::from(weight[channel]);
                let by_shift = f64::from(shift_gradient[i]);
                // Both the scale and the shift hold the product `weight · inverse`.
                let by_product = f64::from(scale_gradient[i]) - by_shift * mean;
                weight_gradient[channel] += by_product * inverse;
                bias_gradient[channel] += by_shift;
                by_mean -= by_shift * weight * inverse;
                by_inverse += by_product * weight;
            }
            let by_variance = -0.5 * by_inverse * inverse.powi(3);
            let line = 2.0 * by_variance / count;
            for channel in own {
                let i = picture * channels + channel;
                slope[i] = narrow(line);
                level[i] = narrow(by_mean / count - line * mean);
            }
        }
    }
    let mut x_gradient = vec![0f32; x.len()];
    if !shape.is_empty() {
        for_each_run(&mut x_gradient, shape, TASK, |picture, start, out| {
            let own = picture * channels..(picture + 1) * channels;
            lines(path, &x[start..][..out.len()], &slope[own.clone()], &level[own], out);
        });
    }
    GroupGradients {
        x: x_gradient,
        weight: weight_gradient.into_iter().map(narrow).collect(),
        bias: bias_gradient.into_iter().map(narrow).collect(),
    }
}

by_path! {
    fn lines<F, E: Element>(x: &[E], slope: &[f32], level: &[f32], out: &mut [f32]) {
        let channels = slope.len();
        let level = &level[..channels];
        for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for i in 0..channels {
                out[i] = F::mul_add(x[i].widen(), slope[i], level[i]);
            }
        }
    }
}
