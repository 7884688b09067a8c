//! One head with both products on the tile unit, in bf16 with 32-bit sums.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_mov_ps, _mm512_max_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};

use half::bf16;

use super::{
    AttentionInput, AttentionShape,
    pairs::{DEPTH, pair_rows, pair_values, take_rows},
    tiles::{TILE, multiply},
};
use crate::{
    amx::Tiles,
    element::Element,
    lanes::Baseline,
    math::exp,
    vector::{self, Vector as _},
};

/// Queries that go through the keys together, two tiles of rows.
const QUERIES: usize = 32;
/// Keys between two corrections of the softmax.
const CHUNK: usize = 256;

/// Attends in one head: `write` gets each query's output.
pub(super) fn head<E: Element>(
    tiles: &Tiles,
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
    let key = pair_values((&input.key, keys), (picture, head), depth);
    let value = pair_rows((&input.value, keys), (picture, head), depth);
    let mut query = vec![bf16::ZERO; QUERIES * depth];
    let mut scores = vec![0f32; QUERIES * chunk];
    let mut weights = vec![bf16::ZERO; QUERIES * chunk];
    let mut out = vec![0f32; QUERIES * depth];
    for first in (0..queries).step_by(QUERIES) {
        let rows = QUERIES.min(queries - first);
        take_rows(depth, rows, |r| input.query.row(picture, head, first + r), &mut query);
        let mut largest = [f32::NEG_INFINITY; QUERIES];
        let mut sum = [0f32; QUERIES];
        out.fill(0.0);
        for start in (0..padded_keys).step_by(chunk) {
            let count = chunk.min(padded_keys - start);
            for column in (0..count).step_by(2 * TILE) {
                let at = (start + column) * depth;
                let (left, right) = (&key[at..], &key[at + TILE * depth..]);
                multiply(
                    tiles,
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
                let bias = bias.map(|bias| &bias[start..start + known]);
                // SAFETY: a processor with tiles for bf16 has vectors for it.
                unsafe { soften(row, known, input.scale, bias) };
            }
            for column in (0..depth).step_by(2 * TILE) {
                let at = |column: usize| (column / TILE * padded_keys + start) * TILE;
                multiply(
                    tiles,
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

/// One query's part in a chunk of keys.
struct Row<'a> {
    scores: &'a mut [f32],
    weights: &'a mut [bf16],
    out: &'a mut [f32],
    largest: &'a mut f32,
    sum: &'a mut f32,
}

/// From scores to weights, with the correction of what was summed before.
///
/// # Safety
///
/// The processor has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn soften(row: Row<'_>, known: usize, scale: f32, bias: Option<&[f32]>) {
    let Row { scores, weights, out, largest, sum } = row;
    let nothing = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut top = nothing;
    for (tile, scores) in scores.chunks_exact_mut(TILE).enumerate() {
        let known = known.saturating_sub(tile * TILE).min(TILE);
        let lanes = vector::first(known);
        // A load without lanes from nowhere would be slow: a fault is put down each time.
        let bias = bias.filter(|_| known > 0).map(|bias| &bias[tile * TILE..][..known]);
        // SAFETY: the slices hold the lanes, and the caller promises the instructions.
        unsafe {
            let bias = match bias {
                Some(bias) => f32::load(bias.as_ptr(), lanes),
                None => _mm512_setzero_ps(),
            };
            let score = f32::load(scores.as_ptr(), !0);
            let score = _mm512_fmadd_ps(score, _mm512_set1_ps(scale), bias);
            let score = _mm512_mask_mov_ps(nothing, lanes, score);
            top = _mm512_max_ps(top, score);
            f32::store(scores.as_mut_ptr(), score, !0);
        }
    }
    let before = *largest;
    let now = _mm512_reduce_max_ps(top).max(before);
    *largest = now;
    if now > before {
        let correction = exp::<Baseline>(before - now);
        *sum *= correction;
        for out in out {
            *out *= correction;
        }
    }
    let mut total = _mm512_setzero_ps();
    for (scores, weights) in scores.chunks_exact(TILE).zip(weights.chunks_exact_mut(TILE)) {
        // SAFETY: as above.
        unsafe {
            let score = f32::load(scores.as_ptr(), !0);
            let weight = vector::exp(_mm512_sub_ps(score, _mm512_set1_ps(now)));
            total = _mm512_add_ps(total, weight);
            bf16::store(weights.as_mut_ptr(), weight, !0);
        }
    }
    *sum += _mm512_reduce_add_ps(total);
}
