//! Buffers that start at a cache line, so that no 64-byte row of a tile straddles two.

use std::{fmt, marker::PhantomData, ops};

use crate::gemm::Compute;

/// What buffers are allocated in: the largest unit that the system hands out zeroed without writing to it, so that
/// pages come into being on the threads that fill them.
type Word = u128;

const WORD: usize = size_of::<Word>();

/// Bytes of a cache line.
const LINE: usize = 64;

/// A growable buffer of numbers, aligned to 64 bytes.
pub(crate) struct Aligned<S> {
    words: Vec<Word>,
    /// The first word that starts a cache line.
    start: usize,
    len: usize,
    element: PhantomData<S>,
}

impl<S: Compute> Aligned<S> {
    pub(crate) const fn new() -> Self {
        Self { words: Vec::new(), start: 0, len: 0, element: PhantomData }
    }

    /// `len` zeros.
    ///
    /// # Panics
    ///
    /// When that many do not fit in memory's addresses.
    pub(crate) fn zeroed(len: usize) -> Self {
        const {
            assert!(
                LINE.is_multiple_of(WORD) && WORD.is_multiple_of(align_of::<S>()),
                "a line is whole words, and a word is aligned for every number"
            );
        };
        let words = len
            .checked_mul(size_of::<S>())
            .map(|bytes| bytes.div_ceil(WORD) + LINE / WORD - 1)
            .expect("a buffer fits in memory's addresses");
        let (words, start) = zeros(words);
        Self { words, start, len, element: PhantomData }
    }

    /// Makes the length `len`; values past the former length are zero or left from an earlier, longer use.
    ///
    /// # Panics
    ///
    /// When that many do not fit in memory's addresses.
    pub(crate) fn set_len(&mut self, len: usize) -> &mut [S] {
        let room = (self.words.len() - self.start) * (WORD / size_of::<S>());
        if len > room {
            let mut longer = Self::zeroed(len);
            longer[..self.len].copy_from_slice(self);
            *self = longer;
        }
        self.len = len;
        self
    }
}

impl<S: Compute> Default for Aligned<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Clone for Aligned<S> {
    /// A copy at an address of its own, with a start of its own.
    fn clone(&self) -> Self {
        let used = &self.words[self.start..];
        let (mut words, start) = zeros(used.len() + LINE / WORD - 1);
        words[start..][..used.len()].copy_from_slice(used);
        Self { words, start, len: self.len, element: PhantomData }
    }
}

/// `len` zeros, and the first of them that starts a cache line.
fn zeros(len: usize) -> (Vec<Word>, usize) {
    let words = vec![0; len];
    let past = words.as_ptr().addr() % LINE;
    huge_pages(&words);
    (words, (LINE - past) % LINE / WORD)
}

impl<S: Compute> ops::Deref for Aligned<S> {
    type Target = [S];

    fn deref(&self) -> &[S] {
        let words = &self.words[self.start..];
        // SAFETY: `words` are at least `len · size_of::<S>()` initialised bytes, see `zeroed` and `set_len`, at an
        // alignment that is enough for `S`; `Compute` is f32 and bf16, for which every bit pattern is a value.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), self.len) }
    }
}

impl<S: Compute> ops::DerefMut for Aligned<S> {
    fn deref_mut(&mut self) -> &mut [S] {
        let words = &mut self.words[self.start..];
        // SAFETY: as in `deref`; the buffer is borrowed mutably for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), self.len) }
    }
}

impl<S> fmt::Debug for Aligned<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aligned({} values)", self.len)
    }
}

/// Asks for pages of 2 MiB where `values` cover any: first touching 4 KiB at a time costs more than filling them.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
pub(crate) fn huge_pages<T>(values: &[T]) {
    const PAGE: usize = 2 << 20;
    let bytes = size_of_val(values);
    let start = values.as_ptr().cast::<u8>();
    let before = start.addr().next_multiple_of(PAGE) - start.addr();
    let whole = bytes.saturating_sub(before) / PAGE * PAGE;
    if whole > 0 {
        let first = start.wrapping_add(before).cast_mut().cast();
        // SAFETY: these are whole pages inside a live allocation, and the advice changes no value in them. It is advice:
        // a kernel that does not take it answers with an error, and nothing is lost.
        unsafe { libc::madvise(first, whole, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
pub(crate) fn huge_pages<T>(_: &[T]) {}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn a_buffer_starts_at_a_cache_line_and_is_zero() {
        for len in [0, 1, 33, if cfg!(miri) { 99 } else { 5 << 20 }] {
            let values = Aligned::<bf16>::zeroed(len);
            assert!(values.as_ptr().addr().is_multiple_of(LINE), "{len}");
            assert_eq!(values.len(), len);
            assert!(values.iter().all(|value| *value == bf16::ZERO), "{len}");
        }
    }

    #[test]
    fn growing_keeps_what_was_written() {
        let mut values = Aligned::<f32>::zeroed(3);
        values[2] = 7.0;
        assert_eq!(values.set_len(40)[..4], [0.0, 0.0, 7.0, 0.0]);
        values[39] = 8.0;
        assert_eq!(values.set_len(2), [0.0, 0.0]);
        assert_eq!(values.set_len(40)[39], 8.0);
    }

    #[test]
    fn a_copy_starts_at_a_cache_line_too() {
        let mut values = Aligned::<f32>::zeroed(100);
        values.iter_mut().zip(0u8..).for_each(|(value, at)| *value = f32::from(at));
        let copies: Vec<_> = (0..8).map(|_| values.clone()).collect();
        for copy in copies {
            assert!(copy.as_ptr().addr().is_multiple_of(LINE));
            assert_eq!(*copy, *values);
        }
    }

    #[test]
    #[should_panic(expected = "fits in memory's addresses")]
    fn more_than_addresses_count_is_refused() {
        let _values = Aligned::<f32>::zeroed(usize::MAX / 2);
    }
}
