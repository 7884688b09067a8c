//! Helpers for the tests of the workspace: the device under test, recorded runs of the reference, comparisons.

mod compare;
mod device;
mod fixture;

pub use compare::{Comparison, assert_close, compare};
pub use device::{device, is_default_device};
pub use fixture::{FixtureSet, Recorded, fixture_sets, fixtures_root};
