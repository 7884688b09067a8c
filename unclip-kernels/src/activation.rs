//! Activations, over slices of any length.

use crate::{
    cpu::Path, element::Element, epilogue::Activation, lanes::by_path, math,
    parallel::for_each_chunk,
};

/// Values that one task handles: few enough to stay in a core's cache between reading and writing.
const BLOCK: usize = 16 * 1024;

/// Applies `activation` to each value.
///
/// # Panics
///
/// When `x` and `out` differ in length.
pub fn activate<E: Element>(path: Path, activation: Activation, x: &[E], out: &mut [E]) {
    assert_eq!(x.len(), out.len(), "one output a value");
    for_each_chunk(out, BLOCK, |block, out| {
        let x = &x[block * BLOCK..][..out.len()];
        match activation {
            Activation::Identity => out.copy_from_slice(x),
            Activation::Silu => silu(path, x, out),
            Activation::QuickGelu => quick_gelu(path, x, out),
            Activation::Gelu => gelu(path, x, out),
        }
    });
}

/// The gradient by what [`activate`] was applied to, given that by its output.
///
/// # Panics
///
/// When the slices differ in length.
pub fn activate_backward<E: Element>(
    path: Path,
    activation: Activation,
    x: &[E],
    gradient: &[E],
    out: &mut [E],
) {
    assert_eq!(x.len(), out.len(), "one output a value");
    assert_eq!(gradient.len(), out.len(), "one gradient a value");
    for_each_chunk(out, BLOCK, |block, out| {
        let at = block * BLOCK..block * BLOCK + out.len();
        let (x, gradient) = (&x[at.clone()], &gradient[at]);
        match activation {
            Activation::Identity => out.copy_from_slice(gradient),
            Activation::Silu => silu_backward(path, x, gradient, out),
            Activation::QuickGelu => quick_gelu_backward(path, x, gradient, out),
            Activation::Gelu => gelu_backward(path, x, gradient, out),
        }
    });
}

by_path! {
    fn silu_backward<F, E: Element>(x: &[E], gradient: &[E], out: &mut [E]) {
        for (out, (x, gradient)) in out.iter_mut().zip(x.iter().zip(gradient)) {
            *out = E::narrow(gradient.widen() * math::silu_slope::<F>(x.widen()));
        }
    }
}

by_path! {
    fn quick_gelu_backward<F, E: Element>(x: &[E], gradient: &[E], out: &mut [E]) {
        for (out, (x, gradient)) in out.iter_mut().zip(x.iter().zip(gradient)) {
            *out = E::narrow(gradient.widen() * math::quick_gelu_slope::<F>(x.widen()));
        }
    }
}

by_path! {
    fn gelu_backward<F, E: Element>(x: &[E], gradient: &[E], out: &mut [E]) {
        for (out, (x, gradient)) in out.iter_mut().zip(x.iter().zip(gradient)) {
            *out = E::narrow(gradient.widen() * math::gelu_slope::<F>(x.widen()));
        }
    }
}

by_path! {
    fn silu<F, E: Element>(x: &[E], out: &mut [E]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = E::narrow(math::silu::<F>(x.widen()));
        }
    }
}

by_path! {
    fn quick_gelu<F, E: Element>(x: &[E], out: &mut [E]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = E::narrow(math::quick_gelu::<F>(x.widen()));
        }
    }
}

by_path! {
    fn gelu<F, E: Element>(x: &[E], out: &mut [E]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = E::narrow(math::gelu::<F>(x.widen()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Baseline;

    #[test]
    fn each_value_of_a_long_slice_is_its_own() {
        let x: Vec<f32> = (0..3 * BLOCK + 7).map(|i| (i % 97) as f32 * 0.1 - 5.0).collect();
        for path in Path::available() {
            for (activation, one) in [
                (Activation::Silu, math::silu::<Baseline> as fn(f32) -> f32),
                (Activation::QuickGelu, math::quick_gelu::<Baseline>),
                (Activation::Gelu, math::gelu::<Baseline>),
            ] {
                let mut out = vec![0f32; x.len()];
                activate(path, activation, &x, &mut out);
                for (found, &x) in out.iter().zip(&x) {
                    assert!((found - one(x)).abs() < 1e-5, "{activation:?}({x}) = {found}, {path}");
                }
            }
        }
    }

    #[test]
    fn slopes_are_differences() {
        let x: Vec<f32> = (0..2 * BLOCK + 5).map(|i| (i % 101) as f32 * 0.1 - 5.0).collect();
        let gradient: Vec<f32> = (0..x.len()).map(|i| (i % 7) as f32 - 3.0).collect();
        for path in Path::available() {
            for activation in [Activation::Silu, Activation::QuickGelu, Activation::Gelu] {
                let shifted = |by: f32| {
                    let x: Vec<f32> = x.iter().map(|x| x + by).collect();
                    let mut out = vec![0f32; x.len()];
                    activate(path, activation, &x, &mut out);
                    out
                };
                let (above, below) = (shifted(0.01), shifted(-0.01));
                let mut out = vec![0f32; x.len()];
                activate_backward(path, activation, &x, &gradient, &mut out);
                for (i, found) in out.iter().enumerate() {
                    let expected = gradient[i] * (above[i] - below[i]) / 0.02;
                    assert!(
                        (found - expected).abs() < 5e-4,
                        "{activation:?} at {}: {found}, {expected}, {path}",
                        x[i]
                    );
                }
            }
        }
    }
}
