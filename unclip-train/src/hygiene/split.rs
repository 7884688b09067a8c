//! Caps and splits by what samples show.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// What a sample is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure with.
    HeldOut,
}

/// Which split a concept belongs to: held out with probability `share`.
///
/// The answer is a hash of `seed` and the concept alone. So all samples of a concept are in one split, and a concept
/// keeps its split when the data grows. Where concepts look nearly alike, ask with the name of their family.
///
/// ```
/// # use unclip_train::hygiene::{Split, split};
/// let held_out = (0..10_000).filter(|n| split(&n.to_string(), 0.1, 7) == Split::HeldOut).count();
/// assert!((900..1100).contains(&held_out));
/// ```
pub fn split(concept: &str, share: f64, seed: u64) -> Split {
    if place("split", seed, concept) < share { Split::HeldOut } else { Split::Train }
}

/// A number from 0 to 1, exclusive, that depends on what it is for, the seed and the name alone.
pub(super) fn place(purpose: &str, seed: u64, name: &str) -> f64 {
    let mut hash = Sha256::new();
    hash.update(format!("unclip {purpose} v1\0"));
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, ..] = hash;
    f64::from(u32::from_le_bytes([a, b, c, d])) / 4_294_967_296.0
}

/// The samples to keep so that no family has more than `most`: the first ones of each. A sample without a family stays.
///
/// ```
/// # use unclip_train::hygiene::cap;
/// let families = [Some("clock"), None, Some("clock"), Some("clock"), Some("key")];
/// assert_eq!(cap(families, 2), [0, 1, 2, 4]);
/// ```
pub fn cap<'a>(families: impl IntoIterator<Item = Option<&'a str>>, most: usize) -> Vec<usize> {
    let mut members: HashMap<&str, usize> = HashMap::new();
    let mut stays = |family: Option<&'a str>| {
        let Some(family) = family else { return true };
        let count = members.entry(family).or_default();
        *count += 1;
        *count <= most
    };
    let families = families.into_iter().enumerate();
    families.filter_map(|(index, family)| stays(family).then_some(index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_depends_on_seed_and_concept_alone() {
        let held = |seed| -> Vec<usize> {
            let is_held = |n: &usize| split(&n.to_string(), 0.2, seed) == Split::HeldOut;
            (0..500).filter(is_held).collect()
        };
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
        assert_eq!(split("fox", 0.0, 1), Split::Train);
        assert_eq!(split("fox", 1.0, 1), Split::HeldOut);
    }

    #[test]
    fn a_larger_share_holds_out_what_a_smaller_one_did() {
        for n in 0..500 {
            let concept = n.to_string();
            if split(&concept, 0.1, 3) == Split::HeldOut {
                assert_eq!(split(&concept, 0.3, 3), Split::HeldOut, "{concept}");
            }
        }
    }
}
