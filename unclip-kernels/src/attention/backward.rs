//! The gradients of attention: scores are computed again, a few queries at a time.

#[cfg(target_arch = "x86_64")]
use super::amx_backward;
use super::{
    AttentionInput, AttentionShape, Products, check,
    panel::{COLUMNS, Panels, ROWS, multiply, multiply_turned},
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
    // Scores and gradients are kept in whole stripes: what lies beyond the last key or value is never written.
    let scored = keys.next_multiple_of(COLUMNS);
    let wide = width.next_multiple_of(COLUMNS);
    let mut block = Block {
        key_columns: Panels::columns(width, keys, key_row),
        value_columns: Panels::columns(width, keys, value_row),
        key_rows: Panels::rows(keys, width, key_row),
        query: vec![0.0; QUERIES * width],
        gradient: vec![0.0; QUERIES * width],
        weights: vec![0.0; QUERIES * scored + ROWS],
        slopes: vec![0.0; QUERIES * scored + ROWS],
        by_query: vec![0.0; QUERIES * wide],
    };
    let mut by_key = vec![0f32; keys.next_multiple_of(ROWS) * wide];
    let mut by_value = by_key.clone();
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
            let own = r * scored..r * scored + keys;
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
        for (r, row) in block.by_query.chunks_exact_mut(wide.max(1)).enumerate().take(rows) {
            let row = &mut row[..width];
            row.iter_mut().for_each(|value| *value *= input.scale);
            write(Gradient::Query, first + r, row);
        }
        // Queries were scaled when they were read, so the keys' gradient needs no scale of its own.
        let queries = Panels::rows(QUERIES, width, |r| &block.query[r * width..(r + 1) * width]);
        accumulate(path, &block.slopes, keys, &queries, width, &mut by_key);
        let gradients =
            Panels::rows(QUERIES, width, |r| &block.gradient[r * width..(r + 1) * width]);
        accumulate(path, &block.weights, keys, &gradients, width, &mut by_value);
    }
    for (gradient, values) in [(Gradient::Key, &by_key), (Gradient::Value, &by_value)] {
        for (key, row) in values.chunks_exact(wide.max(1)).enumerate().take(keys) {
            write(gradient, key, &row[..width]);
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
    /// Scores, then the softmax: a row of whole stripes a query, and room behind the last for a group of keys.
    weights: Vec<f32>,
    /// The gradient by the softmax, then by the scores, likewise.
    slopes: Vec<f32>,
    /// A row of whole stripes a query.
    by_query: Vec<f32>,
}

by_path! {
    /// `q kᵀ`, and the gradient by the softmax: `∂out vᵀ`.
    fn scores<F>(block: &mut Block, keys: usize, width: usize) {
        let scored = keys.next_multiple_of(COLUMNS);
        for r in (0..QUERIES).step_by(ROWS) {
            for stripe in 0..keys.div_ceil(COLUMNS) {
                let at = r * scored + stripe * COLUMNS;
                let mut sums = [[0.0; COLUMNS]; ROWS];
                let own = block.key_columns.stripe(stripe, 0..width);
                multiply::<F>(&block.query[r * width..], width, own, &mut sums);
                for (i, sums) in sums.iter().enumerate() {
                    block.weights[at + i * scored..][..COLUMNS].copy_from_slice(sums);
                }
                let mut sums = [[0.0; COLUMNS]; ROWS];
                let own = block.value_columns.stripe(stripe, 0..width);
                multiply::<F>(&block.gradient[r * width..], width, own, &mut sums);
                for (i, sums) in sums.iter().enumerate() {
                    block.slopes[at + i * scored..][..COLUMNS].copy_from_slice(sums);
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
            *weight = exp::<F>(*weight - log_sum);
            *slope = *weight * (*slope - inner);
        }
    }
}

by_path! {
    fn query_gradient<F>(block: &mut Block, keys: usize, width: usize) {
        let (scored, wide) = (keys.next_multiple_of(COLUMNS), width.next_multiple_of(COLUMNS));
        for r in (0..QUERIES).step_by(ROWS) {
            for stripe in 0..width.div_ceil(COLUMNS) {
                let mut sums = [[0.0; COLUMNS]; ROWS];
                let own = block.key_rows.stripe(stripe, 0..keys);
                multiply::<F>(&block.slopes[r * scored..], scored, own, &mut sums);
                for (i, sums) in sums.iter().enumerate() {
                    let at = (r + i) * wide + stripe * COLUMNS;
                    block.by_query[at..][..COLUMNS].copy_from_slice(sums);
                }
            }
        }
    }
}

by_path! {
    /// Adds the product of `scores`, turned, and of `panels`, a row for each query, to a row of whole stripes for each key.
    fn accumulate<F>(scores: &[f32], keys: usize, panels: &Panels, width: usize, to: &mut [f32]) {
        let (scored, wide) = (keys.next_multiple_of(COLUMNS), width.next_multiple_of(COLUMNS));
        for first in (0..keys).step_by(ROWS) {
            for stripe in 0..width.div_ceil(COLUMNS) {
                let mut sums = [[0.0; COLUMNS]; ROWS];
                let own = panels.stripe(stripe, 0..QUERIES);
                multiply_turned::<F>(&scores[first..], scored, own, &mut sums);
                for (i, sums) in sums.iter().enumerate() {
                    let to = &mut to[(first + i) * wide + stripe * COLUMNS..][..COLUMNS];
                    for j in 0..COLUMNS {
                        to[j] += sums[j];
                    }
                }
            }
        }
    }
}
