//! The text tower.
//!
//! A causal transformer over a caption's tokens (Radford et al. 2021, §2.4); follows transformers `modeling_clip.py`,
//! `CLIPTextModelWithProjection`. Padding tokens are tokens like any other: nothing but the causal mask applies, which
//! keeps them from being seen by what stands before them.

use std::{fs, path::Path};

use burn::{
    module::Module,
    tensor::{Device, FloatDType, Int, Tensor, TensorData},
};
use unclip_core::{
    checkpoint::{
        Folder, LoadOptions, SaveOptions, TRANSFORMERS_STEM, WeightPrecision, Weights, load, save,
        write_json_atomic,
    },
    nn::{Embedding, EmbeddingConfig, LayerNorm, Linear, LinearConfig},
};

use crate::{Result, TextConfig, block::Transformer};

/// What the bias of a masked score is: its exponential is zero whatever the score, and no sum with a score overflows.
const MASKED: f32 = -1e9;

/// CLIP's text encoder, with the projection into the space shared with pictures.
#[derive(Module, Debug)]
pub struct TextEncoder {
    text_model: TextModel,
    text_projection: Linear,
    #[module(skip)]
    config: TextConfig,
}

#[derive(Module, Debug)]
pub(crate) struct TextModel {
    embeddings: TextEmbeddings,
    encoder: Transformer,
    final_layer_norm: LayerNorm,
}

#[derive(Module, Debug)]
pub(crate) struct TextEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

/// What the text tower makes of captions.
#[derive(Debug, Clone)]
pub struct TextOutput {
    /// One embedding a caption, `[batch, embedding_width]`, not normalised.
    pub text_embeds: Tensor<2>,
    /// Every token after the last normalisation, `[batch, tokens, width]`.
    pub last_hidden_state: Tensor<3>,
    /// Where asked for: the tokens before the first layer and after each one, `[batch, tokens, width]`, without the
    /// last normalisation. Empty otherwise.
    pub hidden_states: Vec<Tensor<3>>,
}

impl TextConfig {
    /// An encoder with random weights on `device`.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) would refuse the sizes.
    pub fn init(&self, device: &Device) -> TextEncoder {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let transformer = self.transformer();
        let table = |rows| EmbeddingConfig::new(rows, self.width).init(device);
        TextEncoder {
            text_model: TextModel {
                embeddings: TextEmbeddings {
                    token_embedding: table(self.vocabulary_size),
                    position_embedding: table(self.max_length),
                },
                encoder: transformer.init(device),
                final_layer_norm: transformer.norm(device),
            },
            text_projection: LinearConfig::new(self.width, self.embedding_width)
                .with_bias(false)
                .init(device),
            config: self.clone(),
        }
    }
}

impl TextEncoder {
    /// Opens a folder as transformers saves it: `config.json` and `model.safetensors`, or with a variant
    /// `model.<variant>.safetensors`, whole or in shards.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Core`] when a file is absent or damaged, a configuration value is not implemented, or the weights
    /// do not fit the configuration.
    pub fn from_dir(
        dir: impl Into<Folder>,
        variant: Option<&str>,
        precision: WeightPrecision,
        device: &Device,
    ) -> Result<Self> {
        let dir = dir.into();
        let config = TextConfig::open(&dir)?;
        let weights = Weights::open(dir, TRANSFORMERS_STEM, variant)?;
        Self::load(&config, &weights, precision, &[], device)
    }

    /// Fills an encoder of `config`'s sizes; `others` are the tensors of the file that belong elsewhere.
    pub(crate) fn load(
        config: &TextConfig,
        weights: &Weights,
        precision: WeightPrecision,
        others: &[&str],
        device: &Device,
    ) -> Result<Self> {
        // Old files carry the row numbers of the position table as a tensor.
        let ignore = [&["text_model.embeddings.position_ids"], others].concat();
        let options = LoadOptions { ignore: &ignore, precision, ..LoadOptions::default() };
        Ok(load(config.init(device), weights, &options)?)
    }

    /// Writes `config.json` and `model.safetensors` into `dir`, creating it.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Core`] when a file cannot be written or a weight cannot be read from its device.
    pub fn save_dir(&self, dir: impl AsRef<Path>, options: &SaveOptions<'_>) -> Result<()> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(unclip_core::Error::io("create", dir))?;
        save(self, dir, TRANSFORMERS_STEM, options)?;
        Ok(write_json_atomic(dir.join("config.json"), &self.config.to_json())?)
    }

    /// Sets the type of the activations between the layers; by default 32 bits. See [`Precision`](unclip_core::Precision).
    #[must_use]
    pub fn compute_in(mut self, dtype: FloatDType) -> Self {
        self.text_model.encoder.compute = Some(dtype);
        self
    }

    /// The device that the weights are on.
    pub fn device(&self) -> Device {
        self.text_projection.weight.lazy_device()
    }

    /// The sizes.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Encodes captions.
    ///
    /// # Shapes
    ///
    /// - `captions`: rows of one length, at most [`TextConfig::max_length`], of ids below
    ///   [`TextConfig::vocabulary_size`]: [`Encoding`](crate::Encoding)s, or plain ids
    ///
    /// # Panics
    ///
    /// When there are no captions, or one differs from that.
    pub fn forward<C: AsRef<[u32]>>(&self, captions: &[C]) -> TextOutput {
        self.run(captions, None)
    }

    /// As [`forward`](Self::forward), and keeps the tokens between the layers.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_states<C: AsRef<[u32]>>(&self, captions: &[C]) -> TextOutput {
        let mut states = Vec::new();
        let output = self.run(captions, Some(&mut states));
        TextOutput { hidden_states: states, ..output }
    }

    fn run<C: AsRef<[u32]>>(
        &self,
        captions: &[C],
        states: Option<&mut Vec<Tensor<3>>>,
    ) -> TextOutput {
        let Self { text_model: model, text_projection, config } = self;
        let device = self.device();
        let batch = captions.len();
        let tokens = captions.first().map_or(0, |row| row.as_ref().len());
        assert!(
            (1..=config.max_length).contains(&tokens),
            "{batch} captions of {tokens} tokens, expected 1 or more of 1 to {}",
            config.max_length
        );
        let mut ids = Vec::with_capacity(batch * tokens);
        let mut ends = Vec::with_capacity(batch);
        for row in captions {
            let row = row.as_ref();
            assert_eq!(row.len(), tokens, "captions of different lengths");
            ends.push(as_int(ids.len() + config.pooling.position(row)));
            ids.extend(row.iter().map(|&id| i64::from(id)));
        }
        let largest = ids.iter().max().copied().unwrap_or(0);
        assert!(
            usize::try_from(largest).is_ok_and(|id| id < config.vocabulary_size),
            "id {largest} in a vocabulary of {}",
            config.vocabulary_size
        );

        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, tokens]), &device);
        let positions = model.embeddings.position_embedding.weight.val();
        let positions = positions.narrow(0, 0, tokens).cast(FloatDType::F32).unsqueeze::<3>();
        let x = model.embeddings.token_embedding.forward(ids) + positions;
        let x = model.encoder.forward(x, Some(&causal_bias(tokens, &device)), states);
        let last_hidden_state = model.final_layer_norm.forward(x);

        let ends = Tensor::<1, Int>::from_data(TensorData::new(ends, [batch]), &device);
        let width = config.width;
        let pooled = last_hidden_state.clone().reshape([batch * tokens, width]).select(0, ends);
        let text_embeds = text_projection.forward(pooled);
        TextOutput { text_embeds, last_hidden_state, hidden_states: Vec::new() }
    }
}

/// Lets each token see itself and what stands before it: `[1, 1, tokens, tokens]`.
fn causal_bias(tokens: usize, device: &Device) -> Tensor<4> {
    let row = |i| (0..tokens).map(move |j| if j > i { MASKED } else { 0.0 });
    let values: Vec<f32> = (0..tokens).flat_map(row).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, tokens, tokens]), device)
}

fn as_int(index: usize) -> i64 {
    i64::try_from(index).expect("an index into a tensor is far below 2^63")
}

#[cfg(test)]
mod tests {
    use unclip_testkit::{Recorded, assert_close, device, fixture_sets};

    use super::*;

    fn rows(recorded: &Recorded, name: &str) -> Vec<Vec<u32>> {
        let ids = recorded.ints(name);
        let tokens = recorded.shape(name)[1];
        ids.chunks(tokens)
            .map(|row| row.iter().map(|&id| u32::try_from(id).expect("an id")).collect())
            .collect()
    }

    fn open(dir: &Path) -> TextEncoder {
        let stored = WeightPrecision::Stored;
        TextEncoder::from_dir(dir, None, stored, &device()).expect("the recorded folder")
    }

    #[test]
    fn every_state_is_the_reference_one() {
        for set in fixture_sets() {
            let encoder = open(&set.model_dir().join("text_encoder"));
            let recorded = set.tensors("text_encoder");
            let output = encoder.forward_with_states(&rows(&recorded, "in.input_ids"));
            assert_close(&output.text_embeds, &recorded, "out.text_embeds", 1e-5);
            assert_close(&output.last_hidden_state, &recorded, "out.last_hidden_state", 1e-5);
            assert_eq!(output.hidden_states.len(), encoder.config().layers + 1);
            for (i, state) in output.hidden_states.iter().enumerate() {
                assert_close(state, &recorded, &format!("out.hidden_states.{i}"), 1e-5);
            }
        }
    }

    #[test]
    fn each_row_of_a_batch_is_its_own_caption() {
        let set = &fixture_sets()[0];
        let encoder = open(&set.model_dir().join("text_encoder"));
        let recorded = set.tensors("text_encoder");
        let rows = rows(&recorded, "in.input_ids");
        let batch = encoder.forward(&rows).text_embeds;
        for (i, row) in rows.iter().enumerate() {
            let alone = encoder.forward(std::slice::from_ref(row)).text_embeds;
            let difference =
                (batch.clone().narrow(0, i, 1) - alone).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "row {i} differs by {difference}");
        }
    }

    #[test]
    fn padding_behind_the_end_changes_no_embedding() {
        let set = &fixture_sets()[0];
        let encoder = open(&set.model_dir().join("text_encoder"));
        let end = u32::try_from(encoder.config().vocabulary_size - 1).expect("an id");
        let short = vec![end - 1, 320, 79, end];
        let mut padded = short.clone();
        padded.resize(encoder.config().max_length, 0);
        let a = encoder.forward(&[short]).text_embeds;
        let b = encoder.forward(&[padded]).text_embeds;
        let difference = (a - b).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn a_saved_folder_reads_back_the_same() {
        for set in fixture_sets() {
            let encoder = open(&set.model_dir().join("text_encoder"));
            let dir = tempfile::tempdir().expect("a folder");
            encoder.save_dir(dir.path(), &SaveOptions::default()).expect("written");
            let again = open(dir.path());
            assert_eq!(again.config(), encoder.config());
            let captions = [[1, 2, 3]];
            let [a, b] = [&encoder, &again].map(|encoder| {
                encoder.forward(&captions).last_hidden_state.try_into_vec_as::<f32>().expect("read")
            });
            assert_eq!(a, b);
        }
    }

    #[test]
    fn published_towers_have_their_published_sizes() {
        let device = device();
        for (config, parameters) in [
            (TextConfig::vit_b_32(), 63_428_096),
            (TextConfig::vit_l_14(), 123_650_304),
            (TextConfig::vit_h_14(), 354_032_640),
            (TextConfig::vit_big_g_14(), 694_659_840),
        ] {
            // Parameters are made when they are first used: these never are.
            assert_eq!(config.init(&device).num_params(), parameters, "{config:?}");
        }
    }

    #[test]
    #[should_panic(expected = "id 4000 in a vocabulary of")]
    fn an_unknown_id_never_reaches_the_device() {
        let set = &fixture_sets()[0];
        open(&set.model_dir().join("text_encoder")).forward(&[[1, 4000]]);
    }
}
