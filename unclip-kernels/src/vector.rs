//! Sixteen numbers in a register of AVX-512.

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::gemm::TILE;

/// The first `count` lanes, at most all sixteen.
#[inline(always)]
pub(crate) fn first(count: usize) -> __mmask16 {
    if count >= TILE { !0 } else { (1 << count) - 1 }
}

/// A number type that fills registers.
///
/// Methods ask for AVX-512 F, BW, DQ, VL and BF16.
pub trait Vector: Copy {
    /// The values of the lanes in `mask`, in 32 bits, and zeros in the others.
    ///
    /// # Safety
    ///
    /// The processor has the instructions, and the lanes in `mask` may be read.
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512;

    /// Writes the lanes in `mask`, each as the nearest value of this type, ties to even.
    ///
    /// # Safety
    ///
    /// The processor has the instructions, and the lanes in `mask` may be written.
    unsafe fn store(to: *mut Self, values: __m512, mask: __mmask16);

    /// Writes `left` and `right` beside each other, as [`store`](Self::store) does.
    ///
    /// # Safety
    ///
    /// The processor has the instructions, and 32 values may be written.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn store_both(to: *mut Self, left: __m512, right: __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            Self::store(to, left, !0);
            Self::store(to.add(TILE), right, !0);
        }
    }
}

impl Vector for f32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise; lanes outside of the mask are not touched.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(to: *mut Self, values: __m512, mask: __mmask16) {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_ps(to, mask, values) };
    }
}

impl Vector for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise; lanes outside of the mask are not touched.
        let bits = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn store(to: *mut Self, values: __m512, mask: __mmask16) {
        let narrow = _mm512_cvtneps_pbh(values);
        // SAFETY: as above; both types are 256 bits of any value.
        unsafe {
            let bits = std::mem::transmute::<__m256bh, __m256i>(narrow);
            _mm256_mask_storeu_epi16(to.cast(), mask, bits);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn store_both(to: *mut Self, left: __m512, right: __m512) {
        // A whole cache line at once, where memory is aligned.
        // SAFETY: the caller's promise; both types are 512 bits of any value.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(right, left));
            _mm512_storeu_si512(to.cast(), both);
        }
    }
}

impl Vector for f16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise; lanes outside of the mask are not touched.
        let bits = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
        _mm512_cvtph_ps(bits)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn store(to: *mut Self, values: __m512, mask: __mmask16) {
        let bits = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(values);
        // SAFETY: as above.
        unsafe { _mm256_mask_storeu_epi16(to.cast(), mask, bits) };
    }
}

/// Writes sixteen pairs, each number as the nearest value, ties to even.
///
/// # Safety
///
/// The processor has the instructions, and 32 values may be written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn store_pairs(to: *mut bf16, first: __m512, second: __m512) {
    // Values 0 and 16, 1 and 17, ..
    const INTERLEAVED: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 16 {
            places[2 * i as usize] = i;
            places[2 * i as usize + 1] = i + 16;
            i += 1;
        }
        places
    };
    // SAFETY: both types are 512 bits of any value; the caller's promise.
    unsafe {
        let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
        let places = _mm512_loadu_epi16(INTERLEAVED.as_ptr().cast());
        _mm512_storeu_epi16(to.cast(), _mm512_permutexvar_epi16(places, both));
    }
}

/// `eˣ`, zero below −87; the algorithm is that of [`math::exp`](crate::math).
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn exp(x: __m512) -> __m512 {
    let power = power(x);
    let vanishes = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_set1_ps(-87.0));
    _mm512_mask_mov_ps(power, vanishes, _mm512_setzero_ps())
}

/// `eˣ` of `x` between −87 and 87, to which others are moved.
#[inline]
#[target_feature(enable = "avx512f")]
fn power(x: __m512) -> __m512 {
    const SERIES: [f32; 7] =
        [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5, 1.0, 1.0];
    // ln 2 in two parts, the first with so few bits that a whole number times it is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let bounded = bounded(x);
    let log_2 = _mm512_mul_ps(bounded, _mm512_set1_ps(std::f32::consts::LOG2_E));
    let whole = _mm512_roundscale_ps::<0>(log_2);
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(LN_2[0]), bounded);
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(LN_2[1]), rest);
    _mm512_scalef_ps(series(rest, &SERIES), whole)
}

/// `x`, moved between −87 and 87, where its exponential is a number of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn bounded(x: __m512) -> __m512 {
    // The order of operands keeps what is no number: the second is given where either is none.
    _mm512_max_ps(_mm512_set1_ps(-87.0), _mm512_min_ps(_mm512_set1_ps(87.0), x))
}

/// `x · σ(x)` within 1.5e-4 of itself, for what is rounded to bf16, which changes it by up to 4e-3: half of the instructions of
/// [`silu`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn brief_silu(x: __m512) -> __m512 {
    // 2ˣ between −½ and ½, within 7.5e-5 of itself.
    const SERIES: [f32; 4] = [0.055_170_95, 0.242_610_53, 0.693_261, 0.999_928_1];
    // 1.5 · 2²³: adding it leaves a whole number.
    let round = _mm512_set1_ps(12_582_912.0);
    let log_2_e = _mm512_set1_ps(std::f32::consts::LOG2_E);
    let bounded = bounded(x);
    let whole = _mm512_sub_ps(_mm512_fnmadd_ps(bounded, log_2_e, round), round);
    let rest = _mm512_fnmsub_ps(bounded, log_2_e, whole);
    let power = _mm512_scalef_ps(series(rest, &SERIES), whole);
    _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(power, _mm512_set1_ps(1.0))))
}

/// `x · σ(x)`, within a few units in the last place.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn silu(x: __m512) -> __m512 {
    _mm512_mul_ps(x, sigmoid(x))
}

/// `x · σ(1.702 x)`, as exact.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn quick_gelu(x: __m512) -> __m512 {
    _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(x, _mm512_set1_ps(1.702))))
}

/// `x · Φ(x)`; the algorithm is that of [`math::gelu`](crate::math).
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn gelu(x: __m512) -> __m512 {
    const SERIES: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let sign = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MIN));
    let scaled = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::FRAC_1_SQRT_2));
    let magnitude = _mm512_abs_ps(scaled);
    let one = _mm512_set1_ps(1.0);
    let t = reciprocal(_mm512_fmadd_ps(magnitude, _mm512_set1_ps(0.327_591_1), one));
    let density = power(_mm512_fnmadd_ps(magnitude, magnitude, _mm512_setzero_ps()));
    let tail = _mm512_mul_ps(_mm512_mul_ps(t, series(t, &SERIES)), density);
    let erf = _mm512_castps_si512(_mm512_sub_ps(one, tail));
    let erf = _mm512_castsi512_ps(_mm512_xor_si512(erf, sign));
    let half = _mm512_mul_ps(x, _mm512_set1_ps(0.5));
    _mm512_fmadd_ps(half, erf, half)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sigmoid(x: __m512) -> __m512 {
    let negative = _mm512_xor_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MIN));
    reciprocal(_mm512_add_ps(power(_mm512_castsi512_ps(negative)), _mm512_set1_ps(1.0)))
}

/// `1 / x` by an estimate and one step of Newton's in place of a division, which takes as long as an exponential.
#[inline]
#[target_feature(enable = "avx512f")]
fn reciprocal(x: __m512) -> __m512 {
    let estimate = _mm512_rcp14_ps(x);
    let error = _mm512_fnmadd_ps(x, estimate, _mm512_set1_ps(1.0));
    _mm512_fmadd_ps(estimate, error, estimate)
}

/// A series in `x`, its highest power first.
#[inline]
#[target_feature(enable = "avx512f")]
fn series<const N: usize>(x: __m512, factors: &[f32; N]) -> __m512 {
    let mut sum = _mm512_set1_ps(factors[0]);
    for &factor in &factors[1..] {
        sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(factor));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::{Isa, Path},
        element::Element,
        lanes::Baseline,
        math,
    };

    /// An activation of sixteen values.
    macro_rules! of_sixteen {
        ($($name:ident: $function:ident),*) => {$(
            #[target_feature(enable = "avx512f")]
            unsafe fn $name(values: &[f32; TILE]) -> [f32; TILE] {
                let mut out = [0.0; TILE];
                // SAFETY: this function's own contract; both arrays have sixteen lanes.
                unsafe { f32::store(out.as_mut_ptr(), $function(f32::load(values.as_ptr(), !0)), !0) };
                out
            }
        )*};
    }
    of_sixteen!(silu_of: silu, brief_silu_of: brief_silu, quick_gelu_of: quick_gelu, gelu_of: gelu);

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn through<E: Element>(values: &[f32; TILE], count: usize) -> [f32; TILE] {
        let mut held = [E::narrow(7.0); TILE];
        let mut out = [9.0; TILE];
        // SAFETY: as above.
        unsafe {
            E::store(held.as_mut_ptr(), f32::load(values.as_ptr(), !0), first(count));
            f32::store(out.as_mut_ptr(), E::load(held.as_ptr(), first(TILE - 1)), !0);
        }
        out
    }

    const LANES: [f32; TILE] =
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

    fn available(isa: Isa) -> bool {
        Path::best().isa() >= isa
    }

    /// Sixteen numbers in a row, over and over, from −93 to 93.
    fn grid() -> impl Iterator<Item = [f32; TILE]> {
        (-3000..3000i16)
            .map(|i| std::array::from_fn(|lane| f32::from(i) * 0.031 + LANES[lane] * 1.7e-3))
    }

    #[test]
    fn sigmoid_activations_are_within_rounding() {
        if !available(Isa::Avx512) {
            return;
        }
        for values in grid() {
            // SAFETY: the processor has the instructions.
            let found =
                unsafe { [silu_of(&values), quick_gelu_of(&values), brief_silu_of(&values)] };
            for (found, (slope, brief)) in
                found.into_iter().zip([(1.0, 0.0), (1.702, 0.0), (1.0, 1.5e-4)])
            {
                for (found, value) in found.into_iter().zip(values) {
                    let wide = f64::from(value);
                    let expected = wide / (1.0 + (-slope * wide).exp());
                    let exponent = 2e-7 * slope * wide.abs();
                    let bound = (1e-6 + brief + exponent) * expected.abs() + 1e-30;
                    assert!(
                        (f64::from(found) - expected).abs() < bound,
                        "{slope} {value}: {found}"
                    );
                }
            }
        }
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e30, -1e30] {
            let values = [value; TILE];
            // SAFETY: as above.
            let found =
                unsafe { [silu_of(&values), quick_gelu_of(&values), brief_silu_of(&values)] };
            for [found, ..] in found {
                if value.is_nan() {
                    assert!(found.is_nan());
                } else if value > 0.0 {
                    assert_eq!(found, value);
                } else {
                    assert!(found <= 0.0, "{value}: {found}");
                }
            }
        }
    }

    #[test]
    fn gelu_is_what_the_plain_loop_gives() {
        if !available(Isa::Avx512) {
            return;
        }
        for values in grid() {
            // SAFETY: the processor has the instructions.
            let found = unsafe { gelu_of(&values) };
            for (found, value) in found.into_iter().zip(values) {
                let plain = math::gelu::<Baseline>(value);
                assert!((found - plain).abs() <= 3e-7 * value.abs(), "{value}: {found} {plain}");
            }
        }
        // SAFETY: as above.
        assert!(unsafe { gelu_of(&[f32::NAN; TILE]) }.iter().all(|found| found.is_nan()));
    }

    #[test]
    fn exponentials_are_within_rounding_and_vanish() {
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        unsafe fn of(values: &[f32; TILE]) -> ([f32; TILE], [bf16; 2 * TILE]) {
            let (mut out, mut pairs) = ([0.0; TILE], [bf16::ZERO; 2 * TILE]);
            // SAFETY: this function's own contract; the arrays have sixteen lanes, and twice as many.
            unsafe {
                let values = f32::load(values.as_ptr(), !0);
                let found = exp(values);
                f32::store(out.as_mut_ptr(), found, !0);
                store_pairs(pairs.as_mut_ptr(), found, values);
            }
            (out, pairs)
        }
        if !available(Isa::Avx512Bf16) {
            return;
        }
        for i in -3000..2700i16 {
            let values = LANES.map(|lane| f32::from(i) * 0.031 + lane * 1.7e-3);
            // SAFETY: the processor has the instructions.
            let (found, pairs) = unsafe { of(&values) };
            for ((found, value), pair) in found.into_iter().zip(values).zip(pairs.chunks(2)) {
                let expected = if value < -87.0 { 0.0 } else { f64::from(value).exp() };
                assert!((f64::from(found) - expected).abs() <= 1e-6 * expected, "{value}: {found}");
                assert_eq!(pair, [found, value].map(bf16::narrow), "{value}");
            }
        }
        // SAFETY: as above.
        let (found, _) = unsafe { of(&[f32::NEG_INFINITY; TILE]) };
        assert_eq!(found, [0.0; TILE]);
    }

    #[test]
    fn two_registers_are_written_beside_each_other() {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
        unsafe fn both<E: Element>(left: &[f32; TILE], right: &[f32; TILE]) -> [E; 2 * TILE] {
            let mut out = [E::default(); 2 * TILE];
            // SAFETY: this function's own contract; all arrays have their lanes.
            unsafe {
                let [left, right] = [left, right].map(|values| f32::load(values.as_ptr(), !0));
                E::store_both(out.as_mut_ptr(), left, right);
            }
            out
        }
        fn check<E: Element>() {
            let (left, right) = (LANES.map(|lane| 0.3 * lane), LANES.map(|lane| -7.1 - lane));
            // SAFETY: the processor has the instructions.
            let found = unsafe { both::<E>(&left, &right) };
            let expected: Vec<E> = left.into_iter().chain(right).map(E::narrow).collect();
            assert_eq!(found[..], expected);
        }
        if !available(Isa::Avx512Bf16) {
            return;
        }
        check::<f32>();
        check::<bf16>();
        check::<f16>();
    }

    #[test]
    fn lanes_outside_of_a_mask_are_neither_read_nor_written() {
        if !available(Isa::Avx512Bf16) {
            return;
        }
        let values = LANES.map(|lane| 0.3 * lane);
        fn check<E: Element>(values: &[f32; TILE]) {
            // SAFETY: the processor has the instructions.
            let out = unsafe { through::<E>(values, 5) };
            for (lane, found) in out.into_iter().enumerate() {
                let expected = match lane {
                    0..5 => E::narrow(values[lane]).widen(),
                    5..15 => 7.0,
                    _ => 0.0,
                };
                assert_eq!(found, expected, "lane {lane}");
            }
        }
        check::<f32>(&values);
        check::<bf16>(&values);
        check::<f16>(&values);
    }
}
