//! Buffers that start at a cache line, so that no 64-byte row of a tile straddles two.

use std::{fmt, marker::PhantomData, ops};

use bytemuck::{Pod, allocation::try_zeroed_vec};

/// What buffers are allocated in: the largest unit that the system hands out zeroed without writing to it, so that
/// pages come into being on the threads that fill them.
pub(crate) type Word = u128;

pub(crate) const WORD: usize = size_of::<Word>();

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;

/// A growable buffer of numbers, aligned to 64 bytes.
pub(crate) struct Aligned<S> {
    words: Vec<Word>,
    /// The first word that starts a cache line.
    start: usize,
    len: usize,
    element: PhantomData<S>,
}

impl<S: Pod> Aligned<S> {
    pub(crate) const fn new() -> Self {
        Self { words: Vec::new(), start: 0, len: 0, element: PhantomData }
    }

    /// `len` zeros.
    ///
    /// # Panics
    ///
    /// When that many do not fit in memory's addresses.
    pub(crate) fn zeroed(len: usize) -> Self {
        let words = vec![0; Self::words(len).expect("a buffer fits in memory's addresses")];
        huge_pages(&words);
        Self::within(words, len)
    }

    /// `len` zeros, or none where memory does not suffice.
    pub(crate) fn try_zeroed(len: usize) -> Option<Self> {
        let words = try_zeroed_vec(Self::words(len)?).ok()?;
        huge_pages(&words);
        Some(Self::within(words, len))
    }

    /// How many words `len` values need, from wherever memory may start; none where no address would reach them.
    pub(crate) fn words(len: usize) -> Option<usize> {
        let bytes = len.checked_mul(size_of::<S>())?;
        Some(bytes.div_ceil(WORD) + LINE / WORD - 1)
    }

    /// The first `len` values in `words`, whatever they are.
    ///
    /// # Panics
    ///
    /// When there are fewer than [`words`](Self::words) says.
    pub(crate) fn within(words: Vec<Word>, len: usize) -> Self {
        const {
            assert!(
                LINE.is_multiple_of(WORD) && WORD.is_multiple_of(align_of::<S>()),
                "a line is whole words, and a word is aligned for every number"
            );
        };
        assert!(
            Self::words(len).is_some_and(|least| least <= words.len()),
            "{} words for {len} values",
            words.len()
        );
        let start = first(&words);
        Self { words, start, len, element: PhantomData }
    }

    /// The bytes of its memory.
    pub(crate) fn memory(&self) -> usize {
        self.words.len() * WORD
    }

    /// The memory.
    pub(crate) fn into_words(self) -> Vec<Word> {
        self.words
    }

    /// The values' bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words[self.start..])[..self.len * size_of::<S>()]
    }

    /// `len` zeros in a buffer that is used over and over: where they fill much of a large page, they begin with one, so that
    /// the rows of a tile, which lie far apart, are found without a walk through many page tables.
    fn growing(len: usize) -> Self {
        if len.saturating_mul(size_of::<S>()) < LARGE_PAGE / 4 {
            return Self::zeroed(len);
        }
        let least = len.max(LARGE_PAGE / size_of::<S>());
        let mut values = Self::zeroed(least.saturating_add(LARGE_PAGE / size_of::<S>()));
        let past = values.as_ptr().addr() % LARGE_PAGE;
        values.start += (LARGE_PAGE - past) % LARGE_PAGE / WORD;
        values.len = len;
        values
    }

    /// Makes the length `len`; values past the former length are zero or left from an earlier, longer use.
    ///
    /// # Panics
    ///
    /// When that many do not fit in memory's addresses.
    pub(crate) fn set_len(&mut self, len: usize) -> &mut [S] {
        let room = (self.words.len() - self.start) * (WORD / size_of::<S>());
        if len > room {
            let mut longer = Self::growing(len);
            longer[..self.len].copy_from_slice(self);
            *self = longer;
        }
        self.len = len;
        self
    }
}

impl<S: Pod> Default for Aligned<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Clone for Aligned<S> {
    /// A copy at an address of its own, with a start of its own.
    fn clone(&self) -> Self {
        let used = &self.words[self.start..];
        let mut words = vec![0; used.len() + LINE / WORD - 1];
        huge_pages(&words);
        let start = first(&words);
        words[start..][..used.len()].copy_from_slice(used);
        Self { words, start, len: self.len, element: PhantomData }
    }
}

/// The first word that starts a cache line.
fn first(words: &[Word]) -> usize {
    let past = words.as_ptr().addr() % LINE;
    (LINE - past) % LINE / WORD
}

impl<S: Pod> ops::Deref for Aligned<S> {
    type Target = [S];

    fn deref(&self) -> &[S] {
        let words = &self.words[self.start..];
        // SAFETY: `words` are at least `len · size_of::<S>()` initialised bytes, see `within` and `set_len`, at an
        // alignment that is enough for `S`; every bit pattern is a value of a
        // `Pod` type.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), self.len) }
    }
}

impl<S: Pod> ops::DerefMut for Aligned<S> {
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
    let bytes = size_of_val(values);
    let start = values.as_ptr().cast::<u8>();
    let before = start.addr().next_multiple_of(LARGE_PAGE) - start.addr();
    let whole = bytes.saturating_sub(before) / LARGE_PAGE * LARGE_PAGE;
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
