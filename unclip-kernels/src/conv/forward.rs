//! Convolution as a product of matrices that is never laid out.
//!
//! A task stages its part of the input once, with padding, as `[images, rows, columns, channels]`. The window of an
//! output pixel is then a fixed set of distances from its first pixel, the same for every pixel: the steps. Sixteen
//! pixels whose windows begin at equal distances form a tile of rows: sixteen neighbours in a row of the output, or,
//! where rows are short, sixteen that follow each other in the staged picture, of which those in the padding are
//! computed and thrown away.

use std::ops::Range;

use super::{
    Geometry,
    plan::{Plan, Problem, Task, run_len, slice_channels},
};
use crate::{
    cpu::Path,
    element::Element,
    epilogue::{Output, Rows},
    gemm::{Block, Compute, Panels, Staged, Steps, TILE, Unit},
    pack::{Packed, steps},
    parallel,
    scratch::{self, Scratch},
    stage::{Input, Region, Size, stage},
};

/// Computes the convolution, of an input and an output that were checked.
pub(super) fn run<S: Compute, T: Element, U: Element>(
    path: Path,
    weights: &Packed<S>,
    geometry: &Geometry,
    input: &Input<'_, T>,
    output: &Output<'_, U>,
) {
    let problem = Problem {
        output: geometry.output,
        kernel: weights.kernel,
        stride: geometry.stride,
        depth: weights.depth,
        panels: weights.panels(),
    };
    let plan = Plan::new::<S>(&problem, rayon::current_num_threads());
    parallel::for_each(plan.tasks(), |index| {
        let task = plan.task(index);
        let job = Job { path, weights, geometry, input, output, task: &task };
        S::with_scratch(|scratch| job.run(scratch));
    });
}

/// Sixteen rows of the left operand.
#[derive(Debug, Clone, Copy)]
struct RowTile {
    /// Where the first begins in the staged input.
    start: usize,
    rows: Rows,
}

impl RowTile {
    /// How many rows there are up to the last that is a pixel of the output.
    fn len(&self) -> usize {
        self.rows.pixels.iter().rposition(Option::is_some).map_or(0, |last| last + 1)
    }
}

/// One task and all it refers to.
struct Job<'a, S: Compute, T, U> {
    path: Path,
    weights: &'a Packed<S>,
    geometry: &'a Geometry,
    input: &'a Input<'a, T>,
    output: &'a Output<'a, U>,
    task: &'a Task,
}

impl<S: Compute, T: Element, U: Element> Job<'_, S, T, U> {
    fn run(&self, scratch: &mut Scratch<S>) {
        let Task { images, rows, columns, panels } = self.task;
        if images.is_empty() || rows.is_empty() || columns.is_empty() || panels.is_empty() {
            return;
        }
        let depth = self.weights.depth;
        let pixels = self.region(0..depth).len(1);
        let slice = slice_channels::<S>(self.weights.kernel, pixels, depth).unwrap_or(depth);
        let unit = Unit::new(self.path);
        for first in (0..depth).step_by(slice) {
            self.add_slice(&unit, first..depth.min(first + slice), scratch);
        }
    }

    /// Adds what these channels give to the sums, and writes them after the last channel.
    fn add_slice(&self, unit: &Unit, channels: Range<usize>, scratch: &mut Scratch<S>) {
        let panels = &self.task.panels;
        let region = self.region(channels.clone());
        let pixel = S::pixel(channels.len());
        let row_stride = self.geometry.stride * pixel;
        // Rows that only fill the last tile read up to this much past the region; what they find is never used.
        let staged = scratch.staged.set_len(region.len(pixel) + TILE * row_stride);
        stage(self.path, self.input, self.geometry.grid, &region, staged);
        let staged = &*staged;

        let row_tiles = self.row_tiles(region.rows, region.columns, pixel);
        let steps = steps::<S>(self.weights.kernel, channels.len(), region.columns * pixel, pixel);
        // Sums are set aside between blocks of steps: those of one group of panels, which are then done, or, where the input is
        // met in slices, those of all groups, which then meet the next slice.
        let is_slice = channels.len() < self.weights.depth;
        let groups = panels.len().div_ceil(S::WIDTH);
        let pairs = row_tiles.len().div_ceil(2);
        let width = S::WIDTH.min(panels.len());
        let kept = if is_slice || S::fitting(&steps, width) < steps.len() { pairs } else { 1 };
        let kept_groups = if is_slice { groups } else { 1 };
        let sums = scratch::tiles(&mut scratch.sums, kept_groups * kept * 2 * S::WIDTH);
        let panel_len = self.weights.panel_len();
        let slice_len: usize = steps.iter().map(|step| step.len).sum();

        for group in 0..groups {
            let first = panels.start + group * S::WIDTH;
            let width = S::WIDTH.min(panels.end - first);
            let (mut done, mut left) = (0, &*steps);
            while !left.is_empty() {
                let (steps, after) = left.split_at(S::fitting(left, width));
                left = after;
                // In a slice, windows have one pixel, and its values lie together in a panel.
                let steps = Steps::new(steps, 1);
                let (start, len) = (channels.start + done, steps.depth());
                let is_last = start + len == panel_len / TILE;
                done += len;
                // Behind this block's values come the next block's, or the slice's first of the next panels.
                let next = if done < slice_len {
                    len * TILE
                } else {
                    (S::WIDTH * panel_len).saturating_sub((done - len) * TILE)
                };
                for (index, pair) in row_tiles.chunks(2).enumerate() {
                    let at = (group % kept_groups * kept + index % kept) * 2 * S::WIDTH;
                    let sums = &mut sums[at..at + 2 * width];
                    let last = pair.len() - 1;
                    let operands = Block {
                        staged: Staged {
                            values: staged,
                            starts: [pair[0].start, pair[last].start],
                            row_stride,
                            rows: last * TILE + pair[last].len(),
                        },
                        panels: Panels {
                            values: &self.weights.values[first * panel_len + start * TILE..],
                            panel_stride: panel_len,
                            depth_stride: TILE,
                            ahead: next + index * len * TILE / 8,
                        },
                        steps,
                        sums,
                        fresh: start == 0,
                        next: is_last.then(|| {
                            self.output.next([&pair[0].rows, &pair[last].rows], first * TILE)
                        }),
                    };
                    S::multiply(unit, operands);
                    if !is_last {
                        continue;
                    }
                    for (row_tile, sums) in pair.iter().zip(sums.chunks(width)) {
                        // SAFETY: the tasks of a plan share no pixel and channel, and this task writes each once.
                        unsafe {
                            self.output.write(self.path, sums, &row_tile.rows, first * TILE);
                        }
                    }
                }
            }
        }
    }

    /// The part of these channels of the input under the windows of this task's pixels.
    fn region(&self, channels: Range<usize>) -> Region {
        let Task { images, rows, columns, .. } = self.task;
        let stride = self.geometry.stride;
        let origin = |start: usize| self.geometry.origin.saturating_add_unsigned(start * stride);
        let extent = |len: usize, kernel: usize| (len - 1) * stride + kernel;
        Region {
            images: images.clone(),
            origin: [origin(rows.start), origin(columns.start)],
            step: 1,
            rows: extent(rows.len(), self.weights.kernel[0]),
            columns: extent(columns.len(), self.weights.kernel[1]),
            channels,
            depth: self.weights.depth,
        }
    }

    /// The tiles of rows that cover this task's pixels, for pictures staged as `staged_rows` of `pitch` pixels.
    fn row_tiles(&self, staged_rows: usize, pitch: usize, pixel: usize) -> Vec<RowTile> {
        let Task { images, rows, columns, .. } = self.task;
        let Size { height, width, .. } = self.geometry.output;
        let stride = self.geometry.stride;
        let run = run_len(rows.len(), columns.len(), self.weights.kernel[1]);
        let by_row = rows.len() * columns.len().div_ceil(TILE);
        // A run is all pixels of the task in one picture, or those of one row.
        let (runs, run, run_pitch) = if stride == 1 && run.div_ceil(TILE) < by_row {
            (1, run, pitch)
        } else {
            (rows.len(), columns.len(), columns.len())
        };
        let mut tiles = Vec::with_capacity(images.len() * runs * run.div_ceil(TILE));
        for (at, image) in images.clone().enumerate() {
            for row in 0..runs {
                let start = (at * staged_rows + row * stride) * pitch;
                for first in (0..run).step_by(TILE) {
                    let (mut below, mut column) = (first / run_pitch, first % run_pitch);
                    let pixels = std::array::from_fn(|offset| {
                        let inside = first + offset < run && column < columns.len();
                        let pixel = inside.then(|| {
                            let row = image * height + rows.start + row + below;
                            row * width + columns.start + column
                        });
                        column += 1;
                        if column == run_pitch {
                            (below, column) = (below + 1, 0);
                        }
                        pixel
                    });
                    let start = (start + first * stride) * pixel;
                    tiles.push(RowTile { start, rows: Rows { image, pixels } });
                }
            }
        }
        tiles
    }
}
