//! Weights on their way from PyTorch's order into panels, and back.
//!
//! PyTorch keeps all taps of all input channels of one output channel side by side; a panel keeps 16 output channels
//! side by side. So the work is a transpose, and what it costs is memory. Each task reads its rows from front to back,
//! a block of input channels at a time, into a table that stays in the first-level cache, one line for each channel and
//! tap; the lines then go where the panel wants them. For the gradient of the input the roles of the channels are
//! exchanged, and the lines lie in the source already.

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::{cmp::min, ops::Range};

#[cfg(target_arch = "x86_64")]
use crate::cpu::Isa;
use crate::{
    cpu::Path,
    element::Element,
    gemm::{CHUNK, Compute, TILE},
    pack::{Packed, panel_len},
    parallel,
    room::Room,
};

/// Values of a table, where a chunk of channels has no more: 16 KiB of f32, a third of a first-level cache.
const TABLE: usize = 4096;

/// Panels that one task of [`pack_transposed`] fills at most. It reads the values of all of them in one run, which pays
/// for going on to the next channel, far away.
const GROUP: usize = 8;

/// Tasks that the panels are cut into at least, where there are as many.
const TASKS: usize = 16;

/// The sizes of a layer's weights, in panels and out of them.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    kernel: [usize; 2],
    taps: usize,
    depth: usize,
    padded: usize,
    columns: usize,
}

impl Sizes {
    fn new<S: Compute>(kernel: [usize; 2], depth: usize, columns: usize) -> Self {
        let taps = kernel[0] * kernel[1];
        Self { kernel, taps, depth, padded: S::padded(depth), columns }
    }

    /// Output channels of a panel, 16 but for the last.
    fn lanes(&self, panel: usize) -> usize {
        min(TILE, self.columns - panel * TILE)
    }

    /// Runs of input channels whose lines make a table, each a whole number of chunks but for the last.
    fn blocks(self) -> impl Iterator<Item = Range<usize>> {
        let len = (TABLE / TILE / self.taps / CHUNK).max(1) * CHUNK;
        (0..self.padded).step_by(len).map(move |first| first..min(first + len, self.padded))
    }

    /// Calls `run(tap, channels, values)` for the runs of `block`: the values of a panel that belong to a tap of a chunk
    /// of channels.
    #[inline(always)]
    fn for_each_run(
        &self,
        block: Range<usize>,
        mut run: impl FnMut(usize, Range<usize>, Range<usize>),
    ) {
        let [rows, columns] = self.kernel;
        for row in 0..rows {
            for first in block.clone().step_by(CHUNK) {
                let channels = first..min(first + CHUNK, block.end);
                for column in 0..columns {
                    // In front of this run lie whole rows of the kernel, whole chunks, and whole columns.
                    let lines = (row * self.padded + first) * columns + column * channels.len();
                    let values = lines * TILE..(lines + channels.len()) * TILE;
                    run(row * columns + column, channels.clone(), values);
                }
            }
        }
    }
}

/// Packs `values`, `[columns, depth, rows, columns of the kernel]`.
pub(crate) fn pack<T: Element, S: Compute>(
    values: &[T],
    kernel: [usize; 2],
    depth: usize,
    columns: usize,
) -> Packed<S> {
    let sizes = Sizes::new::<S>(kernel, depth, columns);
    let path = Path::chosen();
    fill::<S>(&sizes, 1, |panel, packed| {
        #[cfg(target_arch = "x86_64")]
        if path.isa() >= Isa::Avx512
            && sizes.lanes(panel) == TILE
            && depth.is_multiple_of(CHUNK)
            && let Some(values) = T::as_bf16(values)
            && let Some(packed) = S::as_bf16_mut(packed)
        {
            // SAFETY: the path is a witness of AVX-512 F, BW and VL.
            return unsafe { avx512::pack_panel(&sizes, values, panel, packed) };
        }
        path.vectorize(
            #[inline(always)]
            || pack_panel(&sizes, values, panel, packed),
        );
    })
}

/// Packs `values`, `[depth, columns, rows, columns of the kernel]`, whose taps are turned by half a turn.
pub(crate) fn pack_transposed<T: Element, S: Compute>(
    values: &[T],
    kernel: [usize; 2],
    depth: usize,
    columns: usize,
) -> Packed<S> {
    let sizes = Sizes::new::<S>(kernel, depth, columns);
    let path = Path::chosen();
    let group = (columns.div_ceil(TILE) / TASKS).clamp(1, GROUP);
    fill::<S>(&sizes, group, |index, packed| {
        path.vectorize(
            #[inline(always)]
            || pack_turned_panels(&sizes, values, index * group, packed),
        );
    })
}

/// New panels, of which `task` fills `group` at a time, given the number of the group.
fn fill<S: Compute>(
    sizes: &Sizes,
    group: usize,
    task: impl Fn(usize, &mut [S]) + Send + Sync,
) -> Packed<S> {
    let Sizes { kernel, depth, columns, .. } = *sizes;
    let panel_len = panel_len::<S>(kernel, depth);
    let mut values = Room::new(panel_len * columns.div_ceil(TILE));
    parallel::for_each_chunk(&mut values, group * panel_len, task);
    Packed { values, kernel, depth, columns }
}

#[inline(always)]
fn pack_panel<T: Element, S: Compute>(sizes: &Sizes, values: &[T], panel: usize, packed: &mut [S]) {
    let Sizes { taps, depth, .. } = *sizes;
    let column_len = depth * taps;
    let mut table = Vec::new();
    let mut run = Vec::new();
    for block in sizes.blocks() {
        // One line for each tap of each channel; lines of channels and lanes that do not exist stay zero.
        let lines = min(block.end, depth) - block.start;
        table.resize(lines * taps, [S::default(); TILE]);
        run.resize(lines * taps, S::default());
        for lane in 0..sizes.lanes(panel) {
            let start = (panel * TILE + lane) * column_len + block.start * taps;
            narrow(&values[start..][..lines * taps], &mut run);
            for (line, value) in table.iter_mut().zip(&run) {
                line[lane] = *value;
            }
        }
        sizes.for_each_run(block.clone(), |tap, channels, values| {
            let line = |channel: usize| {
                let line = table.get((channel - block.start) * taps + tap);
                line.filter(|_| channel < depth)
            };
            store_lines(channels, &mut packed[values], line);
        });
    }
}

/// Converts each value to the type of the products.
#[inline(always)]
fn narrow<T: Element, S: Compute>(values: &[T], narrow: &mut [S]) {
    for (narrow, value) in narrow.iter_mut().zip(values) {
        *narrow = S::narrow(value.widen());
    }
}

/// Writes the lines of `channels` in the order of a panel: side by side by [`Compute::PAIR`], and zeros where there is
/// no line.
#[inline(always)]
fn store_lines<'a, S: Compute>(
    channels: Range<usize>,
    packed: &mut [S],
    line: impl Fn(usize) -> Option<&'a [S; TILE]>,
) {
    let zeros = [S::default(); TILE];
    let starts = channels.step_by(S::PAIR);
    for (channel, packed) in starts.zip(packed.chunks_exact_mut(TILE * S::PAIR)) {
        let even = line(channel).unwrap_or(&zeros);
        if S::PAIR == 1 {
            packed.copy_from_slice(even);
        } else {
            let odd = line(channel + 1).unwrap_or(&zeros);
            for (pair, (even, odd)) in packed.chunks_exact_mut(2).zip(even.iter().zip(odd)) {
                pair[0] = *even;
                pair[1] = *odd;
            }
        }
    }
}

#[inline(always)]
fn pack_turned_panels<T: Element, S: Compute>(
    sizes: &Sizes,
    values: &[T],
    first: usize,
    packed: &mut [S],
) {
    let Sizes { kernel, taps, depth, columns, padded, .. } = *sizes;
    let panel_len = panel_len::<S>(kernel, depth);
    let panels = packed.len() / panel_len;
    // A run of the source holds the taps of all lanes of these panels for one channel.
    let run_len = min(columns - first * TILE, panels * TILE) * taps;
    let mut run = vec![S::default(); run_len];
    // One line for each tap of each panel of each channel; lanes that do not exist stay zero.
    let lines = panels * taps;
    let mut table = vec![[S::default(); TILE]; CHUNK * lines];
    for start in (0..padded).step_by(CHUNK) {
        let block = start..min(start + CHUNK, padded);
        for (channel, table) in (start..min(block.end, depth)).zip(table.chunks_exact_mut(lines)) {
            let values = &values[(channel * columns + first * TILE) * taps..][..run_len];
            if taps == 1 {
                narrow(values, &mut table.as_flattened_mut()[..run_len]);
                continue;
            }
            narrow(values, &mut run);
            for (run, table) in run.chunks(TILE * taps).zip(table.chunks_exact_mut(taps)) {
                // Kernels of 3 × 3 have lengths that the compiler knows.
                if taps == 9
                    && let ([run], [table]) =
                        (run.as_chunks::<9>().0.as_chunks::<TILE>().0, table.as_chunks_mut::<9>().0)
                {
                    turn(run, table);
                } else {
                    turn(run.chunks_exact(taps), table);
                }
            }
        }
        for (panel, packed) in packed.chunks_exact_mut(panel_len).enumerate() {
            sizes.for_each_run(block.clone(), |tap, channels, values| {
                store_lines(channels, &mut packed[values], |channel| {
                    let line = table.get((channel - start) * lines + panel * taps + tap);
                    line.filter(|_| channel < depth)
                });
            });
        }
    }
}

/// Transposes the taps of up to 16 lanes into lines, the last tap first.
#[inline(always)]
fn turn<S: Compute>(lanes: impl IntoIterator<Item = impl AsRef<[S]>>, table: &mut [[S; TILE]]) {
    for (lane, taps) in lanes.into_iter().enumerate() {
        for (line, value) in table.iter_mut().rev().zip(taps.as_ref()) {
            line[lane] = *value;
        }
    }
}

/// The inverse of [`pack`], into `values`.
///
/// # Panics
///
/// When there are fewer values or more than the layer has.
pub(crate) fn unpack<S: Compute>(packed: &Packed<S>, values: &mut [S]) {
    let sizes = Sizes::new::<S>(packed.kernel, packed.depth, packed.columns);
    let path = Path::chosen();
    let column_len = packed.depth * sizes.taps;
    let panel_len = packed.panel_len();
    assert!(values.len() == packed.columns * column_len, "{} weights of a layer", values.len());
    parallel::for_each_chunk(values, TILE * column_len, |panel, values| {
        let packed = &packed.values[panel * panel_len..][..panel_len];
        path.vectorize(
            #[inline(always)]
            || unpack_panel(&sizes, packed, values),
        );
    });
}

#[inline(always)]
fn unpack_panel<S: Compute>(sizes: &Sizes, packed: &[S], values: &mut [S]) {
    let Sizes { taps, depth, .. } = *sizes;
    let mut table = Vec::new();
    for block in sizes.blocks() {
        let lines = min(block.end, depth) - block.start;
        table.resize(lines * taps, [S::default(); TILE]);
        sizes.for_each_run(block.clone(), |tap, channels, values| {
            let starts = channels.step_by(S::PAIR);
            for (channel, packed) in starts.zip(packed[values].chunks_exact(TILE * S::PAIR)) {
                for half in 0..S::PAIR {
                    if channel + half < depth {
                        let line = &mut table[(channel + half - block.start) * taps + tap];
                        for (value, packed) in line.iter_mut().zip(packed.chunks_exact(S::PAIR)) {
                            *value = packed[half];
                        }
                    }
                }
            }
        });
        for (lane, column) in values.chunks_exact_mut(depth * taps).enumerate() {
            let column = &mut column[block.start * taps..][..lines * taps];
            for (value, line) in column.iter_mut().zip(&table) {
                *value = line[lane];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        pack::steps,
        testing::{self, upto},
    };

    /// A weight as its place in PyTorch's order.
    type Place = fn(&Sizes, column: usize, channel: usize, tap: usize) -> usize;

    fn in_order(sizes: &Sizes, column: usize, channel: usize, tap: usize) -> usize {
        (column * sizes.depth + channel) * sizes.taps + tap
    }

    fn turned(sizes: &Sizes, column: usize, channel: usize, tap: usize) -> usize {
        (channel * sizes.columns + column) * sizes.taps + sizes.taps - 1 - tap
    }

    /// What a panel is: the values in the order in which steps meet them, 16 columns of each, pairs side by side.
    fn defined<T: Element, S: Compute>(sizes: &Sizes, values: &[T], place: Place) -> Vec<S> {
        let [rows, cols] = sizes.kernel;
        let mut packed = Vec::new();
        for panel in 0..sizes.columns.div_ceil(TILE) {
            for row in 0..rows {
                for first in (0..sizes.padded).step_by(CHUNK) {
                    for col in 0..cols {
                        for pair in (first..min(first + CHUNK, sizes.padded)).step_by(S::PAIR) {
                            for at in 0..TILE * S::PAIR {
                                let (column, channel) =
                                    (panel * TILE + at / S::PAIR, pair + at % S::PAIR);
                                let exists = column < sizes.columns && channel < sizes.depth;
                                packed.push(if exists {
                                    let at = place(sizes, column, channel, row * cols + col);
                                    S::narrow(values[at].widen())
                                } else {
                                    S::default()
                                });
                            }
                        }
                    }
                }
            }
        }
        packed
    }

    fn assert_defined<T: Element, S: Compute>(kernel: [usize; 2], depth: usize, columns: usize) {
        let sizes = Sizes::new::<S>(kernel, depth, columns);
        let len = columns * depth * sizes.taps;
        let values: Vec<T> = testing::values(len, 3).into_iter().map(T::narrow).collect();

        let packed: Packed<S> = pack(&values, kernel, depth, columns);
        assert_eq!(*packed.values, *defined::<T, S>(&sizes, &values, in_order), "{sizes:?}");
        let depths: usize = steps::<S>(kernel, depth, 1, 1).iter().map(|step| step.len).sum();
        assert_eq!(depths * TILE, packed.panel_len(), "{sizes:?}");

        let mut found = vec![S::narrow(9.0); len];
        unpack(&packed, &mut found);
        let narrow: Vec<S> = values.iter().map(|value| S::narrow(value.widen())).collect();
        assert_eq!(found, narrow, "{sizes:?}");

        let packed: Packed<S> = pack_transposed(&values, kernel, depth, columns);
        assert_eq!(*packed.values, *defined::<T, S>(&sizes, &values, turned), "{sizes:?}");
    }

    fn assert_all_types(kernel: [usize; 2], depth: usize, columns: usize) {
        assert_defined::<f32, f32>(kernel, depth, columns);
        assert_defined::<f32, bf16>(kernel, depth, columns);
        assert_defined::<bf16, bf16>(kernel, depth, columns);
        assert_defined::<bf16, f32>(kernel, depth, columns);
        assert_defined::<f16, bf16>(kernel, depth, columns);
        assert_defined::<f16, f32>(kernel, depth, columns);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

        #[test]
        fn panels_are_what_their_definition_says(
            columns in upto(70), depth in upto(100), rows in 1usize..5, cols in 1usize..5,
        ) {
            assert_all_types([rows, cols], depth, columns);
        }
    }

    #[test]
    fn panels_of_several_groups_and_blocks_are_too() {
        if cfg!(miri) {
            return;
        }
        // More channels than a table has lines for, and more panels than a task takes, the last of each in part.
        assert_all_types([1, 1], 2 * TABLE / TILE + 7, TASKS * GROUP * TILE + 5);
        assert_all_types([3, 3], 70, TASKS * GROUP * TILE + 5);
        assert_all_types([9, 9], 33, 17);
    }

    #[test]
    fn whole_chunks_of_channels_are_too() {
        // In registers nothing is packed on the path that Miri takes.
        if cfg!(miri) {
            return;
        }
        // Numbers of taps that are odd and even, and a last panel of fewer columns.
        for kernel in [[1, 1], [2, 2], [3, 3], [1, 3]] {
            assert_all_types(kernel, 2 * CHUNK, 2 * TILE + 3);
        }
    }

    #[test]
    #[should_panic(expected = "7 weights of a layer")]
    fn unpacking_into_another_length_is_refused() {
        unpack(&pack::<f32, f32>(&[1.0; 8], [1, 1], 2, 4), &mut [0.0; 7]);
    }
}
