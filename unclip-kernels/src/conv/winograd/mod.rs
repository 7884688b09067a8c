//! 3 × 3 windows in 32 bits by minimal filtering: fewer products for a block of pixels than their windows have.
//!
//! After Winograd, F(m × m, 3 × 3) in Lavin and Gray's notation (arXiv 1509.09308): with `d` the pixels under a block of
//! m × m windows and `g` a filter, the block is `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`. Summed over channels, the products at each of
//! the (m + 2)² *points* are a product of matrices, with a row for each block. Blocks of 2 × 2 pixels take 16 products instead
//! of 36, and blocks of 4 × 4, which lose some precision, 36 instead of 144; see [`points`]. What is no number reaches every
//! pixel of a block whose windows see it.
//!
//! Where the picture is doubled in front of the convolution, the pixels of a block between its first and its last are equal two
//! by two, which makes one point of each axis zero: 7 of 16, or 11 of 36, are left out.
//!
//! Filters are brought to the points anew for each pass, which costs little beside many pixels: kept, they would take two or
//! four times what a model holds. The thread that calls keeps the room of the largest layer, 310 MB for Karlo's.

mod cut;
mod points;

use std::ops::Range;

use cut::{Cut, Task};
use points::{Filtering, Four, Lanes, Two, along_both};

use super::Geometry;
use crate::{
    aligned::Aligned,
    cpu::{Isa, Path},
    element::Element,
    epilogue::{Output, Rows},
    gemm::{Block, CHUNK, CTile, Compute as _, Panels, Staged, Step, Steps, TILE, Unit},
    pack::Packed,
    parallel::{self, part},
    scratch::{self, Scratch, Scratched as _},
    stage::{Grid, Input, Region, Resample, Size, stage},
};

/// Channels that are staged at once on their way to the points.
const STAGED: usize = 64;

/// Panels of a group, whose sums a task holds at all points at once.
const WIDTH: usize = f32::WIDTH;

/// Pixels of a picture from which blocks are of 4 × 4.
const MANY_PIXELS: usize = 32 * 32;

/// Whether this is the faster way. How many pictures there are does not count, so that none depends on its neighbours in a
/// batch.
pub(super) fn suits(path: Path, weights: &Packed<f32>, geometry: &Geometry) -> bool {
    let Size { height, width, .. } = geometry.output;
    let least = Least::of(path, weights.depth * weights.columns);
    weights.kernel == [3, 3]
        && geometry.stride == 1
        && weights.depth >= least.depth
        && weights.columns >= least.columns
        && height.saturating_mul(width) >= least.pixels
}

/// What a picture and its filters have at least. With fewer pixels, bringing the filters to the points takes longer than the
/// products that are saved; with fewer channels bringing pixels there and sums back does.
#[derive(Debug, Clone, Copy)]
struct Least {
    pixels: usize,
    depth: usize,
    columns: usize,
}

impl Least {
    /// For `filters` pairs of channels.
    fn of(path: Path, filters: usize) -> Self {
        // At all points these take 4 MB, which caches hold; more are written to the memory and read again.
        const FEW_FILTERS: usize = 256 * 256;
        if filters <= FEW_FILTERS {
            return Self { pixels: 8 * 8, depth: 24, columns: 24 };
        }
        if path.isa() >= Isa::Avx512 {
            return Self { pixels: 24 * 24, depth: 4 * TILE, columns: WIDTH * TILE };
        }
        // Products take twice as long here, or longer.
        Self { pixels: 16 * 16, depth: 24, columns: 24 }
    }
}

/// Computes the convolution, of an input and an output that were checked.
pub(super) fn run<T: Element, U: Element>(
    path: Path,
    weights: &Packed<f32>,
    geometry: &Geometry,
    input: &Input<'_, T>,
    output: &Output<'_, U>,
) {
    let Size { height, width, .. } = geometry.output;
    if height.saturating_mul(width) >= MANY_PIXELS {
        run_by::<Four, 4, 6, _, _>(path, weights, geometry, input, output);
    } else {
        run_by::<Two, 2, 4, _, _>(path, weights, geometry, input, output);
    }
}

fn run_by<
    F: Filtering<SIDE, AXIS>,
    const SIDE: usize,
    const AXIS: usize,
    T: Element,
    U: Element,
>(
    path: Path,
    weights: &Packed<f32>,
    geometry: &Geometry,
    input: &Input<'_, T>,
    output: &Output<'_, U>,
) {
    let mut shared = f32::with_scratch(|scratch| std::mem::take(&mut scratch.shared));
    let points = Points::<AXIS>::of::<F, SIDE>(geometry);
    let filters = filters_at_points::<F, SIDE, AXIS>(path, weights, points, &mut shared);
    let threads = rayon::current_num_threads();
    let cut = Cut::new(geometry.output, SIDE, F::BLOCKS, weights.panels(), threads);
    parallel::for_each(cut.tasks(), |index| {
        let task = cut.task(index);
        let job = Job { path, filters, points, weights, geometry, input, output, task };
        f32::with_scratch(|scratch| job.run::<F, SIDE>(scratch));
    });
    f32::with_scratch(|scratch| scratch.shared = shared);
}

/// Which points are not zero whatever the picture is.
#[derive(Debug, Clone, Copy)]
struct Points<const AXIS: usize> {
    /// The point of each axis that is.
    zero: Option<usize>,
}

impl<const AXIS: usize> Points<AXIS> {
    /// Points of a block.
    const COUNT: usize = AXIS * AXIS;

    fn of<F: Filtering<SIDE, AXIS>, const SIDE: usize>(geometry: &Geometry) -> Self {
        let doubled = geometry.grid == Grid::Resampled(Resample::Double);
        let in_pairs = doubled && geometry.origin.rem_euclid(2) == 1;
        Self { zero: in_pairs.then_some(F::ZERO_WHERE_DOUBLED) }
    }

    /// Whether `point` is one of those.
    #[inline(always)]
    fn has(self, point: usize) -> bool {
        self.zero.is_none_or(|zero| point / AXIS != zero && point % AXIS != zero)
    }
}

/// `G g Gᵀ` of all filters: panels of points of rows of 16 columns, a row for each channel.
fn filters_at_points<'a, F: Filtering<SIDE, AXIS>, const SIDE: usize, const AXIS: usize>(
    path: Path,
    weights: &Packed<f32>,
    points: Points<AXIS>,
    room: &'a mut Aligned<f32>,
) -> &'a [f32] {
    let depth = weights.depth;
    let panel_len = Points::<AXIS>::COUNT * depth * TILE;
    let filters = room.set_len(weights.panels() * panel_len);
    parallel::for_each_chunk(filters, panel_len, |panel, filters| {
        let packed = &weights.values[panel * weights.panel_len()..][..9 * depth * TILE];
        path.vectorize(
            #[inline(always)]
            || {
                let (packed, filters) = (packed.as_chunks().0, filters.as_chunks_mut().0);
                panel_at_points::<F, SIDE, AXIS>(packed, depth, points, filters);
            },
        );
    });
    filters
}

#[inline(always)]
fn panel_at_points<F: Filtering<SIDE, AXIS>, const SIDE: usize, const AXIS: usize>(
    packed: &[Lanes],
    depth: usize,
    points: Points<AXIS>,
    filters: &mut [Lanes],
) {
    for first in (0..depth).step_by(CHUNK) {
        let len = CHUNK.min(depth - first);
        for channel in 0..len {
            let taps: [[Lanes; 3]; 3] = std::array::from_fn(|row| {
                std::array::from_fn(|column| {
                    packed[(row * depth + first) * 3 + column * len + channel]
                })
            });
            let values = along_both(&taps, F::filter);
            for point in (0..Points::<AXIS>::COUNT).filter(|&point| points.has(point)) {
                filters[point * depth + first + channel] = values[point / AXIS][point % AXIS];
            }
        }
    }
}

/// One task and all it refers to.
struct Job<'a, T, U, const AXIS: usize> {
    path: Path,
    filters: &'a [f32],
    points: Points<AXIS>,
    weights: &'a Packed<f32>,
    geometry: &'a Geometry,
    input: &'a Input<'a, T>,
    output: &'a Output<'a, U>,
    task: Task,
}

impl<T: Element, U: Element, const AXIS: usize> Job<'_, T, U, AXIS> {
    /// Points of a block.
    const POINTS: usize = Points::<AXIS>::COUNT;

    fn run<F: Filtering<SIDE, AXIS>, const SIDE: usize>(&self, scratch: &mut Scratch<f32>) {
        let depth = self.weights.depth;
        let panels = &self.task.panels;
        let slices = depth.div_ceil(F::SLICE);
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
            let blocks = scratch.gradient.set_len(Self::POINTS * plane);
            self.bring_to_points::<F, SIDE>(
                channels.clone(),
                pixel,
                plane,
                &mut scratch.staged,
                blocks,
            );
            let steps = Steps::new(&steps, 1);
            let sums = scratch::tiles(&mut scratch.sums, kept * Self::POINTS * pairs * 2 * WIDTH);
            for (group, first) in panels.clone().step_by(WIDTH).enumerate() {
                let width = WIDTH.min(panels.end - first);
                let group_len = Self::POINTS * pairs * 2 * width;
                let sums =
                    &mut sums[group % kept * Self::POINTS * pairs * 2 * WIDTH..][..group_len];
                for (at, sums) in sums.chunks_exact_mut(2 * width).enumerate() {
                    let (point, pair) = (at / pairs, at % pairs);
                    if !self.points.has(point) {
                        continue;
                    }
                    let start = point * plane + 2 * pair * TILE * pixel;
                    let filters = (first * Self::POINTS + point) * depth + channels.start;
                    let block = Block {
                        staged: Staged {
                            values: blocks,
                            starts: [start, start + TILE * pixel],
                            row_stride: pixel,
                            rows: self.blocks() - 2 * pair * TILE,
                        },
                        panels: Panels {
                            values: &self.filters[filters * TILE..],
                            panel_stride: Self::POINTS * depth * TILE,
                            depth_stride: TILE,
                            ahead: (depth + pair * channels.len() / 8) * TILE,
                        },
                        steps,
                        sums,
                        fresh: slice == 0,
                        next: None,
                    };
                    f32::multiply(&unit, block);
                }
                if slice + 1 == slices {
                    self.write::<F, SIDE>(sums, width, first);
                }
            }
        }
    }

    /// Blocks of this task.
    fn blocks(&self) -> usize {
        self.task.rows.len() * self.task.columns.len()
    }

    /// Writes `Bᵀ d B` of these channels of all blocks: `[points, blocks, channels]`, `plane` values from one point to the next
    /// and `pixel` from one block to the next.
    fn bring_to_points<F: Filtering<SIDE, AXIS>, const SIDE: usize>(
        &self,
        channels: Range<usize>,
        pixel: usize,
        plane: usize,
        staged: &mut Aligned<f32>,
        points: &mut [f32],
    ) {
        let Task { image, ref rows, ref columns, .. } = self.task;
        let origin = |start: usize| self.geometry.origin.saturating_add_unsigned(SIDE * start);
        for first in channels.clone().step_by(STAGED) {
            let region = Region {
                images: image..image + 1,
                origin: [origin(rows.start), origin(columns.start)],
                step: 1,
                rows: SIDE * rows.len() + 2,
                columns: SIDE * columns.len() + 2,
                channels: first..channels.end.min(first + STAGED),
                depth: self.weights.depth,
            };
            let staged_pixel = f32::pixel(region.channels.len());
            // Sixteen channels from the last few of a pixel on reach into the next, or past the last.
            let staged = staged.set_len(region.len(staged_pixel) + TILE);
            stage(self.path, self.input, self.geometry.grid, &region, staged);
            let pitch = region.columns * staged_pixel;
            self.path.vectorize(
                #[inline(always)]
                || {
                    for block in 0..self.blocks() {
                        let (row, column) = (block / columns.len(), block % columns.len());
                        let start = SIDE * (row * pitch + column * staged_pixel);
                        let done = block * pixel + first - channels.start;
                        for channel in (0..region.channels.len()).step_by(TILE) {
                            let mut pixels = [[[0.0; TILE]; AXIS]; AXIS];
                            for (row, pixels) in pixels.iter_mut().enumerate() {
                                for (column, values) in pixels.iter_mut().enumerate() {
                                    let at = start + row * pitch + column * staged_pixel + channel;
                                    values.copy_from_slice(&staged[at..at + TILE]);
                                }
                            }
                            let values = along_both(&pixels, F::input);
                            for point in 0..Self::POINTS {
                                if self.points.has(point) {
                                    let at = point * plane + done + channel;
                                    points[at..at + TILE]
                                        .copy_from_slice(&values[point / AXIS][point % AXIS]);
                                }
                            }
                        }
                    }
                },
            );
        }
    }

    /// Writes the sums of a group of `width` panels from panel `first` on: `[points, row tiles, panels]`.
    fn write<F: Filtering<SIDE, AXIS>, const SIDE: usize>(
        &self,
        sums: &[CTile],
        width: usize,
        first: usize,
    ) {
        let tile_rows = sums.len() / Self::POINTS;
        for tile in 0..self.blocks().div_ceil(TILE) {
            let rows = self.rows::<SIDE>(tile);
            for panel in 0..width {
                let mut pixels = [[CTile::ZERO; SIDE]; SIDE];
                self.path.vectorize(
                    #[inline(always)]
                    || {
                        for block in 0..TILE {
                            let mut values = [[[0.0; TILE]; AXIS]; AXIS];
                            for point in 0..Self::POINTS {
                                if self.points.has(point) {
                                    let at = point * tile_rows + tile * width + panel;
                                    values[point / AXIS][point % AXIS] = sums[at].0[block];
                                }
                            }
                            let values = along_both(&values, F::output);
                            for (pixels, values) in pixels.iter_mut().zip(&values) {
                                for (pixel, values) in pixels.iter_mut().zip(values) {
                                    pixel.0[block] = *values;
                                }
                            }
                        }
                    },
                );
                for (pixels, rows) in pixels.as_flattened().iter().zip(rows.as_flattened()) {
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
    fn rows<const SIDE: usize>(&self, tile: usize) -> [[Rows; SIDE]; SIDE] {
        let Task { image, ref rows, ref columns, .. } = self.task;
        let Size { height, width, .. } = self.geometry.output;
        std::array::from_fn(|below| {
            std::array::from_fn(|right| {
                let pixels = std::array::from_fn(|offset| {
                    let block = tile * TILE + offset;
                    let row = SIDE * (rows.start + block / columns.len()) + below;
                    let column = SIDE * (columns.start + block % columns.len()) + right;
                    let inside = block < self.blocks() && row < height && column < width;
                    inside.then(|| (image * height + row) * width + column)
                });
                Rows { image, pixels }
            })
        })
    }
}
