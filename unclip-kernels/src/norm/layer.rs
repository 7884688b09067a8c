//! Layer normalisation over rows (Ba et al. 2016), with the biased variance.

use crate::{
    cpu::Path,
    element::Element,
    lanes::{Fused, by_path},
    parallel::{for_each_chunk, map_chunks},
};

/// Sums run in this many lanes, and the lanes are added in one order on every path.
const LANES: usize = 16;
/// Rows of one task.
const TASK: usize = 16;

/// The gradients of [`layer_norm`].
#[derive(Debug, Clone, PartialEq)]
pub struct LayerGradients {
    /// `[rows, width]`.
    pub x: Vec<f32>,
    /// `[width]`.
    pub weight: Vec<f32>,
    /// `[width]`.
    pub bias: Vec<f32>,
}

/// Gives each row mean 0 and variance 1, then scales and shifts its columns.
///
/// # Shapes
///
/// - `x`, `out`: `[rows, width]`
/// - `weight`, `bias`: `[width]`
///
/// # Panics
///
/// When a slice has another length than its shape says.
pub fn layer_norm<E: Element>(
    path: Path,
    x: &[E],
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [E],
) {
    let width = check(x.len(), weight);
    assert_eq!(bias.len(), width, "one bias a column");
    assert_eq!(x.len(), out.len(), "one output a value");
    let task = TASK * width;
    for_each_chunk(out, task, |index, out| {
        rows(path, &x[index * task..][..out.len()], weight, bias, epsilon, out);
    });
}

fn check(len: usize, weight: &[f32]) -> usize {
    let width = weight.len();
    assert!(width > 0 && len.is_multiple_of(width), "{len} values are no rows of {width}");
    width
}

/// The mean of a row, and the sum of the squares of its differences to it.
#[inline(always)]
fn moments<F: Fused, E: Element>(row: &[E]) -> (f32, f32) {
    let mut lanes = [0f32; LANES];
    let mut blocks = row.chunks_exact(LANES);
    for block in &mut blocks {
        for i in 0..LANES {
            lanes[i] += block[i].widen();
        }
    }
    for (lane, x) in lanes.iter_mut().zip(blocks.remainder()) {
        *lane += x.widen();
    }
    let mean = total(lanes) / row.len() as f32;
    let mut lanes = [0f32; LANES];
    let mut blocks = row.chunks_exact(LANES);
    for block in &mut blocks {
        for i in 0..LANES {
            let difference = block[i].widen() - mean;
            lanes[i] = F::mul_add(difference, difference, lanes[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(blocks.remainder()) {
        let difference = x.widen() - mean;
        *lane = F::mul_add(difference, difference, *lane);
    }
    (mean, total(lanes))
}

#[inline(always)]
fn total(lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    let mut lanes = lanes;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

by_path! {
    fn rows<F, E: Element>(x: &[E], weight: &[f32], bias: &[f32], epsilon: f32, out: &mut [E]) {
        let width = weight.len();
        let bias = &bias[..width];
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mean, squares) = moments::<F, E>(x);
            let inverse = 1.0 / (squares / width as f32 + epsilon).sqrt();
            for i in 0..width {
                let normal = (x[i].widen() - mean) * inverse;
                out[i] = E::narrow(F::mul_add(normal, weight[i], bias[i]));
            }
        }
    }
}

/// The gradients of [`layer_norm`], given the one by its output.
///
/// # Shapes
///
/// - `x`, `gradient`: `[rows, width]`
/// - `weight`: `[width]`
///
/// # Panics
///
/// When a slice has another length than its shape says.
pub fn layer_norm_backward<E: Element>(
    path: Path,
    x: &[E],
    weight: &[f32],
    epsilon: f32,
    gradient: &[E],
) -> LayerGradients {
    let width = check(x.len(), weight);
    assert_eq!(x.len(), gradient.len(), "one gradient a value");
    let mut by_x = vec![0f32; x.len()];
    let task = TASK * width;
    let parts: Vec<Vec<f32>> = map_chunks(&mut by_x, task, |index, out| {
        let own = index * task..index * task + out.len();
        let (x, gradient) = (&x[own.clone()], &gradient[own]);
        let mut sums = vec![0f32; 2 * width];
        let (by_weight, by_bias) = sums.split_at_mut(width);
        backward(path, x, weight, epsilon, gradient, out, by_weight, by_bias);
        sums
    });
    let mut totals = vec![0f64; 2 * width];
    for part in &parts {
        for (total, &part) in totals.iter_mut().zip(part) {
            *total += f64::from(part);
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "gradients are held in 32 bits")]
    let mut weight: Vec<f32> = totals.into_iter().map(|total| total as f32).collect();
    let bias = weight.split_off(width);
    LayerGradients { x: by_x, weight, bias }
}

by_path! {
    #[expect(clippy::too_many_arguments, reason = "each is a slice of the one pass")]
    fn backward<F, E: Element>(
        x: &[E],
        weight: &[f32],
        epsilon: f32,
        gradient: &[E],
        out: &mut [f32],
        by_weight: &mut [f32],
        by_bias: &mut [f32],
    ) {
        let width = weight.len();
        let (by_weight, by_bias) = (&mut by_weight[..width], &mut by_bias[..width]);
        let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
        for (out, (x, gradient)) in out.chunks_exact_mut(width).zip(rows) {
            let (mean, squares) = moments::<F, E>(x);
            let inverse = 1.0 / (squares / width as f32 + epsilon).sqrt();
            // With n the normalised row and g = gradient · weight:
            // ∂x = inverse · (g − mean(g) − n · mean(g n)).
            let mut sum = 0f32;
            let mut product = 0f32;
            for i in 0..width {
                let normal = (x[i].widen() - mean) * inverse;
                let gradient = gradient[i].widen();
                by_weight[i] = F::mul_add(gradient, normal, by_weight[i]);
                by_bias[i] += gradient;
                out[i] = gradient * weight[i];
                sum += out[i];
                product = F::mul_add(out[i], normal, product);
            }
            let sum = sum / width as f32;
            let product = product / width as f32;
            for i in 0..width {
                let normal = (x[i].widen() - mean) * inverse;
                out[i] = inverse * (out[i] - sum - normal * product);
            }
        }
    }
}
