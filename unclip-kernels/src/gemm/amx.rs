//! bf16 products on AMX tiles: 16 × 32 by 32 × 16 into 16 × 16 sums, one instruction.

use std::arch::asm;

use half::bf16;

use super::{Block, CTile, Step, TILE};
use crate::amx::Tiles;

/// Bytes of a row of a packed panel and of a tile of sums.
const ROW_BYTES: usize = 64;

/// Computes `block` with four tiles of sums in registers, two where it has one panel.
///
/// The whole loop is one assembly block, since nothing tells the compiler about values in tile registers. It reads,
/// for each step, a 16 × 64-byte tile at `staged + start + offset` for both row tiles, and 1 KiB of each panel.
///
/// # Safety
///
/// `block` passed [`Block::check`].
pub(super) unsafe fn multiply(_configured: &Tiles, block: Block<'_, bf16>) {
    let Block { staged, panels, steps, sums, fresh } = block;
    let row_bytes = staged.row_stride * size_of::<bf16>();
    let between_rows =
        (staged.starts[1].wrapping_sub(staged.starts[0])).wrapping_mul(size_of::<bf16>());
    let first_row = staged.values.as_ptr().wrapping_add(staged.starts[0]);
    let first_panel = panels.values.as_ptr();
    let ahead = panels.values.as_ptr().wrapping_add(panels.ahead);
    let steps_left = steps.len();
    if steps_left == 0 {
        if fresh {
            sums.fill(CTile::ZERO);
        }
        return;
    }
    if sums.len() == 4 {
        // SAFETY: `Tiles` proves that AMX may be used and that all tiles are 16 rows × 64 bytes. By `Block::check`, the
        // last row of the furthest step lies inside `staged`, both panels hold 1 KiB for each step, and there are
        // four tiles of sums, 1 KiB each. `Step` is `repr(C)`, 16 bytes, its offset first. Only sums are written.
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
                "tileloadd tmm6, [{panel} + {row}]",
                "tileloadd tmm4, [{at} + {staged_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{second_panel} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht1 [{ahead}]",
                "prefetcht1 [{ahead} + 64]",
                "add {at}, {between}",
                "tileloadd tmm5, [{at} + {staged_row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "prefetcht1 [{second_ahead}]",
                "prefetcht1 [{second_ahead} + 64]",
                "add {ahead}, 128",
                "add {second_ahead}, 128",
                "add {panel}, 1024",
                "add {second_panel}, 1024",
                "add {step}, 16",
                "dec {left}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 3072], tmm3",
                at = inout(reg) u64::from(fresh) => _,
                sums = in(reg) sums.as_mut_ptr(),
                row = in(reg) ROW_BYTES,
                step = inout(reg) steps.as_ptr() => _,
                staged = in(reg) first_row,
                staged_row = in(reg) row_bytes,
                between = in(reg) between_rows,
                panel = inout(reg) first_panel => _,
                second_panel = inout(reg) first_panel.wrapping_add(panels.panel_stride) => _,
                ahead = inout(reg) ahead => _,
                second_ahead = inout(reg) ahead.wrapping_add(panels.panel_stride) => _,
                left = inout(reg) steps_left => _,
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
                step = inout(reg) steps.as_ptr() => _,
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

const _: () = assert!(
    size_of::<CTile>() == TILE * ROW_BYTES && size_of::<Step>() == 16,
    "the assembly above counts on both sizes"
);
