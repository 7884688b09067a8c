//! The one product that attention in 32 bits is made of: a few rows by 16 columns.

use crate::{element::Element, lanes::Fused};

/// Rows that are multiplied together: six rows of sixteen sums fill AVX2's registers, and leave room for the factors.
pub(super) const ROWS: usize = 6;
/// Columns that are multiplied together.
pub(super) const COLUMNS: usize = 16;

/// A matrix cut into stripes of [`COLUMNS`] columns, each stripe row after row, zeros beyond the last column.
#[derive(Debug, Default)]
pub(super) struct Panels {
    values: Vec<f32>,
    depth: usize,
}

impl Panels {
    /// The rows as they are: `depth` rows, `width` columns.
    pub(super) fn rows<'a, E: Element>(
        depth: usize,
        width: usize,
        row: impl Fn(usize) -> &'a [E],
    ) -> Self {
        let stripes = width.div_ceil(COLUMNS);
        let mut values = vec![0f32; stripes * depth * COLUMNS];
        for k in 0..depth {
            for (stripe, part) in row(k).chunks(COLUMNS).enumerate() {
                let at = (stripe * depth + k) * COLUMNS;
                for (to, from) in values[at..at + part.len()].iter_mut().zip(part) {
                    *to = from.widen();
                }
            }
        }
        Self { values, depth }
    }

    /// The rows as columns: `depth` values of each of `columns` rows.
    pub(super) fn columns<'a, E: Element>(
        depth: usize,
        columns: usize,
        row: impl Fn(usize) -> &'a [E],
    ) -> Self {
        let stripes = columns.div_ceil(COLUMNS);
        let mut values = vec![0f32; stripes * depth * COLUMNS];
        for j in 0..columns {
            let at = (j / COLUMNS) * depth * COLUMNS + j % COLUMNS;
            for (k, from) in row(j).iter().enumerate().take(depth) {
                values[at + k * COLUMNS] = from.widen();
            }
        }
        Self { values, depth }
    }

    /// Rows `range` of stripe `stripe`.
    #[inline(always)]
    pub(super) fn stripe(&self, stripe: usize, range: std::ops::Range<usize>) -> &[f32] {
        let at = stripe * self.depth;
        &self.values[(at + range.start) * COLUMNS..(at + range.end) * COLUMNS]
    }
}

/// Adds the product of `a` (`ROWS` rows, `depth` values each, `stride` apart) and a stripe (`depth` rows) to `sums`.
#[inline(always)]
pub(super) fn multiply<F: Fused>(
    a: &[f32],
    stride: usize,
    stripe: &[f32],
    sums: &mut [[f32; COLUMNS]; ROWS],
) {
    let depth = stripe.len() / COLUMNS;
    let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &a[r * stride..r * stride + depth]);
    let mut own = *sums;
    for (k, b) in stripe.chunks_exact(COLUMNS).enumerate() {
        add_products::<F>(std::array::from_fn(|r| rows[r][k]), b, &mut own);
    }
    *sums = own;
}

/// As [`multiply`], of an `a` that is turned: the values of its `ROWS` rows lie side by side, those of one step of the depth
/// `stride` behind those of the one before.
#[inline(always)]
pub(super) fn multiply_turned<F: Fused>(
    a: &[f32],
    stride: usize,
    stripe: &[f32],
    sums: &mut [[f32; COLUMNS]; ROWS],
) {
    let mut own = *sums;
    for (k, b) in stripe.chunks_exact(COLUMNS).enumerate() {
        let factors = &a[k * stride..][..ROWS];
        add_products::<F>(std::array::from_fn(|r| factors[r]), b, &mut own);
    }
    *sums = own;
}

/// Adds the products of a value of each row with a row of a stripe.
#[inline(always)]
fn add_products<F: Fused>(factors: [f32; ROWS], b: &[f32], sums: &mut [[f32; COLUMNS]; ROWS]) {
    for r in 0..ROWS {
        for j in 0..COLUMNS {
            sums[r][j] = F::mul_add(factors[r], b[j], sums[r][j]);
        }
    }
}
