//! bf16 products on AMX tiles: 16 × 32 by 32 × 16 into 16 × 16 sums, one instruction.

use std::{arch::asm, ptr};

use half::bf16;

use super::{Block, CTile, Next, Step, TILE};
use crate::amx::Tiles;

/// Bytes of a row of a packed panel and of a tile of sums.
const ROW_BYTES: usize = 64;

/// Memory that the last steps of a block fetch, a row of each tile, and their number. Fetched earlier, it would be gone from the
/// first-level cache before it is met.
#[repr(C)]
struct Fetching {
    next: Next,
    steps: usize,
}

/// A step of two row tiles by two panels, and the first cache lines of what comes after the panels.
macro_rules! step {
    () => {
        "mov {at}, [{step}]
        lea {at}, [{staged} + {at} * 2]
        tileloadd tmm6, [{panel} + {row}]
        tileloadd tmm4, [{at} + {staged_row}]
        tdpbf16ps tmm0, tmm4, tmm6
        tileloadd tmm7, [{second_panel} + {row}]
        tdpbf16ps tmm1, tmm4, tmm7
        prefetcht1 [{ahead}]
        prefetcht1 [{ahead} + 64]
        add {at}, {between}
        tileloadd tmm5, [{at} + {staged_row}]
        tdpbf16ps tmm2, tmm5, tmm6
        tdpbf16ps tmm3, tmm5, tmm7
        prefetcht1 [{second_ahead}]
        prefetcht1 [{second_ahead} + 64]
        add {ahead}, 128
        add {second_ahead}, 128
        add {panel}, 1024
        add {second_panel}, 1024
        add {step}, 16"
    };
}

/// Computes `block` with four tiles of sums in registers, two where it has one panel or one row tile.
///
/// Each loop is one assembly block, since nothing tells the compiler about values in tile registers. It reads,
/// for each step, a 16 × 64-byte tile at `staged + start + offset` for each row tile, and 1 KiB of each panel.
///
/// # Safety
///
/// `block` passed [`Block::check`].
pub(super) unsafe fn multiply(_configured: &Tiles, block: Block<'_, bf16>) {
    let Block { staged, panels, steps, sums, fresh, next } = block;
    let row_bytes = staged.row_stride * size_of::<bf16>();
    let between_rows =
        (staged.starts[1].wrapping_sub(staged.starts[0])).wrapping_mul(size_of::<bf16>());
    let first_row = staged.values.as_ptr().wrapping_add(staged.starts[0]);
    let first_panel = panels.values.as_ptr();
    let ahead = panels.values.as_ptr().wrapping_add(panels.ahead);
    let steps_left = steps.list.len();
    if steps_left == 0 {
        if fresh {
            sums.fill(CTile::ZERO);
        }
        return;
    }
    if staged.rows <= TILE && sums.len() == 4 {
        // SAFETY: as below, without the second row tile, whose sums are left alone.
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
                "tileloadd tmm6, [{panel} + {row}]",
                "tileloadd tmm4, [{at} + {staged_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{second_panel} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {panel}, 1024",
                "add {second_panel}, 1024",
                "add {step}, 16",
                "dec {left}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                at = inout(reg) u64::from(fresh) => _,
                sums = in(reg) sums.as_mut_ptr(),
                row = in(reg) ROW_BYTES,
                step = inout(reg) steps.list.as_ptr() => _,
                staged = in(reg) first_row,
                staged_row = in(reg) row_bytes,
                panel = inout(reg) first_panel => _,
                second_panel = inout(reg) first_panel.wrapping_add(panels.panel_stride) => _,
                left = inout(reg) steps_left => _,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    } else if sums.len() == 4 {
        let (next, fetching) = match next {
            // A row of both tiles a step, and what the steps are too few for before the first.
            Some(next) => (fetch(next, TILE.saturating_sub(steps_left)), TILE.min(steps_left)),
            None => (Next { written: ptr::null(), read: ptr::null(), stride: 0, between: 0 }, 0),
        };
        let mut fetching = Fetching { next, steps: fetching };
        // SAFETY: `Tiles` proves that AMX may be used and that all tiles are 16 rows × 64 bytes. By `Block::check`, the
        // last row of the furthest step lies inside `staged`, both panels hold 1 KiB for each step, and there are
        // four tiles of sums, 1 KiB each. `Step` is `repr(C)`, 16 bytes, its offset first; `Fetching` is `repr(C)`, and
        // its addresses move on but are only hinted at. Nothing but it and the sums is written.
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
                "test {left}, {left}",
                "jz 5f",
                "4:",
                step!(),
                "dec {left}",
                "jnz 4b",
                "5:",
                "mov {left}, [{fetching} + 32]",
                "test {left}, {left}",
                "jz 7f",
                "6:",
                step!(),
                "mov {at}, [{fetching}]",
                "prefetchw [{at}]",
                "add {at}, [{fetching} + 24]",
                "prefetchw [{at}]",
                "mov {at}, [{fetching} + 8]",
                "prefetcht0 [{at}]",
                "add {at}, [{fetching} + 24]",
                "prefetcht0 [{at}]",
                "mov {at}, [{fetching} + 16]",
                "add [{fetching}], {at}",
                "add [{fetching} + 8], {at}",
                "dec {left}",
                "jnz 6b",
                "7:",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 3072], tmm3",
                at = inout(reg) u64::from(fresh) => _,
                sums = in(reg) sums.as_mut_ptr(),
                row = in(reg) ROW_BYTES,
                step = inout(reg) steps.list.as_ptr() => _,
                fetching = in(reg) &raw mut fetching,
                staged = in(reg) first_row,
                staged_row = in(reg) row_bytes,
                between = in(reg) between_rows,
                panel = inout(reg) first_panel => _,
                second_panel = inout(reg) first_panel.wrapping_add(panels.panel_stride) => _,
                ahead = inout(reg) ahead => _,
                second_ahead = inout(reg) ahead.wrapping_add(panels.panel_stride) => _,
                left = inout(reg) steps_left - fetching.steps => _,
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
                "tileloadd tmm6, [{panel} + {row}]",
                "tileloadd tmm4, [{at} + {staged_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "add {at}, {between}",
                "tileloadd tmm5, [{at} + {staged_row}]",
                "tdpbf16ps tmm1, tmm5, tmm6",
                "add {panel}, 1024",
                "add {step}, 16",
                "dec {left}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                at = inout(reg) u64::from(fresh) => _,
                sums = in(reg) sums.as_mut_ptr(),
                row = in(reg) ROW_BYTES,
                step = inout(reg) steps.list.as_ptr() => _,
                staged = in(reg) first_row,
                staged_row = in(reg) row_bytes,
                between = in(reg) between_rows,
                panel = inout(reg) first_panel => _,
                left = inout(reg) steps_left => _,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
                options(nostack),
            );
        }
    }
}

/// Asks for the first `rows` rows of both tiles, and moves on behind them.
fn fetch(mut next: Next, rows: usize) -> Next {
    for _ in 0..rows {
        for between in [0, next.between] {
            // SAFETY: both are hints, which any address may be given to.
            unsafe {
                asm!(
                    "prefetchw [{written}]",
                    "prefetcht0 [{read}]",
                    written = in(reg) next.written.wrapping_add(between),
                    read = in(reg) next.read.wrapping_add(between),
                    options(nostack, readonly, preserves_flags),
                );
            }
        }
        next.written = next.written.wrapping_add(next.stride);
        next.read = next.read.wrapping_add(next.stride);
    }
    next
}

const _: () = assert!(
    size_of::<CTile>() == TILE * ROW_BYTES
        && size_of::<Step>() == 16
        && std::mem::offset_of!(Fetching, steps) == 32,
    "the assembly above counts on all three"
);
