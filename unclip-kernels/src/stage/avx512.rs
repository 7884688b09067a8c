//! A staged pixel with AVX-512 and its conversion to bf16.

use std::arch::x86_64::*;

use super::{Compiled, Grid, Input, Region, stage_rows};
use crate::{
    element::Element,
    gemm::{Compute, TILE},
    vector::{brief_silu, first, silu},
};

/// [`stage`](super::stage) on a processor with these instructions.
///
/// # Safety
///
/// The processor has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn stage<T: Element, S: Compute>(
    input: &Input<'_, T>,
    grid: Grid,
    region: &Region,
    staged: &mut [S],
) {
    match (input.scale_shift.is_some(), input.silu) {
        (false, false) => stage_rows::<Vectors<false, false>, _, _>(input, grid, region, staged),
        (false, true) => stage_rows::<Vectors<false, true>, _, _>(input, grid, region, staged),
        (true, false) => stage_rows::<Vectors<true, false>, _, _>(input, grid, region, staged),
        (true, true) => stage_rows::<Vectors<true, true>, _, _>(input, grid, region, staged),
    }
}

/// Sixteen lanes in a register; masks in place of what is left over.
struct Vectors<const AFFINE: bool, const SILU: bool>;

impl<S: Compute, const AFFINE: bool, const SILU: bool> Compiled<S> for Vectors<AFFINE, SILU> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn write<T: Element, const N: usize>(
        sources: [&[T]; N],
        scale_shift: [&[f32]; 2],
        staged: &mut [S],
    ) {
        let channels = sources[0].len();
        debug_assert!(staged.len() >= channels, "a pixel is too short");
        for at in (0..staged.len()).step_by(TILE) {
            // Lanes past the channels are zero, which is what belongs behind them.
            // SAFETY: this function's contract; the lanes that are written lie inside of the pixel.
            unsafe {
                let values = mean::<AFFINE, SILU, T, S, N>(sources, scale_shift, at);
                S::store(staged.as_mut_ptr().add(at), values, first(staged.len() - at));
            }
        }
    }
}

/// The mean over `sources`, from value `at` on, after scale, shift and activation, as exact as `S` asks for; zero past their
/// end.
///
/// # Safety
///
/// Sources, scale and shift have one length; the processor has the instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn mean<const AFFINE: bool, const SILU: bool, T: Element, S: Compute, const N: usize>(
    sources: [&[T]; N],
    [scale, shift]: [&[f32]; 2],
    at: usize,
) -> __m512 {
    let channels = sources[0].len();
    debug_assert!(sources.iter().all(|source| source.len() == channels), "sources differ");
    debug_assert!(!AFFINE || (scale.len() == channels && shift.len() == channels), "lengths");
    let mut sum = _mm512_setzero_ps();
    if at >= channels {
        return sum;
    }
    let kept = first(channels - at);
    for source in sources {
        // SAFETY: the lanes of `kept` lie inside of sources, scale and shift, which have one length.
        let mut value = unsafe { T::load(source.as_ptr().add(at), kept) };
        if AFFINE {
            // SAFETY: as above.
            let [scale, shift] =
                unsafe { [scale, shift].map(|x| _mm512_maskz_loadu_ps(kept, x.as_ptr().add(at))) };
            value = _mm512_fmadd_ps(value, scale, shift);
        }
        // SiLU of 0 is 0, so lanes past the end stay as they are.
        if SILU {
            value = if S::PAIR == 1 { silu(value) } else { brief_silu(value) };
        }
        sum = if N == 1 { value } else { _mm512_add_ps(sum, value) };
    }
    if N > 1 {
        #[expect(clippy::cast_precision_loss, reason = "there are one or four sources")]
        let share = 1.0 / N as f32;
        sum = _mm512_mul_ps(sum, _mm512_set1_ps(share));
    }
    sum
}
