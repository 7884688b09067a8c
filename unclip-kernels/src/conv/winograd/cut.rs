//! Which blocks and panels a task computes.

use std::ops::Range;

use super::WIDTH;
use crate::{parallel::part, stage::Size};

/// The cut of an output into tasks: squares of blocks, and, where these are few, shares of the panels.
///
/// It never changes a sum, so it may depend on the number of threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
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
pub(super) struct Task {
    pub(super) image: usize,
    /// Blocks.
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) panels: Range<usize>,
}

impl Cut {
    /// For blocks of `side` × `side` pixels, up to `largest` of them along each axis of a task.
    pub(super) fn new(
        output: Size,
        side: usize,
        largest: [usize; 2],
        panels: usize,
        threads: usize,
    ) -> Self {
        let blocks = [output.height, output.width].map(|len| len.div_ceil(side));
        let tasks = std::array::from_fn(|axis| blocks[axis].div_ceil(largest[axis]));
        let [rows, columns]: [usize; 2] = tasks;
        let squares = output.batch * rows * columns;
        let shares = (2 * threads).div_ceil(squares.max(1)).min(panels.div_ceil(WIDTH)).max(1);
        Self { batch: output.batch, blocks, tasks, panels, shares }
    }

    pub(super) fn tasks(&self) -> usize {
        self.batch * self.tasks[0] * self.tasks[1] * self.shares
    }

    /// The `index`-th task. Tasks that follow each other share their filters.
    pub(super) fn task(&self, index: usize) -> Task {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_block_and_panel_is_in_one_task(
            batch in 1usize..4, height in 1usize..70, width in 1usize..70, panels in 1usize..20,
            threads in 1usize..20, side in 1usize..5,
        ) {
            let cut = Cut::new(Size::new(batch, height, width), side, [4, 8], panels, threads);
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
