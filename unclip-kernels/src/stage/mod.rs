//! The input of a tile, brought into the layout that kernels read.
//!
//! Staging is where an activation is read: it applies what stands in front of the convolution (normalisation's scale
//! and shift, SiLU, a change of resolution), rounds to the type of the products, and surrounds the picture with the
//! zeros of its padding. The result stays in the second-level cache for as long as it is used, so none of this is
//! ever written to memory.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;

use std::ops::Range;

use lanes::Lanes;

#[cfg(target_arch = "x86_64")]
use crate::cpu::Isa;
use crate::{
    cpu::Path,
    element::Element,
    gemm::{Compute, TILE},
    lanes::{by_path, pixels_of_whole_vectors},
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
    /// Values of the staged region, `pixel` to a pixel.
    pub(crate) fn len(&self, pixel: usize) -> usize {
        self.images.len() * self.rows * self.columns * pixel
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
    #[cfg(target_arch = "x86_64")]
    if path.isa() >= Isa::Avx512Bf16 {
        // SAFETY: the path is a witness of AVX-512 with bf16.
        return unsafe { avx512::stage(input, grid, region, staged) };
    }
    stage_lanes(path, input, grid, region, staged);
}

by_path! {
    fn stage_lanes<F, T: Element, S: Compute>(
        input: &Input<'_, T>,
        grid: Grid,
        region: &Region,
        staged: &mut [S],
    ) {
        match (input.scale_shift.is_some(), input.silu) {
            (false, false) => {
                stage_rows::<Lanes<F, false, false>, _, _>(input, grid, region, staged);
            }
            (false, true) => {
                stage_rows::<Lanes<F, false, true>, _, _>(input, grid, region, staged);
            }
            (true, false) => {
                stage_rows::<Lanes<F, true, false>, _, _>(input, grid, region, staged);
            }
            (true, true) => {
                stage_rows::<Lanes<F, true, true>, _, _>(input, grid, region, staged);
            }
        }
    }
}

/// How a staged pixel is computed: with which instructions, and whether with a scale and a shift, and SiLU.
trait Compiled<S: Compute> {
    /// Writes the mean over `sources` after scale, shift and activation, and zeros behind it.
    ///
    /// # Safety
    ///
    /// The processor has the instructions, and sources, scale and shift have one length, which `staged` has at least.
    unsafe fn write<T: Element, const N: usize>(
        sources: [&[T]; N],
        scale_shift: [&[f32]; 2],
        staged: &mut [S],
    );
}

#[inline(always)]
fn stage_rows<C: Compiled<S>, T: Element, S: Compute>(
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
        let repeated = Repeated::find(input, region, image, pixel);
        let mut above = None;
        for row in 0..region.rows {
            let source = grid.source(offset(region.origin[0], row * region.step), height);
            if row > 0 && source.is_some() && source == above {
                staged.copy_within(at - row_len..at, at);
            } else if let Some(source) = source {
                let row = PixelRow {
                    input,
                    repeated: repeated.as_ref(),
                    grid,
                    region,
                    image,
                    row: source,
                    width,
                };
                row.stage::<C, S>(pixel, &mut staged[at..at + row_len]);
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

/// The scale and the shift of a picture's channels for as many pixels as fill whole vectors, so that few channels take no
/// more of them than their values do.
struct Repeated {
    scale_shift: [Vec<f32>; 2],
    /// Values of these pixels.
    len: usize,
}

impl Repeated {
    /// For pixels that are staged as they lie: all their channels, and nothing between two.
    fn find<T>(input: &Input<'_, T>, region: &Region, image: usize, pixel: usize) -> Option<Self> {
        let depth = region.depth;
        if region.channels.len() != depth || pixel != depth {
            return None;
        }
        let pixels = pixels_of_whole_vectors(depth);
        let own = image * depth..(image + 1) * depth;
        let scale_shift = match input.scale_shift {
            Some(values) => values.map(|values| values[own.clone()].repeat(pixels)),
            None => [Vec::new(), Vec::new()],
        };
        Some(Self { scale_shift, len: pixels * depth })
    }
}

/// One row of one picture of the input.
struct PixelRow<'a, T> {
    input: &'a Input<'a, T>,
    repeated: Option<&'a Repeated>,
    grid: Grid,
    region: &'a Region,
    image: usize,
    row: usize,
    width: usize,
}

impl<T: Element> PixelRow<'_, T> {
    /// Stages the row as seen from the region's columns; `pixel` values to a pixel.
    #[inline(always)]
    fn stage<C: Compiled<S>, S: Compute>(&self, pixel: usize, staged: &mut [S]) {
        if self.grid == Grid::Resampled(Resample::Keep) {
            return self.stage_kept::<C, S>(pixel, staged);
        }
        let mut before = None;
        for column in 0..self.region.columns {
            let at = column * pixel;
            let source = self
                .grid
                .source(offset(self.region.origin[1], column * self.region.step), self.width);
            let (done, staged) = staged.split_at_mut(at);
            let staged = &mut staged[..pixel];
            if column > 0 && source.is_some() && source == before {
                copy(&done[at - pixel..], staged);
            } else {
                match source {
                    Some(source) if self.grid == Grid::Resampled(Resample::Halve) => {
                        let corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
                            .map(|(below, right)| self.channels(self.row + below, source + right));
                        self.write::<C, S, 4>(corners, staged);
                    }
                    Some(source) => {
                        self.write::<C, S, 1>([self.channels(self.row, source)], staged);
                    }
                    None => staged.fill(S::default()),
                }
            }
            before = source;
        }
    }

    /// [`stage`](Self::stage) where every column is one of the input's or lies outside of it.
    #[inline(always)]
    fn stage_kept<C: Compiled<S>, S: Compute>(&self, pixel: usize, staged: &mut [S]) {
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
        if let Some(Repeated { scale_shift, len }) = self.repeated
            && sources.len() == staged.len()
        {
            if self.input.scale_shift.is_none() {
                // SAFETY: whoever names `C` knows the processor; both lengths were just compared.
                return unsafe { C::write([sources], [&[], &[]], staged) };
            }
            for (staged, sources) in staged.chunks_mut(*len).zip(sources.chunks(*len)) {
                let scale_shift = scale_shift.each_ref().map(|values| &values[..sources.len()]);
                // SAFETY: as above; scale and shift were just cut to the length.
                unsafe { C::write([sources], scale_shift, staged) };
            }
            return;
        }
        for (staged, source) in
            staged.chunks_exact_mut(pixel).zip(sources.chunks_exact(depth).step_by(step))
        {
            self.write::<C, S, 1>([&source[channels.clone()]], staged);
        }
    }

    /// The region's channels of a pixel.
    #[inline(always)]
    fn channels(&self, row: usize, column: usize) -> &[T] {
        let pixel = (self.image * self.input.size.height + row) * self.width + column;
        &self.input.values[pixel * self.region.depth..][self.region.channels.clone()]
    }

    /// The mean of `sources` after scale, shift and activation, and zeros up to the end of the pixel.
    #[inline(always)]
    fn write<C: Compiled<S>, S: Compute, const N: usize>(
        &self,
        sources: [&[T]; N],
        staged: &mut [S],
    ) {
        let len = self.region.channels.len();
        let start = self.image * self.region.depth + self.region.channels.start;
        let scale_shift = match self.input.scale_shift {
            Some(values) => values.map(|values| &values[start..][..len]),
            None => [&[][..], &[]],
        };
        // SAFETY: whoever names `C` knows the processor. Every source is the region's channels, as are scale and shift,
        // and a staged pixel holds at least these.
        unsafe { C::write(sources, scale_shift, staged) };
    }
}

/// A loop over whole vectors, where a call would cost more than the copy.
#[inline(always)]
fn copy<S: Compute>(from: &[S], to: &mut [S]) {
    let (from, from_rest) = from.as_chunks::<TILE>();
    let (to, to_rest) = to.as_chunks_mut::<TILE>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
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
