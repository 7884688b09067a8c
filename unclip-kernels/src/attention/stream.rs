//! One head in 32-bit arithmetic, on whatever vectors the processor has.

use super::{
    AttentionInput, AttentionShape,
    panel::{COLUMNS, Panels, ROWS, multiply},
};
use crate::{
    cpu::Path,
    element::Element,
    lanes::{Fused, by_path},
    math::exp,
};

/// Keys between two corrections of the softmax.
const CHUNK: usize = 8 * COLUMNS;

/// Attends in one head: `write` gets each query's output.
pub(super) fn head<E: Element>(
    path: Path,
    input: &AttentionInput<'_, E>,
    picture: usize,
    head: usize,
    log_sums: &mut [f32],
    write: impl Fn(usize, &[f32]),
) {
    let AttentionShape { queries, keys, width, .. } = input.shape;
    let key = Panels::columns(width, keys, |row| input.key.row(picture, head, row));
    let value = Panels::rows(keys, width, |row| input.value.row(picture, head, row));
    let stripes = width.div_ceil(COLUMNS);
    let mut state = Rows {
        query: vec![0.0; ROWS * width],
        scores: vec![0.0; ROWS * CHUNK],
        out: vec![[[0.0; COLUMNS]; ROWS]; stripes],
        largest: [0.0; ROWS],
        sum: [0.0; ROWS],
    };
    let mut row = vec![0f32; stripes * COLUMNS];
    for first in (0..queries).step_by(ROWS) {
        let rows = ROWS.min(queries - first);
        state.query.fill(0.0);
        for r in 0..rows {
            let from = input.query.row(picture, head, first + r);
            for (to, from) in state.query[r * width..(r + 1) * width].iter_mut().zip(from) {
                *to = from.widen() * input.scale;
            }
        }
        // The last rows may be none; they repeat the bias of the last that is one.
        let bias: Option<[&[f32]; ROWS]> = input
            .bias
            .map(|bias| std::array::from_fn(|r| bias.row(picture, (first + r).min(queries - 1))));
        attend(path, &mut state, &key, &value, keys, width, bias);
        for r in 0..rows {
            for (to, stripe) in row.chunks_exact_mut(COLUMNS).zip(&state.out) {
                for (to, from) in to.iter_mut().zip(stripe[r]) {
                    *to = from / state.sum[r];
                }
            }
            write(first + r, &row[..width]);
            log_sums[first + r] = state.largest[r] + state.sum[r].ln();
        }
    }
}

/// A few queries on their way through the keys.
struct Rows {
    query: Vec<f32>,
    scores: Vec<f32>,
    out: Vec<[[f32; COLUMNS]; ROWS]>,
    largest: [f32; ROWS],
    sum: [f32; ROWS],
}

by_path! {
    fn attend<F>(
        state: &mut Rows,
        key: &Panels,
        value: &Panels,
        keys: usize,
        width: usize,
        bias: Option<[&[f32]; ROWS]>,
    ) {
        state.largest = [f32::NEG_INFINITY; ROWS];
        state.sum = [0.0; ROWS];
        for stripe in &mut state.out {
            *stripe = [[0.0; COLUMNS]; ROWS];
        }
        for first in (0..keys).step_by(CHUNK) {
            let count = CHUNK.min(keys - first);
            let padded = count.next_multiple_of(COLUMNS);
            for (block, column) in (0..padded).step_by(COLUMNS).enumerate() {
                let mut sums = [[0.0; COLUMNS]; ROWS];
                let stripe = key.stripe(first / COLUMNS + block, 0..width);
                multiply::<F>(&state.query, width, stripe, &mut sums);
                for (r, sums) in sums.iter().enumerate() {
                    let to = &mut state.scores[r * CHUNK + column..][..COLUMNS];
                    to.copy_from_slice(sums);
                }
            }
            for r in 0..ROWS {
                let scores = &mut state.scores[r * CHUNK..r * CHUNK + padded];
                if let Some(bias) = &bias {
                    for (score, bias) in scores.iter_mut().zip(&bias[r][first..first + count]) {
                        *score += bias;
                    }
                }
                scores[count..].fill(f32::NEG_INFINITY);
                let largest = largest(scores).max(state.largest[r]);
                let correction = exp::<F>(state.largest[r] - largest);
                state.largest[r] = largest;
                state.sum[r] = state.sum[r] * correction + exponentials::<F>(scores, largest);
                for stripe in &mut state.out {
                    for out in &mut stripe[r] {
                        *out *= correction;
                    }
                }
            }
            for (i, stripe) in state.out.iter_mut().enumerate() {
                multiply::<F>(&state.scores, CHUNK, value.stripe(i, first..first + count), stripe);
            }
        }
    }
}

/// The largest of a whole number of blocks of scores.
#[inline(always)]
fn largest(scores: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; COLUMNS];
    for block in scores.chunks_exact(COLUMNS) {
        for i in 0..COLUMNS {
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Turns a whole number of blocks of scores into `exp(score − largest)`, and adds them up.
#[inline(always)]
fn exponentials<F: Fused>(scores: &mut [f32], largest: f32) -> f32 {
    let mut lanes = [0f32; COLUMNS];
    for block in scores.chunks_exact_mut(COLUMNS) {
        for i in 0..COLUMNS {
            block[i] = exp::<F>(block[i] - largest);
            lanes[i] += block[i];
        }
    }
    lanes.into_iter().sum()
}
