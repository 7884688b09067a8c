//! Helpers for the tests of the workspace: the device under test, recorded runs of the reference, comparisons,
//! configurations.

mod compare;
mod config;
mod device;
mod fixture;

pub use compare::{Comparison, assert_close, compare};
pub use config::{assert_config_kept, changed, changes, recorded_configs};
pub use device::{device, is_default_device};
pub use fixture::{FixtureSet, Recorded, fixture_sets, fixtures_root};
