//! One head with both products on the tile unit, in bf16 with 32-bit sums.

use half::bf16;

use super::{
    AttentionInput, AttentionShape,
    stream::{exponentials, largest},
    tiles::{TILE, multiply},
};
use crate::{amx::Tiles, cpu::Path, element::Element, lanes::by_path, math::exp};

/// Queries that go through the keys together, two tiles of rows.
const QUERIES: usize = 32;
/// Keys between two corrections of the softmax.
const CHUNK: usize = 256;
/// Values that one tile instruction sums over.
const DEPTH: usize = 32;

/// Attends in one head: `write` gets each query's output.
///
/// # Panics
///
/// When the path has no tiles.
pub(super) fn head<E: Element>(
    path: Path,
    input: &AttentionInput<'_, E>,
    picture: usize,
    head: usize,
    log_sums: &mut [f32],
    write: impl Fn(usize, &[f32]),
) {
    let AttentionShape { queries, keys, width, .. } = input.shape;
    let depth = width.next_multiple_of(DEPTH);
    let chunk = CHUNK.min(keys.next_multiple_of(DEPTH));
    let padded_keys = keys.next_multiple_of(DEPTH);
    let key = pair_values(input, picture, head, depth, padded_keys);
    let value = pair_keys(input, picture, head, depth, padded_keys);
    let mut query = vec![bf16::ZERO; QUERIES * depth];
    let mut scores = vec![0f32; QUERIES * chunk];
    let mut weights = vec![bf16::ZERO; QUERIES * chunk];
    let mut out = vec![0f32; QUERIES * depth];
    let tiles = Tiles::configure(path).expect("the path has tiles");
    for first in (0..queries).step_by(QUERIES) {
        let rows = QUERIES.min(queries - first);
        query.fill(bf16::ZERO);
        for r in 0..rows {
            let from = input.query.row(picture, head, first + r);
            for (to, from) in query[r * depth..].iter_mut().zip(from) {
                *to = <bf16 as Element>::narrow(from.widen());
            }
        }
        let mut largest = [f32::NEG_INFINITY; QUERIES];
        let mut sum = [0f32; QUERIES];
        out.fill(0.0);
        for start in (0..padded_keys).step_by(chunk) {
            let count = chunk.min(padded_keys - start);
            for column in (0..count).step_by(2 * TILE) {
                let at = (start + column) * depth;
                let (left, right) = (&key[at..], &key[at + TILE * depth..]);
                multiply(
                    &tiles,
                    (&query, depth),
                    (left, right),
                    depth / DEPTH,
                    (&mut scores[column..], chunk),
                    false,
                );
            }
            for r in 0..rows {
                let bias = input.bias.map(|bias| bias.row(picture, first + r));
                let known = count.min(keys - start);
                let row = Row {
                    scores: &mut scores[r * chunk..r * chunk + count],
                    weights: &mut weights[r * chunk..r * chunk + count],
                    out: &mut out[r * depth..(r + 1) * depth],
                    largest: &mut largest[r],
                    sum: &mut sum[r],
                };
                soften(path, row, known, input.scale, bias.map(|bias| &bias[start..start + known]));
            }
            for column in (0..depth).step_by(2 * TILE) {
                let at = |column: usize| (column / TILE * padded_keys + start) * TILE;
                multiply(
                    &tiles,
                    (&weights, chunk),
                    (&value[at(column)..], &value[at(column + TILE)..]),
                    count / DEPTH,
                    (&mut out[column..], depth),
                    true,
                );
            }
        }
        for r in 0..rows {
            let row = &mut out[r * depth..r * depth + width];
            for value in row.iter_mut() {
                *value /= sum[r];
            }
            write(first + r, row);
            log_sums[first + r] = largest[r] + sum[r].ln();
        }
    }
}

/// Keys as the right factor of `q kᵀ`: 16 keys a tile, whose rows hold two values of every key.
fn pair_values<E: Element>(
    input: &AttentionInput<'_, E>,
    picture: usize,
    head: usize,
    depth: usize,
    padded_keys: usize,
) -> Vec<bf16> {
    let mut packed = vec![bf16::ZERO; padded_keys * depth];
    for key in 0..input.shape.keys {
        let at = key / TILE * TILE * depth + key % TILE * 2;
        for (pair, from) in input.key.row(picture, head, key).chunks(2).enumerate() {
            for (i, from) in from.iter().enumerate() {
                packed[at + pair * 2 * TILE + i] = <bf16 as Element>::narrow(from.widen());
            }
        }
    }
    packed
}

/// Values as the right factor of `p v`: 16 columns a tile, whose rows hold two keys of every column.
fn pair_keys<E: Element>(
    input: &AttentionInput<'_, E>,
    picture: usize,
    head: usize,
    depth: usize,
    padded_keys: usize,
) -> Vec<bf16> {
    let mut packed = vec![bf16::ZERO; padded_keys * depth];
    for key in 0..input.shape.keys {
        let row = input.value.row(picture, head, key);
        for (stripe, from) in row.chunks(TILE).enumerate() {
            let at = (stripe * padded_keys + key / 2 * 2) * TILE + key % 2;
            for (column, from) in from.iter().enumerate() {
                packed[at + 2 * column] = <bf16 as Element>::narrow(from.widen());
            }
        }
    }
    packed
}

/// One query's part in a chunk of keys.
struct Row<'a> {
    scores: &'a mut [f32],
    weights: &'a mut [bf16],
    out: &'a mut [f32],
    largest: &'a mut f32,
    sum: &'a mut f32,
}

by_path! {
    /// From scores to weights, with the correction of what was summed before.
    fn soften<F>(row: Row<'_>, known: usize, scale: f32, bias: Option<&[f32]>) {
        match bias {
            Some(bias) => {
                for (score, bias) in row.scores.iter_mut().zip(bias) {
                    *score = F::mul_add(*score, scale, *bias);
                }
            }
            None => {
                for score in row.scores.iter_mut() {
                    *score *= scale;
                }
            }
        }
        row.scores[known..].fill(f32::NEG_INFINITY);
        let before = *row.largest;
        let now = largest(row.scores).max(before);
        *row.largest = now;
        if now > before {
            let correction = exp(before - now);
            *row.sum *= correction;
            for out in row.out.iter_mut() {
                *out *= correction;
            }
        }
        *row.sum += exponentials::<F>(row.scores, now);
        for (to, from) in row.weights.iter_mut().zip(row.scores.iter()) {
            *to = <bf16 as Element>::narrow(*from);
        }
    }
}
