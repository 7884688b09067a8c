//! `x · scale + shift`, with SiLU after it or not, over channels-last activations.

use super::{Pixels, for_each_run};
use crate::{
    cpu::Path,
    element::Element,
    lanes::by_path,
    math::{exp, silu},
    parallel::map_chunks,
};

/// Pixels of one task.
const TASK: usize = 128;

/// The gradients of [`apply`].
#[derive(Debug, Clone, PartialEq)]
pub struct ApplyGradients {
    /// `[batch, pixels, channels]`.
    pub x: Vec<f32>,
    /// `[batch, channels]`.
    pub scale: Vec<f32>,
    /// `[batch, channels]`.
    pub shift: Vec<f32>,
}

fn check(len: usize, shape: Pixels, scale: &[f32], shift: &[f32]) {
    let Pixels { batch, channels, .. } = shape;
    assert_eq!(len, shape.len(), "activations of {shape:?}");
    assert_eq!(scale.len(), batch * channels, "one scale a picture and channel");
    assert_eq!(shift.len(), batch * channels, "one shift a picture and channel");
}

/// `x · scale + shift`, or `silu` of it.
///
/// # Shapes
///
/// - `x`, `out`: `[batch, pixels, channels]`
/// - `scale`, `shift`: `[batch, channels]`
///
/// # Panics
///
/// When a slice has another length than its shape says.
pub fn apply<E: Element>(
    path: Path,
    x: &[E],
    shape: Pixels,
    scale: &[f32],
    shift: &[f32],
    silu: bool,
    out: &mut [E],
) {
    check(x.len(), shape, scale, shift);
    assert_eq!(x.len(), out.len(), "one output a value");
    if shape.is_empty() {
        return;
    }
    let channels = shape.channels;
    for_each_run(out, shape, TASK, |picture, start, out| {
        let own = picture * channels..(picture + 1) * channels;
        let (x, scale, shift) = (&x[start..][..out.len()], &scale[own.clone()], &shift[own]);
        if silu {
            block_silu(path, x, scale, shift, out);
        } else {
            block(path, x, scale, shift, out);
        }
    });
}

by_path! {
    fn block<F, E: Element>(x: &[E], scale: &[f32], shift: &[f32], out: &mut [E]) {
        let channels = scale.len();
        let shift = &shift[..channels];
        for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for i in 0..channels {
                out[i] = E::narrow(F::mul_add(x[i].widen(), scale[i], shift[i]));
            }
        }
    }
}

by_path! {
    fn block_silu<F, E: Element>(x: &[E], scale: &[f32], shift: &[f32], out: &mut [E]) {
        let channels = scale.len();
        let shift = &shift[..channels];
        for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for i in 0..channels {
                out[i] = E::narrow(silu::<F>(F::mul_add(x[i].widen(), scale[i], shift[i])));
            }
        }
    }
}

/// The gradients of [`apply`], given the one by its output.
///
/// # Shapes
///
/// - `x`, `gradient`: `[batch, pixels, channels]`
/// - `scale`, `shift`: `[batch, channels]`
///
/// # Panics
///
/// When a slice has another length than its shape says.
pub fn apply_backward<E: Element>(
    path: Path,
    x: &[E],
    shape: Pixels,
    scale: &[f32],
    shift: &[f32],
    silu: bool,
    gradient: &[E],
) -> ApplyGradients {
    check(x.len(), shape, scale, shift);
    assert_eq!(x.len(), gradient.len(), "one gradient a value");
    let Pixels { batch, pixels, channels } = shape;
    let mut by_x = vec![0f32; x.len()];
    let mut by_scale = Vec::with_capacity(batch * channels);
    let mut by_shift = Vec::with_capacity(batch * channels);
    if shape.is_empty() {
        by_scale.resize(batch * channels, 0.0);
        by_shift.resize(batch * channels, 0.0);
        return ApplyGradients { x: by_x, scale: by_scale, shift: by_shift };
    }
    let picture = pixels * channels;
    for (i, out) in by_x.chunks_exact_mut(picture).enumerate() {
        let own = i * channels..(i + 1) * channels;
        let (scale, shift) = (&scale[own.clone()], &shift[own]);
        let values = i * picture..(i + 1) * picture;
        let (x, gradient) = (&x[values.clone()], &gradient[values]);
        let task = TASK * channels;
        let sums: Vec<Vec<f32>> = map_chunks(out, task, |index, out| {
            let own = index * task..index * task + out.len();
            let (x, gradient) = (&x[own.clone()], &gradient[own]);
            let mut sums = vec![0f32; 2 * channels];
            let (by_scale, by_shift) = sums.split_at_mut(channels);
            if silu {
                backward_silu(path, x, gradient, scale, shift, out, by_scale, by_shift);
            } else {
                backward(path, x, gradient, scale, out, by_scale, by_shift);
            }
            sums
        });
        let mut totals = vec![0f64; 2 * channels];
        for part in &sums {
            for (total, &part) in totals.iter_mut().zip(part) {
                *total += f64::from(part);
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "gradients are held in 32 bits")]
        let mut totals = totals.into_iter().map(|total| total as f32);
        by_scale.extend(totals.by_ref().take(channels));
        by_shift.extend(totals);
    }
    ApplyGradients { x: by_x, scale: by_scale, shift: by_shift }
}

by_path! {
    fn backward<F, E: Element>(
        x: &[E],
        gradient: &[E],
        scale: &[f32],
        out: &mut [f32],
        by_scale: &mut [f32],
        by_shift: &mut [f32],
    ) {
        let channels = scale.len();
        let (by_scale, by_shift) = (&mut by_scale[..channels], &mut by_shift[..channels]);
        let pixels = x.chunks_exact(channels).zip(gradient.chunks_exact(channels));
        for (out, (x, gradient)) in out.chunks_exact_mut(channels).zip(pixels) {
            for i in 0..channels {
                let gradient = gradient[i].widen();
                by_scale[i] = F::mul_add(gradient, x[i].widen(), by_scale[i]);
                by_shift[i] += gradient;
                out[i] = gradient * scale[i];
            }
        }
    }
}

by_path! {
    #[expect(clippy::too_many_arguments, reason = "each is a slice of the one pass")]
    fn backward_silu<F, E: Element>(
        x: &[E],
        gradient: &[E],
        scale: &[f32],
        shift: &[f32],
        out: &mut [f32],
        by_scale: &mut [f32],
        by_shift: &mut [f32],
    ) {
        let channels = scale.len();
        let shift = &shift[..channels];
        let (by_scale, by_shift) = (&mut by_scale[..channels], &mut by_shift[..channels]);
        let pixels = x.chunks_exact(channels).zip(gradient.chunks_exact(channels));
        for (out, (x, gradient)) in out.chunks_exact_mut(channels).zip(pixels) {
            for i in 0..channels {
                let x = x[i].widen();
                let z = F::mul_add(x, scale[i], shift[i]);
                let s = 1.0 / (1.0 + exp::<F>(-z));
                // The derivative of z σ(z) is σ(z) (1 + z (1 − σ(z))).
                let inner = gradient[i].widen() * s * F::mul_add(z, 1.0 - s, 1.0);
                by_scale[i] = F::mul_add(inner, x, by_scale[i]);
                by_shift[i] += inner;
                out[i] = inner * scale[i];
            }
        }
    }
}
