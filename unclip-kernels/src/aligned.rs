//! Buffers that start at a cache line, so that no 64-byte row of a tile straddles two.

use std::{fmt, marker::PhantomData, ops};

use crate::gemm::Compute;

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A growable buffer of numbers, aligned to 64 bytes.
#[derive(Clone)]
pub(crate) struct Aligned<S> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<S>,
}

impl<S: Compute> Aligned<S> {
    pub(crate) const fn new() -> Self {
        Self { lines: Vec::new(), len: 0, element: PhantomData }
    }

    /// `len` zeros.
    ///
    /// # Panics
    ///
    /// When that many do not fit in memory's addresses.
    pub(crate) fn zeroed(len: usize) -> Self {
        let mut values = Self::new();
        values.set_len(len);
        values
    }

    /// Makes the length `len`; values past the former length are zero or left from an earlier, longer use.
    ///
    /// # Panics
    ///
    /// When that many do not fit in memory's addresses.
    pub(crate) fn set_len(&mut self, len: usize) -> &mut [S] {
        let bytes = len.checked_mul(size_of::<S>()).expect("a buffer fits in memory's addresses");
        let lines = bytes.div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.len = len;
        self
    }
}

impl<S: Compute> ops::Deref for Aligned<S> {
    type Target = [S];

    fn deref(&self) -> &[S] {
        // SAFETY: `lines` holds at least `len · size_of::<S>()` initialised bytes, see `set_len`, at an alignment of 64,
        // which is enough for `S`; `Compute` is f32 and bf16, for which every bit pattern is a value.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<S: Compute> ops::DerefMut for Aligned<S> {
    fn deref_mut(&mut self) -> &mut [S] {
        // SAFETY: as in `deref`; the buffer is borrowed mutably for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<S> fmt::Debug for Aligned<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aligned({} values)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn a_buffer_starts_at_a_cache_line_and_is_zero() {
        let values = Aligned::<bf16>::zeroed(33);
        assert!(values.as_ptr().addr().is_multiple_of(64));
        assert_eq!(*values, [bf16::ZERO; 33]);
    }

    #[test]
    fn growing_keeps_what_was_written() {
        let mut values = Aligned::<f32>::zeroed(3);
        values[2] = 7.0;
        assert_eq!(values.set_len(40)[..4], [0.0, 0.0, 7.0, 0.0]);
    }
}
