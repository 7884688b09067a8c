//! A caption's part of the sequence, computed once for all steps of a run.
//!
//! The prior is causal and meets the caption first (paper §2.2), so that neither the timestep nor the noisy embedding
//! reaches the caption's tokens: their keys and values stay the same from step to step. With them at hand a step computes
//! three tokens of Karlo's 81.

use burn::tensor::{DType, Tensor};

use crate::transformer::KeysValues;

/// The keys and values of a batch of captions in every block of a [`Prior`](crate::Prior), made by
/// [`Prior::cache_captions`](crate::Prior::cache_captions) for [`Prior::forward_cached`](crate::Prior::forward_cached).
///
/// Of Karlo's prior a row takes 27 MB in 32 bits.
#[derive(Debug)]
pub struct CaptionCache {
    /// One a block, with room for the tokens behind the caption's.
    pub(crate) blocks: Vec<KeysValues>,
    /// Added to the scores of the tokens behind the caption's, `[batch, 1, later, length]`.
    pub(crate) bias: Tensor<4>,
    /// Tokens of the caption, its embedding's included.
    pub(crate) before: usize,
    /// The type of the activations.
    pub(crate) dtype: DType,
}
