//! The innermost loops: sums of products over a block of 32 rows and up to three panels of 16 columns.
//!
//! Every operation of this crate ends here. The left operand is *staged*: values lie so that each row of a tile is
//! found at a fixed distance from the one before it, and each [`Step`] along the depth at a fixed distance from the
//! row's start; a convolution's taps are such distances, so no patch is ever copied out. The right operand is
//! *packed* in panels of 16 columns. Sums are kept in [`CTile`]s, 16 × 16 in f32.
//!
//! The kernels of all paths read the same layouts. [`Block::check`] is the one place where operands meet their
//! bounds: past it, a kernel touches only what was checked.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod depthwise;
mod portable;

use std::marker::PhantomData;

pub(crate) use depthwise::Depthwise;
use half::bf16;

#[cfg(target_arch = "x86_64")]
use crate::{amx::Tiles, cpu::Isa};
use crate::{cpu::Path, element::Element, scratch::Scratched};

/// Rows and columns of a tile of sums, and columns of a panel.
pub(crate) const TILE: usize = 16;

/// Channels of one step, at most.
pub(crate) const CHUNK: usize = 32;

/// 16 × 16 sums, row after row.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct CTile(pub(crate) [[f32; TILE]; TILE]);

impl CTile {
    pub(crate) const ZERO: Self = Self([[0.0; TILE]; TILE]);
}

/// A run along the depth that is contiguous in both operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Step {
    /// Distance of the run from the start of a row of the staged operand, in values.
    pub(crate) offset: usize,
    /// Values along the depth; always [`CHUNK`] for bf16.
    pub(crate) len: usize,
}

/// Steps that one block takes after another, looked through once for all blocks that take them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps<'a, S> {
    list: &'a [Step],
    /// Distance from one value along the depth to the next in the staged operand; 1 for bf16.
    depth_stride: usize,
    /// Values along the depth.
    depth: usize,
    /// The furthest value, from the start of a row.
    reach: usize,
    element: PhantomData<S>,
}

impl<'a, S: Compute> Steps<'a, S> {
    /// # Panics
    ///
    /// When a step is empty, or its length not a multiple of [`Compute::UNIT`].
    pub(crate) fn new(list: &'a [Step], depth_stride: usize) -> Self {
        let mut steps = Self { list, depth_stride, depth: 0, reach: 0, element: PhantomData };
        for step in list {
            assert!(
                step.len.is_multiple_of(S::UNIT) && step.len > 0,
                "a step of {} values",
                step.len
            );
            steps.depth += step.len;
            // Sums that no `usize` holds lie past every end.
            let last = (step.len - 1).saturating_mul(depth_stride).saturating_add(step.offset);
            steps.reach = steps.reach.max(last);
        }
        steps
    }

    /// Values along the depth.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }
}

/// Rows of memory that are read or written after a block, for kernels that fetch them meanwhile: a hint, of which nothing has
/// to exist.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 fetches"))]
pub(crate) struct Next {
    /// The first row of what is written.
    pub(crate) written: *const u8,
    /// The first row of what is read.
    pub(crate) read: *const u8,
    /// Bytes from one row to the next.
    pub(crate) stride: usize,
    /// Bytes from the first row of the first tile to that of the second, which may lie in front of it.
    pub(crate) between: usize,
}

/// The staged operand of a [`Block`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Staged<'a, S> {
    pub(crate) values: &'a [S],
    /// Where the first row of each of the two row tiles starts; equal when there is only one.
    pub(crate) starts: [usize; 2],
    /// Distance from one row to the next.
    pub(crate) row_stride: usize,
    /// Rows whose sums are wanted, from the first on; those of others may or may not be computed.
    pub(crate) rows: usize,
}

/// The packed operand of a [`Block`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panels<'a, S> {
    /// From the first value that the block uses.
    pub(crate) values: &'a [S],
    /// Distance from one panel to the next.
    pub(crate) panel_stride: usize,
    /// Distance from one row of 16 columns to the next; [`TILE`] for bf16, where a row is of pairs.
    pub(crate) depth_stride: usize,
    /// Distance from the first value to what will be used next, for kernels that fetch ahead: they touch an eighth
    /// of a block's values from there on, in the first panel and in the second.
    pub(crate) ahead: usize,
}

/// `sums += staged × panels`, or `=` when `fresh`.
#[derive(Debug)]
pub(crate) struct Block<'a, S> {
    pub(crate) staged: Staged<'a, S>,
    pub(crate) panels: Panels<'a, S>,
    pub(crate) steps: Steps<'a, S>,
    /// Tiles of the first 16 rows, one a panel, then of the second 16 rows. Their number says how many panels.
    pub(crate) sums: &'a mut [CTile],
    pub(crate) fresh: bool,
    /// What the sums meet when this block is their last.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 fetches"))]
    pub(crate) next: Option<Next>,
}

impl<S: Compute> Block<'_, S> {
    /// The number of panels.
    pub(crate) fn width(&self) -> usize {
        self.sums.len() / 2
    }

    /// Compares every operand with what the steps will touch.
    ///
    /// # Panics
    ///
    /// When an operand is too short, or the number of sums is not two tiles for each of 1 to [`Compute::WIDTH`] panels.
    fn check(&self) {
        let width = self.width();
        assert!(
            self.sums.len().is_multiple_of(2) && (1..=S::WIDTH).contains(&width),
            "a block takes 2 tiles for each of 1 to {} panels, not {} tiles",
            S::WIDTH,
            self.sums.len()
        );
        let Staged { values, starts, row_stride, .. } = self.staged;
        let Steps { list, depth_stride, depth, reach, .. } = self.steps;
        let last = (TILE - 1)
            .saturating_mul(row_stride)
            .saturating_add(starts[0].max(starts[1]))
            .saturating_add(reach);
        assert!(
            list.is_empty() || last < values.len(),
            "the staged operand has {} values, the block reads number {last}",
            values.len()
        );
        // A packed row holds one value of 16 columns, or a pair of each.
        let rows = depth / S::PAIR;
        let end = (width - 1)
            .saturating_mul(self.panels.panel_stride)
            .saturating_add(
                (rows.saturating_sub(1) * S::PAIR).saturating_mul(self.panels.depth_stride),
            )
            .saturating_add(TILE * S::PAIR);
        assert!(
            list.is_empty() || end <= self.panels.values.len(),
            "the panels have {} values, the block reads {end}",
            self.panels.values.len()
        );
        assert!(
            S::PAIR == 1 || (depth_stride == 1 && self.panels.depth_stride == TILE),
            "pairs along the depth lie side by side"
        );
    }
}

/// A type that products are computed in: f32, or bf16 with f32 sums.
pub(crate) trait Compute: Element + Scratched {
    /// Values along the depth that lie side by side in a packed panel.
    const PAIR: usize;
    /// What the number of channels is padded to a multiple of.
    const UNIT: usize;
    /// Panels of a block, at most.
    const WIDTH: usize;
    /// Rows of 16 columns, over all panels, after which sums are set aside, so that the panels of a block stay in a cache while
    /// all rows meet them: the first level's for f32, whose products wait for the panels, the second's for bf16.
    const KEPT: usize;

    /// How many of `steps`, from the first on, a block of `panels` panels takes; at least one.
    fn fitting(steps: &[Step], panels: usize) -> usize {
        let mut depth = 0;
        let fit = steps.iter().take_while(|step| {
            depth += step.len;
            depth * panels <= Self::KEPT
        });
        fit.count().max(1)
    }

    /// `channels`, padded.
    fn padded(channels: usize) -> usize {
        channels.next_multiple_of(Self::UNIT)
    }

    /// Values from one staged pixel to the next, for pixels of `channels`.
    ///
    /// From 256 bytes on an odd number of cache lines, so that the rows of a tile spread over all sets of the caches.
    fn pixel(channels: usize) -> usize {
        let line = 64 / size_of::<Self>();
        let padded = Self::padded(channels);
        if padded < 4 * line { padded } else { (padded.div_ceil(line) | 1) * line }
    }

    /// Computes `block`.
    ///
    /// # Panics
    ///
    /// When its operands are too short, see [`Block::check`].
    fn multiply(unit: &Unit, block: Block<'_, Self>);
}

/// What computes blocks on this thread: a path, and its tile registers where it has any.
#[derive(Debug)]
pub(crate) struct Unit {
    path: Path,
    #[cfg(target_arch = "x86_64")]
    tiles: Option<Tiles>,
}

impl Unit {
    pub(crate) fn new(path: Path) -> Self {
        Self {
            path,
            #[cfg(target_arch = "x86_64")]
            tiles: Tiles::configure(path),
        }
    }
}

impl Compute for f32 {
    const PAIR: usize = 1;
    const UNIT: usize = 1;
    const WIDTH: usize = 3;
    const KEPT: usize = 3 * 5 * CHUNK;

    fn multiply(unit: &Unit, block: Block<'_, Self>) {
        block.check();
        #[cfg(target_arch = "x86_64")]
        match unit.path.isa() {
            Isa::Portable => {}
            // SAFETY: the path is a witness of AVX2 and FMA; the block was just checked.
            Isa::Avx2 => return unsafe { avx2::multiply_f32(block) },
            // SAFETY: the path is a witness of AVX-512; the block was just checked.
            _ => return unsafe { avx512::multiply_f32(block) },
        }
        portable::multiply_f32(block);
    }
}

impl Compute for bf16 {
    const PAIR: usize = 2;
    const UNIT: usize = CHUNK;
    const WIDTH: usize = 2;
    const KEPT: usize = 2 * 128 * CHUNK;

    fn multiply(unit: &Unit, block: Block<'_, Self>) {
        block.check();
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(tiles) = &unit.tiles {
                // SAFETY: this thread's tiles are configured; the block was just checked.
                return unsafe { amx::multiply(tiles, block) };
            }
            if unit.path.isa() >= Isa::Avx512Bf16 {
                // SAFETY: the path is a witness of AVX-512 with bf16; the block was just checked.
                return unsafe { avx512::multiply_bf16(block) };
            }
            if unit.path.isa() >= Isa::Avx2 {
                // SAFETY: the path is a witness of AVX2 and FMA; the block was just checked.
                return unsafe { avx2::multiply_bf16(block) };
            }
        }
        portable::multiply_bf16(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Path;

    /// Two row tiles of 16 rows of four values, and two panels of four rows, of which each part may be shorter.
    fn multiply(staged: usize, panels: usize, tiles: usize, row_stride: usize) {
        let (staged, panels) = (vec![1.0f32; staged], vec![1.0f32; panels]);
        let mut sums = vec![CTile::ZERO; tiles];
        for path in Path::available() {
            let block = Block {
                staged: Staged { values: &staged, starts: [0, 64], row_stride, rows: 2 * TILE },
                panels: Panels {
                    values: &panels,
                    panel_stride: 4 * TILE,
                    depth_stride: TILE,
                    ahead: 0,
                },
                steps: Steps::new(&[Step { offset: 0, len: 4 }], 1),
                sums: &mut sums,
                fresh: true,
                next: None,
            };
            f32::multiply(&Unit::new(path), block);
        }
        assert!(sums.iter().all(|tile| *tile == CTile([[4.0; TILE]; TILE])));
    }

    #[test]
    fn a_block_may_use_its_operands_to_the_last_value() {
        multiply(128, 128, 4, 4);
    }

    #[test]
    #[should_panic(expected = "the block reads number 127")]
    fn a_staged_operand_that_ends_early_is_refused() {
        multiply(127, 128, 4, 4);
    }

    #[test]
    #[should_panic(expected = "the block reads 128")]
    fn a_panel_that_ends_early_is_refused() {
        multiply(128, 127, 4, 4);
    }

    #[test]
    #[should_panic(expected = "a block takes 2 tiles")]
    fn more_panels_than_registers_are_refused() {
        multiply(128, 1000, 8, 4);
    }

    #[test]
    #[should_panic(expected = "the staged operand has")]
    fn a_stride_past_all_addresses_is_refused() {
        // Fifteen times this is 1 in arithmetic that wraps.
        multiply(128, 128, 4, usize::MAX / 15 * 14 + 1);
    }
}
