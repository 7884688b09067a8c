//! Products on AVX-512: f32, and bf16 pairs where the processor has them.

use std::arch::x86_64::*;

use half::bf16;

use super::{Block, CTile, TILE};

/// Rows of sums held in registers: 8 rows × 3 panels are 24 of the 32 registers.
const ROWS: usize = 8;

/// Computes `block` in f32.
///
/// # Safety
///
/// The processor has AVX-512 F, and `block` passed [`Block::check`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply_f32(block: Block<'_, f32>) {
    // SAFETY: this function's own contract, whatever the width.
    unsafe {
        match block.width() {
            1 => f32_panels::<1>(block),
            2 => f32_panels::<2>(block),
            _ => f32_panels::<3>(block),
        }
    }
}

/// Computes `block` in bf16 with sums in f32.
///
/// # Safety
///
/// The processor has AVX-512 F and BF16, and `block` passed [`Block::check`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn multiply_bf16(block: Block<'_, bf16>) {
    // SAFETY: this function's own contract, whatever the width.
    unsafe {
        match block.width() {
            1 => bf16_panels::<1>(block),
            _ => bf16_panels::<2>(block),
        }
    }
}

/// Loads or clears the sums of eight rows, which begin at `first` of each of `tiles`.
#[inline]
#[target_feature(enable = "avx512f")]
fn load<const PANELS: usize>(
    tiles: &[CTile],
    first: usize,
    fresh: bool,
) -> [[__m512; PANELS]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
    if !fresh {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (panel, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a row of a tile is 16 values.
                *sum = unsafe { _mm512_loadu_ps(tiles[panel].0[first + row].as_ptr()) };
            }
        }
    }
    sums
}

/// The inverse of [`load`].
#[inline]
#[target_feature(enable = "avx512f")]
fn store<const PANELS: usize>(tiles: &mut [CTile], first: usize, sums: &[[__m512; PANELS]; ROWS]) {
    for (row, sums) in sums.iter().enumerate() {
        for (panel, sum) in sums.iter().enumerate() {
            // SAFETY: a row of a tile is 16 values.
            unsafe { _mm512_storeu_ps(tiles[panel].0[first + row].as_mut_ptr(), *sum) };
        }
    }
}

/// # Safety
///
/// As [`multiply_f32`], for a block of `PANELS` panels.
#[target_feature(enable = "avx512f")]
unsafe fn f32_panels<const PANELS: usize>(block: Block<'_, f32>) {
    let Block { staged, panels, steps, sums: tiles, fresh, .. } = block;
    for (half, start) in staged.starts.into_iter().enumerate() {
        let tiles = &mut tiles[half * PANELS..][..PANELS];
        for first in [0, ROWS] {
            if half * TILE + first >= staged.rows {
                break;
            }
            let mut sums = load::<PANELS>(tiles, first, fresh);
            let rows = staged.values.as_ptr().wrapping_add(start + first * staged.row_stride);
            let mut packed = panels.values.as_ptr();
            let mut ahead = packed.wrapping_add(panels.ahead);
            for step in steps.list {
                if half == 0 && first == 0 {
                    for _ in 0..step.len / 8 {
                        for panel in 0..PANELS {
                            let next = ahead.wrapping_add(panel * panels.panel_stride);
                            // A hint, which any address may be given to.
                            _mm_prefetch::<_MM_HINT_T1>(next.cast());
                        }
                        ahead = ahead.wrapping_add(TILE);
                    }
                }
                let mut value = rows.wrapping_add(step.offset);
                for _ in 0..step.len {
                    // SAFETY: `Block::check` compared the last panel's last row and the last row's last value of every
                    // step with the operands' lengths; this loop stays below them.
                    unsafe {
                        let mut columns = [_mm512_setzero_ps(); PANELS];
                        for (panel, columns) in columns.iter_mut().enumerate() {
                            *columns = _mm512_loadu_ps(packed.add(panel * panels.panel_stride));
                        }
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let value = _mm512_set1_ps(*value.add(row * staged.row_stride));
                            for (sum, columns) in sums.iter_mut().zip(&columns) {
                                *sum = _mm512_fmadd_ps(value, *columns, *sum);
                            }
                        }
                    }
                    value = value.wrapping_add(steps.depth_stride);
                    packed = packed.wrapping_add(panels.depth_stride);
                }
            }
            store(tiles, first, &sums);
        }
    }
}

/// # Safety
///
/// As [`multiply_bf16`], for a block of `PANELS` panels.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_panels<const PANELS: usize>(block: Block<'_, bf16>) {
    let Block { staged, panels, steps, sums: tiles, fresh, .. } = block;
    for (half, start) in staged.starts.into_iter().enumerate() {
        let tiles = &mut tiles[half * PANELS..][..PANELS];
        for first in [0, ROWS] {
            if half * TILE + first >= staged.rows {
                break;
            }
            let mut sums = load::<PANELS>(tiles, first, fresh);
            let rows = staged.values.as_ptr().wrapping_add(start + first * staged.row_stride);
            let mut packed = panels.values.as_ptr();
            for step in steps.list {
                let mut pair = rows.wrapping_add(step.offset);
                for _ in 0..step.len / 2 {
                    // SAFETY: as in `f32_panels`; a packed row is 16 pairs, 64 bytes, and a step's length is even. The
                    // vector types only differ in what the intrinsics' names say they hold.
                    unsafe {
                        let mut columns = [_mm512_setzero_si512(); PANELS];
                        for (panel, columns) in columns.iter_mut().enumerate() {
                            let at = packed.add(panel * panels.panel_stride);
                            *columns = _mm512_loadu_si512(at.cast());
                        }
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let at = pair.add(row * staged.row_stride).cast::<i32>();
                            let pair = _mm512_set1_epi32(at.read_unaligned());
                            for (sum, columns) in sums.iter_mut().zip(&columns) {
                                *sum = _mm512_dpbf16_ps(
                                    *sum,
                                    std::mem::transmute::<__m512i, __m512bh>(pair),
                                    std::mem::transmute::<__m512i, __m512bh>(*columns),
                                );
                            }
                        }
                    }
                    pair = pair.wrapping_add(2);
                    packed = packed.wrapping_add(2 * TILE);
                }
            }
            store(tiles, first, &sums);
        }
    }
}
