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

by_path! {
    fn silu<F, E: Element>(x: &[E], out: &mut [E]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = E::narrow(math::silu(x.widen()));
        }
    }
}

by_path! {
    fn quick_gelu<F, E: Element>(x: &[E], out: &mut [E]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = E::narrow(math::quick_gelu(x.widen()));
        }
    }
}

by_path! {
    fn gelu<F, E: Element>(x: &[E], out: &mut [E]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = E::narrow(math::gelu(x.widen()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_of_a_long_slice_is_its_own() {
        let x: Vec<f32> = (0..3 * BLOCK + 7).map(|i| (i % 97) as f32 * 0.1 - 5.0).collect();
        for path in Path::available() {
            for (activation, one) in [
                (Activation::Silu, math::silu as fn(f32) -> f32),
                (Activation::QuickGelu, math::quick_gelu),
                (Activation::Gelu, math::gelu),
            ] {
                let mut out = vec![0f32; x.len()];
                activate(path, activation, &x, &mut out);
                for (found, &x) in out.iter().zip(&x) {
                    assert!((found - one(x)).abs() < 1e-5, "{activation:?}({x}) = {found}, {path}");
                }
            }
        }
    }
}
