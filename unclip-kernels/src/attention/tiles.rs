//! Products of 16-bit matrices with 32-bit sums on the tile unit.

use std::arch::asm;

use half::bf16;

use crate::amx::Tiles;

/// Rows of a tile, and columns of a tile of sums.
pub(super) const TILE: usize = 16;

/// A block of 32 × 32 sums: `c = a b`, or `c += a b` with `accumulate`.
///
/// - `a`: 32 rows of `32 · steps` values, and the distance from row to row
/// - `b`: the left and the right 16 columns, each `steps` blocks of 16 rows; a row holds two consecutive values of
///   every column
/// - `c`: 32 rows of 32 sums, and the distance from row to row
///
/// # Panics
///
/// When a slice ends before its last value.
pub(super) fn multiply(
    _tiles: &Tiles,
    (a, a_stride): (&[bf16], usize),
    (left, right): (&[bf16], &[bf16]),
    steps: usize,
    (c, c_stride): (&mut [f32], usize),
    accumulate: bool,
) {
    const LAST: usize = 2 * TILE - 1;
    assert!(steps > 0, "a product has at least one step");
    assert!(a.len() >= LAST * a_stride + 2 * TILE * steps, "a ends early");
    assert!(left.len().min(right.len()) >= 2 * TILE * TILE * steps, "b ends early");
    assert!(c.len() >= LAST * c_stride + 2 * TILE, "c ends early");
    let upper = a.as_ptr();
    let top = c.as_mut_ptr();
    // SAFETY: `_tiles` shows that the instructions exist, are permitted, and that tiles 0 to 7 have 16 rows of 64
    // bytes. Every load and store is 16 rows at the given distances; the assertions above bound the last of each.
    unsafe {
        let lower = upper.add(TILE * a_stride);
        let bottom = top.add(TILE * c_stride);
        let c_bytes = 4 * c_stride;
        if accumulate {
            asm!(
                "tileloadd tmm0, [{top} + {stride} * 1]",
                "tileloadd tmm1, [{top} + {stride} * 1 + 64]",
                "tileloadd tmm2, [{bottom} + {stride} * 1]",
                "tileloadd tmm3, [{bottom} + {stride} * 1 + 64]",
                top = in(reg) top,
                bottom = in(reg) bottom,
                stride = in(reg) c_bytes,
                options(nostack, readonly, preserves_flags),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem, preserves_flags),
            );
        }
        asm!(
            "2:",
            "tileloadd tmm4, [{upper} + {a_stride} * 1]",
            "tileloadd tmm6, [{left} + {b_stride} * 1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {b_stride} * 1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {a_stride} * 1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {left}, 1024",
            "add {right}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{top} + {c_stride} * 1], tmm0",
            "tilestored [{top} + {c_stride} * 1 + 64], tmm1",
            "tilestored [{bottom} + {c_stride} * 1], tmm2",
            "tilestored [{bottom} + {c_stride} * 1 + 64], tmm3",
            upper = inout(reg) upper => _,
            lower = inout(reg) lower => _,
            a_stride = in(reg) 2 * a_stride,
            left = inout(reg) left.as_ptr() => _,
            right = inout(reg) right.as_ptr() => _,
            b_stride = in(reg) 64usize,
            steps = inout(reg) steps => _,
            top = in(reg) top,
            bottom = in(reg) bottom,
            c_stride = in(reg) c_bytes,
            options(nostack),
        );
    }
}
