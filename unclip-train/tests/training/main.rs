//! Runs of every stage, on a few drawn shapes: losses fall, parts of a batch change nothing, a killed run continues to
//! the same bits, bad input is a typed error.

mod bad_input;
mod child;
mod configs;
mod gradients;
mod resume;
mod setup;
mod stages;
