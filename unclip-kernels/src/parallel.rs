//! Work split over rayon's current pool, with results that do not depend on how many threads it has.
//!
//! The rule behind that: the cut into tasks follows from shapes alone, a task's result follows from its number alone,
//! and partial results meet in the order of their numbers. A pool entered with `ThreadPool::install` is honoured.

use std::{marker::PhantomData, ops::Range};

use crate::team;

/// Runs `task(0)`, `task(1)`, .. `task(tasks - 1)`, in any order, on the threads of the current pool.
pub fn for_each(tasks: usize, task: impl Fn(usize) + Send + Sync) {
    team::run(tasks, &task);
}

/// Results of `task(0)` .. `task(tasks - 1)`, in that order.
pub fn map<T: Send>(tasks: usize, task: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
    let mut results: Vec<Option<T>> = (0..tasks).map(|_| None).collect();
    for_each_chunk(&mut results, 1, |index, result| result[0] = Some(task(index)));
    // Every task was run, so that none is missing.
    results.into_iter().flatten().collect()
}

/// Hands `task` every chunk of `chunk_len` values with its number; the last chunk may be shorter.
///
/// # Panics
///
/// When `chunk_len` is 0.
pub fn for_each_chunk<T: Send>(
    values: &mut [T],
    chunk_len: usize,
    task: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    assert!(chunk_len > 0, "chunks must hold at least one value");
    let chunks = values.len().div_ceil(chunk_len);
    let values = Shared::new(values);
    for_each(chunks, |index| {
        // SAFETY: every number is handed out once.
        task(index, unsafe { values.chunk(chunk_len, index) });
    });
}

/// As [`for_each_chunk`], and gives what `task` returns, in the order of the chunks.
///
/// # Panics
///
/// When `chunk_len` is 0.
pub fn map_chunks<T: Send, R: Send>(
    values: &mut [T],
    chunk_len: usize,
    task: impl Fn(usize, &mut [T]) -> R + Send + Sync,
) -> Vec<R> {
    assert!(chunk_len > 0, "chunks must hold at least one value");
    let chunks = values.len().div_ceil(chunk_len);
    let values = Shared::new(values);
    // SAFETY: as above.
    map(chunks, |index| task(index, unsafe { values.chunk(chunk_len, index) }))
}

/// The `index`-th of `parts` ranges that cut `0..len` into runs whose starts are multiples of `unit` and whose
/// lengths differ by at most one `unit`.
///
/// ```
/// use unclip_kernels::parallel::part;
///
/// assert_eq!(part(100, 16, 3, 0), 0..48);
/// assert_eq!(part(100, 16, 3, 2), 80..100);
/// ```
///
/// # Panics
///
/// When `unit` or `parts` is 0, or `index` is not below `parts`.
pub fn part(len: usize, unit: usize, parts: usize, index: usize) -> Range<usize> {
    assert!(unit > 0 && index < parts, "part {index} of {parts} in units of {unit} does not exist");
    let units = len.div_ceil(unit);
    let (base, longer) = (units / parts, units % parts);
    let start = |index: usize| (index * base + index.min(longer)) * unit;
    start(index).min(len)..start(index + 1).min(len)
}

/// A slice of which several tasks write parts that do not overlap but interleave, such as columns of a matrix.
#[derive(Debug)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` gives out parts of a `&mut [T]`, which may be sent when `T` may; `slice` asks its caller that
// parts in use at the same time are disjoint, so two threads never hold the same value.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above; through a shared reference nothing but `slice` is to be had.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), borrow: PhantomData }
    }

    /// The address of value `at`, which need not exist.
    pub(crate) fn address(&self, at: usize) -> *const T {
        self.start.wrapping_add(at)
    }

    /// The `index`-th chunk of `len` values, which is shorter where the slice ends.
    ///
    /// # Panics
    ///
    /// When it begins behind the end.
    ///
    /// # Safety
    ///
    /// As [`slice`](Self::slice).
    #[expect(clippy::mut_from_ref, reason = "as in `slice`")]
    unsafe fn chunk(&self, len: usize, index: usize) -> &mut [T] {
        let start = index * len;
        // SAFETY: the caller's promise.
        unsafe { self.slice(start..self.len.min(start.saturating_add(len))) }
    }

    /// The values of `range`.
    ///
    /// # Panics
    ///
    /// When `range` does not lie inside the slice.
    ///
    /// # Safety
    ///
    /// While the result lives, no other result of this method that overlaps it may exist.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts in use are disjoint")]
    #[inline]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} lies outside of a slice of {}",
            self.len
        );
        // SAFETY: the range was just checked against the slice borrowed for `'a`; the caller promises that nothing
        // else refers to these values.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once_and_start_at_units() {
        for len in [0, 1, 15, 16, 17, 100, 320] {
            for parts in 1..8 {
                let mut next = 0;
                for index in 0..parts {
                    let range = part(len, 16, parts, index);
                    assert_eq!(range.start, next, "{len} in {parts}");
                    assert!(range.start.is_multiple_of(16) || range.is_empty(), "{range:?}");
                    next = range.end;
                }
                assert_eq!(next, len);
            }
        }
    }

    #[test]
    fn results_come_in_the_order_of_their_tasks() {
        assert_eq!(map(5, |index| index * index), [0, 1, 4, 9, 16]);
    }

    #[test]
    fn tasks_write_interleaved_columns() {
        let mut values = vec![0; 12];
        let shared = Shared::new(&mut values);
        for_each(3, |column| {
            for row in 0..4 {
                let at = row * 3 + column;
                // SAFETY: only the task of this column touches the value at this row and column.
                unsafe { shared.slice(at..at + 1).fill(column) };
            }
        });
        assert_eq!(values, [0, 1, 2].repeat(4));
    }

    #[test]
    fn chunks_are_handed_out_with_their_numbers_and_the_last_is_what_is_left() {
        let mut values = [0; 11];
        for_each_chunk(&mut values, 4, |index, chunk| chunk.fill(index));
        assert_eq!(values, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]);
        let lengths = map_chunks(&mut values, 3, |index, chunk| (index, chunk.len()));
        assert_eq!(lengths, [(0, 3), (1, 3), (2, 3), (3, 2)]);
        for_each_chunk(&mut [0; 0], 1, |_, _| panic!("there is no chunk"));
    }

    #[test]
    #[should_panic(expected = "lies outside")]
    fn a_part_past_the_end_is_refused() {
        // SAFETY: no other part exists.
        unsafe { Shared::new(&mut [0; 4]).slice(2..5) };
    }
}
