//! 32-bit products on AMX: each factor as the sum of three numbers of bf16.
//!
//! A 32-bit significand has 24 bits, three times the 8 of bf16, so `x = x₀ + x₁ + x₂` without an error, each term some 2⁻⁸
//! of the one before. Of the nine products of two such sums the three smallest, 2⁻²⁴ of the whole and less, are left out:
//!
//! ```text
//! x w ≈ x₀w₀ + x₀w₁ + x₁w₀ + x₁w₁ + x₀w₂ + x₂w₀
//! ```
//!
//! Products of bf16 are exact in 32 bits, in which they are summed, so the result errs as a 32-bit sum does; and six
//! products on AMX take half the time of one on AVX-512 where the processor gives all of AMX (Henry, Tang & Heinecke 2019,
//! arXiv 1904.06376). An infinite factor makes sums that are no numbers, for it meets zeros among the other's terms.

use std::arch::{asm, x86_64::*};

use half::bf16;

use super::{Block, CHUNK, CTile, TILE};
use crate::{
    amx::Tiles,
    vector::{Vector as _, split},
};

/// Values of the three tiles that one step of a panel becomes.
pub(crate) const STEP: usize = 3 * CHUNK * TILE;

/// Bytes of a row of a tile.
const ROW_BYTES: usize = 64;

/// Writes the rows of a packed 32-bit panel, `lens[i]` of them to step `i`, as three tiles of pairs a step.
///
/// # Panics
///
/// When the panel has fewer rows, a step more than 32, or `out` is too short.
///
/// # Safety
///
/// The processor has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) unsafe fn split_panel(
    panel: &[f32],
    lens: impl Iterator<Item = usize>,
    out: &mut [bf16],
) {
    let (rows, _) = panel.as_chunks::<TILE>();
    let (steps, _) = out.as_chunks_mut::<STEP>();
    let mut steps = steps.iter_mut();
    let mut at = 0;
    for len in lens {
        assert!(len <= CHUNK, "a step of {len} rows");
        let rows = &rows[at..at + len];
        let out = steps.next().expect("room for every step");
        for pair in 0..TILE {
            let row = |index: usize| match rows.get(index) {
                // SAFETY: a row is sixteen values.
                Some(row) => unsafe { f32::load(row.as_ptr(), !0) },
                None => _mm512_setzero_ps(),
            };
            let (even, odd) = (split(row(2 * pair)), split(row(2 * pair + 1)));
            for (third, (even, odd)) in even.into_iter().zip(odd).enumerate() {
                // Both are numbers of bf16, whose bits are the upper half: one goes down, the other stays.
                let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(even));
                let both = _mm512_or_si512(low, _mm512_castps_si512(odd));
                let to = &mut out[(third * TILE + pair) * 2 * TILE..][..2 * TILE];
                // SAFETY: `to` is 64 bytes.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), both) };
            }
        }
        at += len;
    }
}

/// Computes `block`, whose staged values have their thirds `third` values apart, and whose panels [`split_panel`] wrote.
///
/// # Panics
///
/// When an operand is shorter than what the steps touch.
pub(crate) fn multiply(tiles: &Tiles, block: Block<'_, bf16>, third: usize) {
    check(&block, third);
    let Block { staged, panels, steps, sums, fresh } = block;
    let row_bytes = staged.row_stride * size_of::<bf16>();
    let between_rows =
        (staged.starts[1].wrapping_sub(staged.starts[0])).wrapping_mul(size_of::<bf16>());
    let first_row = staged.values.as_ptr().wrapping_add(staged.starts[0]);
    let first_panel = panels.values.as_ptr();
    let third_bytes = third * size_of::<bf16>();
    let _configured = tiles;
    if steps.is_empty() {
        if fresh {
            sums.fill(CTile::ZERO);
        }
        return;
    }
    if sums.len() == 4 {
        // SAFETY: `Tiles` proves that AMX may be used and that all tiles are 16 rows × 64 bytes. By `check`, the last row of
        // the furthest step's last third lies inside `staged`, both panels hold 3 KiB for each step, and there are four
        // tiles of sums, 1 KiB each. `Step` is `repr(C)`, 16 bytes, its offset first. Only sums are written.
        unsafe {
            asm!(
                "test {at:e}, {at:e}",
                "jz 3f",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "jmp 2f",
                "3:",
                "tileloadd tmm0, [{sums} + {row}]",
                "tileloadd tmm1, [{sums} + {row} + 1024]",
                "tileloadd tmm2, [{sums} + {row} + 2048]",
                "tileloadd tmm3, [{sums} + {row} + 3072]",
                "2:",
                "mov {at}, [{step}]",
                "lea {at}, [{staged} + {at} * 2]",
                "lea {below}, [{at} + {between}]",
                // x₀ w₀
                "tileloadd tmm6, [{panel} + {row}]",
                "tileloadd tmm4, [{at} + {staged_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{second_panel} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{below} + {staged_row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // x₀ w₂
                "tileloadd tmm6, [{panel} + {row} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{second_panel} + {row} + 2048]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // x₀ w₁
                "tileloadd tmm6, [{panel} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{second_panel} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // x₁ w₁
                "add {at}, {third}",
                "add {below}, {third}",
                "tileloadd tmm4, [{at} + {staged_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{below} + {staged_row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // x₁ w₀
                "tileloadd tmm6, [{panel} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{second_panel} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // x₂ w₀
                "add {at}, {third}",
                "add {below}, {third}",
                "tileloadd tmm4, [{at} + {staged_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{below} + {staged_row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {panel}, 3072",
                "add {second_panel}, 3072",
                "add {step}, 16",
                "dec {left}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 3072], tmm3",
                at = inout(reg) u64::from(fresh) => _,
                below = out(reg) _,
                sums = in(reg) sums.as_mut_ptr(),
                row = in(reg) ROW_BYTES,
                step = inout(reg) steps.as_ptr() => _,
                staged = in(reg) first_row,
                staged_row = in(reg) row_bytes,
                between = in(reg) between_rows,
                third = in(reg) third_bytes,
                panel = inout(reg) first_panel => _,
                second_panel = inout(reg) first_panel.wrapping_add(panels.panel_stride) => _,
                left = inout(reg) steps.len() => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    } else {
        // SAFETY: as above, with one panel and two tiles of sums.
        unsafe {
            asm!(
                "test {at:e}, {at:e}",
                "jz 3f",
                "tilezero tmm0",
                "tilezero tmm1",
                "jmp 2f",
                "3:",
                "tileloadd tmm0, [{sums} + {row}]",
                "tileloadd tmm1, [{sums} + {row} + 1024]",
                "2:",
                "mov {at}, [{step}]",
                "lea {at}, [{staged} + {at} * 2]",
                "lea {below}, [{at} + {between}]",
                "tileloadd tmm6, [{panel} + {row}]",
                "tileloadd tmm7, [{panel} + {row} + 1024]",
                "tileloadd tmm3, [{panel} + {row} + 2048]",
                "tileloadd tmm4, [{at} + {staged_row}]",
                "tileloadd tmm5, [{below} + {staged_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm6",
                "tdpbf16ps tmm0, tmm4, tmm3",
                "tdpbf16ps tmm1, tmm5, tmm3",
                "tdpbf16ps tmm0, tmm4, tmm7",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "add {at}, {third}",
                "add {below}, {third}",
                "tileloadd tmm4, [{at} + {staged_row}]",
                "tileloadd tmm5, [{below} + {staged_row}]",
                "tdpbf16ps tmm0, tmm4, tmm7",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm6",
                "add {at}, {third}",
                "add {below}, {third}",
                "tileloadd tmm4, [{at} + {staged_row}]",
                "tileloadd tmm5, [{below} + {staged_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm6",
                "add {panel}, 3072",
                "add {step}, 16",
                "dec {left}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                at = inout(reg) u64::from(fresh) => _,
                below = out(reg) _,
                sums = in(reg) sums.as_mut_ptr(),
                row = in(reg) ROW_BYTES,
                step = inout(reg) steps.as_ptr() => _,
                staged = in(reg) first_row,
                staged_row = in(reg) row_bytes,
                between = in(reg) between_rows,
                third = in(reg) third_bytes,
                panel = inout(reg) first_panel => _,
                left = inout(reg) steps.len() => _,
                out("tmm0") _, out("tmm1") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// Compares every operand with what the steps will touch, as [`Block::check`] does for plain values.
fn check(block: &Block<'_, bf16>, third: usize) {
    let Block { staged, panels, steps, sums, .. } = block;
    assert!(
        matches!(sums.len(), 2 | 4),
        "a block takes one panel or two, not {} tiles",
        sums.len()
    );
    if steps.is_empty() {
        return;
    }
    let reach = steps.iter().map(|step| step.offset).max().unwrap_or_default();
    // Sums that no `usize` holds lie past every end.
    let last = (TILE - 1)
        .saturating_mul(staged.row_stride)
        .saturating_add(staged.starts[0].max(staged.starts[1]))
        .saturating_add(reach)
        .saturating_add(third.saturating_mul(2))
        .saturating_add(CHUNK - 1);
    assert!(
        last < staged.values.len(),
        "the staged operand has {} values, the block reads number {last}",
        staged.values.len()
    );
    let end = (sums.len() / 2 - 1)
        .saturating_mul(panels.panel_stride)
        .saturating_add(steps.len().saturating_mul(STEP));
    assert!(
        end <= panels.values.len(),
        "the panels have {} values, the block reads {end}",
        panels.values.len()
    );
    assert!(staged.depth_stride == 1, "pairs along the depth lie side by side");
}

#[cfg(test)]
mod tests {
    use super::super::{Panels, Staged, Step};
    use super::*;
    use crate::cpu::Path;

    fn run(staged: usize, panels: usize, tiles: usize) {
        let Some(unit) = Tiles::configure(Path::best()) else { panic!("reads number, reads") };
        let (staged, panels) = (vec![bf16::ONE; staged], vec![bf16::ONE; panels]);
        let mut sums = vec![CTile::ZERO; tiles];
        let block = Block {
            staged: Staged {
                values: &staged,
                starts: [0, 96],
                row_stride: 96,
                depth_stride: 1,
                rows: 2 * TILE,
            },
            panels: Panels { values: &panels, panel_stride: STEP, depth_stride: TILE, ahead: 0 },
            steps: &[Step { offset: 0, len: CHUNK }],
            sums: &mut sums,
            fresh: true,
        };
        multiply(&unit, block, CHUNK);
        // Six products of 32 ones each.
        assert!(sums.iter().all(|tile| *tile == CTile([[192.0; TILE]; TILE])));
    }

    #[test]
    fn a_block_may_use_its_operands_to_the_last_value() {
        if Tiles::configure(Path::best()).is_some() {
            run(17 * 96, 2 * STEP, 4);
            run(17 * 96, STEP, 2);
        }
    }

    #[test]
    #[should_panic(expected = "reads number")]
    fn a_staged_operand_that_ends_early_is_refused() {
        run(17 * 96 - 1, 2 * STEP, 4);
    }

    #[test]
    #[should_panic(expected = "reads")]
    fn panels_that_end_early_are_refused() {
        run(17 * 96, 2 * STEP - 1, 4);
    }
}
