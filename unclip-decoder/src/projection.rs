//! How an image embedding and a caption enter the decoder.
//!
//! Paper §2.1: CLIP embeddings are projected and added to the timestep embedding, and projected into four extra tokens
//! of context in front of the caption's. Follows diffusers `pipelines/deprecated/unclip/text_proj.py`,
//! `UnCLIPTextProjModel`.

use burn::{
    module::{Initializer, Module, Param},
    tensor::{Device, Tensor, assert_shape},
};
use unclip_core::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};

use crate::TextProjectionConfig;

/// The projections of an image embedding and a caption.
#[derive(Module, Debug)]
pub struct TextProjection {
    /// Takes the image embedding's place in the unconditional half, `[clip_width]`.
    learned_classifier_free_guidance_embeddings: Param<Tensor<1>>,
    embedding_proj: Linear,
    clip_image_embeddings_project_to_time_embeddings: Linear,
    clip_extra_context_tokens_proj: Linear,
    encoder_hidden_states_proj: Linear,
    text_encoder_hidden_states_norm: LayerNorm,
    #[module(skip)]
    config: TextProjectionConfig,
}

/// What the decoder's network is conditioned on.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// The extra tokens and then the caption's, `[batch, extra + tokens, context_width]`.
    pub context: Tensor<3>,
    /// Added to the time embedding, `[batch, time_width]`.
    pub time: Tensor<2>,
}

impl TextProjectionConfig {
    /// The projections with random weights on `device`.
    pub fn init(&self, device: &Device) -> TextProjection {
        let Self {
            clip_extra_context_tokens: extra,
            clip_embeddings_dim: clip,
            time_embed_dim: time,
            cross_attention_dim: context,
        } = *self;
        let linear = |channels_out| LinearConfig::new(clip, channels_out).init(device);
        TextProjection {
            learned_classifier_free_guidance_embeddings: Initializer::Zeros.init([clip], device),
            embedding_proj: linear(time),
            clip_image_embeddings_project_to_time_embeddings: linear(time),
            clip_extra_context_tokens_proj: linear(extra * context),
            encoder_hidden_states_proj: linear(context),
            text_encoder_hidden_states_norm: LayerNormConfig::new(context).init(device),
            config: self.clone(),
        }
    }
}

impl TextProjection {
    /// The sizes it was made with.
    pub fn config(&self) -> &TextProjectionConfig {
        &self.config
    }

    /// The image embedding of the unconditional half, `batch` times.
    ///
    /// # Shapes
    ///
    /// - output: `[batch, clip_width]`, in 32 bits
    pub fn null_embedding(&self, batch: usize) -> Tensor<2> {
        let null = self.learned_classifier_free_guidance_embeddings.val();
        null.cast(burn::tensor::FloatDType::F32)
            .unsqueeze::<2>()
            .expand([batch, self.config.clip_embeddings_dim])
    }

    /// Projects image embeddings and captions. For guidance, the image embeddings are
    /// [`null_embedding`](Self::null_embedding)s followed by the real ones, and the captions doubled likewise.
    ///
    /// # Shapes
    ///
    /// - `image_embedding`: `[batch, clip_width]`, not normalised
    /// - `text_embedding`: `[batch, clip_width]`
    /// - `text_states`: `[batch, tokens, clip_width]`
    ///
    /// # Panics
    ///
    /// When an axis differs from the shapes above.
    pub fn forward(
        &self,
        image_embedding: Tensor<2>,
        text_embedding: Tensor<2>,
        text_states: Tensor<3>,
    ) -> Conditions {
        let [batch, _] = image_embedding.dims();
        assert_shape!(text_embedding, [batch, _]);
        assert_shape!(text_states, [batch, _, _]);
        let TextProjectionConfig {
            clip_extra_context_tokens: extra,
            cross_attention_dim: context,
            ..
        } = self.config;
        let time =
            self.clip_image_embeddings_project_to_time_embeddings.forward(image_embedding.clone())
                + self.embedding_proj.forward(text_embedding);
        // The tokens of one feature are neighbours in the projection's output.
        let tokens = self
            .clip_extra_context_tokens_proj
            .forward(image_embedding)
            .reshape([batch, context, extra])
            .swap_dims(1, 2);
        let states = self
            .text_encoder_hidden_states_norm
            .forward(self.encoder_hidden_states_proj.forward(text_states));
        Conditions { context: Tensor::cat(vec![tokens, states], 1), time }
    }
}

#[cfg(test)]
mod tests {
    use unclip_core::checkpoint::{WeightPrecision, shapes};
    use unclip_testkit::{FixtureSet, assert_close, device, fixture_sets};

    use super::*;

    /// Replays the recorded projections, with and without guidance, and gives the largest relative error.
    fn replay(set: &FixtureSet, precision: WeightPrecision, bound: f64) -> f64 {
        let device = device();
        let recorded = set.tensors("text_proj");
        let dir = set.model_dir().join("text_proj");
        let projection =
            TextProjection::from_dir(dir, None, precision, &device).expect("the projection loads");
        let image: Tensor<2> = recorded.tensor("in.image_embeddings", &device);
        let text: Tensor<2> = recorded.tensor("in.prompt_embeds", &device);
        let states: Tensor<3> = recorded.tensor("in.text_encoder_hidden_states", &device);
        let rows = image.dims()[0];
        let doubled = Tensor::cat(vec![projection.null_embedding(rows), image.clone()], 0);
        let guided = projection.forward(doubled, text.clone(), states.clone());
        // The conditional rows are the second half.
        let plain =
            projection.forward(image, text.narrow(0, rows, rows), states.narrow(0, rows, rows));
        [
            assert_close(&guided.context, &recorded, "out.guided_context", bound),
            assert_close(&guided.time, &recorded, "out.guided_time", bound),
            assert_close(&plain.context, &recorded, "out.plain_context", bound),
            assert_close(&plain.time, &recorded, "out.plain_time", bound),
        ]
        .iter()
        .fold(0.0, |worst, comparison| comparison.relative.max(worst))
    }

    /// Follows diffusers `UnCLIPTextProjModel.forward`.
    #[test]
    fn recorded_projections_are_reproduced() {
        for set in fixture_sets() {
            let worst = replay(&set, WeightPrecision::F32, 1e-5);
            println!("{}: text projection {worst:.1e}", set.name());
        }
    }

    #[test]
    fn weights_in_half_precision_stay_close() {
        for set in fixture_sets() {
            let worst = replay(&set, WeightPrecision::F16, 1e-2);
            println!("{}: text projection in f16 {worst:.1e}", set.name());
        }
    }

    #[test]
    fn karlo_has_its_published_size() {
        let projection = TextProjectionConfig::karlo_v1_alpha().init(&device());
        assert_eq!(projection.num_params(), 7_878_400);
        assert_eq!(shapes(&projection, &[]).len(), 11);
    }
}
