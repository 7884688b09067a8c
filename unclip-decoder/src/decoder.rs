//! The decoder: its two parts, and their folders in a model directory.

use std::path::Path;

use burn::{
    module::Module,
    tensor::{Device, FloatDType},
};
use serde_json::Value;
use unclip_core::{
    checkpoint::{
        DIFFUSERS_STEM, Folder, LoadOptions, SaveOptions, WeightPrecision, Weights, load, save,
        write_json_atomic,
    },
    nn::{UNET_NAMES, UNet},
};

use crate::{DecoderConfig, Error, Result, TextProjection, TextProjectionConfig};

/// A network from a noisy picture, an image embedding and a caption to the noise, with the projections through which
/// the latter two enter.
#[derive(Module, Debug)]
pub struct Decoder {
    projection: TextProjection,
    unet: UNet,
    #[module(skip)]
    config: DecoderConfig,
}

impl DecoderConfig {
    /// The network with random weights on `device`.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds fault with the configuration.
    pub fn init(&self, device: &Device) -> UNet {
        self.unet().init(device)
    }

    /// Loads the network in `dir`, whose `config.json` this is.
    ///
    /// # Errors
    ///
    /// As [`Decoder::from_dirs`].
    pub fn load(
        &self,
        dir: impl Into<Folder>,
        variant: Option<&str>,
        precision: WeightPrecision,
        device: &Device,
    ) -> Result<UNet> {
        self.validate()?;
        let weights = Weights::open(dir, DIFFUSERS_STEM, variant)?;
        let options = LoadOptions { names: UNET_NAMES, precision, ..LoadOptions::default() };
        Ok(load(self.init(device), &weights, &options)?)
    }
}

impl TextProjection {
    /// Opens the projections in `dir`: `config.json` and weights.
    ///
    /// # Errors
    ///
    /// As [`Decoder::from_dirs`].
    pub fn from_dir(
        dir: impl Into<Folder>,
        variant: Option<&str>,
        precision: WeightPrecision,
        device: &Device,
    ) -> Result<Self> {
        let dir = dir.into();
        let config = TextProjectionConfig::open(&dir)?;
        let weights = Weights::open(dir, DIFFUSERS_STEM, variant)?;
        let options = LoadOptions { precision, ..LoadOptions::default() };
        Ok(load(config.init(device), &weights, &options)?)
    }
}

impl Decoder {
    /// The decoder of these parts; `config` is that of `unet`.
    ///
    /// # Errors
    ///
    /// [`Error::PartsDiffer`] when the projections give other widths than the network takes.
    pub fn from_parts(
        projection: TextProjection,
        unet: UNet,
        config: DecoderConfig,
    ) -> Result<Self> {
        for (key, found, expected) in [
            ("time_embed_dim", projection.config().time_embed_dim, config.time_width()),
            (
                "cross_attention_dim",
                projection.config().cross_attention_dim,
                config.context_width(),
            ),
        ] {
            if found != expected {
                return Err(Error::PartsDiffer { key, found, expected });
            }
        }
        Ok(Self { projection, unet, config })
    }

    /// Sets the type that the network computes in; see [`UNet::compute_in`]. The projections, which run once for all
    /// steps, stay in that of their input.
    #[must_use]
    pub fn compute_in(mut self, dtype: FloatDType) -> Self {
        self.unet = self.unet.compute_in(dtype);
        self
    }

    /// Opens the decoder: `config.json` and `diffusion_pytorch_model[.variant].safetensors`, or its shards, in each of
    /// the folders `projection_dir` (`text_proj`) and `network_dir` (`decoder`).
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error`]: `Io`, `Json` and `Config` for a configuration, `MissingPart` and `Safetensors` for a
    /// weights file, `Weights` when the two do not fit, `InvalidInput` when the device lacks the precision; and
    /// [`Error::PartsDiffer`].
    pub fn from_dirs(
        projection_dir: impl Into<Folder>,
        network_dir: impl Into<Folder>,
        variant: Option<&str>,
        precision: WeightPrecision,
        device: &Device,
    ) -> Result<Self> {
        let projection = TextProjection::from_dir(projection_dir, variant, precision, device)?;
        let network_dir = network_dir.into();
        let config = DecoderConfig::open(&network_dir)?;
        let unet = config.load(network_dir, variant, precision, device)?;
        Self::from_parts(projection, unet, config)
    }

    /// Writes both folders as [`from_dirs`](Self::from_dirs) and diffusers open them. The names in `options` are
    /// replaced by the networks' own.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`] when a file cannot be written, and what [`save`] reports.
    pub fn save_dirs(
        &self,
        projection_dir: impl AsRef<Path>,
        network_dir: impl AsRef<Path>,
        options: &SaveOptions<'_>,
    ) -> Result<()> {
        let options = SaveOptions { names: UNET_NAMES, ..*options };
        let projection_config = self.projection.config().to_json();
        save_part(&self.projection, projection_dir.as_ref(), &projection_config, &options)?;
        save_part(&self.unet, network_dir.as_ref(), &self.config.to_json(), &options)
    }

    /// The projections.
    pub fn projection(&self) -> &TextProjection {
        &self.projection
    }

    /// The network.
    pub fn unet(&self) -> &UNet {
        &self.unet
    }

    /// The network's sizes.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }
}

fn save_part<M: Module>(
    module: &M,
    dir: &Path,
    config: &Value,
    options: &SaveOptions<'_>,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(unclip_core::Error::io("create", dir))?;
    save(module, dir, DIFFUSERS_STEM, options)?;
    write_json_atomic(dir.join("config.json"), config)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;
    use unclip_core::{
        checkpoint::shapes,
        nn::{UNet, UNetInput, mask_bias},
    };
    use unclip_testkit::{
        Comparison, FixtureSet, Recorded, assert_close, device, fixture_sets, fixtures_root,
    };

    use super::*;

    fn open(set: &FixtureSet, precision: WeightPrecision) -> Decoder {
        let dir = set.model_dir();
        Decoder::from_dirs(dir.join("text_proj"), dir.join("decoder"), None, precision, &device())
            .expect("the recorded decoder loads")
    }

    /// Replays the recorded forward pass of the network, from its context and from what is cached of it.
    fn replay(set: &FixtureSet, decoder: &Decoder, bound: f64) -> Comparison {
        let device = device();
        let recorded = set.tensors("decoder");
        let timesteps: Vec<f32> =
            recorded.ints("in.timestep").into_iter().map(|t| t as f32).collect();
        let tokens = recorded.shape("in.attention_mask")[1];
        let kept: Vec<bool> =
            recorded.ints("in.attention_mask").into_iter().map(|bit| bit != 0).collect();
        let mask: Vec<Vec<bool>> = kept.chunks(tokens).map(<[bool]>::to_vec).collect();
        let input = UNetInput::new(recorded.tensor("in.sample", &device), &timesteps)
            .class_embedding(recorded.tensor("in.class_labels", &device))
            .context_bias(mask_bias(&mask, 0, &device));
        replay_both(decoder.unet(), input, &recorded, bound)
    }

    /// The worse of a pass with the recorded context and one with what is cached of it.
    fn replay_both(
        unet: &UNet,
        input: UNetInput<'_>,
        recorded: &Recorded,
        bound: f64,
    ) -> Comparison {
        let context: Tensor<3> = recorded.tensor("in.encoder_hidden_states", &device());
        let cache = unet.cache_context(context.clone());
        let [whole, cached] = [input.clone().context(context), input.context_cache(cache)]
            .map(|input| assert_close(&unet.forward(input), recorded, "out.sample", bound));
        if cached.max_abs > whole.max_abs { cached } else { whole }
    }

    /// Follows diffusers `UNet2DConditionModel.forward`.
    #[test]
    fn recorded_forward_passes_are_reproduced() {
        for set in fixture_sets() {
            let error = replay(&set, &open(&set, WeightPrecision::F32), 1e-5);
            println!(
                "{}: decoder {:.1e}, relative {:.1e}; recorded floor {:.1e}",
                set.name(),
                error.max_abs,
                error.relative,
                set.forward_floor("decoder", "sample"),
            );
        }
    }

    /// Follows diffusers where Karlo's configuration does not reach: a list for each level, attention to the context
    /// alone, every optional activation and scale.
    #[test]
    fn a_configuration_beyond_karlo_is_reproduced() {
        let device = device();
        let dir = fixtures_root().join("rare/decoder");
        let config = DecoderConfig::open(&dir).expect("diffusers wrote it");
        let unet = config.load(&dir, None, WeightPrecision::F32, &device).expect("it fits");
        let recorded = Recorded::open(dir.join("forward.safetensors"));
        let timesteps: Vec<f32> =
            recorded.ints("in.timestep").into_iter().map(|t| t as f32).collect();
        let input = UNetInput::new(recorded.tensor("in.sample", &device), &timesteps);
        let error = replay_both(&unet, input, &recorded, 1e-5);
        println!("decoder beyond Karlo: {:.1e}", error.relative);
    }

    #[test]
    fn weights_in_half_precision_stay_close() {
        for set in fixture_sets() {
            let error = replay(&set, &open(&set, WeightPrecision::F16), 2e-2);
            println!("{}: decoder in f16 {:.1e}", set.name(), error.relative);
        }
    }

    #[test]
    fn karlo_has_its_published_size() {
        let unet = DecoderConfig::karlo_v1_alpha().init(&device());
        assert_eq!(unet.num_params(), 885_439_686);
        assert_eq!(shapes(&unet, UNET_NAMES).len(), 716);
    }

    #[test]
    fn what_is_saved_opens_again() {
        let set = fixture_sets().remove(0);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [projection, network] = ["text_proj", "decoder"].map(|part| folder.path().join(part));
        open(&set, WeightPrecision::F32)
            .save_dirs(&projection, &network, &SaveOptions::default())
            .expect("is written");
        let again = Decoder::from_dirs(projection, network, None, WeightPrecision::F32, &device())
            .expect("our own folders open");
        replay(&set, &again, 1e-5);
    }

    #[test]
    fn parts_of_different_models_are_refused() {
        let set = fixture_sets().remove(0);
        let Decoder { projection, unet, mut config } = open(&set, WeightPrecision::F32);
        config.time_embedding_dim = Some(7);
        let text = Decoder::from_parts(projection, unet, config).expect_err("widths differ");
        let expected = "the text projection's `time_embed_dim` is 32, expected the decoder's 7";
        assert_eq!(text.to_string(), expected);
    }

    #[test]
    fn weights_of_another_size_are_refused_tensor_by_tensor() {
        let set = fixture_sets().remove(0);
        let dir = set.model_dir().join("decoder");
        let mut config = DecoderConfig::open(&dir).expect("a recorded configuration");
        config.out_channels = config.in_channels;
        let error = config.load(&dir, None, WeightPrecision::F32, &device());
        let text = error.expect_err("the last layer differs").to_string();
        assert!(text.contains("conv_out.weight is [6, 8, 3, 3], expected [3, 8, 3, 3]"), "{text}");
    }

    #[test]
    fn a_network_takes_any_size_that_its_levels_divide() {
        let set = fixture_sets().remove(0);
        let decoder = open(&set, WeightPrecision::F32);
        let reduction = decoder.config().unet().reduction();
        let device = device();
        let width = decoder.config().context_width();
        let input = UNetInput::new(Tensor::ones([1, 3, reduction, 3 * reduction], &device), &[5.0])
            .context(Tensor::ones([1, 2, width], &device));
        let out = decoder.unet().forward(input);
        assert_eq!(out.dims(), [1, 6, reduction, 3 * reduction]);
    }
}
