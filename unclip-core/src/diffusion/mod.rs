//! The mathematics of Gaussian diffusion: noise schedules, what networks predict, guidance.
//!
//! Schedules are tables on the host. Their entries are rounded to 32 bits where the reference rounds them, because a
//! sampler's coefficients come from differences of numbers close to one, where a rounding shows (see
//! [`NoiseSchedule`]).

mod guidance;
mod prediction;
mod schedule;

pub use guidance::{guide, guide_halves, guide_halves_learned_range};
pub use prediction::{Predicted, Prediction};
pub use schedule::{BetaSchedule, MAX_TRAIN_TIMESTEPS, NoiseSchedule};
