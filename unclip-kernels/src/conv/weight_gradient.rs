//! The gradient of a convolution's weights: a product whose depth is the pixels.
//!
//! For each tap, `gradient[tap][channel in][channel out]` sums, over all pixels of the output, the input pixel under
//! that tap times the output's gradient. Both are staged strip by strip, the input in a picture for each column of the
//! kernel and, with a stride, for each remainder of the row: in each of these pictures, neighbours are what neighbouring
//! output pixels see, and a row of the kernel is a distance. (With one picture for all columns of the kernel most rows of
//! tiles would straddle two cache lines.)
//!
//! Tasks own a block of channels in × channels out. Where there are few blocks, the pixels are cut too, and the parts
//! are added in their order; the cut follows from the shapes alone.

use std::ops::Range;

use super::Conv;
use crate::{
    aligned::Aligned,
    cpu::Path,
    element::Element,
    gemm::{Block, CHUNK, CTile, Compute, Depthwise, Panels, Staged, Step, Steps, TILE, Unit},
    parallel::{self, Shared, part},
    scratch::Scratch,
    stage::{Grid, Input, Region, Resample, stage},
};

/// Sums that a task keeps: with the staged strips, what fits in the second-level cache.
const SUMS: usize = 160 << 10;

/// Tasks that the work is cut into at least, where it is large enough.
const TASKS: usize = 16;

/// Pixels of a strip, so that what a few blocks read stays in the first-level cache.
const STRIP: usize = 512;

/// Computes the gradient of the weights of `conv` into `output`, `[channels out, channels in, kernel, kernel]`.
///
/// # Panics
///
/// When no whole numbers of channels make the lengths fit.
pub(super) fn run<S: Depthwise, T: Element, U: Element>(
    path: Path,
    conv: &Conv,
    input: &Input<'_, T>,
    gradient: &Input<'_, U>,
    output: &mut [f32],
) {
    let pixels = gradient.size.pixels();
    let taps = conv.kernel * conv.kernel;
    if pixels == 0 || input.size.pixels() == 0 {
        output.fill(0.0);
        return;
    }
    let depth = input.values.len() / input.size.pixels();
    let columns = gradient.values.len() / pixels;
    input.check(depth);
    gradient.check(columns);
    assert!(
        output.len() == columns * depth * taps,
        "the gradient of {columns} × {depth} channels and {taps} taps has {} values",
        output.len()
    );
    if output.is_empty() {
        return;
    }
    let limit = ((SUMS / taps).isqrt() / CHUNK).max(1) * CHUNK;
    let blocks = [depth.div_ceil(limit), columns.div_ceil(limit)];
    let regions = blocks[0] * blocks[1];
    let rows = gradient.size.batch * gradient.size.height;
    let parts = (TASKS / regions).min(pixels / STRIP).clamp(1, rows);

    let shared = Shared::new(output);
    parallel::for_each(regions, |region| {
        let job = Job {
            path,
            conv,
            input,
            gradient,
            depth: part(depth, CHUNK, blocks[0], region / blocks[1]),
            columns: part(columns, CHUNK, blocks[1], region % blocks[1]),
            channels: [depth, columns],
        };
        if job.depth.is_empty() || job.columns.is_empty() {
            return;
        }
        let mut partial = parallel::map(parts, |index| {
            S::with_scratch(|scratch| job.sum::<S>(part(rows, 1, parts, index), scratch))
        })
        .into_iter();
        if let Some(mut sums) = partial.next() {
            for more in partial {
                add(path, &mut sums, &more);
            }
            job.write::<S>(&sums, &shared);
        }
    });
}

/// Adds tile by tile.
fn add(path: Path, sums: &mut [CTile], more: &[CTile]) {
    path.vectorize(
        #[inline(always)]
        || {
            for (sums, more) in sums.iter_mut().zip(more) {
                for (sum, more) in sums.0.as_flattened_mut().iter_mut().zip(more.0.as_flattened()) {
                    *sum += more;
                }
            }
        },
    );
}

/// The block of channels that a task owns, and all it refers to.
struct Job<'a, T, U> {
    path: Path,
    conv: &'a Conv,
    input: &'a Input<'a, T>,
    gradient: &'a Input<'a, U>,
    /// Channels of the input.
    depth: Range<usize>,
    /// Channels of the output.
    columns: Range<usize>,
    /// All of them.
    channels: [usize; 2],
}

/// How a strip of output rows is staged; lengths count pixels.
#[derive(Debug, Clone, Copy)]
struct Layout {
    rows: usize,
    /// From one staged row to the next, in both operands.
    pitch: usize,
    /// How much further than its first row the window of an output pixel reaches, in strides.
    span: usize,
    /// From one picture of the strip to the next in the staged input.
    input: usize,
    /// And in the staged gradient.
    gradient: usize,
}

impl<T: Element, U: Element> Job<'_, T, U> {
    /// The sums over output rows `rows`, counted through all pictures.
    fn sum<S: Depthwise>(&self, rows: Range<usize>, scratch: &mut Scratch<S>) -> Vec<CTile> {
        let unit = Unit::new(self.path);
        let [tiles, panels] = [&self.depth, &self.columns].map(|range| range.len().div_ceil(TILE));
        let slots = self.slots::<S>();
        let mut sums = vec![CTile::ZERO; slots.iter().product::<usize>() * 2 * S::WIDTH];
        let mut next = rows.start;
        while next < rows.end {
            let (images, strip) = self.strip(next..rows.end);
            next += images.len() * strip.len();
            let layout = self.layout::<S>(strip.len());
            let operands = self.stage(&images, &strip, &layout, scratch);
            let steps: Vec<_> = (0..slots[0])
                .map(|tap| self.steps(tap, images.len(), &layout, operands.depth_stride))
                .collect();
            let (mut done, mut from) = (0, 0);
            while from < steps[0].len() {
                let to = from + S::fitting(&steps[0][from..], S::WIDTH.min(panels));
                let steps: Vec<_> = (steps.iter())
                    .map(|steps| Steps::new(&steps[from..to], operands.depth_stride))
                    .collect();
                from = to;
                for block in 0..slots[2] {
                    let first = block * S::WIDTH;
                    let width = S::WIDTH.min(panels - first);
                    let gradient =
                        first * operands.panel_stride + done * operands.panel_depth_stride;
                    for pair in 0..slots[1] {
                        let starts = [2 * pair, (2 * pair + 1).min(tiles - 1)];
                        for (tap, &steps) in steps.iter().enumerate() {
                            let slot = (tap * slots[1] + pair) * slots[2] + block;
                            let block = Block {
                                staged: Staged {
                                    values: operands.input,
                                    starts: starts.map(|tile| tile * TILE * operands.row_stride),
                                    row_stride: operands.row_stride,
                                    rows: self.depth.len() - 2 * TILE * pair,
                                },
                                panels: Panels {
                                    values: &operands.gradient[gradient..],
                                    panel_stride: operands.panel_stride,
                                    depth_stride: operands.panel_depth_stride,
                                    ahead: 0,
                                },
                                steps,
                                sums: &mut sums[slot * 2 * S::WIDTH..][..2 * width],
                                fresh: false,
                                next: None,
                            };
                            S::multiply(&unit, block);
                        }
                    }
                }
                done += steps[0].depth();
            }
        }
        sums
    }

    /// The numbers of taps, of pairs of tiles of input channels, and of blocks of panels of output channels.
    fn slots<S: Compute>(&self) -> [usize; 3] {
        let taps = self.conv.kernel * self.conv.kernel;
        [taps, self.depth.len().div_ceil(2 * TILE), self.columns.len().div_ceil(S::WIDTH * TILE)]
    }

    /// The pictures and their rows that the first strip of `rows` takes: some whole pictures, or rows of one.
    fn strip(&self, rows: Range<usize>) -> (Range<usize>, Range<usize>) {
        let size = self.gradient.size;
        let (image, row) = (rows.start / size.height, rows.start % size.height);
        let most = (STRIP / size.width).max(1);
        let whole = (most / size.height).min(rows.len() / size.height);
        if row == 0 && whole > 0 {
            (image..image + whole, 0..size.height)
        } else {
            (image..image + 1, row..row + most.min(size.height - row).min(rows.len()))
        }
    }

    fn layout<S: Compute>(&self, rows: usize) -> Layout {
        let Conv { kernel, stride, .. } = *self.conv;
        let span = (kernel - 1) / stride;
        let pitch = self.gradient.size.width;
        Layout {
            rows,
            pitch,
            span,
            // A picture for each column of the kernel and each remainder of a row by the stride that it meets.
            input: kernel.min(stride) * kernel * (rows + span) * pitch,
            gradient: (rows * pitch).next_multiple_of(S::UNIT),
        }
    }

    /// Stages both operands of a strip.
    fn stage<'s, S: Depthwise>(
        &self,
        images: &Range<usize>,
        rows: &Range<usize>,
        layout: &Layout,
        scratch: &'s mut Scratch<S>,
    ) -> Operands<'s, S> {
        // A step may reach past the last picture by what the padded depth exceeds it.
        let slack = 2 * CHUNK;
        let pixel = S::pixel(self.depth.len());
        let len = images.len() * layout.input;
        let staged = scratch.rows.set_len((len + slack).next_multiple_of(CHUNK) * pixel + TILE);
        for (at, image) in images.clone().enumerate() {
            let planes = &mut staged[at * layout.input * pixel..][..layout.input * pixel];
            self.stage_planes(image, rows, layout, pixel, planes, &mut scratch.gradient);
        }
        staged[len * pixel..].fill(S::default());
        let (row_stride, depth_stride) =
            S::by_depth(self.path, &mut scratch.rows, pixel, self.depth.len(), &mut scratch.staged);

        let pixel = S::pixel(self.columns.len());
        let staged = scratch.rows.set_len(images.len() * layout.gradient * pixel + 2 * CHUNK);
        let mut at = 0;
        for image in images.clone() {
            let region = Region {
                images: image..image + 1,
                origin: [rows.start, 0].map(|start| 0isize.saturating_add_unsigned(start)),
                step: 1,
                rows: layout.rows,
                columns: layout.pitch,
                channels: self.columns.clone(),
                depth: self.channels[1],
            };
            let (end, next) = (at + region.len(pixel), at + layout.gradient * pixel);
            stage(
                self.path,
                self.gradient,
                Grid::Resampled(Resample::Keep),
                &region,
                &mut staged[at..end],
            );
            staged[end..next].fill(S::default());
            at = next;
        }
        staged[at..].fill(S::default());
        let (panel_stride, panel_depth_stride) = S::by_panel(
            self.path,
            &mut scratch.rows,
            pixel,
            self.columns.len(),
            &mut scratch.gradient,
        );
        Operands {
            input: &scratch.staged,
            row_stride,
            depth_stride,
            gradient: &scratch.gradient,
            panel_stride,
            panel_depth_stride,
        }
    }

    /// Stages what one picture shows to each column of the kernel, and each remainder of a row.
    ///
    /// Columns of the kernel that lie a stride apart see the same, shifted: it is staged once, in `shared`, and copied.
    fn stage_planes<S: Depthwise>(
        &self,
        image: usize,
        rows: &Range<usize>,
        layout: &Layout,
        pixel: usize,
        planes: &mut [S],
        shared: &mut Aligned<S>,
    ) {
        let Conv { kernel, stride, padding, resample } = *self.conv;
        let plane_rows = layout.rows + layout.span;
        let plane_len = plane_rows * layout.pitch * pixel;
        let origin =
            |start: usize| 0isize.saturating_sub_unsigned(padding).saturating_add_unsigned(start);
        for (phase, planes) in planes.chunks_exact_mut(kernel * plane_len).enumerate() {
            for first in 0..kernel.min(stride) {
                let shifts = (kernel - 1 - first) / stride;
                let region = Region {
                    images: image..image + 1,
                    origin: [origin(rows.start * stride + phase), origin(first)],
                    step: stride,
                    rows: plane_rows,
                    columns: layout.pitch + shifts,
                    channels: self.depth.clone(),
                    depth: self.channels[0],
                };
                let grid = Grid::Resampled(resample);
                if shifts == 0 {
                    let plane = &mut planes[first * plane_len..][..plane_len];
                    stage(self.path, self.input, grid, &region, plane);
                    continue;
                }
                let shared = shared.set_len(region.len(pixel));
                stage(self.path, self.input, grid, &region, shared);
                let row_len = layout.pitch * pixel;
                for shift in 0..=shifts {
                    let plane = &mut planes[(first + shift * stride) * plane_len..][..plane_len];
                    let rows = shared.chunks_exact(row_len + shifts * pixel);
                    for (plane, row) in plane.chunks_exact_mut(row_len).zip(rows) {
                        plane.copy_from_slice(&row[shift * pixel..][..row_len]);
                    }
                }
            }
        }
    }

    /// The steps of `tap` through all pictures of a strip, `depth_stride` from one pixel to the next. Each tap has as many.
    fn steps(&self, tap: usize, images: usize, layout: &Layout, depth_stride: usize) -> Vec<Step> {
        let Conv { kernel, stride, .. } = *self.conv;
        let (row, column) = (tap / kernel, tap % kernel);
        let plane = row % stride * kernel + column;
        let first = (plane * (layout.rows + layout.span) + row / stride) * layout.pitch;
        let mut steps = Vec::with_capacity(images * layout.gradient.div_ceil(CHUNK));
        for image in 0..images {
            for at in (0..layout.gradient).step_by(CHUNK) {
                let offset = (image * layout.input + first + at) * depth_stride;
                steps.push(Step { offset, len: CHUNK.min(layout.gradient - at) });
            }
        }
        steps
    }

    /// Writes the sums of this block to where they belong in `output`.
    fn write<S: Compute>(&self, sums: &[CTile], output: &Shared<'_, f32>) {
        let [taps, pairs, blocks] = self.slots::<S>();
        let panels = self.columns.len().div_ceil(TILE);
        parallel::for_each(panels, |panel| {
            let (block, at) = (panel / S::WIDTH, panel % S::WIDTH);
            let width = S::WIDTH.min(panels - block * S::WIDTH);
            let columns = self.columns.start + panel * TILE..self.columns.end;
            for (lane, column) in columns.take(TILE).enumerate() {
                let start = column * self.channels[0];
                let range = (start + self.depth.start) * taps..(start + self.depth.end) * taps;
                // SAFETY: regions share no pair of channels, nor do panels a column, and only this task writes those of
                // its own.
                let output = unsafe { output.slice(range) };
                for (tile, output) in output.chunks_mut(TILE * taps).enumerate() {
                    for tap in 0..taps {
                        let slot = (tap * pairs + tile / 2) * blocks + block;
                        let tile = &sums[slot * 2 * S::WIDTH + tile % 2 * width + at];
                        for (output, row) in output.chunks_exact_mut(taps).zip(&tile.0) {
                            output[tap] = row[lane];
                        }
                    }
                }
            }
        });
    }
}

/// Both operands of a strip, as kernels read them.
#[derive(Debug)]
struct Operands<'a, S> {
    input: &'a [S],
    row_stride: usize,
    depth_stride: usize,
    gradient: &'a [S],
    panel_stride: usize,
    panel_depth_stride: usize,
}
