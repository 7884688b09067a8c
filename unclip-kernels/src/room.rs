//! Memory for results and weights that later ones take over.
//!
//! A network makes tensors of the same sizes layer after layer and step after step. From the system each would come zeroed,
//! page by page as it is first written, and go back to it: a tenth of the time of a pass. So the memory of a result that
//! nobody holds any more goes to a store, and the next result of about that size takes it as it was left. In the same way a
//! layer's weights are packed into the memory of those of a layer before it.

use std::{
    fmt, mem, ops,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytemuck::Pod;

use crate::aligned::{Aligned, WORD, Word};

/// What is worth storing, in bytes; the C library keeps what is smaller itself.
const LEAST: usize = 1 << 16;

/// What the store holds at most, in bytes: what a pass through Karlo's upsampler leaves behind.
const MOST: usize = 1 << 30;

static STORE: Mutex<Store> =
    Mutex::new(Store { free: Vec::new(), bytes: 0, in_use: 0, highest: 0 });

/// A result's values, aligned to cache lines, in memory that goes to the store when they are dropped.
pub struct Room<T: Pod> {
    values: Aligned<T>,
}

impl<T: Pod> Room<T> {
    /// Room for `len` values that are zero or left from an earlier result, for an operation that writes each of them.
    ///
    /// # Panics
    ///
    /// When that many do not fit in memory's addresses.
    pub fn new(len: usize) -> Self {
        let values = Self::stored(len).unwrap_or_else(|| Aligned::zeroed(len));
        Self::used(values)
    }

    fn used(values: Aligned<T>) -> Self {
        store().use_more(values.memory());
        Self { values }
    }

    /// As [`new`](Self::new), or none where memory does not suffice.
    pub fn try_new(len: usize) -> Option<Self> {
        Self::stored(len).or_else(|| Aligned::try_zeroed(len)).map(Self::used)
    }

    fn stored(len: usize) -> Option<Aligned<T>> {
        let words = store().take(Aligned::<T>::words(len)?)?;
        Some(Aligned::within(words, len))
    }
}

impl<T: Pod> Clone for Room<T> {
    fn clone(&self) -> Self {
        let mut room = Self::new(self.len());
        room.copy_from_slice(self);
        room
    }
}

impl<T: Pod> Drop for Room<T> {
    fn drop(&mut self) {
        let words = mem::take(&mut self.values).into_words();
        // What has to go to the system goes there while the store is open to others.
        let dropped = store().put(words);
        drop(dropped);
    }
}

impl<T: Pod> ops::Deref for Room<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

impl<T: Pod> ops::DerefMut for Room<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values
    }
}

impl<T: Pod> AsRef<[u8]> for Room<T> {
    /// The values' bytes, in the processor's order.
    fn as_ref(&self) -> &[u8] {
        self.values.bytes()
    }
}

impl<T: Pod> fmt::Debug for Room<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Room({} values)", self.len())
    }
}

/// Gives what the store holds back to the system: at the end of a stage, whose tensors the next one has none of.
pub fn release() {
    let free = store().empty();
    drop(free);
}

fn store() -> MutexGuard<'static, Store> {
    STORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory that nobody uses.
#[derive(Debug, Default)]
struct Store {
    /// In the order in which they came.
    free: Vec<Vec<Word>>,
    /// Of what is free.
    bytes: usize,
    /// Bytes that rooms use now, and the most that they used at once since the store was last emptied.
    in_use: usize,
    highest: usize,
}

impl Store {
    /// Memory of at least `words`, of which at most a fifth is left over.
    fn take(&mut self, words: usize) -> Option<Vec<Word>> {
        let fits =
            |free: &Vec<Word>| (words..=words.saturating_add(words / 4)).contains(&free.len());
        // Of equals the one that was used last, whose values may still be in a cache.
        let (at, _) = (self.free.iter().enumerate().rev())
            .filter(|(_, free)| fits(free))
            .min_by_key(|(_, free)| free.len())?;
        let found = self.free.remove(at);
        self.bytes -= found.len() * WORD;
        Some(found)
    }

    fn empty(&mut self) -> Vec<Vec<Word>> {
        self.bytes = 0;
        self.highest = self.in_use;
        mem::take(&mut self.free)
    }

    /// Counts `bytes` that a room begins to use.
    fn use_more(&mut self, bytes: usize) {
        self.in_use += bytes;
        self.highest = self.highest.max(self.in_use);
    }

    /// Stores `words` of a room, and returns what has no place: there is at most so much free that what is used and what is
    /// free are a quarter more than was ever used at once. What came first goes first.
    fn put(&mut self, words: Vec<Word>) -> Vec<Vec<Word>> {
        let bytes = words.len() * WORD;
        self.in_use -= bytes;
        if !(LEAST..=MOST).contains(&bytes) {
            return vec![words];
        }
        self.free.push(words);
        self.bytes += bytes;
        let most = MOST.min(self.highest + self.highest / 4 - self.in_use);
        let mut oldest = 0;
        while self.bytes > most {
            self.bytes -= self.free[oldest].len() * WORD;
            oldest += 1;
        }
        self.free.drain(..oldest).collect()
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::element::Element;

    /// Puts memory for `lens` words, each of which was used, into the store, and returns the lengths of what is dropped.
    fn put(store: &mut Store, lens: &[usize]) -> Vec<usize> {
        store.use_more(lens.iter().sum::<usize>() * WORD);
        lens.iter().flat_map(|len| store.put(vec![0; *len])).map(|words| words.len()).collect()
    }

    #[test]
    fn a_store_gives_what_fits_best_and_little_more_than_was_asked_for() {
        let mut store = Store::default();
        let least = LEAST / WORD;
        assert!(put(&mut store, &[least, 2 * least, least + least / 8]).is_empty());
        assert_eq!(store.take(least + 1).map(|found| found.len()), Some(least + least / 8));
        assert_eq!(store.take(least + 1), None);
        assert_eq!(store.take(2 * least + 1), None);
        assert_eq!(store.take(usize::MAX), None);
        assert_eq!(store.take(least - 1).map(|found| found.len()), Some(least));
        assert_eq!((store.bytes, store.in_use), (2 * LEAST, 0));
    }

    #[test]
    fn a_full_store_gives_up_what_came_first_and_takes_nothing_small_or_larger_than_itself() {
        let mut store = Store::default();
        assert_eq!(put(&mut store, &[LEAST / WORD - 1]), [LEAST / WORD - 1]);
        assert_eq!(put(&mut store, &[MOST / WORD + 1]), [MOST / WORD + 1]);
        assert_eq!(store.bytes, 0);
        let third = MOST / WORD / 3;
        assert!(put(&mut store, &[third, third - 1, third - 2]).is_empty());
        assert_eq!(put(&mut store, &[third + 1]), [third]);
        let held = store.free.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(held, [third - 1, third - 2, third + 1]);
        assert_eq!(store.bytes, held.iter().sum::<usize>() * WORD);
        assert_eq!(store.empty().len(), 3);
        assert_eq!((store.bytes, store.in_use, store.highest), (0, 0, 0));
    }

    #[test]
    fn used_and_free_memory_are_a_quarter_more_than_was_used_at_once() {
        let mut store = Store::default();
        let unit = LEAST / WORD;
        assert!(put(&mut store, &[4 * unit]).is_empty());
        assert!(put(&mut store, &[unit]).is_empty());
        // One after the other, of five sizes.
        assert_eq!(put(&mut store, &[2 * unit]), [4 * unit]);
        assert!(put(&mut store, &[unit]).is_empty());
        // What is in use counts as well.
        store.use_more(3 * LEAST);
        assert_eq!(put(&mut store, &[unit]), [unit, 2 * unit]);
        assert_eq!((store.bytes, store.in_use), (2 * LEAST, 3 * LEAST));
    }

    #[test]
    fn room_is_aligned_and_as_long_as_asked_for_wherever_it_comes_from() {
        fn check<T: Element>(len: usize) {
            for _ in 0..3 {
                let mut room = Room::<T>::new(len);
                assert_eq!((room.len(), room.as_ref().len()), (len, len * size_of::<T>()));
                assert!(room.as_ptr().addr().is_multiple_of(64), "{len}");
                room.fill(T::narrow(7.0));
                Room::<T>::new(len).fill(T::narrow(5.0));
                assert!(room.iter().all(|value| *value == T::narrow(7.0)), "{len}");
            }
        }
        for len in [0, 1, 100, if cfg!(miri) { 333 } else { 100_003 }] {
            check::<f32>(len);
            check::<bf16>(len);
            check::<f16>(len);
        }
        release();
    }

    #[test]
    fn what_fits_in_no_memory_is_none() {
        assert!(Room::<f32>::try_new(usize::MAX).is_none());
        assert!(Room::<f32>::try_new(usize::MAX / 8).is_none());
        assert_eq!(Room::<f32>::try_new(3).map(|room| room.len()), Some(3));
    }
}
