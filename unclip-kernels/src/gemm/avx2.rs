//! Products on AVX2 with FMA: f32, and bf16 pairs widened on the way.

use std::arch::x86_64::*;

use half::bf16;

use super::{Block, CTile, Next, Panels, Staged, Steps, TILE};

/// Values of a register.
const LANES: usize = 8;

/// Values along the depth that a turn of the loop takes where they lie side by side: what counts and what finds addresses
/// is then a smaller part of it.
const UNROLLED: usize = 4;

/// How far ahead panels are fetched that a lone tile of rows meets, in values: what such a block does with a panel is done
/// before the panel has come from memory, and 2 KiB ahead is beyond what the processor fetches by itself.
const AHEAD: usize = 32 * TILE;

/// Registers of a row of 16 columns.
const VECTORS: usize = TILE / LANES;

/// Computes `block` in f32.
///
/// # Safety
///
/// The processor has AVX2 and FMA, and `block` passed [`Block::check`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply_f32(block: Block<'_, f32>) {
    let width = block.width();
    let Block { staged, panels, steps, sums, fresh, next } = block;
    for (index, tile) in sums.iter_mut().enumerate() {
        let (half, panel) = (index / width, index % width);
        if let Some(next) = next {
            next.fetch(half, panel);
        }
        let rows = Rows { staged, half, panels, panel, steps, fresh };
        // 6 rows × 2 registers of sums, one row of columns and one broadcast value fill 15 of the 16 registers.
        // SAFETY: this function's own contract; the rows are those of the tile.
        unsafe {
            rows.sum_f32::<6>(tile, 0);
            rows.sum_f32::<5>(tile, 6);
            rows.sum_f32::<5>(tile, 11);
        }
    }
}

/// Computes `block` in f32 from bf16 operands. Products of two bf16 are exact in f32.
///
/// # Safety
///
/// As [`multiply_f32`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply_bf16(block: Block<'_, bf16>) {
    let width = block.width();
    let Block { staged, panels, steps, sums, fresh, .. } = block;
    for (index, tile) in sums.iter_mut().enumerate() {
        let (half, panel) = (index / width, index % width);
        let rows = Rows { staged, half, panels, panel, steps, fresh };
        // A pair widens to two rows of columns, which takes the registers of two rows of sums.
        for first in (0..TILE).step_by(4) {
            // SAFETY: this function's own contract; the rows are those of the tile.
            unsafe { rows.sum_bf16::<4>(tile, first) };
        }
    }
}

impl Next {
    /// Asks for what the sums of one tile will meet, a panel's 16 values of 32 bits a row.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn fetch(&self, half: usize, panel: usize) {
        let start = self.between.wrapping_mul(half).wrapping_add(panel * TILE * size_of::<f32>());
        for row in 0..TILE {
            let at = start.wrapping_add(row.wrapping_mul(self.stride));
            _mm_prefetch::<_MM_HINT_T0>(self.written.wrapping_add(at).cast());
            if self.read != self.written {
                _mm_prefetch::<_MM_HINT_T0>(self.read.wrapping_add(at).cast());
            }
        }
    }
}

/// The operands of some rows of one tile.
#[derive(Clone, Copy)]
struct Rows<'a, S> {
    staged: Staged<'a, S>,
    /// Which of the two tiles of rows.
    half: usize,
    panels: Panels<'a, S>,
    panel: usize,
    steps: Steps<'a, S>,
    fresh: bool,
}

impl<S> Rows<'_, S> {
    /// Whether the sums of no row from `first` on are wanted.
    fn are_unwanted(&self, first: usize) -> bool {
        self.half * TILE + first >= self.staged.rows
    }

    /// The first value of the row `first`, and of the panel.
    fn operands(&self, first: usize) -> (*const S, *const S) {
        let start = self.staged.starts[self.half] + first * self.staged.row_stride;
        let staged = self.staged.values.as_ptr().wrapping_add(start);
        let packed = self.panels.values.as_ptr();
        (staged, packed.wrapping_add(self.panel * self.panels.panel_stride))
    }
}

impl Rows<'_, f32> {
    /// # Safety
    ///
    /// The processor has AVX2 and FMA, the block passed [`Block::check`], and `first + ROWS` is at most [`TILE`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn sum_f32<const ROWS: usize>(self, tile: &mut CTile, first: usize) {
        if self.are_unwanted(first) {
            return;
        }
        let (rows, mut packed) = self.operands(first);
        let mut sums = load::<ROWS>(tile, first, self.fresh);
        let is_dense = self.steps.depth_stride == 1 && self.panels.depth_stride == TILE;
        let is_alone = self.staged.rows <= TILE;
        for step in self.steps.list {
            let mut value = rows.wrapping_add(step.offset);
            let mut left = step.len;
            // SAFETY, of every `add_products`: `Block::check` compared the last panel's last row and the last row's last value
            // of every step with the operands' lengths; these loops stay below them.
            while is_dense && left >= UNROLLED {
                if is_alone {
                    for depth in 0..UNROLLED {
                        let ahead = packed.wrapping_add(AHEAD + depth * TILE);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    }
                }
                for depth in 0..UNROLLED {
                    let (value, packed) =
                        (value.wrapping_add(depth), packed.wrapping_add(depth * TILE));
                    // SAFETY: as above.
                    unsafe { add_products(&mut sums, value, self.staged.row_stride, packed) };
                }
                value = value.wrapping_add(UNROLLED);
                packed = packed.wrapping_add(UNROLLED * TILE);
                left -= UNROLLED;
            }
            for _ in 0..left {
                // SAFETY: as above.
                unsafe { add_products(&mut sums, value, self.staged.row_stride, packed) };
                value = value.wrapping_add(self.steps.depth_stride);
                packed = packed.wrapping_add(self.panels.depth_stride);
            }
        }
        store(tile, first, &sums);
    }
}

impl Rows<'_, bf16> {
    /// # Safety
    ///
    /// As [`Rows::sum_f32`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn sum_bf16<const ROWS: usize>(self, tile: &mut CTile, first: usize) {
        if self.are_unwanted(first) {
            return;
        }
        let (rows, mut packed) = self.operands(first);
        let mut sums = load::<ROWS>(tile, first, self.fresh);
        for step in self.steps.list {
            let mut pair = rows.wrapping_add(step.offset);
            for _ in 0..step.len / 2 {
                // SAFETY: as in `sum_f32`; a packed row is 16 pairs, 64 bytes, and a step's length is even.
                unsafe {
                    let columns: [__m256i; VECTORS] = [
                        _mm256_loadu_si256(packed.cast()),
                        _mm256_loadu_si256(packed.add(2 * LANES).cast()),
                    ];
                    let (columns_early, columns_late) =
                        (columns.map(|x| early(x)), columns.map(|x| late(x)));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let at = pair.add(row * self.staged.row_stride).cast::<i32>();
                        let pair = _mm256_set1_epi32(at.read_unaligned());
                        let (value_early, value_late) = (early(pair), late(pair));
                        for (sum, columns) in sums.iter_mut().zip(&columns_early) {
                            *sum = _mm256_fmadd_ps(value_early, *columns, *sum);
                        }
                        for (sum, columns) in sums.iter_mut().zip(&columns_late) {
                            *sum = _mm256_fmadd_ps(value_late, *columns, *sum);
                        }
                    }
                }
                pair = pair.wrapping_add(2);
                packed = packed.wrapping_add(2 * TILE);
            }
        }
        store(tile, first, &sums);
    }
}

/// Adds the products of one value of each row with a row of 16 columns.
///
/// # Safety
///
/// The processor has AVX2 and FMA; 16 values can be read at `packed`, and one at `value` and at every multiple of
/// `row_stride` behind it, one a row.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products<const ROWS: usize>(
    sums: &mut [[__m256; VECTORS]; ROWS],
    value: *const f32,
    row_stride: usize,
    packed: *const f32,
) {
    // SAFETY: this function's own contract.
    unsafe {
        let columns = [_mm256_loadu_ps(packed), _mm256_loadu_ps(packed.add(LANES))];
        for (row, sums) in sums.iter_mut().enumerate() {
            let value = _mm256_broadcast_ss(&*value.add(row * row_stride));
            for (sum, columns) in sums.iter_mut().zip(&columns) {
                *sum = _mm256_fmadd_ps(value, *columns, *sum);
            }
        }
    }
}

/// The first value of each pair of bf16, as f32: its upper half.
#[inline]
#[target_feature(enable = "avx2")]
fn early(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))
}

/// The second value of each pair of bf16, as f32.
#[inline]
#[target_feature(enable = "avx2")]
fn late(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed())))
}

/// Loads or clears the sums of rows from `first` on.
#[inline]
#[target_feature(enable = "avx2")]
fn load<const ROWS: usize>(tile: &CTile, first: usize, fresh: bool) -> [[__m256; VECTORS]; ROWS] {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    if !fresh {
        for (sums, row) in sums.iter_mut().zip(&tile.0[first..]) {
            for (sum, values) in sums.iter_mut().zip(row.as_chunks::<LANES>().0) {
                // SAFETY: eight values are read.
                *sum = unsafe { _mm256_loadu_ps(values.as_ptr()) };
            }
        }
    }
    sums
}

/// The inverse of [`load`].
#[inline]
#[target_feature(enable = "avx2")]
fn store<const ROWS: usize>(tile: &mut CTile, first: usize, sums: &[[__m256; VECTORS]; ROWS]) {
    for (sums, row) in sums.iter().zip(&mut tile.0[first..]) {
        for (sum, values) in sums.iter().zip(row.as_chunks_mut::<LANES>().0) {
            // SAFETY: eight values are written.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr(), *sum) };
        }
    }
}
