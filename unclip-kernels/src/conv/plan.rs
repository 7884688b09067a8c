//! The cut of a convolution into tasks.
//!
//! A task is a tile of the output (some pictures, rows and columns) times a share of the output channels. Its staged
//! input, or a slice of its channels, has to stay in the second-level cache while every panel of weights passes over it;
//! a larger tile reads the weights less often and stages fewer pixels twice, and many small tasks keep all threads busy to
//! the end. The cut with the lowest estimated time wins. It never changes a sum, so it may depend on the number of threads.

use std::ops::Range;

use crate::{
    gemm::{CHUNK, Compute, TILE},
    parallel::part,
    stage::Size,
};

/// What a staged tile may take of the second-level cache, 2 MiB on the processors that this was tuned on.
const STAGED_BYTES: usize = 5 << 18;

/// What a staged tile may take before it crowds the panels in use, those fetched ahead and the sums out of that cache,
/// and by how much products then slow down.
const CROWDED: (usize, f64) = (6 << 17, 1.15);

/// Cycles for a tile of sums to leave the first-level cache and to come back: 2 KiB.
const SUMS_CYCLES: f64 = 128.0;

/// The sizes that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Problem {
    pub(crate) output: Size,
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: usize,
    pub(crate) depth: usize,
    pub(crate) panels: usize,
}

/// The extents of a tile, and how many shares the panels are cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    output: Size,
    tile: Size,
    /// How many tiles each axis is cut into.
    tiles: Size,
    panels: usize,
    shares: usize,
    /// Panels of a share are a multiple of this.
    width: usize,
}

/// One task of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) images: Range<usize>,
    pub(crate) rows: Range<usize>,
    pub(crate) columns: Range<usize>,
    pub(crate) panels: Range<usize>,
}

impl Plan {
    /// The cheapest cut for `threads` threads.
    pub(crate) fn new<S: Compute>(problem: &Problem, threads: usize) -> Self {
        let Size { height, width, .. } = problem.output;
        let widths = [width, 128, 64, 32, 16];
        let mut best: Option<(f64, Self)> = None;
        for tile_width in widths.into_iter().filter(|tile| *tile <= width) {
            for tile_height in heights::<S>(problem, tile_width) {
                let whole = tile_width == width && tile_height == height;
                for images in if whole { images::<S>(problem) } else { vec![1] } {
                    let tile = Size::new(images, tile_height, tile_width);
                    for shares in 1..=(4 * threads).min(problem.panels.div_ceil(4)) {
                        let plan = Self::cut::<S>(problem, tile, shares);
                        let time = plan.time::<S>(problem, threads);
                        if best.is_none_or(|(least, _)| time < least) {
                            best = Some((time, plan));
                        }
                    }
                }
            }
        }
        best.map_or_else(|| Self::cut::<S>(problem, problem.output, 1), |(_, plan)| plan)
    }

    fn cut<S: Compute>(problem: &Problem, tile: Size, shares: usize) -> Self {
        let output = problem.output;
        let tiles = Size {
            batch: output.batch.div_ceil(tile.batch.max(1)),
            height: output.height.div_ceil(tile.height.max(1)),
            width: output.width.div_ceil(tile.width.max(1)),
        };
        Self { output, tile, tiles, panels: problem.panels, shares, width: S::WIDTH }
    }

    /// An estimate of the time on `threads` threads, in cycles of an AMX core.
    #[expect(clippy::cast_precision_loss, reason = "an estimate needs no more than 53 bits")]
    fn time<S: Compute>(&self, problem: &Problem, threads: usize) -> f64 {
        let steps =
            (problem.kernel[0] * problem.kernel[1]) as f64 * problem.depth.div_ceil(CHUNK) as f64;
        let panels = self.panels.div_ceil(self.shares) as f64;
        let row_tiles = row_tiles(self.tile, problem) as f64;
        let products = row_tiles * panels * steps * cycles::<S>();
        let staged = staged_values::<S>(self.tile, problem);
        let slices = slices::<S>(self.tile, problem);
        let products = if staged * size_of::<S>() > CROWDED.0 && slices == 1 {
            products * CROWDED.1
        } else {
            products
        };
        // After each slice but the last, sums are written and read again.
        let sums = row_tiles * panels * (slices - 1) as f64 * SUMS_CYCLES;
        let weights = panels * steps * (CHUNK * TILE * size_of::<S>()) as f64 / 8.0;
        let staging = staged as f64;
        let rounds = self.tasks().div_ceil(threads) as f64;
        rounds * (products + sums + 0.5 * weights + staging + 2000.0)
    }

    /// The number of tasks.
    pub(crate) fn tasks(&self) -> usize {
        self.tiles.pixels() * self.shares
    }

    /// The `index`-th task. Tasks that follow each other share their weights rather than their tile.
    pub(crate) fn task(&self, index: usize) -> Task {
        let tiles = self.tiles.pixels();
        let (share, tile) = (index / tiles, index % tiles);
        let Size { height, width, .. } = self.tiles;
        Task {
            images: part(self.output.batch, 1, self.tiles.batch, tile / (height * width)),
            rows: part(self.output.height, 1, height, tile / width % height),
            columns: part(self.output.width, TILE.min(self.tile.width), width, tile % width),
            panels: part(self.panels, self.width, self.shares, share),
        }
    }
}

/// Heights of tiles to try: the largest that fits, and those that cut the picture into a few more equal parts.
fn heights<S: Compute>(problem: &Problem, width: usize) -> Vec<usize> {
    let height = problem.output.height;
    // Rows of a linear layer are met in slices, in tiles of any height that slices allow; of pictures, tiles that large were slower.
    let fits = |height: usize| {
        let tile = Size::new(1, height, width);
        staged_values::<S>(tile, problem) * size_of::<S>() <= STAGED_BYTES
            || (problem.output.width == 1 && slices::<S>(tile, problem) > 1)
    };
    // The staged size grows with the height, so the largest that fits is found by halving.
    let (mut low, mut high) = (1, height.max(1));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    let parts = height.div_ceil(low).max(1);
    (parts..parts + 8).map(|parts| height.div_ceil(parts).max(1)).collect()
}

/// Numbers of whole pictures of a tile to try.
fn images<S: Compute>(problem: &Problem) -> Vec<usize> {
    let Size { batch, height, width } = problem.output;
    let one = staged_values::<S>(Size::new(1, height, width), problem) * size_of::<S>();
    let most = (STAGED_BYTES / one.max(1)).clamp(1, batch.max(1));
    let parts = batch.div_ceil(most).max(1);
    (parts..parts + 8).map(|parts| batch.div_ceil(parts).max(1)).collect()
}

/// In how many slices a tile of the output meets its input.
fn slices<S: Compute>(tile: Size, problem: &Problem) -> usize {
    let pixels = staged_pixels(tile, problem);
    slice_channels::<S>(problem.kernel, pixels, problem.depth)
        .map_or(1, |channels| problem.depth.div_ceil(channels))
}

/// The channels of a slice, of which all panels meet one after another: for linear layers of a few rows, such as the prior's,
/// whose input does not stay in the second-level cache as a whole. None where it does, where windows have more than one pixel,
/// and where rows are so many that a slice would be thin.
pub(crate) fn slice_channels<S: Compute>(
    kernel: [usize; 2],
    pixels: usize,
    depth: usize,
) -> Option<usize> {
    const THIN: usize = 16;
    let bytes = pixels.saturating_mul(S::pixel(depth) * size_of::<S>());
    let steps = depth.div_ceil(CHUNK);
    if kernel != [1, 1] || bytes <= CROWDED.0 {
        return None;
    }
    let most = CROWDED.0 * steps / bytes;
    // Slices of about equal depth.
    (most >= THIN).then(|| steps.div_ceil(steps.div_ceil(most)) * CHUNK)
}

/// Cycles of an AMX core for a step of one tile of sums: 32 products deep, 16 × 16 wide.
fn cycles<S: Compute>() -> f64 {
    if S::PAIR == 2 { 16.0 } else { 256.0 }
}

/// Values that a tile stages.
fn staged_values<S: Compute>(tile: Size, problem: &Problem) -> usize {
    staged_pixels(tile, problem) * S::pixel(problem.depth)
}

/// Pixels that a tile stages.
fn staged_pixels(tile: Size, problem: &Problem) -> usize {
    let extent = |len: usize, kernel: usize| len.saturating_sub(1) * problem.stride + kernel;
    tile.batch * extent(tile.height, problem.kernel[0]) * extent(tile.width, problem.kernel[1])
}

/// Tiles of 16 rows that cover the pixels of an output tile.
fn row_tiles(tile: Size, problem: &Problem) -> usize {
    let by_row = tile.height * tile.width.div_ceil(TILE);
    let run = run_len(tile.height, tile.width, problem.kernel[1]).div_ceil(TILE);
    tile.batch * if problem.stride == 1 { by_row.min(run) } else { by_row }
}

/// Staged pixels from the first to the last pixel of an output tile, when the convolution has no stride.
pub(crate) fn run_len(height: usize, width: usize, kernel_columns: usize) -> usize {
    height.saturating_sub(1) * (width + kernel_columns - 1) + width
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_pixel_and_panel_is_in_one_task(
            batch in 1usize..5, height in 1usize..40, width in 1usize..200,
            depth in 1usize..2000, panels in 1usize..40, threads in 1usize..5, stride in 1usize..3,
        ) {
            let output = Size::new(batch, height, width);
            let problem = Problem { output, kernel: [3, 3], stride, depth, panels };
            let plan = Plan::new::<bf16>(&problem, threads);
            let mut seen = vec![0; output.pixels() * panels];
            for task in (0..plan.tasks()).map(|index| plan.task(index)) {
                for image in task.images {
                    for row in task.rows.clone() {
                        for column in task.columns.clone() {
                            for panel in task.panels.clone() {
                                seen[((image * height + row) * width + column) * panels + panel] += 1;
                            }
                        }
                    }
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1));
        }
    }

    #[test]
    fn a_wide_picture_with_many_channels_is_cut_on_both_axes() {
        let output = Size::new(1, 256, 256);
        let problem = Problem { output, kernel: [3, 3], stride: 1, depth: 960, panels: 20 };
        let plan = Plan::new::<bf16>(&problem, 2);
        assert!(plan.tile.width < 256 && plan.tile.height > 4, "{plan:?}");
        assert!(staged_values::<bf16>(plan.tile, &problem) * 2 <= STAGED_BYTES);
    }
}
