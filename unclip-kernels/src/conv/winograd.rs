//! 3 × 3 windows in 32 bits by minimal filtering: four pixels of the output from 16 products where their windows have 36.
//!
//! After Winograd, F(2 × 2, 3 × 3) in Lavin and Gray's notation (arXiv 1509.09308): with `d` the 4 × 4 pixels under a block of
//! 2 × 2 windows and `g` a filter, the block is `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`. Summed over channels, the products at each of the
//! 16 *points* are a product of matrices, with a row for each block. `Bᵀ` and `Aᵀ` only add and subtract, so that little of the
//! precision is lost: a few units in the last place of the largest number near a window. What is no number reaches every pixel
//! of a block whose windows see it.
//!
//! Where the picture is doubled in front of the convolution, the two middle pixels of four are one, and 7 of the 16 points are
//! zero and left out.
//!
//! Filters are brought to the points anew for each pass, which costs little beside many pixels, and would otherwise double what
//! a model holds.

use std::ops::Range;

use super::Geometry;
use crate::{
    aligned::Aligned,
    cpu::Path,
    element::Element,
    epilogue::{Output, Rows},
    gemm::{Block, CHUNK, CTile, Compute as _, Panels, Staged, Step, TILE, Unit},
    pack::Packed,
    parallel::{self, part},
    scratch::{self, Scratch, Scratched as _},
    stage::{Grid, Input, Region, Resample, Size, stage},
};

/// Points of a block, four to each axis.
const POINTS: usize = 16;

/// Pixels of the output along each axis of a block.
const SIDE: usize = 2;

/// Blocks along each axis of a task. Its rows at all points, of up to [`SLICE`] channels, stay in the second-level cache while
/// every panel of filters passes over them.
const BLOCKS: usize = 8;

/// Channels that a task brings to the points at once, at most: of so few, three panels of filters at a point stay in the
/// first-level cache while all blocks meet them.
const SLICE: usize = 160;

/// Panels of a group, whose sums a task holds at all points at once.
const WIDTH: usize = f32::WIDTH;

/// Sixteen channels.
type Lanes = [f32; TILE];

/// Whether this is the faster way. How many pictures there are does not count, so that none depends on its neighbours in a
/// batch.
pub(super) fn suits(weights: &Packed<f32>, geometry: &Geometry) -> bool {
    // With fewer, bringing filters and pixels to the points, and sums back, takes longer than the products that are saved.
    const PIXELS: usize = 24 * 24;
    const CHANNELS: usize = 4 * TILE;
    let Size { height, width, .. } = geometry.output;
    weights.kernel == [3, 3]
        && geometry.stride == 1
        && weights.depth >= CHANNELS
        && weights.columns >= WIDTH * TILE
        && height.saturating_mul(width) >= PIXELS
}

/// Computes the convolution, of an input and an output that were checked.
pub(super) fn run<T: Element, U: Element>(
    path: Path,
    weights: &Packed<f32>,
    geometry: &Geometry,
    input: &Input<'_, T>,
    output: &Output<'_, U>,
) {
    let mut shared = f32::with_scratch(|scratch| std::mem::take(&mut scratch.shared));
    let points = Points::of(geometry);
    let filters = filters_at_points(path, weights, points, &mut shared);
    let cut = Cut::new(geometry.output, weights.panels(), rayon::current_num_threads());
    parallel::for_each(cut.tasks(), |index| {
        let task = cut.task(index);
        let job = Job { path, filters, points, weights, geometry, input, output, task };
        f32::with_scratch(|scratch| job.run(scratch));
    });
    f32::with_scratch(|scratch| scratch.shared = shared);
}

/// Which points are not zero whatever the picture is.
#[derive(Debug, Clone, Copy)]
struct Points {
    /// Whether the second and the third of four pixels are one, along each axis.
    doubled: bool,
}

impl Points {
    fn of(geometry: &Geometry) -> Self {
        let doubled = geometry.grid == Grid::Resampled(Resample::Double);
        Self { doubled: doubled && geometry.origin.rem_euclid(2) == 1 }
    }

    /// Whether `point` is one of those; `Bᵀ` takes its third value as the third less the second.
    #[inline(always)]
    fn has(self, point: usize) -> bool {
        !(self.doubled && (point / 4 == 2 || point % 4 == 2))
    }
}

/// `G g Gᵀ` of all filters: panels of points of rows of 16 columns, a row for each channel.
fn filters_at_points<'a>(
    path: Path,
    weights: &Packed<f32>,
    points: Points,
    room: &'a mut Aligned<f32>,
) -> &'a [f32] {
    let depth = weights.depth;
    let panel_len = POINTS * depth * TILE;
    let filters = room.set_len(weights.panels() * panel_len);
    parallel::for_each_chunk(filters, panel_len, |panel, filters| {
        let packed = &weights.values[panel * weights.panel_len()..][..9 * depth * TILE];
        path.vectorize(
            #[inline(always)]
            || panel_at_points(packed.as_chunks().0, depth, points, filters.as_chunks_mut().0),
        );
    });
    filters
}

#[inline(always)]
fn panel_at_points(packed: &[Lanes], depth: usize, points: Points, filters: &mut [Lanes]) {
    for first in (0..depth).step_by(CHUNK) {
        let len = CHUNK.min(depth - first);
        for channel in 0..len {
            let taps: [[Lanes; 3]; 3] = std::array::from_fn(|row| {
                std::array::from_fn(|column| {
                    packed[(row * depth + first) * 3 + column * len + channel]
                })
            });
            let taps = transposed(taps.map(filter_points));
            for (column, taps) in taps.into_iter().enumerate() {
                for (row, values) in filter_points(taps).into_iter().enumerate() {
                    let point = 4 * row + column;
                    if points.has(point) {
                        filters[point * depth + first + channel] = values;
                    }
                }
            }
        }
    }
}

/// `G g`.
#[inline(always)]
fn filter_points([a, b, c]: [Lanes; 3]) -> [Lanes; 4] {
    let even = zip(a, c, |a, c| 0.5 * (a + c));
    let odd = b.map(|b| 0.5 * b);
    [a, zip(even, odd, |even, odd| even + odd), zip(even, odd, |even, odd| even - odd), c]
}

/// `Bᵀ d`.
#[inline(always)]
fn input_points([a, b, c, d]: [Lanes; 4]) -> [Lanes; 4] {
    let minus = |a, b| a - b;
    [zip(a, c, minus), zip(b, c, |b, c| b + c), zip(c, b, minus), zip(b, d, minus)]
}

/// `Aᵀ m`.
#[inline(always)]
fn output_pixels([a, b, c, d]: [Lanes; 4]) -> [Lanes; SIDE] {
    let even = zip(b, c, |b, c| b + c);
    let odd = zip(b, c, |b, c| b - c);
    [zip(a, even, |a, even| a + even), zip(odd, d, |odd, d| odd - d)]
}

#[inline(always)]
fn zip(a: Lanes, b: Lanes, with: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|lane| with(a[lane], b[lane]))
}

#[inline(always)]
fn transposed<const ROWS: usize, const COLUMNS: usize>(
    values: [[Lanes; COLUMNS]; ROWS],
) -> [[Lanes; ROWS]; COLUMNS] {
    std::array::from_fn(|column| std::array::from_fn(|row| values[row][column]))
}

/// The cut of an output into tasks: squares of blocks, and, where these are few, shares of the panels.
///
/// It never changes a sum, so it may depend on the number of threads.
#[derive(Debug, Clone, Copy)]
struct Cut {
    batch: usize,
    /// Blocks along each axis.
    blocks: [usize; 2],
    /// Tasks along each axis.
    tasks: [usize; 2],
    panels: usize,
    shares: usize,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    image: usize,
    /// Blocks.
    rows: Range<usize>,
    columns: Range<usize>,
    panels: Range<usize>,
}

impl Cut {
    fn new(output: Size, panels: usize, threads: usize) -> Self {
        let blocks = [output.height, output.width].map(|len| len.div_ceil(SIDE));
        let tasks = blocks.map(|len| len.div_ceil(BLOCKS));
        let squares = output.batch * tasks[0] * tasks[1];
        let shares = (2 * threads).div_ceil(squares.max(1)).min(panels.div_ceil(WIDTH)).max(1);
        Self { batch: output.batch, blocks, tasks, panels, shares }
    }

    fn tasks(&self) -> usize {
        self.batch * self.tasks[0] * self.tasks[1] * self.shares
    }

    /// The `index`-th task. Tasks that follow each other share their filters.
    fn task(&self, index: usize) -> Task {
        let [rows, columns] = self.tasks;
        let squares = self.batch * rows * columns;
        let (share, square) = (index / squares, index % squares);
        Task {
            image: square / (rows * columns),
            rows: part(self.blocks[0], 1, rows, square / columns % rows),
            columns: part(self.blocks[1], 1, columns, square % columns),
            panels: part(self.panels, WIDTH, self.shares, share),
        }
    }
}

/// One task and all it refers to.
struct Job<'a, T, U> {
    path: Path,
    filters: &'a [f32],
    points: Points,
    weights: &'a Packed<f32>,
    geometry: &'a Geometry,
    input: &'a Input<'a, T>,
    output: &'a Output<'a, U>,
    task: Task,
}

impl<T: Element, U: Element> Job<'_, T, U> {
    fn run(&self, scratch: &mut Scratch<f32>) {
        let depth = self.weights.depth;
        let panels = &self.task.panels;
        let slices = depth.div_ceil(SLICE);
        let groups = panels.len().div_ceil(WIDTH);
        let pairs = self.blocks().div_ceil(2 * TILE);
        // Sums of one group, which are then done, or of all, which then meet the next slice.
        let kept = if slices > 1 { groups } else { 1 };
        let unit = Unit::new(self.path);
        for slice in 0..slices {
            let channels = part(depth, CHUNK, slices, slice);
            let pixel = f32::pixel(channels.len());
            let steps: Vec<Step> = (0..channels.len())
                .step_by(CHUNK)
                .map(|offset| Step { offset, len: CHUNK.min(channels.len() - offset) })
                .collect();
            // From one point to the next; past whole pages, so that points do not compete for the same lines of a cache.
            let plane = pairs * 2 * TILE * pixel + TILE;
            let blocks = scratch.gradient.set_len(POINTS * plane);
            self.bring_to_points(channels.clone(), pixel, plane, &mut scratch.staged, blocks);
            let sums = scratch::tiles(&mut scratch.sums, kept * POINTS * pairs * 2 * WIDTH);
            for (group, first) in panels.clone().step_by(WIDTH).enumerate() {
                let width = WIDTH.min(panels.end - first);
                let group_len = POINTS * pairs * 2 * width;
                let sums = &mut sums[group % kept * POINTS * pairs * 2 * WIDTH..][..group_len];
                for (at, sums) in sums.chunks_exact_mut(2 * width).enumerate() {
                    let (point, pair) = (at / pairs, at % pairs);
                    if !self.points.has(point) {
                        continue;
                    }
                    let start = point * plane + 2 * pair * TILE * pixel;
                    let filters = (first * POINTS + point) * depth + channels.start;
                    let block = Block {
                        staged: Staged {
                            values: blocks,
                            starts: [start, start + TILE * pixel],
                            row_stride: pixel,
                            depth_stride: 1,
                            rows: self.blocks() - 2 * pair * TILE,
                        },
                        panels: Panels {
                            values: &self.filters[filters * TILE..],
                            panel_stride: POINTS * depth * TILE,
                            depth_stride: TILE,
                            ahead: (depth + pair * channels.len() / 8) * TILE,
                        },
                        steps: &steps,
                        sums,
                        fresh: slice == 0,
                    };
                    f32::multiply(&unit, block);
                }
                if slice + 1 == slices {
                    self.write(sums, width, first);
                }
            }
        }
    }

    /// Blocks of this task.
    fn blocks(&self) -> usize {
        self.task.rows.len() * self.task.columns.len()
    }

    /// Writes `Bᵀ d B` of these channels of all blocks: `[points, blocks, channels]`, `plane` values from one point to the next and
    /// `pixel` from one block to the next.
    fn bring_to_points(
        &self,
        channels: Range<usize>,
        pixel: usize,
        plane: usize,
        staged: &mut Aligned<f32>,
        points: &mut [f32],
    ) {
        let Task { image, ref rows, ref columns, .. } = self.task;
        let origin = |start: usize| self.geometry.origin.saturating_add_unsigned(SIDE * start);
        let region = Region {
            images: image..image + 1,
            origin: [origin(rows.start), origin(columns.start)],
            step: 1,
            rows: SIDE * rows.len() + 2,
            columns: SIDE * columns.len() + 2,
            channels,
            depth: self.weights.depth,
        };
        let staged = staged.set_len(region.len(pixel));
        stage(self.path, self.input, self.geometry.grid, &region, staged);
        let pitch = region.columns * pixel;
        self.path.vectorize(
            #[inline(always)]
            || {
                for block in 0..self.blocks() {
                    let (row, column) = (block / columns.len(), block % columns.len());
                    let start = SIDE * (row * pitch + column * pixel);
                    for channel in (0..pixel).step_by(TILE) {
                        let pixels: [[Lanes; 4]; 4] = std::array::from_fn(|row| {
                            std::array::from_fn(|column| {
                                let at = start + row * pitch + column * pixel + channel;
                                *staged[at..].first_chunk().unwrap_or(&[0.0; TILE])
                            })
                        });
                        let pixels = transposed(pixels.map(input_points));
                        for (column, pixels) in pixels.into_iter().enumerate() {
                            for (row, values) in input_points(pixels).into_iter().enumerate() {
                                let point = 4 * row + column;
                                if self.points.has(point) {
                                    let at = point * plane + block * pixel + channel;
                                    points[at..at + TILE].copy_from_slice(&values);
                                }
                            }
                        }
                    }
                }
            },
        );
    }

    /// Writes the sums of a group of `width` panels from panel `first` on: `[points, row tiles, panels]`.
    fn write(&self, sums: &[CTile], width: usize, first: usize) {
        let tiles = self.blocks().div_ceil(TILE);
        let tile_rows = sums.len() / POINTS;
        for tile in 0..tiles {
            let rows = self.rows(tile);
            for panel in 0..width {
                let points: [&CTile; POINTS] = std::array::from_fn(|point| {
                    let at = point * tile_rows + tile * width + panel;
                    if self.points.has(point) { &sums[at] } else { &CTile::ZERO }
                });
                let mut pixels = [CTile::ZERO; SIDE * SIDE];
                self.path.vectorize(
                    #[inline(always)]
                    || {
                        for row in 0..TILE {
                            let points: [[Lanes; 4]; 4] = std::array::from_fn(|column| {
                                std::array::from_fn(|at| points[4 * at + column].0[row])
                            });
                            let columns = transposed(points.map(output_pixels));
                            for (below, columns) in columns.into_iter().enumerate() {
                                for (right, values) in
                                    output_pixels(columns).into_iter().enumerate()
                                {
                                    pixels[SIDE * below + right].0[row] = values;
                                }
                            }
                        }
                    },
                );
                for (pixels, rows) in pixels.iter().zip(&rows) {
                    // SAFETY: the tasks of a cut share no block and panel, and this task writes each once.
                    unsafe {
                        self.output.write(
                            self.path,
                            std::slice::from_ref(pixels),
                            rows,
                            (first + panel) * TILE,
                        );
                    }
                }
            }
        }
    }

    /// Which pixels the blocks of a tile of sums are, for each pixel of a block.
    fn rows(&self, tile: usize) -> [Rows; SIDE * SIDE] {
        let Task { image, ref rows, ref columns, .. } = self.task;
        let Size { height, width, .. } = self.geometry.output;
        std::array::from_fn(|at| {
            let pixels = std::array::from_fn(|offset| {
                let block = tile * TILE + offset;
                let row = SIDE * (rows.start + block / columns.len()) + at / SIDE;
                let column = SIDE * (columns.start + block % columns.len()) + at % SIDE;
                let inside = block < self.blocks() && row < height && column < width;
                inside.then(|| (image * height + row) * width + column)
            });
            Rows { image, pixels }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_block_and_panel_is_in_one_task(
            batch in 1usize..4, height in 1usize..70, width in 1usize..70, panels in 1usize..20,
            threads in 1usize..20,
        ) {
            let cut = Cut::new(Size::new(batch, height, width), panels, threads);
            let [rows, columns] = cut.blocks;
            let mut seen = vec![0; batch * rows * columns * panels];
            for task in (0..cut.tasks()).map(|index| cut.task(index)) {
                for row in task.rows {
                    for column in task.columns.clone() {
                        for panel in task.panels.clone() {
                            seen[((task.image * rows + row) * columns + column) * panels + panel] += 1;
                        }
                    }
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1));
        }
    }
}
