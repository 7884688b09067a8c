//! Clean data: near-duplicates, families, and splits.
//!
//! Repeated pictures are what a diffusion model learns by heart (OpenAI, "DALL·E 2 pre-training mitigations"), and a
//! held-out split means nothing when it shares its things with the training split. So: drop near-duplicates of
//! pictures by [`deduplicate`], on a perceptual hash or on features of a network; keep a few members of each family by
//! [`cap`]; and [`split`] by concept. A [`Filter`] drops what the checks of `unclip-safety` refuse, and [`by_stratum`] and
//! [`by_features`] weigh what is left so that it is distributed as before.

mod duplicates;
mod filter;
mod fingerprint;
mod reweight;
mod split;

pub use duplicates::{Duplicate, Features, Likeness, deduplicate};
pub use filter::{Cause, Filter, FilterSummary, Item, Stratum};
pub use fingerprint::{Fingerprint, Fingerprints};
pub use reweight::{by_features, by_stratum};
pub use split::{Split, cap, split};
