//! Rows of a head, laid out as the factors of products on the tile unit.

use half::bf16;

use super::{Heads, tiles::TILE};
use crate::element::Element;

/// Values that one tile instruction sums over.
pub(super) const DEPTH: usize = 32;

/// Rows as the right factor of `x rowsᵀ`: 16 rows a tile, which holds two values of each of them side by side. There are
/// a multiple of [`DEPTH`] rows of `depth` values, zeros beyond what the view has.
pub(super) fn pair_values<E: Element>(
    (view, rows): (&Heads<'_, E>, usize),
    (picture, head): (usize, usize),
    depth: usize,
) -> Vec<bf16> {
    let mut packed = vec![bf16::ZERO; rows.next_multiple_of(DEPTH) * depth];
    for row in 0..rows {
        let at = row / TILE * TILE * depth + row % TILE * 2;
        let pairs = packed[at..].chunks_mut(2 * TILE);
        for (to, from) in pairs.zip(view.row(picture, head, row).chunks(2)) {
            to[0] = from[0].to_bf16();
            if let Some(second) = from.get(1) {
                to[1] = second.to_bf16();
            }
        }
    }
    packed
}

/// Rows as the right factor of `x rows`: 16 columns a tile, which holds two rows of each of them side by side. There are a
/// multiple of [`DEPTH`] rows of `depth` values, zeros beyond what the view has.
pub(super) fn pair_rows<E: Element>(
    (view, rows): (&Heads<'_, E>, usize),
    (picture, head): (usize, usize),
    depth: usize,
) -> Vec<bf16> {
    let padded = rows.next_multiple_of(DEPTH);
    let mut packed = vec![bf16::ZERO; padded * depth];
    for row in 0..rows {
        for (stripe, from) in view.row(picture, head, row).chunks(TILE).enumerate() {
            let at = (stripe * padded + row / 2 * 2) * TILE;
            for (to, from) in packed[at..].chunks_exact_mut(2).zip(from) {
                to[row % 2] = from.to_bf16();
            }
        }
    }
    packed
}

/// The first `rows` rows as the left factor of a product, zeros after their last value and after the last of them.
pub(super) fn take_rows<'a, E: Element>(
    depth: usize,
    rows: usize,
    row: impl Fn(usize) -> &'a [E],
    to: &mut [bf16],
) {
    to.fill(bf16::ZERO);
    for r in 0..rows {
        for (to, from) in to[r * depth..].iter_mut().zip(row(r)) {
            *to = from.to_bf16();
        }
    }
}

/// As [`take_rows`], turned: each of `depth` rows holds one value of [`DEPTH`] rows.
pub(super) fn take_columns<'a, E: Element>(
    rows: usize,
    row: impl Fn(usize) -> &'a [E],
    to: &mut [bf16],
) {
    to.fill(bf16::ZERO);
    for r in 0..rows {
        for (k, from) in row(r).iter().enumerate() {
            to[k * DEPTH + r] = from.to_bf16();
        }
    }
}
