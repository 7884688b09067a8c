//! A panel of bf16 weights in registers.

use std::arch::x86_64::*;

use half::bf16;

use super::Sizes;
use crate::{
    gemm::{CHUNK, TILE},
    transpose::turned,
};

/// Two neighbouring values of each of 16 columns.
type Line = [u32; TILE];

/// Packs a panel of 16 output channels, of whole chunks of input channels.
///
/// Of each chunk the values of a column follow each other, channel by channel and within a channel tap by tap. A transpose of
/// pairs of neighbours puts the columns side by side; a line of the panel is half of one such line, and half of that which lies
/// as many values further as there are taps.
///
/// # Panics
///
/// When the sizes are others, or exceed `values` or `packed`.
///
/// # Safety
///
/// The processor has AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pack_panel(sizes: &Sizes, values: &[bf16], panel: usize, packed: &mut [bf16]) {
    let Sizes { taps, depth, .. } = *sizes;
    assert!(depth.is_multiple_of(CHUNK), "{depth} channels are no whole chunks");
    let column_len = depth * taps;
    let columns = &values[panel * TILE * column_len..][..TILE * column_len];
    let mut table = vec![[0; TILE]; taps * CHUNK / 2];
    for first in (0..depth).step_by(CHUNK) {
        for (part, lines) in table.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            let mut rows = [_mm512_setzero_si512(); TILE];
            for (row, column) in rows.iter_mut().zip(columns.chunks_exact(column_len)) {
                let column = &column[first * taps + part * CHUNK..][..CHUNK];
                // SAFETY: a chunk is 64 bytes.
                *row = unsafe { _mm512_loadu_si512(column.as_ptr().cast()) };
            }
            for (line, turned) in lines.iter_mut().zip(turned(rows)) {
                // SAFETY: a line is 64 bytes.
                unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), turned) };
            }
        }
        sizes.for_each_run(first..first + CHUNK, |tap, _, values| {
            let lines = packed[values].as_chunks_mut::<{ 2 * TILE }>().0;
            for (pair, line) in lines.iter_mut().enumerate() {
                let even = 2 * pair * taps + tap;
                let odd = even + taps;
                let joined = joined(&table[even / 2], even % 2, &table[odd / 2], odd % 2);
                // SAFETY: 32 values are 64 bytes.
                unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), joined) };
            }
        });
    }
}

/// The first or second value of each pair of `even`, and behind it that of `odd`.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined(even: &Line, even_half: usize, odd: &Line, odd_half: usize) -> __m512i {
    const LOW: i32 = 0xffff;
    // SAFETY: a line is 64 bytes.
    let (even, odd) = unsafe {
        (_mm512_loadu_si512(even.as_ptr().cast()), _mm512_loadu_si512(odd.as_ptr().cast()))
    };
    let low = match even_half {
        0 => _mm512_and_si512(even, _mm512_set1_epi32(LOW)),
        _ => _mm512_srli_epi32::<16>(even),
    };
    let high = match odd_half {
        0 => _mm512_slli_epi32::<16>(odd),
        _ => _mm512_andnot_si512(_mm512_set1_epi32(LOW), odd),
    };
    _mm512_or_si512(low, high)
}
