//! What the networks are trained to make small.

pub mod contrastive;
pub mod diffusion;
mod vlb;
