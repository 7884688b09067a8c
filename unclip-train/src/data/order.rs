//! The order of samples, and positions in it.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Separates these streams from other uses of the same seed.
const DOMAIN: &[u8; 8] = b"data v1\0";

/// A position in a [`Source`](super::Source): everything that decides which samples follow.
///
/// The order is a function of the seed, the pass and the place in it, so no state of a random generator has to be kept.
/// A position counts samples before they are dealt to ranks, so that it is the same for every rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The seed of the order.
    pub(super) seed: u64,
    /// What the data set consists of, hashed.
    pub(super) data: String,
    /// The pass over the data, from 0.
    pub(super) epoch: u64,
    /// The group of shards within the pass.
    pub(super) group: usize,
    /// Samples of the group that were dealt out or skipped.
    pub(super) position: usize,
}

impl Cursor {
    /// The start of data whose parts have these names.
    pub(super) fn start<'a>(seed: u64, parts: impl Iterator<Item = &'a str>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let data = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { seed, data, epoch: 0, group: 0, position: 0 }
    }

    /// The pass over the data that the next sample belongs to, from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether `self` is a position in the data that `other` is a position in.
    pub(super) fn check(&self, other: &Self) -> Result<()> {
        let foreign = |part, found: String, expected: String| {
            Err(Error::ForeignCursor { part, found, expected })
        };
        if self.data != other.data {
            return foreign("list of files", self.data.clone(), other.data.clone());
        }
        if self.seed != other.seed {
            return foreign("seed", self.seed.to_string(), other.seed.to_string());
        }
        Ok(())
    }

    /// Shuffles the parts of a pass.
    pub(super) fn shuffle_parts<T>(&self, parts: &mut [T]) {
        // Groups are counted from 0, so no group shares this stream.
        parts.shuffle(&mut self.stream(u64::MAX));
    }

    /// Shuffles the samples of the group.
    pub(super) fn shuffle_group<T>(&self, samples: &mut [T]) {
        samples.shuffle(&mut self.stream(self.group as u64));
    }

    fn stream(&self, number: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        let fields =
            [self.seed.to_le_bytes(), *DOMAIN, self.epoch.to_le_bytes(), number.to_le_bytes()];
        for (part, field) in key.chunks_exact_mut(8).zip(fields) {
            part.copy_from_slice(&field);
        }
        ChaCha8Rng::from_seed(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_depends_on_seed_pass_and_group() {
        let start = Cursor::start(3, ["a", "b"].into_iter());
        let order = |cursor: &Cursor| {
            let mut samples: Vec<u32> = (0..50).collect();
            cursor.shuffle_group(&mut samples);
            samples
        };
        let reference = order(&start);
        assert_eq!(order(&start), reference);
        assert_eq!(order(&Cursor { position: 9, ..start.clone() }), reference);
        for other in [
            Cursor { seed: 4, ..start.clone() },
            Cursor { epoch: 1, ..start.clone() },
            Cursor { group: 1, ..start.clone() },
        ] {
            assert_ne!(order(&other), reference, "{other:?}");
        }
    }

    #[test]
    fn a_position_in_other_data_is_refused_by_what_differs() {
        let start = Cursor::start(3, ["a", "b"].into_iter());
        start.check(&Cursor { epoch: 5, ..start.clone() }).expect("the same data");
        let error = start.check(&Cursor::start(3, ["ab"].into_iter())).expect_err("other files");
        assert!(error.to_string().contains("list of files"), "{error}");
        let error = start.check(&Cursor { seed: 9, ..start.clone() }).expect_err("another seed");
        assert!(error.to_string().contains("its seed is 3, expected 9"), "{error}");
    }

    #[test]
    fn a_cursor_goes_through_json() {
        let cursor = Cursor { position: 7, ..Cursor::start(u64::MAX, ["a"].into_iter()) };
        let text = serde_json::to_string(&cursor).expect("serialisable");
        assert_eq!(serde_json::from_str::<Cursor>(&text).expect("readable"), cursor);
    }
}
