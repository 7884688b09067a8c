//! Attention without a matrix of scores (Rabe & Staats 2021; Dao et al. 2022): keys are met a chunk at a time, and the
//! softmax is corrected whenever a larger score turns up.
//!
//! Heads lie beside each other in a token, `[batch, tokens, heads, width]`, as linear layers leave them; any layout
//! whose head is one run of values will do. Added keys and values (a caption's, in front of a picture's own) are rows
//! like the others.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_backward;
mod backward;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod panel;
mod stream;
#[cfg(target_arch = "x86_64")]
mod tiles;

#[cfg(target_arch = "x86_64")]
use backward::Gradient;
pub use backward::{AttentionGradients, attention_backward};

#[cfg(target_arch = "x86_64")]
use crate::amx::Tiles;
use crate::{
    cpu::Path,
    element::Element,
    parallel::{Shared, for_each_chunk},
};

/// What factors of a product are rounded to before they are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// Not at all.
    F32,
    /// To 16 bits, where that is faster on this processor.
    Bf16,
}

/// The sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Pictures or captions.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Tokens that ask.
    pub queries: usize,
    /// Tokens that answer.
    pub keys: usize,
    /// Values of a token in one head.
    pub width: usize,
}

/// Tokens by picture, head and position: where each one's values lie.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a, E> {
    values: &'a [E],
    batch_stride: usize,
    head_stride: usize,
    row_stride: usize,
    width: usize,
}

impl<'a, E: Element> Heads<'a, E> {
    /// A view of `values` with `[batch, heads, rows, width]` tokens, the values of one being a run.
    ///
    /// # Panics
    ///
    /// When the last token ends behind `values`.
    pub fn new(values: &'a [E], sizes: [usize; 4], strides: [usize; 3]) -> Self {
        let [batch, heads, rows, width] = sizes;
        let [batch_stride, head_stride, row_stride] = strides;
        if sizes.iter().all(|&size| size > 0) {
            let end = [(batch, batch_stride), (heads, head_stride), (rows, row_stride)]
                .iter()
                .try_fold(width, |end, &(size, stride)| {
                    (size - 1).checked_mul(stride).and_then(|offset| end.checked_add(offset))
                });
            assert!(
                end.is_some_and(|end| end <= values.len()),
                "tokens {sizes:?} at strides {strides:?} end behind {} values",
                values.len()
            );
        }
        Self { values, batch_stride, head_stride, row_stride, width }
    }

    /// A view of contiguous `[batch, rows, heads, width]`.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn beside(values: &'a [E], batch: usize, heads: usize, rows: usize, width: usize) -> Self {
        Self::new(values, [batch, heads, rows, width], [rows * heads * width, width, heads * width])
    }

    fn row(&self, batch: usize, head: usize, row: usize) -> &'a [E] {
        let start = batch * self.batch_stride + head * self.head_stride + row * self.row_stride;
        &self.values[start..start + self.width]
    }
}

/// What is added to the scores of a query and a key, the same for every head.
#[derive(Debug, Clone, Copy)]
pub struct ScoreBias<'a> {
    values: &'a [f32],
    batch_stride: usize,
    query_stride: usize,
    keys: usize,
}

impl<'a> ScoreBias<'a> {
    /// A view of `values`, the keys of one query being a run. A stride of 0 says the same to all.
    ///
    /// # Panics
    ///
    /// When the last row ends behind `values`.
    pub fn new(values: &'a [f32], sizes: [usize; 3], strides: [usize; 2]) -> Self {
        let [batch, queries, keys] = sizes;
        let [batch_stride, query_stride] = strides;
        let end = batch.saturating_sub(1) * batch_stride
            + queries.saturating_sub(1) * query_stride
            + keys;
        assert!(
            end <= values.len(),
            "a bias of {sizes:?} at strides {strides:?} ends behind {} values",
            values.len()
        );
        Self { values, batch_stride, query_stride, keys }
    }

    fn row(&self, batch: usize, query: usize) -> &'a [f32] {
        let start = batch * self.batch_stride + query * self.query_stride;
        &self.values[start..start + self.keys]
    }
}

/// What an attention reads.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInput<'a, E> {
    /// The sizes of all of it.
    pub shape: AttentionShape,
    /// `queries` rows.
    pub query: Heads<'a, E>,
    /// `keys` rows.
    pub key: Heads<'a, E>,
    /// `keys` rows.
    pub value: Heads<'a, E>,
    /// Added to the scores.
    pub bias: Option<ScoreBias<'a>>,
    /// What products of queries and keys are multiplied by.
    pub scale: f32,
}

/// `softmax(scale · q kᵀ + bias) v`, head by head.
///
/// With [`Products::Bf16`] the factors of both products are rounded to 16 bits where the processor has an instruction
/// for them; sums, and the softmax, are in 32 bits always.
///
/// `log_sums` receives what the gradient needs: the logarithm of each query's sum of exponentials,
/// `[batch, heads, queries]`.
///
/// # Shapes
///
/// - `out`: `[batch, queries, heads, width]`
///
/// # Panics
///
/// When a view or slice does not fit the shape.
pub fn attention<E: Element>(
    path: Path,
    input: &AttentionInput<'_, E>,
    products: Products,
    out: &mut [E],
    log_sums: Option<&mut [f32]>,
) {
    let AttentionShape { batch, heads, queries, keys, width } = input.shape;
    check(input);
    assert_eq!(out.len(), batch * queries * heads * width, "the output has a row a query and head");
    if let Some(log_sums) = &log_sums {
        assert_eq!(log_sums.len(), batch * heads * queries, "one sum a query and head");
    }
    if out.is_empty() {
        return;
    }
    assert!(keys > 0, "a query needs a key");
    let rows = Shared::new(out);
    let mut unused = Vec::new();
    let log_sums = match log_sums {
        Some(log_sums) => log_sums,
        None => {
            unused.resize(batch * heads * queries, 0.0);
            &mut unused
        }
    };
    for_each_chunk(log_sums, queries, |i, log_sums| {
        let (picture, head) = (i / heads, i % heads);
        let write = |query: usize, values: &[f32]| {
            let start = ((picture * queries + query) * heads + head) * width;
            // SAFETY: a task has its own picture and head, so no two rows of two tasks are one.
            let row = unsafe { rows.slice(start..start + width) };
            for (to, &from) in row.iter_mut().zip(values) {
                *to = E::narrow(from);
            }
        };
        #[cfg(target_arch = "x86_64")]
        if products == Products::Bf16
            && let Some(tiles) = Tiles::configure(path)
        {
            return amx::head(&tiles, input, picture, head, log_sums, write);
        }
        stream::head(path, input, picture, head, log_sums, write);
    });
}

/// Demands that the views have the shape's sizes.
fn check<E: Element>(input: &AttentionInput<'_, E>) {
    let AttentionShape { batch, heads, queries, keys, width } = input.shape;
    for (name, view, rows) in
        [("query", &input.query, queries), ("key", &input.key, keys), ("value", &input.value, keys)]
    {
        assert_eq!(view.width, width, "the width of a {name}");
        // The view may have been made for other sizes: its last token is asked for here once.
        let _ = Heads::new(
            view.values,
            [batch, heads, rows, width],
            [view.batch_stride, view.head_stride, view.row_stride],
        );
    }
    if let Some(bias) = &input.bias {
        assert_eq!(bias.keys, keys, "one bias a key");
        let _ = ScoreBias::new(
            bias.values,
            [batch, queries, keys],
            [bias.batch_stride, bias.query_stride],
        );
    }
}

#[cfg(test)]
mod tests;
