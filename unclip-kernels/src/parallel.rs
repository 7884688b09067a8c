//! Work split over rayon's current pool, with results that do not depend on how many threads it has.
//!
//! The rule behind that: the cut into tasks follows from shapes alone, a task's result follows from its number alone,
//! and partial results meet in the order of their numbers. A pool entered with `ThreadPool::install` is honoured.

use std::ops::Range;

use rayon::prelude::*;

/// Runs `task(0)`, `task(1)`, .. `task(tasks - 1)`, in any order, on the threads of the current pool.
pub fn for_each(tasks: usize, task: impl Fn(usize) + Send + Sync) {
    match tasks {
        0 => {}
        1 => task(0),
        _ => (0..tasks).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// Results of `task(0)` .. `task(tasks - 1)`, in that order.
pub fn map<T: Send>(tasks: usize, task: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
    (0..tasks).into_par_iter().with_max_len(1).map(task).collect()
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
    values
        .par_chunks_mut(chunk_len)
        .with_max_len(1)
        .enumerate()
        .for_each(|(index, chunk)| task(index, chunk));
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
}
