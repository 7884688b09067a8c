//! What a network makes of a context, computed once for all steps of a run.
//!
//! The attention's keys and values of a context are linear layers of its tokens alone; the decoder's context, a caption
//! and an image embedding, stays the same from step to step.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use super::UNet;
use crate::{
    device::among_workers,
    nn::{AddedKvAttention, ContextKeysValues},
};

/// A context's keys and values in every attention of a [`UNet`], made by [`UNet::cache_context`].
///
/// Copies share their memory: for Karlo's decoder 7.5 MB a row of the batch in 16 bits.
#[derive(Debug, Clone)]
pub struct ContextCache(Arc<Places>);

/// One for each attention, by level or step of the way up and place there.
#[derive(Debug)]
struct Places {
    down: Vec<Vec<ContextKeysValues>>,
    middle: Vec<ContextKeysValues>,
    up: Vec<Vec<ContextKeysValues>>,
}

impl ContextCache {
    pub(super) fn down(&self, level: usize, i: usize) -> Option<&ContextKeysValues> {
        self.0.down[level].get(i)
    }

    pub(super) fn middle(&self) -> Option<&ContextKeysValues> {
        self.0.middle.first()
    }

    pub(super) fn up(&self, step: usize, i: usize) -> Option<&ContextKeysValues> {
        self.0.up[step].get(i)
    }
}

impl UNet {
    /// The part of [`forward`](Self::forward) that depends on the context alone, for
    /// [`UNetInput::context_cache`](super::UNetInput::context_cache).
    ///
    /// # Shapes
    ///
    /// - `context`: `[batch, tokens, context_width]`, of the type of the pictures to come
    ///
    /// # Panics
    ///
    /// When the context is not as wide as that.
    pub fn cache_context(&self, context: Tensor<3>) -> ContextCache {
        let dtype = self.compute.map_or(context.dtype(), DType::from);
        let context = context.cast(dtype);
        let device = context.device();
        among_workers(&device, || {
            let all = |attentions: &[AddedKvAttention]| {
                attentions.iter().map(|each| each.context_keys_values(context.clone())).collect()
            };
            ContextCache(Arc::new(Places {
                down: self.down_blocks.iter().map(|block| all(&block.attentions)).collect(),
                middle: all(&self.mid_block.attentions),
                up: self.up_blocks.iter().map(|block| all(&block.attentions)).collect(),
            }))
        })
    }
}
