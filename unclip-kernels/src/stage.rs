//! The input of a tile, brought into the layout that kernels read.
//!
//! Staging is where an activation is read: it applies what stands in front of the convolution (normalisation's scale
//! and shift, SiLU, a change of resolution), rounds to the type of the products, and surrounds the picture with the
//! zeros of its padding. The result stays in the second-level cache for as long as it is used, so none of this is
//! ever written to memory.

use std::ops::Range;

use crate::{
    cpu::Path,
    element::Element,
    gemm::{Compute, TILE},
    math,
};

/// A batch of pictures, channels last: `[batch, height, width, channels]` with the channels known elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pictures.
    pub batch: usize,
    /// Rows of each.
    pub height: usize,
    /// Columns of each.
    pub width: usize,
}

impl Size {
    /// A batch of pictures of `height` rows and `width` columns.
    pub fn new(batch: usize, height: usize, width: usize) -> Self {
        Self { batch, height, width }
    }

    /// Pixels of all pictures.
    ///
    /// # Panics
    ///
    /// When there are more than a `usize` counts.
    pub fn pixels(self) -> usize {
        self.batch
            .checked_mul(self.height)
            .and_then(|rows| rows.checked_mul(self.width))
            .expect("the pixels of a batch can be counted")
    }
}

/// A change of resolution in front of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Resample {
    /// None.
    #[default]
    Keep,
    /// Both axes doubled, each value repeated.
    Double,
    /// Both axes halved, the mean over 2 × 2 values; an odd last row or column is dropped.
    Halve,
}

/// An activation that an operation reads, with what is applied to it on the way.
///
/// In this order: scale and shift, SiLU, then the change of resolution that the convolution asks for.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) size: Size,
    pub(crate) scale_shift: Option<[&'a [f32]; 2]>,
    pub(crate) silu: bool,
}

impl<'a, T: Element> Input<'a, T> {
    /// The values `[batch, height, width, channels]` as they are.
    pub fn new(values: &'a [T], size: Size) -> Self {
        Self { values, size, scale_shift: None, silu: false }
    }

    /// Multiplies by `scale` and adds `shift`, both `[batch, channels]`: a group norm whose statistics are known.
    #[must_use]
    pub fn scale_shift(mut self, scale: &'a [f32], shift: &'a [f32]) -> Self {
        self.scale_shift = Some([scale, shift]);
        self
    }

    /// Applies `x · σ(x)`.
    #[must_use]
    pub fn silu(mut self) -> Self {
        self.silu = true;
        self
    }

    /// Compares the lengths with `channels`.
    ///
    /// # Panics
    ///
    /// When they differ.
    pub(crate) fn check(&self, channels: usize) {
        let expected = self.size.pixels().checked_mul(channels);
        assert!(
            expected == Some(self.values.len()),
            "an input of {:?} with {channels} channels cannot have {} values",
            self.size,
            self.values.len()
        );
        for (name, values) in ["scale", "shift"].into_iter().zip(self.scale_shift.iter().flatten())
        {
            assert!(
                values.len() == self.size.batch * channels,
                "{name} has {} values, expected {} for each of {} pictures",
                values.len(),
                channels,
                self.size.batch
            );
        }
    }
}

/// How staged pixels map to the pixels of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grid {
    Resampled(Resample),
    /// Pixels of the input at multiples of the distance, zeros between: the gradient of a convolution with a stride.
    Spread(usize),
}

impl Grid {
    /// The length of an axis of the input, as the convolution sees it.
    #[inline(always)]
    pub(crate) fn extent(self, len: usize) -> usize {
        match self {
            Self::Resampled(Resample::Keep) => len,
            Self::Resampled(Resample::Double) => len.saturating_mul(2),
            Self::Resampled(Resample::Halve) => len / 2,
            Self::Spread(distance) => {
                let before = len.saturating_sub(1).saturating_mul(distance);
                before.saturating_add(usize::from(len > 0))
            }
        }
    }

    /// The index in an input axis of length `len` of what the convolution sees at `at`, or none for a zero.
    #[inline(always)]
    fn source(self, at: isize, len: usize) -> Option<usize> {
        let at = usize::try_from(at).ok().filter(|at| *at < self.extent(len))?;
        match self {
            Self::Resampled(Resample::Keep) => Some(at),
            Self::Resampled(Resample::Double) => Some(at / 2),
            Self::Resampled(Resample::Halve) => Some(2 * at),
            Self::Spread(distance) => at.is_multiple_of(distance).then(|| at / distance),
        }
    }
}

/// The part of the input that a tile stages, in pixels as the convolution sees them.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    pub(crate) images: Range<usize>,
    /// The first row and column; negative in the padding.
    pub(crate) origin: [isize; 2],
    /// Distance from one staged row or column to the next.
    pub(crate) step: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// The channels, of `depth` that each pixel has.
    pub(crate) channels: Range<usize>,
    pub(crate) depth: usize,
}

impl Region {
    /// Values of the staged region.
    pub(crate) fn len<S: Compute>(&self) -> usize {
        self.images.len() * self.rows * self.columns * S::pixel(self.channels.len())
    }
}

/// Writes `region` of `input` to `staged` as `[images, rows, columns, padded channels]`.
///
/// # Panics
///
/// When `staged` is shorter than the region.
pub(crate) fn stage<T: Element, S: Compute>(
    path: Path,
    input: &Input<'_, T>,
    grid: Grid,
    region: &Region,
    staged: &mut [S],
) {
    path.vectorize(
        #[inline(always)]
        || stage_rows(input, grid, region, staged),
    );
}

#[inline(always)]
fn stage_rows<T: Element, S: Compute>(
    input: &Input<'_, T>,
    grid: Grid,
    region: &Region,
    staged: &mut [S],
) {
    let pixel = S::pixel(region.channels.len());
    let row_len = region.columns * pixel;
    if row_len == 0 {
        return;
    }
    let Size { height, width, .. } = input.size;
    let mut at = 0;
    for image in region.images.clone() {
        let mut above = None;
        for row in 0..region.rows {
            let source = grid.source(offset(region.origin[0], row * region.step), height);
            if row > 0 && source.is_some() && source == above {
                staged.copy_within(at - row_len..at, at);
            } else if let Some(source) = source {
                let row = PixelRow { input, grid, region, image, row: source, width };
                row.stage(pixel, &mut staged[at..at + row_len]);
            } else {
                staged[at..at + row_len].fill(S::default());
            }
            above = source;
            at += row_len;
        }
    }
}

/// `index` pixels after `origin`.
#[inline(always)]
fn offset(origin: isize, index: usize) -> isize {
    origin.saturating_add_unsigned(index)
}

/// One row of one picture of the input.
struct PixelRow<'a, T> {
    input: &'a Input<'a, T>,
    grid: Grid,
    region: &'a Region,
    image: usize,
    row: usize,
    width: usize,
}

impl<T: Element> PixelRow<'_, T> {
    /// Stages the row as seen from the region's columns; `pixel` values to a pixel.
    #[inline(always)]
    fn stage<S: Compute>(&self, pixel: usize, staged: &mut [S]) {
        if self.grid == Grid::Resampled(Resample::Keep) {
            return self.stage_kept(pixel, staged);
        }
        let channels = self.region.channels.len();
        let mut before = None;
        for column in 0..self.region.columns {
            let at = column * pixel;
            let source = self
                .grid
                .source(offset(self.region.origin[1], column * self.region.step), self.width);
            if column > 0 && source.is_some() && source == before {
                staged.copy_within(at - pixel..at, at);
            } else {
                let staged = &mut staged[at..at + pixel];
                let (values, padding) = staged.split_at_mut(channels);
                match source {
                    Some(source) if self.grid == Grid::Resampled(Resample::Halve) => {
                        let corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
                            .map(|(below, right)| self.channels(self.row + below, source + right));
                        self.apply(corners, values);
                    }
                    Some(source) => self.apply([self.channels(self.row, source)], values),
                    None => values.fill(S::default()),
                }
                padding.fill(S::default());
            }
            before = source;
        }
    }

    /// [`stage`](Self::stage) where every column is one of the input's or lies outside of it.
    #[inline(always)]
    fn stage_kept<S: Compute>(&self, pixel: usize, staged: &mut [S]) {
        let &Region { origin: [_, origin], step, columns, depth, ref channels, .. } = self.region;
        let (outside, skipped) = (origin.min(0).unsigned_abs(), origin.max(0).unsigned_abs());
        let first = outside.div_ceil(step).min(columns);
        let end = (self.width + outside).saturating_sub(skipped).div_ceil(step);
        let end = end.clamp(first, columns);
        staged[..first * pixel].fill(S::default());
        staged[end * pixel..].fill(S::default());
        if first == end {
            return;
        }
        let column = skipped + first * step - outside;
        let start =
            ((self.image * self.input.size.height + self.row) * self.width + column) * depth;
        let sources = &self.input.values[start..][..((end - first - 1) * step + 1) * depth];
        let staged = &mut staged[first * pixel..end * pixel];
        if sources.len() == staged.len() && pixel == depth && self.input.scale_shift.is_none() {
            return mean([sources], None, self.input.silu, staged);
        }
        for (staged, source) in
            staged.chunks_exact_mut(pixel).zip(sources.chunks_exact(depth).step_by(step))
        {
            let (values, padding) = staged.split_at_mut(channels.len());
            self.apply([&source[channels.clone()]], values);
            padding.fill(S::default());
        }
    }

    /// The region's channels of a pixel.
    #[inline(always)]
    fn channels(&self, row: usize, column: usize) -> &[T] {
        let pixel = (self.image * self.input.size.height + row) * self.width + column;
        &self.input.values[pixel * self.region.depth..][self.region.channels.clone()]
    }

    /// The mean of `sources` after scale, shift and activation.
    #[inline(always)]
    fn apply<S: Compute, const N: usize>(&self, sources: [&[T]; N], staged: &mut [S]) {
        let start = self.image * self.region.depth + self.region.channels.start;
        let len = staged.len();
        match self.input.scale_shift.map(|values| values.map(|values| &values[start..][..len])) {
            None => mean(sources, None, self.input.silu, staged),
            Some(scale_shift) => mean(sources, Some(scale_shift), self.input.silu, staged),
        }
    }
}

/// Writes the mean over `sources` after scale, shift and SiLU, a vector's worth at a time.
#[inline(always)]
fn mean<T: Element, S: Compute, const N: usize>(
    sources: [&[T]; N],
    scale_shift: Option<[&[f32]; 2]>,
    silu: bool,
    staged: &mut [S],
) {
    let (chunks, rest) = staged.as_chunks_mut::<TILE>();
    let whole = chunks.len();
    let source_chunks = sources.map(|source| &source.as_chunks::<TILE>().0[..whole]);
    let scale_shift_chunks =
        scale_shift.map(|values| values.map(|values| &values.as_chunks::<TILE>().0[..whole]));
    for (index, staged) in chunks.iter_mut().enumerate() {
        let scale_shift = scale_shift_chunks.map(|[scale, shift]| [&scale[index], &shift[index]]);
        mean_of_lanes(source_chunks.map(|chunks| &chunks[index]), scale_shift, silu, staged);
    }
    if !rest.is_empty() {
        let at = whole * TILE;
        let sources = sources.map(|source| padded(&source[at..]));
        let scale_shift = scale_shift.map(|values| values.map(|values| padded(&values[at..])));
        let mut lanes = [S::default(); TILE];
        mean_of_lanes(
            sources.each_ref(),
            scale_shift.as_ref().map(|values| values.each_ref()),
            silu,
            &mut lanes,
        );
        rest.copy_from_slice(&lanes[..rest.len()]);
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
fn mean_of_lanes<T: Element, S: Compute, const N: usize>(
    sources: [&[T; TILE]; N],
    scale_shift: Option<[&[f32; TILE]; 2]>,
    silu: bool,
    staged: &mut [S; TILE],
) {
    let mut sums = [0.0; TILE];
    for source in sources {
        let mut values = [0.0; TILE];
        for lane in 0..TILE {
            values[lane] = source[lane].widen();
        }
        if let Some([scale, shift]) = scale_shift {
            for lane in 0..TILE {
                values[lane] = values[lane] * scale[lane] + shift[lane];
            }
        }
        if silu {
            for value in &mut values {
                *value = math::silu(*value);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(resample: Resample, origin: [isize; 2], rows: usize, columns: usize) -> Vec<f32> {
        // One picture of 2 × 4 pixels with one channel: 0 1 2 3 / 4 5 6 7.
        let values: Vec<f32> = (0..8u8).map(f32::from).collect();
        let input = Input::new(&values, Size::new(1, 2, 4));
        let region =
            Region { images: 0..1, origin, step: 1, rows, columns, channels: 0..1, depth: 1 };
        let mut staged = vec![f32::NAN; rows * columns];
        stage(Path::best(), &input, Grid::Resampled(resample), &region, &mut staged);
        staged
    }

    #[test]
    fn what_lies_outside_of_the_picture_is_zero() {
        let expected = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 4.0, 5.0, 0.0, 0.0, 0.0];
        assert_eq!(staged(Resample::Keep, [-1, -1], 4, 3), expected);
    }

    #[test]
    fn a_region_may_lie_to_either_side_of_the_picture() {
        for origin in [-9, -3, 4, 9] {
            assert_eq!(staged(Resample::Keep, [0, origin], 1, 3), [0.0; 3], "{origin}");
        }
        assert_eq!(staged(Resample::Keep, [1, 3], 1, 2), [7.0, 0.0]);
        assert_eq!(staged(Resample::Keep, [0, -2], 1, 8), [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
    }

    #[test]
    fn steps_skip_columns_from_the_padding_on() {
        let values: Vec<f32> = (0..12u8).map(f32::from).collect();
        // Six columns of two channels, of which the second is staged.
        let input = Input::new(&values, Size::new(1, 1, 6));
        let region = Region {
            images: 0..1,
            origin: [0, -1],
            step: 2,
            rows: 1,
            columns: 5,
            channels: 1..2,
            depth: 2,
        };
        let mut staged = [f32::NAN; 5];
        stage(Path::best(), &input, Grid::Resampled(Resample::Keep), &region, &mut staged);
        assert_eq!(staged, [0.0, 3.0, 7.0, 11.0, 0.0]);
    }

    #[test]
    fn doubling_repeats_rows_and_columns() {
        let expected = [0.0, 1.0, 1.0, 2.0, 0.0, 1.0, 1.0, 2.0, 4.0, 5.0, 5.0, 6.0];
        assert_eq!(staged(Resample::Double, [0, 1], 3, 4), expected);
    }

    #[test]
    fn halving_takes_the_mean_of_four() {
        assert_eq!(staged(Resample::Halve, [0, 0], 1, 3), [2.5, 4.5, 0.0]);
    }

    #[test]
    fn spreading_puts_zeros_between() {
        let values = [1.0f32, 2.0];
        let input = Input::new(&values, Size::new(1, 1, 2));
        let region = Region {
            images: 0..1,
            origin: [0, -1],
            step: 1,
            rows: 2,
            columns: 5,
            channels: 0..1,
            depth: 1,
        };
        let mut staged = [f32::NAN; 10];
        stage(Path::best(), &input, Grid::Spread(2), &region, &mut staged);
        assert_eq!(staged, [0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn scale_and_shift_belong_to_picture_and_channel() {
        let values = [1.0f32; 2 * 3];
        let scale = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let shift = [0.5; 6];
        let input = Input::new(&values, Size::new(2, 1, 1)).scale_shift(&scale, &shift);
        let region = Region {
            images: 1..2,
            origin: [0, 0],
            step: 1,
            rows: 1,
            columns: 1,
            channels: 1..3,
            depth: 3,
        };
        let mut staged = [f32::NAN; 2];
        stage(Path::best(), &input, Grid::Resampled(Resample::Keep), &region, &mut staged);
        assert_eq!(staged, [5.5, 6.5]);
    }
}
