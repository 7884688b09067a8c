//! The gradients of attention: scores are computed again, a few queries at a time.

#[cfg(target_arch = "x86_64")]
use super::amx_backward;
use super::{
    AttentionInput, AttentionShape, Products, check,
    panel::{COLUMNS, Panels, ROWS, multiply},
};
#[cfg(target_arch = "x86_64")]
use crate::amx::Tiles;
use crate::{
    cpu::Path,
    element::Element,
    lanes::by_path,
    math::exp,
    memory::zeros,
    parallel::{Shared, for_each},
};

/// Queries whose scores are held at once, a whole number of products' rows.
const QUERIES: usize = 5 * ROWS;

/// The gradients of [`attention`](super::attention), laid out as its output is.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionGradients<E> {
    /// `[batch, queries, heads, width]`.
    pub query: Vec<E>,
    /// `[batch, keys, heads, width]`.
    pub key: Vec<E>,
    /// `[batch, keys, heads, width]`.
    pub value: Vec<E>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gradient {
    Query,
    Key,
    Value,
}

/// The gradients by queries, keys and values, given the output, its gradient, and the `log_sums` of the forward pass.
///
/// `products` are rounded as [`attention`](super::attention) says, and with them the weights and the gradients by the
/// scores.
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
    products: Products,
    out: &[E],
    log_sums: &[f32],
    gradient: &[E],
) -> AttentionGradients<E> {
    let AttentionShape { batch, heads, queries, keys, width } = input.shape;
    check(input);
    let len = batch * queries * heads * width;
    assert_eq!(out.len(), len, "the output has a row a query and head");
    assert_eq!(gradient.len(), len, "the gradient has a row a query and head");
    assert_eq!(log_sums.len(), batch * heads * queries, "one sum a query and head");
    let [query, key, value] =
        [queries, keys, keys].map(|rows| zeros::<E>(batch * rows * heads * width));
    let mut gradients = AttentionGradients { query, key, value };
    let [by_query, by_key, by_value] =
        [&mut gradients.query, &mut gradients.key, &mut gradients.value]
            .map(|values| Shared::new(values));
    for_each(batch * heads, |i| {
        let own @ (picture, head) = (i / heads, i % heads);
        let start = |rows: usize, row: usize| ((picture * rows + row) * heads + head) * width;
        let row = |query: usize| start(queries, query)..start(queries, query) + width;
        let write = |which: Gradient, row: usize, values: &[f32]| {
            let (to, rows) = match which {
                Gradient::Query => (&by_query, queries),
                Gradient::Key => (&by_key, keys),
                Gradient::Value => (&by_value, keys),
            };
            let start = start(rows, row);
            // SAFETY: a task has its own picture and head, so no two rows of two tasks are one.
            let row = unsafe { to.slice(start..start + width) };
            for (to, &from) in row.iter_mut().zip(values) {
                *to = E::narrow(from);
            }
        };
        let (out, gradient) = (|query| &out[row(query)], |query| &gradient[row(query)]);
        let log_sums = &log_sums[i * queries..(i + 1) * queries];
        #[cfg(target_arch = "x86_64")]
        if products == Products::Bf16
            && let Some(tiles) = Tiles::configure(path)
        {
            return amx_backward::head(&tiles, input, own, out, gradient, log_sums, write);
        }
        one_head(path, input, own, out, gradient, log_sums, write);
    });
    gradients
}

/// The gradients of one head: `write` gets each row of each.
fn one_head<'a, E: Element>(
    path: Path,
    input: &AttentionInput<'_, E>,
    (picture, head): (usize, usize),
    out: impl Fn(usize) -> &'a [E],
    gradient: impl Fn(usize) -> &'a [E],
    log_sums: &[f32],
    write: impl Fn(Gradient, usize, &[f32]),
) {
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
    // Products go by whole groups of rows; what lies beyond the last key is never written.
    let padded_keys = keys.next_multiple_of(ROWS);
    let mut by_key = vec![0f32; padded_keys * width];
    let mut by_value = vec![0f32; padded_keys * width];
    let mut turned = vec![0f32; padded_keys * QUERIES];
    for first in (0..queries).step_by(QUERIES) {
        let rows = QUERIES.min(queries - first);
        block.query.fill(0.0);
        block.gradient.fill(0.0);
        let mut inner = [0f32; QUERIES];
        for (r, inner) in inner.iter_mut().enumerate().take(rows) {
            let own = r * width..(r + 1) * width;
            let from = input.query.row(picture, head, first + r);
            for (to, from) in block.query[own.clone()].iter_mut().zip(from) {
                *to = from.widen() * input.scale;
            }
            let (gradient, out) = (gradient(first + r), out(first + r));
            for (to, from) in block.gradient[own].iter_mut().zip(gradient) {
                *to = from.widen();
            }
            *inner = gradient.iter().zip(out).map(|(a, b)| a.widen() * b.widen()).sum();
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
        for (r, row) in block.by_query.chunks_exact_mut(width.max(1)).enumerate().take(rows) {
            row.iter_mut().for_each(|value| *value *= input.scale);
            write(Gradient::Query, first + r, row);
        }
        // Queries were scaled when they were read, so the keys' gradient needs no scale of its own.
        turn(&block.slopes, keys, &mut turned);
        let queries = Panels::rows(QUERIES, width, |r| &block.query[r * width..(r + 1) * width]);
        accumulate(path, &turned, &queries, width, &mut by_key);
        turn(&block.weights, keys, &mut turned);
        let gradients =
            Panels::rows(QUERIES, width, |r| &block.gradient[r * width..(r + 1) * width]);
        accumulate(path, &turned, &gradients, width, &mut by_value);
    }
    for (gradient, values) in [(Gradient::Key, &by_key), (Gradient::Value, &by_value)] {
        for (key, row) in values.chunks_exact(width.max(1)).enumerate().take(keys) {
            write(gradient, key, row);
        }
    }
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
