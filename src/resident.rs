//! Which parts of a model are in memory.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Which parts of a model stay in memory between the moments they are needed.
///
/// What is not kept is read from the model directory again, which a warm file cache makes quick. Parts that were given
/// to the builder instead of read from a directory always stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// Every part is read by `build` and stays: the quickest from the second request on.
    #[default]
    KeepAll,
    /// At most one part is in memory; it stays until another is needed. The prior is no exception, and the two networks
    /// of an upsampler count as two parts.
    OneStage,
    /// A part is dropped as soon as its stage is over: nothing stays between requests.
    DropAfterUse,
}

/// What is read and dropped as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    TextEncoder,
    ImageEncoder,
    Prior,
    Decoder,
    UpsampleFirst,
    UpsampleLast,
    UpsampleLarge,
}

/// The parts in memory.
pub(crate) struct Resident {
    policy: Offload,
    /// Never dropped: there is nowhere to read them from.
    pinned: HashMap<Part, Arc<dyn Any + Send + Sync>>,
    cached: Mutex<HashMap<Part, Arc<dyn Any + Send + Sync>>>,
}

/// A part in use; under [`Offload::DropAfterUse`] its memory is freed with the last of these.
pub(crate) struct InUse<T> {
    pub(crate) part: Arc<T>,
    /// How long reading it took; zero when it was in memory.
    pub(crate) loading: Duration,
}

impl Resident {
    pub(crate) fn new(policy: Offload) -> Self {
        Self { policy, pinned: HashMap::new(), cached: Mutex::default() }
    }

    /// Keeps `value` for good.
    pub(crate) fn pin<T: Any + Send + Sync>(&mut self, part: Part, value: T) {
        self.pinned.insert(part, Arc::new(value));
    }

    /// The part, read by `load` unless it is in memory.
    ///
    /// The lock is held while reading, so that two threads never read one part twice, nor two parts at once under
    /// [`Offload::OneStage`]. Requests that run at once may still each hold the part they are using.
    pub(crate) fn get<T: Any + Send + Sync, E>(
        &self,
        part: Part,
        load: impl FnOnce() -> Result<T, E>,
    ) -> Result<InUse<T>, E> {
        if let Some(part) = self.pinned.get(&part).cloned().and_then(|value| value.downcast().ok())
        {
            return Ok(InUse { part, loading: Duration::ZERO });
        }
        // A panic while loading leaves the map as it was: nothing is inserted before `load` has returned.
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = cached.get(&part).cloned().and_then(|value| value.downcast().ok()) {
            return Ok(InUse { part, loading: Duration::ZERO });
        }
        if self.policy != Offload::KeepAll {
            cached.clear();
        }
        let start = Instant::now();
        let value = Arc::new(load()?);
        if self.policy != Offload::DropAfterUse {
            cached.insert(part, value.clone());
        }
        let loading = start.elapsed();
        tracing::debug!(?part, seconds = loading.as_secs_f64(), "read the weights of a part");
        Ok(InUse { part: value, loading })
    }
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cached: Vec<Part> =
            self.cached.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        f.debug_struct("Resident")
            .field("policy", &self.policy)
            .field("pinned", &self.pinned.keys().collect::<Vec<_>>())
            .field("cached", &cached)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;

    fn load(resident: &Resident, part: Part, loads: &mut usize) -> Weak<u32> {
        let in_use = resident
            .get(part, || {
                *loads += 1;
                Ok::<_, crate::Error>(7u32)
            })
            .expect("loading cannot fail here");
        Arc::downgrade(&in_use.part)
    }

    #[test]
    fn each_policy_keeps_what_it_says() {
        for (policy, first_kept, loads_expected) in [
            (Offload::KeepAll, true, 2),
            (Offload::OneStage, false, 3),
            (Offload::DropAfterUse, false, 3),
        ] {
            let resident = Resident::new(policy);
            let mut loads = 0;
            let first = load(&resident, Part::Prior, &mut loads);
            let second = load(&resident, Part::Decoder, &mut loads);
            assert_eq!(first.upgrade().is_some(), first_kept, "{policy:?}");
            assert_eq!(second.upgrade().is_some(), policy != Offload::DropAfterUse, "{policy:?}");
            load(&resident, Part::Prior, &mut loads);
            assert_eq!(loads, loads_expected, "{policy:?}");
        }
    }

    #[test]
    fn a_pinned_part_is_never_read_nor_dropped() {
        let mut resident = Resident::new(Offload::DropAfterUse);
        resident.pin(Part::Prior, 1u32);
        let mut loads = 0;
        assert!(load(&resident, Part::Prior, &mut loads).upgrade().is_some(), "still there");
        assert_eq!(loads, 0);
    }

    #[test]
    fn a_part_that_fails_to_load_can_be_tried_again() {
        let resident = Resident::new(Offload::KeepAll);
        let failed = resident
            .get::<u32, _>(Part::Prior, || Err(crate::error::invalid("file", "gone", "there")));
        assert!(failed.is_err());
        assert_eq!(
            *resident.get(Part::Prior, || Ok::<_, crate::Error>(3u32)).expect("now it loads").part,
            3
        );
    }
}
