//! Logarithm, sine and cosine in 32 bits, rounded as PyTorch's AVX2 kernel rounds them.
//!
//! The polynomials are those of Moshier's Cephes library (`logf.c`, `sinf.c`). Every product that feeds a sum is fused
//! with it, because the compiler fuses them there.

/// The published coefficients, highest power first.
#[expect(clippy::excessive_precision, reason = "the digits are those that were published")]
mod published {
    /// Of `(ln(1 + x) − x + x²/2) / x³`.
    pub(super) const LOGARITHM: [f32; 9] = [
        7.037_683_629_2e-2,
        -1.151_461_031_0e-1,
        1.167_699_874_0e-1,
        -1.242_014_084_6e-1,
        1.424_932_278_7e-1,
        -1.666_805_766_5e-1,
        2.000_071_476_5e-1,
        -2.499_999_399_3e-1,
        3.333_333_117_4e-1,
    ];
    /// Of `(cos x − 1 + x²/2) / x⁴`, in `x²`.
    pub(super) const COSINE: [f32; 3] =
        [2.443_315_711_809_948e-5, -1.388_731_625_493_765e-3, 4.166_664_568_298_827e-2];
    /// Of `(sin x − x) / x³`, in `x²`.
    pub(super) const SINE: [f32; 3] =
        [-1.951_529_589_1e-4, 8.332_160_873_6e-3, -1.666_665_461_1e-1];
    /// `ln 2` in two parts, the first with few bits.
    pub(super) const LN_2: [f32; 2] = [0.693_359_375, -2.121_944_40e-4];
    /// `π / 4` in three parts, the first two with few bits.
    pub(super) const EIGHTH_TURN: [f32; 3] =
        [0.785_156_25, 2.418_756_484_985_351_562_5e-4, 3.774_894_977_445_941_08e-8];
    /// `4 / π`.
    pub(super) const EIGHTHS: f32 = 1.273_239_544_735_16;
}

use published::{COSINE, EIGHTH_TURN, EIGHTHS, LN_2, LOGARITHM, SINE};

/// The natural logarithm of a positive normal number.
pub(super) fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    // x = (1 + fraction) · 2^exponent, with 1 + fraction in [√½, √2).
    let half_to_one = f32::from_bits(bits & 0x007F_FFFF | 0x3F00_0000);
    let exponent = ((bits >> 23) as i32 - 0x7E) as f32;
    let (fraction, exponent) = if half_to_one < std::f32::consts::FRAC_1_SQRT_2 {
        (half_to_one - 1.0 + half_to_one, exponent - 1.0)
    } else {
        (half_to_one - 1.0, exponent)
    };
    let square = fraction * fraction;
    let cubic = polynomial(&LOGARITHM, fraction) * fraction;
    let rest = square.mul_add(-0.5, cubic.mul_add(square, exponent * LN_2[1]));
    exponent.mul_add(LN_2[0], fraction + rest)
}

/// Sine and cosine of an angle in `[0, 2π]`.
pub(super) fn sin_cos(angle: f32) -> (f32, f32) {
    // The nearest multiple of π / 2 below or above, counted in eighths of a turn.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an angle holds at most eight eighths, and is not negative"
    )]
    let eighths = ((angle * EIGHTHS) as u32 + 1) & !1;
    let turned = eighths as f32;
    let x = EIGHTH_TURN.into_iter().fold(angle, |x, part| turned.mul_add(-part, x));
    let square = x * x;
    let cosine = (polynomial(&COSINE, square) * square).mul_add(square, -0.5 * square) + 1.0;
    let sine = (polynomial(&SINE, square) * square).mul_add(x, x);
    match eighths % 8 {
        0 => (sine, cosine),
        2 => (cosine, -sine),
        4 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

/// Horner's rule, highest power first.
fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    coefficients.iter().copied().reduce(|sum, next| sum.mul_add(x, next)).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_they_are_called_within_two_units_in_the_last_place() {
        for i in 1u16..=10_000 {
            let x = f32::from(i) / 10_000.0;
            let error = (ln(x) - x.ln()).abs();
            assert!(error <= 2.0 * f32::EPSILON * x.ln().abs(), "ln {x}: {error}");
            let angle = x * std::f32::consts::TAU;
            let (sine, cosine) = sin_cos(angle);
            for (found, expected) in [(sine, angle.sin()), (cosine, angle.cos())] {
                assert!((found - expected).abs() <= f32::EPSILON, "{angle}: {found}, {expected}");
            }
        }
        assert_eq!((ln(1.0), sin_cos(0.0)), (0.0, (0.0, 1.0)));
    }
}
