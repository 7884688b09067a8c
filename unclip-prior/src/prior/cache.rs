//! A caption's part of the sequence, computed once for all steps of a run.
//!
//! The prior is causal and meets the caption first (paper §2.2), so that neither the timestep nor the noisy embedding
//! reaches the caption's tokens: their keys and values stay the same from step to step. With them at hand a step computes
//! three tokens of Karlo's 81.

use burn::tensor::{DType, Tensor};
use unclip_core::{device::among_workers, nn::TextConditioning};

use super::Prior;
use crate::transformer::KeysValues;

/// The keys and values of a batch of captions in every block of a [`Prior`](crate::Prior), made by
/// [`Prior::cache_captions`](crate::Prior::cache_captions) for [`Prior::forward_cached`](crate::Prior::forward_cached).
///
/// Of Karlo's prior a row takes 27 MB in 32 bits.
#[derive(Debug)]
pub struct CaptionCache {
    /// One a block, with room for the tokens behind the caption's.
    blocks: Vec<KeysValues>,
    /// Added to the scores of the tokens behind the caption's, `[batch, 1, later, length]`.
    bias: Tensor<4>,
    /// Tokens of the caption, its embedding's included.
    before: usize,
    /// The type of the activations.
    dtype: DType,
}

impl Prior {
    /// The part of [`forward`](Self::forward) that stays the same from step to step: the keys and values of the captions
    /// that `rows` names, one a row of the batch, by their place in `captions`.
    ///
    /// A caption that several rows have is computed once. The steps compute in the captions' type, or in that which
    /// [`compute_in`](Self::compute_in) says. There is no cache where a caption's first token is
    /// padding: a token all of whose predecessors are masked sees its successors as well.
    ///
    /// # Panics
    ///
    /// When the network is none over captions, whose widths are its own, or `rows` is empty or names a caption that is not there.
    pub fn cache_captions(
        &self,
        captions: &TextConditioning,
        rows: &[usize],
    ) -> Option<CaptionCache> {
        if !captions.mask.iter().all(|row| row.first() == Some(&true)) {
            return None;
        }
        let device = captions.states.device();
        Some(among_workers(&device, || self.caption_pass(captions, rows)))
    }

    fn caption_pass(&self, captions: &TextConditioning, rows: &[usize]) -> CaptionCache {
        let device = captions.states.device();
        let dtype = self.compute_type(captions.states.dtype());
        let (embedding, states) = (captions.embedding.clone(), captions.states.clone());
        let sequence = self.caption_tokens(embedding, Some(states), dtype);
        let before = captions.tokens() + 1;
        // The timestep, one noisy embedding, and the added token.
        let (latents, later) = (1, 2 + usize::from(self.prd_embedding.is_some()));
        assert_eq!(self.config.additional_embeddings, 1 + later, "a prior over captions");
        let bias = self.attention_bias(&captions.mask, &device);
        let among = bias.clone().narrow(2, 0, before).narrow(3, 0, before);

        let table = self.positions(before + 1, latents);
        let mut h = self.placed(sequence, table.narrow(1, 0, before));
        let mut blocks = Vec::with_capacity(self.transformer_blocks.len());
        for (index, block) in self.transformer_blocks.iter().enumerate() {
            // Nothing reads what the last block makes of a caption.
            let own = if index + 1 == self.transformer_blocks.len() {
                block.keys_values(h.clone())
            } else {
                let (next, own) = block.forward(h, Some(among.clone()));
                h = next;
                own
            };
            blocks.push(own.with_room(rows, later));
        }
        let behind = bias.narrow(2, before, later);
        let row = |row: &usize| behind.clone().narrow(0, *row, 1);
        CaptionCache { blocks, bias: Tensor::cat(rows.iter().map(row).collect(), 0), before, dtype }
    }

    /// [`forward`](Self::forward) for captions that are cached, under their masks: computes the tokens behind the captions'
    /// alone.
    ///
    /// # Shapes
    ///
    /// - `noisy`: `[batch, latents, embedding_dim]`, one row for each of the cache's; one latent in an unCLIP prior
    /// - `timesteps`: one training timestep a row
    /// - output: as of [`forward`](Self::forward)
    ///
    /// # Panics
    ///
    /// When an axis differs from those shapes, or the cache is of another network.
    pub fn forward_cached(
        &self,
        noisy: Tensor<3>,
        timesteps: &[f32],
        cache: &mut CaptionCache,
    ) -> Tensor<3> {
        let device = noisy.device();
        among_workers(&device, || self.cached_pass(noisy, timesteps, cache))
    }

    fn cached_pass(
        &self,
        noisy: Tensor<3>,
        timesteps: &[f32],
        cache: &mut CaptionCache,
    ) -> Tensor<3> {
        let [batch, latents, _] = noisy.dims();
        let [rows, _, later, _] = cache.bias.dims();
        assert_eq!(batch, rows, "one cached caption a row");
        assert_eq!(
            self.transformer_blocks.len(),
            cache.blocks.len(),
            "one part of a cache a block"
        );
        let given = noisy.dtype();
        let sequence = self.later_tokens(noisy, timesteps, cache.dtype);
        let positions = self.positions(cache.before + 1, latents).narrow(1, cache.before, later);
        let mut h = self.placed(sequence, positions);
        for (block, cache_of_block) in self.transformer_blocks.iter().zip(&mut cache.blocks) {
            h = block.forward_behind(cache_of_block, h, Some(cache.bias.clone()));
        }
        self.prediction(h, latents).cast(given)
    }
}

#[cfg(test)]
mod tests {
    use unclip_core::checkpoint::WeightPrecision;
    use unclip_testkit::{Recorded, assert_close, device, fixture_sets};

    use super::*;
    use crate::{
        PriorStep,
        prior::tests::{mask, open},
    };

    fn captions(recorded: &Recorded) -> TextConditioning {
        TextConditioning {
            embedding: recorded.tensor("in.proj_embedding", &device()),
            states: recorded.tensor("in.encoder_hidden_states", &device()),
            mask: mask(recorded),
        }
    }

    /// Follows diffusers `PriorTransformer.forward`, which computes all tokens in each pass.
    #[test]
    fn recorded_forward_passes_are_reproduced_from_a_cache() {
        let device = device();
        for set in fixture_sets() {
            let recorded = set.tensors("prior");
            let prior = open(&set, WeightPrecision::F32);
            let timesteps: Vec<f32> =
                recorded.ints("in.timestep").into_iter().map(|t| t as f32).collect();
            let noisy: Tensor<3> =
                recorded.tensor::<2>("in.hidden_states", &device).unsqueeze_dim(1);
            let captions = captions(&recorded);
            let rows: Vec<usize> = (0..captions.batch()).collect();
            let mut cache = prior.cache_captions(&captions, &rows).expect("captions begin");
            // What an earlier step has left in the cache is no part of a later one.
            let other: Vec<f32> = timesteps.iter().map(|t| t / 2.0).collect();
            let _earlier = prior.forward_cached(noisy.clone() * 2.0, &other, &mut cache);
            let clean: Tensor<2> =
                prior.forward_cached(noisy, &timesteps, &mut cache).squeeze_dim(1);
            let error = assert_close(&clean, &recorded, "out.predicted_image_embedding", 1e-5);
            println!("{}: prior from a cache {:.1e}", set.name(), error.max_abs);
        }
    }

    #[test]
    fn rows_share_what_is_cached_of_a_caption() {
        let device = device();
        let recorded = fixture_sets().remove(0).tensors("prior");
        let prior = open(&fixture_sets().remove(0), WeightPrecision::F32);
        let captions = captions(&recorded);
        let all: Tensor<3> = recorded.tensor::<2>("in.hidden_states", &device).unsqueeze_dim(1);
        let rows = [1, 0, 1];
        let noisy = Tensor::cat(vec![all.clone(), all.clone().narrow(0, 0, 1) * 0.5], 0);
        let timesteps = [900.0, 10.0, 500.0];
        let mut cache = prior.cache_captions(&captions, &rows).expect("captions begin");
        let together = prior.forward_cached(noisy.clone(), &timesteps, &mut cache);
        for (place, row) in rows.into_iter().enumerate() {
            let alone = captions.select(&[row]);
            let bias = prior.attention_bias(&alone.mask, &device);
            let step = PriorStep::new(
                noisy.clone().narrow(0, place, 1),
                &timesteps[place..=place],
                alone.embedding,
            );
            let whole = prior.forward(step.text_states(alone.states).attention_bias(bias));
            let cached = together.clone().narrow(0, place, 1);
            let worst = (whole - cached).abs().max().into_scalar::<f32>();
            assert!(worst < 1e-6, "row {place} is off by {worst}");
        }
    }

    #[test]
    fn a_caption_that_begins_with_padding_is_not_cached() {
        let prior = open(&fixture_sets().remove(0), WeightPrecision::F32);
        let mut captions = captions(&fixture_sets().remove(0).tensors("prior"));
        assert!(prior.cache_captions(&captions, &[0]).is_some());
        captions.mask[1][0] = false;
        assert!(prior.cache_captions(&captions, &[0]).is_none());
    }
}
