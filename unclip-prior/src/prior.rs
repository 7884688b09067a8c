//! The prior's network.
//!
//! Paper §2.2: a causal transformer over the caption's tokens, its embedding, the timestep, the noisy image embedding
//! and a last token whose output is the prediction. Follows diffusers `models/transformers/prior_transformer.py`,
//! `PriorTransformer`.

mod cache;

use burn::{
    module::{Initializer, Module, Param},
    tensor::{DType, Device, FloatDType, Tensor, TensorData, assert_shape},
};
pub use cache::CaptionCache;
use unclip_core::{
    device::among_workers,
    nn::{
        LayerNorm, LayerNormConfig, Linear, LinearConfig, MASKED, Sinusoid, TimestepEmbedding,
        TimestepEmbeddingConfig, sinusoidal,
    },
};

use crate::{
    PriorConfig,
    transformer::{Block, BlockConfig},
};

/// Checkpoint names that differ from the paths of [`Prior`]'s module tree: `(field, checkpoint)`.
pub const PRIOR_NAMES: &[(&str, &str)] =
    &[("to_out", "to_out.0"), ("ff_in", "ff.net.0.proj"), ("ff_out", "ff.net.2")];

/// A network from a noisy image embedding, a timestep and a caption to the clean image embedding.
///
/// Embeddings are normalised here: [`denormalise`](Self::denormalise) takes them to CLIP's space.
#[derive(Module, Debug)]
pub struct Prior {
    time_embedding: TimestepEmbedding,
    proj_in: Linear,
    embedding_proj_norm: Option<LayerNorm>,
    embedding_proj: Linear,
    encoder_hidden_states_proj: Option<Linear>,
    /// `[1, rows, width]`.
    positional_embedding: Param<Tensor<3>>,
    /// The last token, whose output is the prediction, `[1, 1, width]`.
    prd_embedding: Option<Param<Tensor<3>>>,
    transformer_blocks: Vec<Block>,
    norm_in: Option<LayerNorm>,
    norm_out: LayerNorm,
    proj_to_clip_embeddings: Linear,
    /// `[1, clip_width]`.
    clip_mean: Param<Tensor<2>>,
    /// `[1, clip_width]`.
    clip_std: Param<Tensor<2>>,
    #[module(skip)]
    config: PriorConfig,
    /// The type of the activations; the input's where there is none.
    #[module(skip)]
    compute: Option<FloatDType>,
}

/// What a [`Prior`] denoises, and under which conditions.
#[derive(Debug, Clone)]
pub struct PriorStep<'a> {
    noisy: Tensor<3>,
    timesteps: &'a [f32],
    text_embedding: Tensor<2>,
    text_states: Option<Tensor<3>>,
    attention_bias: Option<Tensor<4>>,
}

impl<'a> PriorStep<'a> {
    /// Noisy tokens `[batch, latents, embedding_dim]` with one training timestep each, and the embedding
    /// `[batch, embedding_proj_dim]` that conditions them. An unCLIP prior has one latent.
    pub fn new(noisy: Tensor<3>, timesteps: &'a [f32], text_embedding: Tensor<2>) -> Self {
        Self { noisy, timesteps, text_embedding, text_states: None, attention_bias: None }
    }

    /// Hidden states of the caption, `[batch, tokens, embedding_dim]`, or of the transformer's width where the network
    /// does not project them.
    #[must_use]
    pub fn text_states(mut self, text_states: Tensor<3>) -> Self {
        self.text_states = Some(text_states);
        self
    }

    /// What is added to the scores, as [`Prior::attention_bias`] makes it. Without one, every token sees every
    /// other, later ones included.
    #[must_use]
    pub fn attention_bias(mut self, attention_bias: Tensor<4>) -> Self {
        self.attention_bias = Some(attention_bias);
        self
    }
}

impl PriorConfig {
    /// A network with random weights on `device`, clip statistics 0 and 1 included.
    pub fn init(&self, device: &Device) -> Prior {
        let width = self.width();
        let clip_width = self.clip_width();
        let token = Initializer::Normal { mean: 0.0, std: 0.02 };
        Prior {
            time_embedding: TimestepEmbeddingConfig::new(width, self.time_width(), width)
                .init(self.time_embed_act_fn, device),
            proj_in: LinearConfig::new(self.embedding_dim, width).init(device),
            embedding_proj_norm: self
                .embedding_proj_norm_type
                .map(|_| LayerNormConfig::new(self.text_width()).init(device)),
            embedding_proj: LinearConfig::new(self.text_width(), width).init(device),
            encoder_hidden_states_proj: self
                .encoder_hid_proj_type
                .map(|_| LinearConfig::new(self.embedding_dim, width).init(device)),
            positional_embedding: token.init([1, self.positions(), width], device),
            prd_embedding: self.added_emb_type.map(|_| token.init([1, 1, width], device)),
            transformer_blocks: (0..self.num_layers)
                .map(|_| BlockConfig::new(width, self.num_attention_heads).init(device))
                .collect(),
            norm_in: self.norm_in_type.map(|_| LayerNormConfig::new(width).init(device)),
            norm_out: LayerNormConfig::new(width).init(device),
            proj_to_clip_embeddings: LinearConfig::new(width, clip_width).init(device),
            clip_mean: Initializer::Zeros.init([1, clip_width], device),
            clip_std: Initializer::Ones.init([1, clip_width], device),
            config: self.clone(),
            compute: None,
        }
    }
}

impl Prior {
    /// The sizes it was made with.
    pub fn config(&self) -> &PriorConfig {
        &self.config
    }

    /// Sets the type of the activations between the layers; by default they have the input's.
    ///
    /// In `bf16` products are taken of 16-bit factors. Sums, norms, softmax and what becomes of the timestep stay in 32
    /// bits, and so does the output.
    #[must_use]
    pub fn compute_in(mut self, dtype: FloatDType) -> Self {
        self.compute = Some(dtype);
        self
    }

    /// Predicts clean embeddings, normalised.
    ///
    /// # Shapes
    ///
    /// - `step`: as [`PriorStep`] says
    /// - output: `[batch, 1, clip_width]` where the sequence ends in a token for the prediction, otherwise
    ///   `[batch, latents, clip_width]`
    ///
    /// # Panics
    ///
    /// When an axis differs from those shapes, the network projects hidden states and gets none, or the table of
    /// positions has neither a row for each token nor one for each latent.
    pub fn forward(&self, step: PriorStep<'_>) -> Tensor<3> {
        let device = step.noisy.device();
        among_workers(&device, || self.pass(step))
    }

    fn pass(&self, step: PriorStep<'_>) -> Tensor<3> {
        let PriorStep { noisy, timesteps, text_embedding, text_states, attention_bias } = step;
        let latents = noisy.dims()[1];
        let given = noisy.dtype();
        let dtype = self.compute_type(given);
        let mut sequence = self.caption_tokens(text_embedding, text_states, dtype);
        let before: usize = sequence.iter().map(|part| part.dims()[1]).sum();
        assert_eq!(sequence[0].dims()[0], noisy.dims()[0], "one caption a row");
        sequence.extend(self.later_tokens(noisy, timesteps, dtype));
        let mut h = self.placed(sequence, self.positions(before + 1, latents));
        for block in &self.transformer_blocks {
            h = block.forward(h, attention_bias.clone()).0;
        }
        self.prediction(h, latents).cast(given)
    }

    /// The type of the activations for an input of type `given`.
    fn compute_type(&self, given: DType) -> DType {
        self.compute.map_or(given, DType::from)
    }

    /// The tokens of a caption: its hidden states', where there are any, and its embedding's.
    fn caption_tokens(
        &self,
        embedding: Tensor<2>,
        states: Option<Tensor<3>>,
        dtype: DType,
    ) -> Vec<Tensor<3>> {
        let mut tokens = Vec::with_capacity(5);
        match (&self.encoder_hidden_states_proj, states.map(|states| states.cast(dtype))) {
            (Some(project), Some(states)) => tokens.push(project.forward(states)),
            (None, Some(states)) => tokens.push(states),
            (Some(_), None) => panic!("this prior projects hidden states and needs them"),
            (None, None) => {}
        }
        let embedding = embedding.cast(dtype);
        let embedding = match &self.embedding_proj_norm {
            Some(norm) => norm.forward(embedding),
            None => embedding,
        };
        tokens.push(self.embedding_proj.forward(embedding).unsqueeze_dim(1));
        tokens
    }

    /// The tokens behind a caption's: the timestep's, the noisy embedding's, and the last one.
    fn later_tokens(&self, noisy: Tensor<3>, timesteps: &[f32], dtype: DType) -> Vec<Tensor<3>> {
        let batch = noisy.dims()[0];
        assert_eq!(timesteps.len(), batch, "one timestep a row");
        let width = self.config.width();
        let sinusoid = Sinusoid { width, cosine_first: true, frequency_shift: 0.0 };
        let time = self.time_embedding.forward(sinusoidal(timesteps, sinusoid, &noisy.device()));
        let mut tokens =
            vec![time.cast(dtype).unsqueeze_dim(1), self.proj_in.forward(noisy.cast(dtype))];
        if let Some(token) = &self.prd_embedding {
            tokens.push(token.val().cast(dtype).expand([batch, 1, width]));
        }
        tokens
    }

    /// The tokens in a row, each with its position, as the first block takes them.
    fn placed(&self, tokens: Vec<Tensor<3>>, positions: Tensor<3>) -> Tensor<3> {
        let sequence = Tensor::cat(tokens, 1);
        let dtype = sequence.dtype();
        let h = sequence + positions.cast(dtype);
        match &self.norm_in {
            Some(norm) => norm.forward(h),
            None => h,
        }
    }

    /// What the last block's tokens say of the clean embeddings.
    fn prediction(&self, h: Tensor<3>, latents: usize) -> Tensor<3> {
        let length = h.dims()[1];
        let h = match &self.prd_embedding {
            Some(_) => h.narrow(1, length - 1, 1),
            None => h.narrow(1, length - latents, latents),
        };
        self.proj_to_clip_embeddings.forward(self.norm_out.forward(h))
    }

    /// What is added to every position: the table where it covers the sequence, and where it covers the latents alone,
    /// zeros around it.
    fn positions(&self, before: usize, latents: usize) -> Tensor<3> {
        let table = self.positional_embedding.val();
        let [_, rows, width] = table.dims();
        let after = usize::from(self.prd_embedding.is_some());
        if rows == before + latents + after {
            return table;
        }
        assert_eq!(rows, latents, "the rows of `positional_embedding`");
        let zeros = |rows| Tensor::zeros([1, rows, width], (&table.device(), table.dtype()));
        let mut parts = vec![zeros(before), table.clone()];
        if after > 0 {
            parts.push(zeros(after));
        }
        Tensor::cat(parts, 1)
    }

    /// What a mask adds to the scores: one offset for padding and one for later tokens; both may apply.
    ///
    /// # Shapes
    ///
    /// - `mask`: `batch` rows of `tokens` values, false for padding
    /// - output: `[batch, 1, length, length]` with `length = tokens + additional_embeddings`
    ///
    /// # Panics
    ///
    /// When rows differ in length.
    pub fn attention_bias(&self, mask: &[Vec<bool>], device: &Device) -> Tensor<4> {
        let tokens = mask.first().map_or(0, Vec::len);
        let length = tokens + self.config.additional_embeddings;
        let mut values = Vec::with_capacity(mask.len() * length * length);
        for row in mask {
            assert_eq!(row.len(), tokens, "the rows of a mask have one length");
            for query in 0..length {
                values.extend((0..length).map(|key| {
                    let padding = if row.get(key) == Some(&false) { MASKED } else { 0.0 };
                    let later = if key > query { MASKED } else { 0.0 };
                    padding + later
                }));
            }
        }
        Tensor::from_data(TensorData::new(values, [mask.len(), 1, length, length]), device)
    }

    /// The same network for embeddings of another mean and standard deviation.
    ///
    /// # Shapes
    ///
    /// - `mean`, `deviation`: `[1, clip_width]`
    ///
    /// # Panics
    ///
    /// When an axis differs from the shapes above.
    #[must_use]
    pub fn with_statistics(mut self, mean: Tensor<2>, deviation: Tensor<2>) -> Self {
        let width = self.config.clip_width();
        assert_shape!(mean, [1, width]);
        assert_shape!(deviation, [1, width]);
        let (mean_id, deviation_id) = (self.clip_mean.id, self.clip_std.id);
        self.clip_mean = self.clip_mean.transform_for_load(mean, mean_id);
        self.clip_std = self.clip_std.transform_for_load(deviation, deviation_id);
        self
    }

    /// Takes a normalised embedding to CLIP's space.
    ///
    /// # Shapes
    ///
    /// - `embedding` and output: `[batch, clip_width]`
    pub fn denormalise(&self, embedding: Tensor<2>) -> Tensor<2> {
        let dtype = embedding.dtype();
        embedding * self.clip_std.val().cast(dtype) + self.clip_mean.val().cast(dtype)
    }

    /// The inverse of [`denormalise`](Self::denormalise): takes an embedding of CLIP's space to the prior's.
    ///
    /// # Shapes
    ///
    /// - `embedding` and output: `[batch, clip_width]`
    pub fn normalise(&self, embedding: Tensor<2>) -> Tensor<2> {
        let dtype = embedding.dtype();
        (embedding - self.clip_mean.val().cast(dtype)) / self.clip_std.val().cast(dtype)
    }
}

#[cfg(test)]
mod tests {
    use unclip_core::checkpoint::{WeightPrecision, shapes};
    use unclip_testkit::{
        Comparison, FixtureSet, Recorded, assert_close, device, fixture_sets, fixtures_root,
    };

    use super::*;

    pub(super) fn mask(recorded: &Recorded) -> Vec<Vec<bool>> {
        let tokens = recorded.shape("in.attention_mask")[1];
        let kept: Vec<bool> =
            recorded.ints("in.attention_mask").into_iter().map(|bit| bit != 0).collect();
        kept.chunks(tokens).map(<[bool]>::to_vec).collect()
    }

    pub(super) fn open(set: &FixtureSet, precision: WeightPrecision) -> Prior {
        Prior::from_dir(set.model_dir().join("prior"), None, precision, &device())
            .expect("the recorded prior loads")
    }

    /// Replays the recorded forward passes, with and without a mask.
    fn replay(set: &FixtureSet, precision: WeightPrecision, bound: f64) -> [Comparison; 3] {
        let device = device();
        let recorded = set.tensors("prior");
        let prior = open(set, precision);
        let timesteps: Vec<f32> =
            recorded.ints("in.timestep").into_iter().map(|t| t as f32).collect();
        let noisy = recorded.tensor::<2>("in.hidden_states", &device).unsqueeze_dim(1);
        let step = PriorStep::new(noisy, &timesteps, recorded.tensor("in.proj_embedding", &device))
            .text_states(recorded.tensor("in.encoder_hidden_states", &device));
        let bias = prior.attention_bias(&mask(&recorded), &device);
        let masked: Tensor<2> = prior.forward(step.clone().attention_bias(bias)).squeeze_dim(1);
        let unmasked: Tensor<2> = prior.forward(step).squeeze_dim(1);
        let final_embedding = prior.denormalise(masked.clone());
        [
            assert_close(&masked, &recorded, "out.predicted_image_embedding", bound),
            assert_close(&unmasked, &recorded, "out.no_mask", bound),
            assert_close(&final_embedding, &recorded, "out.post_processed", bound),
        ]
    }

    /// Follows diffusers `PriorTransformer.forward`.
    #[test]
    fn recorded_forward_passes_are_reproduced() {
        for set in fixture_sets() {
            let [masked, unmasked, denormalised] = replay(&set, WeightPrecision::F32, 1e-5);
            println!(
                "{}: prior {:.1e}, without a mask {:.1e}, denormalised {:.1e}; recorded floor {:.1e}",
                set.name(),
                masked.max_abs,
                unmasked.max_abs,
                denormalised.max_abs,
                set.forward_floor("prior", "predicted_image_embedding"),
            );
        }
    }

    /// Weights in half precision are off by up to 2⁻¹¹ each; sums of some dozens of them stay within a hundredth.
    #[test]
    fn weights_in_half_precision_stay_close() {
        for set in fixture_sets() {
            let worst = replay(&set, WeightPrecision::F16, 1e-2);
            println!("{}: prior in f16 {:.1e}", set.name(), worst[0].relative);
        }
    }

    #[test]
    fn karlo_has_its_published_size() {
        let prior = PriorConfig::karlo_v1_alpha().init(&device());
        assert_eq!(prior.num_params(), 1_022_030_080);
        assert_eq!(shapes(&prior, PRIOR_NAMES).len(), 338);
    }

    #[test]
    fn statistics_can_be_replaced() {
        let device = device();
        let prior = open(&fixture_sets().remove(0), WeightPrecision::F32);
        let width = prior.config().clip_width();
        let constant = |value: f32| Tensor::<2>::full([1, width], value, &device);
        let prior = prior.with_statistics(constant(3.0), constant(2.0));
        let there = prior.normalise(constant(7.0)).into_data().try_to_vec::<f32>();
        assert_eq!(there.expect("floats"), vec![2.0; width]);
    }

    #[test]
    fn denormalising_inverts_normalising() {
        let set = fixture_sets().remove(0);
        let prior = open(&set, WeightPrecision::F32);
        let recorded = set.tensors("prior");
        let there = prior.normalise(recorded.tensor("out.post_processed", &device()));
        assert_close(&prior.denormalise(there), &recorded, "out.post_processed", 1e-5);
    }

    /// Follows diffusers `PriorTransformer` where Karlo's configuration does not reach: optional layers and widths, and
    /// Shap-E's form of many latents without captions, whose table of positions covers the latents alone.
    #[test]
    fn configurations_beyond_karlo_are_reproduced() {
        let device = device();
        for name in ["prior_caption", "prior_latents"] {
            let dir = fixtures_root().join("rare").join(name);
            let prior = Prior::from_dir(&dir, None, WeightPrecision::F32, &device)
                .expect("diffusers wrote it");
            let recorded = Recorded::open(dir.join("forward.safetensors"));
            let timesteps: Vec<f32> =
                recorded.ints("in.timestep").into_iter().map(|t| t as f32).collect();
            let captions = recorded.has("in.encoder_hidden_states");
            let noisy = if captions {
                recorded.tensor::<2>("in.hidden_states", &device).unsqueeze_dim(1)
            } else {
                recorded.tensor("in.hidden_states", &device)
            };
            let text_embedding = recorded.tensor("in.proj_embedding", &device);
            let mut step = PriorStep::new(noisy, &timesteps, text_embedding);
            if captions {
                let bias = prior.attention_bias(&mask(&recorded), &device);
                step = step
                    .text_states(recorded.tensor("in.encoder_hidden_states", &device))
                    .attention_bias(bias);
            }
            let clean = prior.forward(step);
            let error = if captions {
                assert_close(&clean.squeeze_dim::<2>(1), &recorded, "out.sample", 1e-5)
            } else {
                assert_close(&clean, &recorded, "out.sample", 1e-5)
            };
            println!("{name}: {:.1e}", error.relative);
        }
    }

    #[test]
    fn a_padded_later_token_is_masked_twice() {
        let config = PriorConfig { num_embeddings: 2, ..PriorConfig::karlo_v1_alpha() };
        let prior =
            PriorConfig { num_layers: 1, additional_embeddings: 1, ..config }.init(&device());
        let bias = prior.attention_bias(&[vec![true, false]], &device());
        assert_eq!(bias.dims(), [1, 1, 3, 3]);
        let values = bias.into_data().try_to_vec::<f32>().expect("32-bit floats");
        let m = MASKED;
        assert_eq!(values, [0.0, 2.0 * m, m, 0.0, m, m, 0.0, m, 0.0]);
    }
}
