//! Elementary functions without branches or calls, so that loops over them become vector instructions.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use crate::lanes::Fused;

/// The exponential; within 2 units in the last place where it is a normal number, 0 below, and never infinite.
///
/// What a mask hides from a softmax has to weigh nothing at all: numbers next to zero would go on into every gradient
/// behind it, and arithmetic on those is a hundred times slower.
///
/// Splits `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2` and sums the series of `exp(r)` to the sixth power.
#[inline(always)]
pub(crate) fn exp<F: Fused>(x: f32) -> f32 {
    // 1.5 · 2²³: adding it leaves a whole number in the low bits; 127 is the exponent's bias.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    // ln 2 in two parts, the first with so few bits that `n` times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let vanishes = x < -87.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = F::mul_add(x, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = F::mul_add(n, -LN_2_LOW, F::mul_add(n, -LN_2_HIGH, x));
    let mut series = 1.398_2e-3;
    for factor in [8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5, 1.0, 1.0] {
        series = F::mul_add(series, r, factor);
    }
    let power = if vanishes { 0.0 } else { f32::from_bits(shifted.to_bits() << 23) };
    series * power
}

/// `x · σ(x)`.
#[inline(always)]
pub(crate) fn silu<F: Fused>(x: f32) -> f32 {
    x / (1.0 + exp::<F>(-x))
}

/// `x · σ(1.702 x)`, CLIP's activation.
#[inline(always)]
pub(crate) fn quick_gelu<F: Fused>(x: f32) -> f32 {
    x / (1.0 + exp::<F>(-1.702 * x))
}

/// `x · Φ(x)` with the exact normal distribution.
#[inline(always)]
pub(crate) fn gelu<F: Fused>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<F>(x * FRAC_1_SQRT_2))
}

/// The derivative of [`silu`]: `σ(x) (1 + x (1 − σ(x)))`.
#[inline(always)]
pub(crate) fn silu_slope<F: Fused>(x: f32) -> f32 {
    let s = 1.0 / (1.0 + exp::<F>(-x));
    s * (1.0 + x * (1.0 - s))
}

/// The derivative of [`quick_gelu`].
#[inline(always)]
pub(crate) fn quick_gelu_slope<F: Fused>(x: f32) -> f32 {
    let s = 1.0 / (1.0 + exp::<F>(-1.702 * x));
    s * (1.0 + 1.702 * x * (1.0 - s))
}

/// The derivative of [`gelu`]: `Φ(x) + x φ(x)`.
#[inline(always)]
pub(crate) fn gelu_slope<F: Fused>(x: f32) -> f32 {
    // 1 / √(2π), the density's height.
    const HEIGHT: f32 = 0.398_942_3;
    0.5 * (1.0 + erf::<F>(x * FRAC_1_SQRT_2)) + x * HEIGHT * exp::<F>(-0.5 * x * x)
}

/// The error function, within 1.5e-7 plus rounding: Abramowitz & Stegun 1964, 7.1.26.
#[inline(always)]
fn erf<F: Fused>(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * magnitude);
    let series = t
        * (0.254_829_6
            + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    (1.0 - series * exp::<F>(-magnitude * magnitude)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Baseline;
    #[cfg(target_arch = "x86_64")]
    use crate::lanes::Once;

    fn grid() -> impl Iterator<Item = f32> {
        (-4000..=4000i16).map(|i| f32::from(i) * 0.0211)
    }

    fn check_exp<F: Fused>() {
        for x in grid() {
            if x < -87.0 {
                assert_eq!(exp::<F>(x), 0.0, "exp({x})");
                continue;
            }
            let expected = f64::from(x.min(88.0)).exp();
            let relative = (f64::from(exp::<F>(x)) - expected).abs() / expected;
            assert!(relative < 3.0 * f64::from(f32::EPSILON), "exp({x}): {relative}");
        }
    }

    fn check_sigmoid_activations<F: Fused>() {
        for x in grid() {
            let wide = f64::from(x);
            for (found, slope) in [(silu::<F>(x), 1.0), (quick_gelu::<F>(x), 1.702)] {
                let expected = wide / (1.0 + (-slope * wide).exp());
                // The exponent is rounded before its exponential is taken.
                let bound = (1e-6 + 2e-7 * wide.abs()) * expected.abs() + 1e-30;
                assert!(
                    (f64::from(found) - expected).abs() < bound,
                    "{slope} {x}: {found} {expected}"
                );
            }
        }
    }

    fn check_gelu<F: Fused>() {
        // 0.5 · x · erfc(−x / √2) in double precision.
        for (x, expected) in [
            (0.0, 0.0),
            (1.0, 0.841_344_7),
            (-1.0, -0.158_655_25),
            (3.0, 2.995_950_3),
            (-3.0, -0.004_049_694),
        ] {
            let found = gelu::<F>(x);
            assert!((found - expected).abs() < 5e-7, "{x}: {found}");
        }
        assert_eq!((gelu::<F>(12.0), gelu::<F>(-12.0)), (12.0, 0.0));
    }

    fn check_nan<F: Fused>() {
        for found in [silu::<F>(f32::NAN), gelu::<F>(f32::NAN), quick_gelu::<F>(f32::NAN)] {
            assert!(found.is_nan(), "{found}");
        }
    }

    /// A test for arithmetic that rounds once, and one for arithmetic that rounds twice.
    macro_rules! in_both {
        ($($name:ident: $check:ident),* $(,)?) => {$(
            #[test]
            fn $name() {
                #[cfg(target_arch = "x86_64")]
                $check::<Once>();
                $check::<Baseline>();
            }
        )*};
    }

    in_both! {
        exp_is_within_three_units_in_the_last_place: check_exp,
        sigmoid_activations_are_within_rounding: check_sigmoid_activations,
        gelu_meets_its_tabulated_values: check_gelu,
        what_is_no_number_stays_none: check_nan,
    }
}
