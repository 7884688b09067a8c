//! How good a model is, in numbers.
//!
//! Functions of embeddings, features and pictures, which whoever calls them computes: a CLIP score asks for the
//! embeddings of an independent CLIP that took no part in training, since a model learns to please the one it is
//! trained with (Nichol et al. 2021, GLIDE, appendix A.2).
//!
//! | function | asks |
//! |---|---|
//! | [`recall`] | does the right answer come first among all? |
//! | [`prior_report`] | does a predicted embedding point where the picture's does, and nowhere else? |
//! | [`NoiseBins`] | at which noise does a decoder lose, on what it learned from and on what it did not? |
//! | [`kid`], [`kid_of_subsets`], [`cmmd`] | are the made pictures distributed as the real ones? |
//! | [`clip_score`], [`r_precision`] | do they show what the captions say? |
//! | [`memorised`] | are they copies? |
//! | [`psnr`] | how close is an enlarged picture to the true one? |

mod caption;
mod decoder;
mod distribution;
mod memory;
mod pixels;
mod prior;
#[cfg(test)]
mod reference;
mod retrieval;
mod rows;

pub use caption::{clip_score, r_precision};
pub use decoder::NoiseBins;
pub use distribution::{MeanAndDeviation, cmmd, kid, kid_of_subsets};
pub use memory::{Memorised, Neighbours, memorised};
pub use pixels::{mean_psnr, psnr};
pub use prior::{PriorReport, prior_report};
pub use retrieval::{Recall, recall};
