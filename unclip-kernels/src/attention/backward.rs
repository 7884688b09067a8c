//! The gradients of attention: scores are computed again, a few queries at a time.

use rayon::prelude::*;

use super::{
    AttentionInput, AttentionShape, check,
    panel::{COLUMNS, Panels, ROWS, multiply},
};
use crate::{cpu::Path, element::Element, lanes::by_path, math::exp};

/// Queries whose scores are held at once, a whole number of products' rows.
const QUERIES: usize = 5 * ROWS;

/// The gradients of [`attention`](super::attention), laid out as its output is.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionGradients {
    /// `[batch, queries, heads, width]`.
    pub query: Vec<f32>,
    /// `[batch, keys, heads, width]`.
    pub key: Vec<f32>,
    /// `[batch, keys, heads, width]`.
    pub value: Vec<f32>,
}

/// The gradients by queries, keys and values, given the output, its gradient, and the `log_sums` of the forward pass.
///
/// # Shapes
///
/// - `out`, `gradient`: `[batch, queries, heads, width]`
/// - `log_sums`: `[batch, heads, queries]`
///
/// # Panics
///
/// When a view or slice does not fit the shape.
pub fn attention_backward<E: Element>(
    path: Path,
    input: &AttentionInput<'_, E>,
    out: &[E],
    log_sums: &[f32],
    gradient: &[E],
) -> AttentionGradients {
    let AttentionShape { batch, heads, queries, keys, width } = input.shape;
    check(input);
    let len = batch * queries * heads * width;
    assert_eq!(out.len(), len, "the output has a row a query and head");
    assert_eq!(gradient.len(), len, "the gradient has a row a query and head");
    assert_eq!(log_sums.len(), batch * heads * queries, "one sum a query and head");
    let parts: Vec<Head> = (0..batch * heads)
        .into_par_iter()
        .map(|i| {
            let (picture, head) = (i / heads, i % heads);
            let row = |values: &[E], query: usize| {
                let start = ((picture * queries + query) * heads + head) * width;
                values[start..start + width].iter().map(|x| x.widen()).collect::<Vec<f32>>()
            };
            one_head(
                path,
                input,
                (picture, head),
                |query| row(out, query),
                |query| row(gradient, query),
                &log_sums[i * queries..(i + 1) * queries],
            )
        })
        .collect();
    let join = |rows: usize, part: fn(&Head) -> &[f32]| {
        let mut all = vec![0f32; batch * rows * heads * width];
        for (i, head_part) in parts.iter().enumerate() {
            let (picture, head) = (i / heads, i % heads);
            for (row, from) in part(head_part).chunks_exact(width.max(1)).enumerate() {
                let at = ((picture * rows + row) * heads + head) * width;
                all[at..at + width].copy_from_slice(from);
            }
        }
        all
    };
    AttentionGradients {
        query: join(queries, |head| &head.query),
        key: join(keys, |head| &head.key),
        value: join(keys, |head| &head.value),
    }
}

/// The gradients of one head, `[rows, width]` each.
struct Head {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

fn one_head<E: Element>(
    path: Path,
    input: &AttentionInput<'_, E>,
    (picture, head): (usize, usize),
    out: impl Fn(usize) -> Vec<f32>,
    gradient: impl Fn(usize) -> Vec<f32>,
    log_sums: &[f32],
) -> Head {
    let AttentionShape { queries, keys, width, .. } = input.shape;
    let key_row = |row| input.key.row(picture, head, row);
    let value_row = |row| input.value.row(picture, head, row);
    let mut block = Block {
        key_columns: Panels::columns(width, keys, key_row),
        value_columns: Panels::columns(width, keys, value_row),
        key_rows: Panels::rows(keys, width, key_row),
        query: vec![0.0; QUERIES * width],
        gradient: vec![0.0; QUERIES * width],
        weights: vec![0.0; QUERIES * keys],
        slopes: vec![0.0; QUERIES * keys],
        by_query: vec![0.0; QUERIES * width],
    };
    // Products go by whole groups of rows; what lies beyond the last key is cut off at the end.
    let padded_keys = keys.next_multiple_of(ROWS);
    let mut by_key = vec![0f32; padded_keys * width];
    let mut by_value = vec![0f32; padded_keys * width];
    let mut by_query = Vec::with_capacity(queries * width);
    let mut turned = vec![0f32; padded_keys * QUERIES];
    for first in (0..queries).step_by(QUERIES) {
        let rows = QUERIES.min(queries - first);
        block.query.fill(0.0);
        block.gradient.fill(0.0);
        let mut inner = [0f32; QUERIES];
        for (r, inner) in inner.iter_mut().enumerate().take(rows) {
            let to = &mut block.query[r * width..(r + 1) * width];
            for (to, from) in to.iter_mut().zip(input.query.row(picture, head, first + r)) {
                *to = from.widen() * input.scale;
            }
            let gradient = gradient(first + r);
            *inner = gradient.iter().zip(out(first + r)).map(|(a, b)| a * b).sum();
            block.gradient[r * width..(r + 1) * width].copy_from_slice(&gradient);
        }
        scores(path, &mut block, keys, width);
        for r in 0..QUERIES {
            let own = r * keys..(r + 1) * keys;
            let (weights, slopes) = (&mut block.weights[own.clone()], &mut block.slopes[own]);
            if r < rows {
                let bias = input.bias.map(|bias| bias.row(picture, first + r));
                soften(path, weights, slopes, bias, log_sums[first + r], inner[r]);
            } else {
                weights.fill(0.0);
                slopes.fill(0.0);
            }
        }
        query_gradient(path, &mut block, keys, width);
        by_query.extend(block.by_query[..rows * width].iter().map(|x| x * input.scale));
        // Queries were scaled when they were read, so the keys' gradient needs no scale of its own.
        turn(&block.slopes, keys, &mut turned);
        let queries = Panels::rows(QUERIES, width, |r| &block.query[r * width..(r + 1) * width]);
        accumulate(path, &turned, &queries, width, &mut by_key);
        turn(&block.weights, keys, &mut turned);
        let gradients =
            Panels::rows(QUERIES, width, |r| &block.gradient[r * width..(r + 1) * width]);
        accumulate(path, &turned, &gradients, width, &mut by_value);
    }
    by_key.truncate(keys * width);
    by_value.truncate(keys * width);
    Head { query: by_query, key: by_key, value: by_value }
}

/// A few queries of a head, and what of the head they all meet.
struct Block {
    key_columns: Panels,
    value_columns: Panels,
    key_rows: Panels,
    /// Scaled.
    query: Vec<f32>,
    gradient: Vec<f32>,
    /// Scores, then the softmax.
    weights: Vec<f32>,
    /// The gradient by the softmax, then by the scores.
    slopes: Vec<f32>,
    by_query: Vec<f32>,
}

by_path! {
    /// `q kᵀ`, and the gradient by the softmax: `∂out vᵀ`.
    fn scores<F>(block: &mut Block, keys: usize, width: usize) {
        for r in (0..QUERIES).step_by(ROWS) {
            for (stripe, column) in (0..keys).step_by(COLUMNS).enumerate() {
                let count = COLUMNS.min(keys - column);
                let mut sums = [[0.0; COLUMNS]; ROWS];
                let own = block.key_columns.stripe(stripe, 0..width);
                multiply::<F>(&block.query[r * width..], width, own, &mut sums);
                for (i, sums) in sums.iter().enumerate() {
                    let at = (r + i) * keys + column;
                    block.weights[at..at + count].copy_from_slice(&sums[..count]);
                }
                let mut sums = [[0.0; COLUMNS]; ROWS];
                let own = block.value_columns.stripe(stripe, 0..width);
                multiply::<F>(&block.gradient[r * width..], width, own, &mut sums);
                for (i, sums) in sums.iter().enumerate() {
                    let at = (r + i) * keys + column;
                    block.slopes[at..at + count].copy_from_slice(&sums[..count]);
                }
            }
        }
    }
}

by_path! {
    /// Scores to weights, and the gradient by the weights to that by the scores.
    fn soften<F>(
        weights: &mut [f32],
        slopes: &mut [f32],
        bias: Option<&[f32]>,
        log_sum: f32,
        inner: f32,
    ) {
        if let Some(bias) = bias {
            for (score, bias) in weights.iter_mut().zip(bias) {
                *score += bias;
            }
        }
        for (weight, slope) in weights.iter_mut().zip(slopes) {
            *weight = exp(*weight - log_sum);
            *slope = *weight * (*slope - inner);
        }
    }
}

by_path! {
    fn query_gradient<F>(block: &mut Block, keys: usize, width: usize) {
        for r in (0..QUERIES).step_by(ROWS) {
            for (stripe, column) in (0..width).step_by(COLUMNS).enumerate() {
                let count = COLUMNS.min(width - column);
                let mut sums = [[0.0; COLUMNS]; ROWS];
                let own = block.key_rows.stripe(stripe, 0..keys);
                multiply::<F>(&block.slopes[r * keys..], keys, own, &mut sums);
                for (i, sums) in sums.iter().enumerate() {
                    let at = (r + i) * width + column;
                    block.by_query[at..at + count].copy_from_slice(&sums[..count]);
                }
            }
        }
    }
}

/// `[QUERIES, keys]` to `[keys, QUERIES]`, keys padded with zeros.
fn turn(from: &[f32], keys: usize, to: &mut [f32]) {
    to[keys * QUERIES..].fill(0.0);
    for (key, to) in to.chunks_exact_mut(QUERIES).enumerate().take(keys) {
        for (query, to) in to.iter_mut().enumerate() {
            *to = from[query * keys + key];
        }
    }
}

by_path! {
    /// Adds `turned · panels` to `[keys, width]`.
    fn accumulate<F>(turned: &[f32], panels: &Panels, width: usize, to: &mut [f32]) {
        for (group, rows) in turned.chunks_exact(ROWS * QUERIES).enumerate() {
            for (stripe, column) in (0..width).step_by(COLUMNS).enumerate() {
                let count = COLUMNS.min(width - column);
                let mut sums = [[0.0; COLUMNS]; ROWS];
                multiply::<F>(rows, QUERIES, panels.stripe(stripe, 0..QUERIES), &mut sums);
                for (i, sums) in sums.iter().enumerate() {
                    let at = (group * ROWS + i) * width + column;
                    for (to, sum) in to[at..at + count].iter_mut().zip(sums) {
                        *to += sum;
                    }
                }
            }
        }
    }
}
