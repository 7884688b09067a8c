//! bf16 matrices brought into the two orders in which kernels read operands whose depth is the rows.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::bf16;

#[cfg(target_arch = "x86_64")]
use crate::cpu::Isa;
use crate::{cpu::Path, gemm::TILE};

/// Rows and columns of the squares that [`transpose`] works in: 16 columns, 32 rows, a cache line of each.
const ROWS: usize = 32;

/// Writes the first `columns` columns of `source` as rows of `target`.
///
/// # Panics
///
/// When the rows of `source`, a multiple of 32, or the columns, a multiple of 16, exceed what both matrices hold.
pub(crate) fn transpose(
    path: Path,
    source: &[bf16],
    source_stride: usize,
    columns: usize,
    target: &mut [bf16],
    target_stride: usize,
) {
    let rows = source.len() / source_stride;
    assert!(
        rows.is_multiple_of(ROWS) && columns.is_multiple_of(TILE) && columns <= source_stride,
        "{rows} × {columns} of {source_stride} are no whole squares"
    );
    assert!(
        rows <= target_stride && columns * target_stride <= target.len(),
        "{columns} rows of {rows} do not fit {} values, {target_stride} to a row",
        target.len()
    );
    for row in (0..rows).step_by(ROWS) {
        for column in (0..columns).step_by(TILE) {
            let source = &source[row * source_stride + column..];
            let target = &mut target[column * target_stride + row..];
            #[cfg(target_arch = "x86_64")]
            if path.isa() >= Isa::Avx512 {
                assert!(
                    (ROWS - 1) * source_stride + TILE <= source.len()
                        && (TILE - 1) * target_stride + ROWS <= target.len(),
                    "a square lies inside both matrices"
                );
                // SAFETY: the path is a witness of AVX-512 F, BW and VL, and the square was just checked.
                unsafe { square(source, source_stride, target, target_stride) };
                continue;
            }
            for offset in 0..ROWS {
                let source = &source[offset * source_stride..][..TILE];
                for (column, value) in source.iter().enumerate() {
                    target[column * target_stride + offset] = *value;
                }
            }
        }
    }
    let _ = path;
}

/// Transposes 32 rows of 16 columns.
///
/// Two rows are merged into one of 32-bit pairs; 16 of these make a 16 × 16 matrix, whose transpose has what was one
/// column, 32 values, in each row.
///
/// # Safety
///
/// The processor has AVX-512 F, BW and VL. `source` holds 32 rows of 16 values, `target` 16 rows of 32.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn square(source: &[bf16], source_stride: usize, target: &mut [bf16], target_stride: usize) {
    let mut pairs = [_mm512_setzero_si512(); TILE];
    for (index, pair) in pairs.iter_mut().enumerate() {
        let row = source.as_ptr().wrapping_add(2 * index * source_stride);
        // SAFETY: rows 2 · index and 2 · index + 1 are below 32 and hold 16 values.
        *pair = unsafe { merged(row, row.wrapping_add(source_stride)) };
    }
    for (column, values) in turned(pairs).into_iter().enumerate() {
        let row = target.as_mut_ptr().wrapping_add(column * target_stride);
        // SAFETY: `column` is below 16, and each row of `target` holds 32 values, 64 bytes.
        unsafe { _mm512_storeu_si512(row.cast(), values) };
    }
}

/// The transpose of 16 rows of 16 values of 32 bits.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn turned(mut rows: [__m512i; TILE]) -> [__m512i; TILE] {
    // Four rounds: neighbours swap single lanes, then pairs, then quarters, then halves.
    let mut lanes = rows;
    for i in (0..TILE).step_by(2) {
        lanes[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        lanes[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for i in (0..TILE).step_by(4) {
        rows[i] = _mm512_unpacklo_epi64(lanes[i], lanes[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(lanes[i], lanes[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(lanes[i + 1], lanes[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(lanes[i + 1], lanes[i + 3]);
    }
    for i in 0..4 {
        for half in [0, 8] {
            lanes[half + i] = _mm512_shuffle_i32x4::<0x88>(rows[half + i], rows[half + i + 4]);
            lanes[half + i + 4] = _mm512_shuffle_i32x4::<0xdd>(rows[half + i], rows[half + i + 4]);
        }
    }
    for i in 0..8 {
        rows[i] = _mm512_shuffle_i32x4::<0x88>(lanes[i], lanes[i + 8]);
        rows[i + 8] = _mm512_shuffle_i32x4::<0xdd>(lanes[i], lanes[i + 8]);
    }
    rows
}

/// Sixteen pairs of a value at `even` and one at `odd`.
///
/// # Safety
///
/// The processor has AVX-512 F, BW and VL, and both rows hold 16 values.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn merged(even: *const bf16, odd: *const bf16) -> __m512i {
    // SAFETY: 16 values are 32 bytes, the size of these loads.
    let (even, odd) = unsafe { (_mm256_loadu_si256(even.cast()), _mm256_loadu_si256(odd.cast())) };
    let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
    _mm512_or_si512(_mm512_cvtepu16_epi32(even), odd)
}

/// Packs `source` into panels of 16 columns in which the values of two rows lie side by side.
///
/// # Panics
///
/// When the number of rows is odd, or the columns, a multiple of 16, do not fill `target`.
pub(crate) fn pair_rows(
    path: Path,
    source: &[bf16],
    columns: usize,
    stride: usize,
    target: &mut [bf16],
) {
    let rows = source.len() / stride;
    assert!(
        rows.is_multiple_of(2) && columns.is_multiple_of(TILE) && columns <= stride,
        "{rows} × {columns} of {stride} are no whole pairs"
    );
    assert!(target.len() == rows * columns, "{} values for {rows} × {columns}", target.len());
    if target.is_empty() {
        return;
    }
    for (panel, target) in target.chunks_exact_mut(rows * TILE).enumerate() {
        let target = target.as_chunks_mut::<{ 2 * TILE }>().0;
        for (rows, target) in source.chunks_exact(2 * stride).zip(target) {
            let (even, odd) = rows.split_at(stride);
            let even = &even[panel * TILE..][..TILE];
            let odd = &odd[panel * TILE..][..TILE];
            #[cfg(target_arch = "x86_64")]
            if path.isa() >= Isa::Avx512 {
                // SAFETY: the path is a witness of AVX-512 F, BW and VL; both rows and half of `target` are 16 values.
                unsafe { store_merged(even, odd, target) };
                continue;
            }
            for (pair, (even, odd)) in
                target.as_chunks_mut::<2>().0.iter_mut().zip(even.iter().zip(odd))
            {
                *pair = [*even, *odd];
            }
        }
    }
    let _ = path;
}

/// Writes the pairs of two rows.
///
/// # Safety
///
/// The processor has AVX-512 F, BW and VL, and both rows hold 16 values.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_merged(even: &[bf16], odd: &[bf16], target: &mut [bf16; 2 * TILE]) {
    // SAFETY: the caller's promise; 16 pairs are 64 bytes, the size of the store.
    unsafe { _mm512_storeu_si512(target.as_mut_ptr().cast(), merged(even.as_ptr(), odd.as_ptr())) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize) -> Vec<bf16> {
        (0..len).map(|i| bf16::from_bits(u16::try_from(i % 0x7f00).unwrap())).collect()
    }

    #[test]
    fn columns_become_rows_on_every_path() {
        let (rows, stride, columns, target_stride) = (64, 40, 32, 70);
        let source = numbers(rows * stride);
        for path in Path::available() {
            let mut target = vec![bf16::ZERO; columns * target_stride];
            transpose(path, &source, stride, columns, &mut target, target_stride);
            for row in 0..rows {
                for column in 0..columns {
                    let found = target[column * target_stride + row];
                    assert_eq!(found, source[row * stride + column], "{path} {row} {column}");
                }
            }
        }
    }

    #[test]
    fn two_rows_lie_side_by_side_in_each_panel() {
        let (rows, stride, columns) = (6, 40, 32);
        let source = numbers(rows * stride);
        let mut target = vec![bf16::ZERO; rows * columns];
        pair_rows(Path::best(), &source, columns, stride, &mut target);
        for row in 0..rows {
            for column in 0..columns {
                let at =
                    column / TILE * rows * TILE + row / 2 * 2 * TILE + column % TILE * 2 + row % 2;
                assert_eq!(target[at], source[row * stride + column], "{row} {column}");
            }
        }
    }
}
