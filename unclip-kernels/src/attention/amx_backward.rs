//! The gradients of one head with all five products on the tile unit, in bf16 with 32-bit sums.
//!
//! Weights and slopes, which are the gradients by the scores, are summed over queries for the gradients of keys and values,
//! and over keys for those of queries. The first two are computed turned, `∂vᵀ = ∂outᵀ w` and `∂kᵀ = qᵀ s`: the few values of
//! a query are turned for that, instead of the many weights.

use std::arch::x86_64::{
    _mm512_fmadd_ps, _mm512_maskz_mov_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_sub_ps,
};

use half::bf16;

use super::{
    AttentionInput, AttentionShape, Gradient,
    pairs::{DEPTH, pair_rows, pair_values, take_columns, take_rows},
    tiles::{TILE, multiply},
};
use crate::{
    amx::Tiles,
    element::Element,
    vector::{self, Vector as _},
};

/// Queries that are handled together: the depth of what is summed over queries.
const QUERIES: usize = DEPTH;

/// The gradients of one head: `write` gets each row of each.
pub(super) fn head<'a, E: Element>(
    tiles: &Tiles,
    input: &AttentionInput<'_, E>,
    (picture, head): (usize, usize),
    out: impl Fn(usize) -> &'a [E],
    gradient: impl Fn(usize) -> &'a [E],
    log_sums: &[f32],
    mut write: impl FnMut(Gradient, usize, &[f32]),
) {
    let AttentionShape { queries, keys, width, .. } = input.shape;
    let depth = width.next_multiple_of(DEPTH);
    let padded_keys = keys.next_multiple_of(DEPTH);
    let key = pair_values((&input.key, keys), (picture, head), depth);
    let value = pair_values((&input.value, keys), (picture, head), depth);
    let key_rows = pair_rows((&input.key, keys), (picture, head), depth);
    let mut rows_of = vec![bf16::ZERO; QUERIES * depth];
    let mut columns_of = vec![bf16::ZERO; depth * QUERIES];
    let mut block = Block {
        weights: vec![0.0; QUERIES * padded_keys],
        slopes: vec![0.0; QUERIES * padded_keys],
        weight_pairs: vec![bf16::ZERO; QUERIES * padded_keys],
        slope_pairs: vec![bf16::ZERO; QUERIES * padded_keys],
        slope_rows: vec![bf16::ZERO; QUERIES * padded_keys],
        stride: padded_keys,
    };
    let mut by_query = vec![0f32; QUERIES * depth];
    let mut by_key = vec![0f32; depth * padded_keys];
    let mut by_value = vec![0f32; depth * padded_keys];
    for first in (0..queries).step_by(QUERIES) {
        let rows = QUERIES.min(queries - first);
        let query = |r: usize| input.query.row(picture, head, first + r);
        let gradient = |r: usize| gradient(first + r);
        take_rows(depth, rows, query, &mut rows_of);
        scores(tiles, (&rows_of, &key), depth, (&mut block.weights, padded_keys));
        take_rows(depth, rows, gradient, &mut rows_of);
        scores(tiles, (&rows_of, &value), depth, (&mut block.slopes, padded_keys));
        for r in (0..QUERIES).step_by(2) {
            // A query that there is none of has no weight.
            let queries = [r, r + 1].map(|r| Query {
                bias: (r < rows)
                    .then(|| input.bias.map(|bias| bias.row(picture, first + r)))
                    .flatten(),
                log_sum: if r < rows { log_sums[first + r] } else { f32::INFINITY },
                inner: match r < rows {
                    true => gradient(r)
                        .iter()
                        .zip(out(first + r))
                        .map(|(a, b)| a.widen() * b.widen())
                        .sum(),
                    false => 0.0,
                },
            });
            // SAFETY: a processor with tiles for bf16 has vectors for it.
            unsafe { soften(&mut block, r, queries, keys, input.scale) };
        }

        let stripe = |column: usize| &key_rows[column * padded_keys..];
        for column in (0..depth).step_by(2 * TILE) {
            multiply(
                tiles,
                (&block.slope_rows, padded_keys),
                (stripe(column), stripe(column + TILE)),
                padded_keys / DEPTH,
                (&mut by_query[column..], depth),
                false,
            );
        }
        for (r, row) in by_query.chunks_exact_mut(depth).enumerate().take(rows) {
            row.iter_mut().for_each(|value| *value *= input.scale);
            write(Gradient::Query, first + r, &row[..width]);
        }
        take_columns(rows, gradient, &mut columns_of);
        over_queries(tiles, &columns_of, &block.weight_pairs, first > 0, &mut by_value);
        take_columns(rows, query, &mut columns_of);
        over_queries(tiles, &columns_of, &block.slope_pairs, first > 0, &mut by_key);
    }
    let mut row = vec![0f32; width];
    for (gradient, turned, scale) in
        [(Gradient::Key, &by_key, input.scale), (Gradient::Value, &by_value, 1.0)]
    {
        for key in 0..keys {
            for (to, from) in row.iter_mut().zip(turned.chunks_exact(padded_keys)) {
                *to = from[key] * scale;
            }
            write(gradient, key, &row);
        }
    }
}

/// `[QUERIES, depth]` times all keys, or values.
fn scores(
    tiles: &Tiles,
    (rows, columns): (&[bf16], &[bf16]),
    depth: usize,
    (to, stride): (&mut [f32], usize),
) {
    for column in (0..stride).step_by(2 * TILE) {
        let (left, right) = (&columns[column * depth..], &columns[(column + TILE) * depth..]);
        multiply(
            tiles,
            (rows, depth),
            (left, right),
            depth / DEPTH,
            (&mut to[column..], stride),
            false,
        );
    }
}

/// Adds `[depth, QUERIES]` times all pairs to `[depth, keys]`.
fn over_queries(tiles: &Tiles, columns: &[bf16], pairs: &[bf16], accumulate: bool, to: &mut [f32]) {
    let (depth, keys) = (columns.len() / QUERIES, pairs.len() / QUERIES);
    for k in (0..depth).step_by(2 * TILE) {
        for key in (0..keys).step_by(2 * TILE) {
            multiply(
                tiles,
                (&columns[k * QUERIES..], QUERIES),
                (&pairs[key * QUERIES..], &pairs[(key + TILE) * QUERIES..]),
                1,
                (&mut to[k * keys + key..], keys),
                accumulate,
            );
        }
    }
}

/// A few queries and all keys.
struct Block {
    /// Products of queries and keys, `[QUERIES, stride]`.
    weights: Vec<f32>,
    /// The gradient by the weights, `[QUERIES, stride]`.
    slopes: Vec<f32>,
    /// The weights, as the right factor of what is summed over queries.
    weight_pairs: Vec<bf16>,
    /// The gradient by the scores, likewise.
    slope_pairs: Vec<bf16>,
    /// The same as the left factor of what is summed over keys, `[QUERIES, stride]`.
    slope_rows: Vec<bf16>,
    /// Keys, padded.
    stride: usize,
}

/// What all keys of a query share.
#[derive(Clone, Copy)]
struct Query<'a> {
    bias: Option<&'a [f32]>,
    log_sum: f32,
    /// The sum of the output's products with its gradient.
    inner: f32,
}

/// From products to weights, and from the gradient by the weights to that by the scores, for queries `first` and the next.
///
/// # Safety
///
/// The processor has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn soften(
    block: &mut Block,
    first: usize,
    queries: [Query<'_>; 2],
    keys: usize,
    scale: f32,
) {
    let scale = _mm512_set1_ps(scale);
    for tile in 0..block.stride / TILE {
        // Beyond the last key nothing has weight.
        let known = keys.saturating_sub(tile * TILE).min(TILE);
        let lanes = vector::first(known);
        let (mut weights, mut slopes) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
        for (r, query) in queries.iter().enumerate() {
            let at = (first + r) * block.stride + tile * TILE;
            let at = at..at + TILE;
            // A load without lanes from nowhere would be slow: a fault is put down each time.
            let bias = query.bias.filter(|_| known > 0).map(|bias| &bias[tile * TILE..][..known]);
            // SAFETY: the slices hold the lanes, and the caller promises the instructions.
            unsafe {
                let bias = match bias {
                    Some(bias) => f32::load(bias.as_ptr(), lanes),
                    None => _mm512_setzero_ps(),
                };
                let score = f32::load(block.weights[at.clone()].as_ptr(), !0);
                let score = _mm512_fmadd_ps(score, scale, bias);
                let weight = vector::exp(_mm512_sub_ps(score, _mm512_set1_ps(query.log_sum)));
                weights[r] = _mm512_maskz_mov_ps(lanes, weight);
                let by_weight = f32::load(block.slopes[at.clone()].as_ptr(), !0);
                let rest = _mm512_sub_ps(by_weight, _mm512_set1_ps(query.inner));
                slopes[r] = _mm512_mul_ps(weights[r], rest);
                bf16::store(block.slope_rows[at].as_mut_ptr(), slopes[r], !0);
            }
        }
        let pairs = (tile * QUERIES + first) * TILE;
        let pairs = pairs..pairs + 2 * TILE;
        // SAFETY: the slices hold sixteen pairs, and the caller promises the instructions.
        unsafe {
            let to = block.weight_pairs[pairs.clone()].as_mut_ptr();
            vector::store_pairs(to, weights[0], weights[1]);
            let to = block.slope_pairs[pairs].as_mut_ptr();
            vector::store_pairs(to, slopes[0], slopes[1]);
        }
    }
}
