//! The vision tower.
//!
//! A vision transformer over patches and one class token (Radford et al. 2021, §2.4; Dosovitskiy et al. 2021); follows
//! transformers `modeling_clip.py`, `CLIPVisionModelWithProjection`.

use std::{fs, path::Path};

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{Device, FloatDType, Tensor, assert_shape},
};
use unclip_core::{
    checkpoint::{
        Folder, LoadOptions, SaveOptions, TRANSFORMERS_STEM, WeightPrecision, Weights, load, save,
        write_json_atomic,
    },
    nn::{Conv2d, Conv2dConfig, Embedding, EmbeddingConfig, LayerNorm, Linear, LinearConfig},
};

use crate::{Result, VisionConfig, block::Transformer};

/// CLIP's vision encoder, with the projection into the space shared with captions.
#[derive(Module, Debug)]
pub struct VisionEncoder {
    vision_model: VisionModel,
    visual_projection: Linear,
    #[module(skip)]
    config: VisionConfig,
}

#[derive(Module, Debug)]
pub(crate) struct VisionModel {
    embeddings: VisionEmbeddings,
    /// Spelt as in the checkpoints.
    pre_layrnorm: LayerNorm,
    encoder: Transformer,
    post_layernorm: LayerNorm,
}

#[derive(Module, Debug)]
pub(crate) struct VisionEmbeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
}

/// What the vision tower makes of pictures.
#[derive(Debug, Clone)]
pub struct VisionOutput {
    /// One embedding a picture, `[batch, embedding_width]`, not normalised.
    pub image_embeds: Tensor<2>,
    /// The class token after its normalisation and before the projection, `[batch, width]`.
    pub pooled: Tensor<2>,
    /// Every token after the last layer, `[batch, 1 + patches, width]`, not normalised.
    pub last_hidden_state: Tensor<3>,
    /// Where asked for: the tokens before the first layer and after each one, `[batch, 1 + patches, width]`. Empty
    /// otherwise.
    pub hidden_states: Vec<Tensor<3>>,
}

impl VisionConfig {
    /// An encoder with random weights on `device`.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) would refuse the sizes.
    pub fn init(&self, device: &Device) -> VisionEncoder {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let transformer = self.transformer();
        let class = Initializer::Normal { mean: 0.0, std: 1.0 };
        VisionEncoder {
            vision_model: VisionModel {
                embeddings: VisionEmbeddings {
                    class_embedding: class.init([self.width], device),
                    patch_embedding: Conv2dConfig::new(self.channels, self.width, self.patch_size)
                        .with_stride(self.patch_size)
                        .with_bias(false)
                        .init(device),
                    position_embedding: EmbeddingConfig::new(self.patches() + 1, self.width)
                        .init(device),
                },
                pre_layrnorm: transformer.norm(device),
                encoder: transformer.init(device),
                post_layernorm: transformer.norm(device),
            },
            visual_projection: LinearConfig::new(self.width, self.embedding_width)
                .with_bias(false)
                .init(device),
            config: self.clone(),
        }
    }
}

impl VisionEncoder {
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
        let config = VisionConfig::open(&dir)?;
        let weights = Weights::open(dir, TRANSFORMERS_STEM, variant)?;
        Self::load(&config, &weights, precision, &[], device)
    }

    /// Fills an encoder of `config`'s sizes; `others` are the tensors of the file that belong elsewhere.
    pub(crate) fn load(
        config: &VisionConfig,
        weights: &Weights,
        precision: WeightPrecision,
        others: &[&str],
        device: &Device,
    ) -> Result<Self> {
        // Old files carry the row numbers of the position table as a tensor.
        let ignore = [&["vision_model.embeddings.position_ids"], others].concat();
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
        self.vision_model.encoder.compute = Some(dtype);
        self
    }

    /// The device that the weights are on.
    pub fn device(&self) -> Device {
        self.visual_projection.weight.lazy_device()
    }

    /// The sizes.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Encodes pictures.
    ///
    /// # Shapes
    ///
    /// - `pixels`: `[batch, channels, image_size, image_size]`, as a [`Preprocessor`](crate::Preprocessor) makes them
    ///
    /// # Panics
    ///
    /// When `pixels` has another shape.
    pub fn forward(&self, pixels: Tensor<4>) -> VisionOutput {
        self.run(pixels, None)
    }

    /// As [`forward`](Self::forward), and keeps the tokens between the layers.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_states(&self, pixels: Tensor<4>) -> VisionOutput {
        let mut states = Vec::new();
        let output = self.run(pixels, Some(&mut states));
        VisionOutput { hidden_states: states, ..output }
    }

    fn run(&self, pixels: Tensor<4>, states: Option<&mut Vec<Tensor<3>>>) -> VisionOutput {
        let Self { vision_model: model, visual_projection, config } = self;
        let [batch, _, _, _] = pixels.dims();
        let (channels, side, width) = (config.channels, config.image_size, config.width);
        assert_shape!(pixels, [batch, channels, side, side]);

        let embeddings = &model.embeddings;
        let patches = embeddings.patch_embedding.forward(pixels);
        let patches = patches.reshape([batch, width, config.patches()]).swap_dims(1, 2);
        let class = embeddings.class_embedding.val().cast(FloatDType::F32);
        let class = class.reshape([1, 1, width]).expand([batch, 1, width]);
        let positions = embeddings.position_embedding.weight.val().cast(FloatDType::F32);
        let x = Tensor::cat(vec![class, patches], 1) + positions.unsqueeze::<3>();

        let x = model.pre_layrnorm.forward(x);
        let last_hidden_state = model.encoder.forward(x, None, states);
        let class = last_hidden_state.clone().narrow(1, 0, 1).reshape([batch, width]);
        let pooled = model.post_layernorm.forward(class);
        let image_embeds = visual_projection.forward(pooled.clone());
        VisionOutput { image_embeds, pooled, last_hidden_state, hidden_states: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use unclip_testkit::{assert_close, device, fixture_sets};

    use super::*;

    #[test]
    fn every_state_is_the_reference_one() {
        let device = device();
        for set in fixture_sets() {
            let dir = set.model_dir().join("image_encoder");
            let encoder = VisionEncoder::from_dir(dir, None, WeightPrecision::Stored, &device)
                .expect("the recorded folder");
            let recorded = set.tensors("image_encoder");
            let pixels = recorded.tensor("in.pixel_values", &device);
            let output = encoder.forward_with_states(pixels);
            assert_close(&output.image_embeds, &recorded, "out.image_embeds", 1e-5);
            assert_close(&output.pooled, &recorded, "out.pooled", 1e-5);
            assert_close(&output.last_hidden_state, &recorded, "out.last_hidden_state", 1e-5);
            assert_eq!(output.hidden_states.len(), encoder.config().layers + 1);
            for (i, state) in output.hidden_states.iter().enumerate() {
                assert_close(state, &recorded, &format!("out.hidden_states.{i}"), 1e-5);
            }
        }
    }

    #[test]
    fn a_saved_folder_reads_back_the_same() {
        let device = device();
        for set in fixture_sets() {
            let open = |dir: &Path| {
                VisionEncoder::from_dir(dir, None, WeightPrecision::Stored, &device)
                    .expect("a folder")
            };
            let encoder = open(&set.model_dir().join("image_encoder"));
            let dir = tempfile::tempdir().expect("a folder");
            encoder.save_dir(dir.path(), &SaveOptions::default()).expect("written");
            let again = open(dir.path());
            assert_eq!(again.config(), encoder.config());
            let pixels = set.tensors("image_encoder").tensor("in.pixel_values", &device);
            let [a, b] = [encoder, again].map(|encoder| {
                encoder.forward(pixels.clone()).image_embeds.try_into_vec_as::<f32>().expect("read")
            });
            assert_eq!(a, b);
        }
    }

    #[test]
    fn published_towers_have_their_published_sizes() {
        let device = device();
        for (config, parameters) in [
            (VisionConfig::vit_b_32(), 87_849_216),
            (VisionConfig::vit_b_16(), 86_192_640),
            (VisionConfig::vit_l_14(), 303_966_208),
            (VisionConfig::vit_l_14_336(), 304_293_888),
            (VisionConfig::vit_h_14(), 632_076_800),
            (VisionConfig::vit_big_g_14(), 1_844_907_264),
        ] {
            // Parameters are made when they are first used: these never are.
            assert_eq!(config.init(&device).num_params(), parameters, "{config:?}");
        }
    }

    #[test]
    fn an_edge_that_no_patch_covers_is_left_out() {
        let config = VisionConfig {
            image_size: 11,
            patch_size: 4,
            channels: 3,
            width: 8,
            mlp_width: 16,
            layers: 1,
            heads: 2,
            embedding_width: 5,
            activation: unclip_core::nn::Activation::Gelu,
            epsilon: 1e-5,
        };
        let device = device();
        let output = config.init(&device).forward(Tensor::zeros([2, 3, 11, 11], &device));
        assert_eq!(output.last_hidden_state.dims(), [2, 5, 8]);
        assert_eq!(output.image_embeds.dims(), [2, 5]);
    }
}
