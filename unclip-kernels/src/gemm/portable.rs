//! Products in plain Rust, shaped so that the compiler turns the 16 columns into vectors.

use half::bf16;

use super::{Block, CTile, TILE};
use crate::element::Element;

/// Rows of sums held in registers.
const ROWS: usize = 4;

/// Whether a fused multiply-add is one instruction rather than a call.
const FUSED: bool = cfg!(target_arch = "aarch64");

#[inline(always)]
fn multiply_add(a: f32, b: f32, sum: f32) -> f32 {
    if FUSED { a.mul_add(b, sum) } else { a * b + sum }
}

/// Runs `body` on the sums of four rows at a time: which row tile, which panel, which first row, and the sums.
#[inline(always)]
fn for_each_quad(
    tiles: &mut [CTile],
    width: usize,
    rows: usize,
    fresh: bool,
    mut body: impl FnMut(usize, usize, usize, &mut [[f32; TILE]; ROWS]),
) {
    for (index, tile) in tiles.iter_mut().enumerate() {
        for (quad, held) in tile.0.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            if index / width * TILE + quad * ROWS >= rows {
                break;
            }
            let mut sums = if fresh { [[0.0; TILE]; ROWS] } else { *held };
            body(index / width, index % width, quad * ROWS, &mut sums);
            *held = sums;
        }
    }
}

/// Computes `block` in f32.
pub(super) fn multiply_f32(block: Block<'_, f32>) {
    let width = block.width();
    let Block { staged, panels, steps, sums, fresh, .. } = block;
    for_each_quad(sums, width, staged.rows, fresh, |half, panel, first, sums| {
        let start = staged.starts[half] + first * staged.row_stride;
        let mut packed = panel * panels.panel_stride;
        for step in steps.list {
            let start = start + step.offset;
            for depth in 0..step.len {
                let at = start + depth * steps.depth_stride;
                let values: [f32; ROWS] =
                    std::array::from_fn(|row| staged.values[at + row * staged.row_stride]);
                let Some(columns) = panels.values[packed..].first_chunk::<TILE>() else { return };
                for (sums, value) in sums.iter_mut().zip(values) {
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = multiply_add(value, *column, *sum);
                    }
                }
                packed += panels.depth_stride;
            }
        }
    });
}

/// Computes `block` in f32 from bf16 operands. Products of two bf16 are exact in f32.
pub(super) fn multiply_bf16(block: Block<'_, bf16>) {
    let width = block.width();
    let Block { staged, panels, steps, sums, fresh, .. } = block;
    for_each_quad(sums, width, staged.rows, fresh, |half, panel, first, sums| {
        let start = staged.starts[half] + first * staged.row_stride;
        let mut packed = panel * panels.panel_stride;
        for step in steps.list {
            let start = start + step.offset;
            for pair in 0..step.len / 2 {
                let at = start + 2 * pair;
                let values: [[f32; 2]; ROWS] = std::array::from_fn(|row| {
                    let at = at + row * staged.row_stride;
                    [staged.values[at].widen(), staged.values[at + 1].widen()]
                });
                let Some(columns) = panels.values[packed..].first_chunk::<{ 2 * TILE }>() else {
                    return;
                };
                let columns = columns.as_chunks::<2>().0;
                for (sums, value) in sums.iter_mut().zip(values) {
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = multiply_add(value[0], column[0].widen(), *sum);
                        *sum = multiply_add(value[1], column[1].widen(), *sum);
                    }
                }
                packed += 2 * TILE;
            }
        }
    });
}
