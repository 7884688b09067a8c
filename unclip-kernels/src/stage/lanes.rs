//! A staged pixel in plain Rust, sixteen lanes at a time.

use std::marker::PhantomData;

use super::Compiled;
use crate::{
    element::Element,
    gemm::{Compute, TILE},
    lanes::Fused,
    math,
};

/// Loops that the compiler turns into the vectors of whatever they are compiled for.
pub(super) struct Lanes<F, const AFFINE: bool, const SILU: bool>(PhantomData<F>);

impl<F: Fused, S: Compute, const AFFINE: bool, const SILU: bool> Compiled<S>
    for Lanes<F, AFFINE, SILU>
{
    #[inline(always)]
    unsafe fn write<T: Element, const N: usize>(
        sources: [&[T]; N],
        scale_shift: [&[f32]; 2],
        staged: &mut [S],
    ) {
        let channels = sources[0].len();
        let whole = channels / TILE;
        let (values, padding) = staged.split_at_mut(channels);
        let (chunks, rest) = values.as_chunks_mut::<TILE>();
        let source_chunks = sources.map(|source| &source.as_chunks::<TILE>().0[..whole]);
        let scale_shift_chunks = scale_shift.map(|values| values.as_chunks::<TILE>().0);
        for (index, staged) in chunks.iter_mut().enumerate() {
            let scale_shift = scale_shift_chunks.map(|chunks| chunks.get(index));
            let sources = source_chunks.map(|chunks| &chunks[index]);
            mean::<F, AFFINE, SILU, _, _, N>(sources, scale_shift, staged);
        }
        if !rest.is_empty() {
            let at = whole * TILE;
            let sources = sources.map(|source| padded(&source[at..]));
            let scale_shift = scale_shift.map(|values| padded(values.get(at..).unwrap_or(&[])));
            let scale_shift = scale_shift.each_ref().map(Some);
            let mut lanes = [S::default(); TILE];
            mean::<F, AFFINE, SILU, _, _, N>(sources.each_ref(), scale_shift, &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
        padding.fill(S::default());
    }
}

/// Fewer than 16 values, with zeros for those that are missing.
fn padded<T: Element>(values: &[T]) -> [T; TILE] {
    let mut lanes = [T::default(); TILE];
    let len = values.len().min(TILE);
    lanes[..len].copy_from_slice(&values[..len]);
    lanes
}

/// Loops over lanes rather than mapping arrays: a map of a long function is called, a loop becomes vectors.
#[inline(always)]
fn mean<F: Fused, const AFFINE: bool, const SILU: bool, T: Element, S: Compute, const N: usize>(
    sources: [&[T; TILE]; N],
    scale_shift: [Option<&[f32; TILE]>; 2],
    staged: &mut [S; TILE],
) {
    let mut sums = [0.0; TILE];
    for source in sources {
        let mut values = [0.0; TILE];
        for lane in 0..TILE {
            values[lane] = source[lane].widen();
        }
        if AFFINE && let [Some(scale), Some(shift)] = scale_shift {
            for lane in 0..TILE {
                values[lane] = F::mul_add(values[lane], scale[lane], shift[lane]);
            }
        }
        if SILU {
            for value in &mut values {
                *value = math::silu::<F>(*value);
            }
        }
        for lane in 0..TILE {
            sums[lane] = if N == 1 { values[lane] } else { sums[lane] + values[lane] };
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "there are one or four sources")]
    let share = 1.0 / N as f32;
    for (staged, sum) in staged.iter_mut().zip(sums) {
        *staged = S::narrow(if N == 1 { sum } else { sum * share });
    }
}
