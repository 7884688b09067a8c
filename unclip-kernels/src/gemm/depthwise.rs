//! Operands whose depth is the pixels rather than the channels.
//!
//! Staged values have the channels of a pixel side by side. In f32 a kernel can walk along the pixels of such a
//! matrix as it is. In bf16 the depth has to be contiguous, in pairs, so both operands are rearranged.

use std::mem;

use half::bf16;

use super::{CHUNK, Compute, TILE};
use crate::{
    aligned::Aligned,
    cpu::Path,
    transpose::{pair_rows, transpose},
};

/// A number type whose products can be summed over staged pixels.
pub(crate) trait Depthwise: Compute {
    /// Brings `rows`, which it may use up, `pixel` values each of which the first `channels` count, into the order of a left operand whose
    /// rows are channels. Returns the distances from one channel and from one pixel to the next.
    fn by_depth(
        path: Path,
        rows: &mut Aligned<Self>,
        pixel: usize,
        channels: usize,
        target: &mut Aligned<Self>,
    ) -> (usize, usize);

    /// Brings `rows` into panels of 16 channels. Returns the distances from one panel and from one pixel to the next.
    fn by_panel(
        path: Path,
        rows: &mut Aligned<Self>,
        pixel: usize,
        channels: usize,
        target: &mut Aligned<Self>,
    ) -> (usize, usize);
}

impl Depthwise for f32 {
    fn by_depth(
        _: Path,
        rows: &mut Aligned<Self>,
        pixel: usize,
        _: usize,
        target: &mut Aligned<Self>,
    ) -> (usize, usize) {
        mem::swap(rows, target);
        (1, pixel)
    }

    fn by_panel(
        _: Path,
        rows: &mut Aligned<Self>,
        pixel: usize,
        _: usize,
        target: &mut Aligned<Self>,
    ) -> (usize, usize) {
        mem::swap(rows, target);
        (TILE, pixel)
    }
}

impl Depthwise for bf16 {
    fn by_depth(
        path: Path,
        rows: &mut Aligned<Self>,
        pixel: usize,
        channels: usize,
        target: &mut Aligned<Self>,
    ) -> (usize, usize) {
        let pixels = rows.len() / pixel / CHUNK * CHUNK;
        let channels = channels.next_multiple_of(TILE);
        // An odd number of cache lines, so that the rows of a tile spread over all sets of the cache.
        let stride = ((pixels / CHUNK) | 1) * CHUNK;
        let target = target.set_len(channels * stride);
        transpose(path, &rows[..pixels * pixel], pixel, channels, target, stride);
        (stride, 1)
    }

    fn by_panel(
        path: Path,
        rows: &mut Aligned<Self>,
        pixel: usize,
        channels: usize,
        target: &mut Aligned<Self>,
    ) -> (usize, usize) {
        let pixels = rows.len() / pixel / 2 * 2;
        let channels = channels.next_multiple_of(TILE);
        let target = target.set_len(pixels * channels);
        pair_rows(path, &rows[..pixels * pixel], channels, pixel, target);
        (pixels * TILE, TILE)
    }
}
