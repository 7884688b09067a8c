//! Clean data: near-duplicates, families, and splits.
//!
//! Repeated pictures are what a diffusion model learns by heart (OpenAI, "DALL·E 2 pre-training mitigations"), and a
//! held-out split means nothing when it shares its things with the training split. So: drop near-duplicates of
//! pictures by [`deduplicate`], on a perceptual hash or on features of a network; keep a few members of each family by
//! [`cap`]; and [`split`] by concept.

mod duplicates;
mod fingerprint;
mod split;

pub use duplicates::{Duplicate, Features, Likeness, deduplicate};
pub use fingerprint::{Fingerprint, Fingerprints};
pub use split::{Split, cap, split};
