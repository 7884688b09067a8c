//! Runs of every stage, on drawn shapes: losses fall, parts of a batch and several devices change nothing, a killed run
//! continues to the same bits, bad input is a typed error.

mod bad_input;
mod child;
mod configs;
mod devices;
mod embeddings;
mod gradients;
mod memory;
mod resume;
mod setup;
mod stages;
