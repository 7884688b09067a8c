//! What the decoder knows of a picture in advance: the input channels of edits.
//!
//! GLIDE (Nichol et al. 2021, §4.3) fine-tunes its network for inpainting with four more input channels, the known
//! pixels and the mask, whose weights start at zero. Here they are a convolution of their own, added to that of the
//! noisy picture: the network stays one of three channels, which any reader of the format opens, and is unchanged
//! where nothing is known.

use std::path::Path;

use burn::{
    module::{Initializer, Module},
    tensor::{Device, Tensor, assert_shape},
};
use unclip_core::{
    checkpoint::{Folder, LoadOptions, SaveOptions, WeightPrecision, Weights, load, save},
    nn::{Conv2d, Conv2dConfig},
};

use crate::{DecoderConfig, Result};

/// The first convolution's weights for known pixels and their mask.
#[derive(Module, Debug)]
pub struct MaskChannels {
    conv_in: Conv2d,
}

impl DecoderConfig {
    /// The weights of the mask channels for a network of these sizes, all zero: they change nothing.
    pub fn init_mask_channels(&self, device: &Device) -> MaskChannels {
        let kernel = self.conv_in_kernel;
        let finest = self.block_out_channels.first().copied().unwrap_or_default();
        let channels = self.in_channels + 1;
        let mut conv_in = Conv2dConfig::new(channels, finest, kernel)
            .with_padding((kernel - 1) / 2)
            .with_bias(false)
            .init(device);
        conv_in.weight = Initializer::Zeros.init([finest, channels, kernel, kernel], device).into();
        MaskChannels { conv_in }
    }
}

impl MaskChannels {
    /// The stem of the weights' file, beside those of the network.
    pub const STEM: &str = "mask_channels";

    /// Opens `mask_channels[.variant].safetensors` in the folder of the network, whose configuration is `config`.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::MissingPart`] when there is none; `Safetensors` when it is damaged; `Weights` when it
    /// belongs to a network of other sizes; `InvalidInput` when the device lacks the precision.
    pub fn from_dir(
        dir: impl Into<Folder>,
        config: &DecoderConfig,
        variant: Option<&str>,
        precision: WeightPrecision,
        device: &Device,
    ) -> Result<Self> {
        let weights = Weights::open(dir, Self::STEM, variant)?;
        let options = LoadOptions { precision, ..LoadOptions::default() };
        Ok(load(config.init_mask_channels(device), &weights, &options)?)
    }

    /// Opens the file as [`from_dir`](Self::from_dir) does; none where the network was trained without.
    ///
    /// # Errors
    ///
    /// As [`from_dir`](Self::from_dir), except that the file may be absent.
    pub fn find(
        dir: impl Into<Folder>,
        config: &DecoderConfig,
        variant: Option<&str>,
        precision: WeightPrecision,
        device: &Device,
    ) -> Result<Option<Self>> {
        let dir = dir.into();
        match Weights::find(&dir, Self::STEM, variant) {
            Some(_) => Self::from_dir(dir, config, variant, precision, device).map(Some),
            None => Ok(None),
        }
    }

    /// Writes the file that [`from_dir`](Self::from_dir) opens.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`] when it cannot be written, and what [`save`] reports.
    pub fn save_dir(&self, dir: impl AsRef<Path>, options: &SaveOptions<'_>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(unclip_core::Error::io("create", dir))?;
        save(self, dir, Self::STEM, options)?;
        Ok(())
    }

    /// What is to be given to the network as its
    /// [`first_features`](unclip_core::nn::UNetInput::first_features).
    ///
    /// # Shapes
    ///
    /// - `picture`: `[batch, channels, height, width]`, in `[-1, 1]`; its values where the mask is 0 do not count
    /// - `known`: `[batch, 1, height, width]`, 1 where the picture is known and 0 where it is to be painted
    /// - output: `[batch, finest_channels, height, width]`
    ///
    /// # Panics
    ///
    /// When an axis differs from the shapes above.
    pub fn forward(&self, picture: Tensor<4>, known: Tensor<4>) -> Tensor<4> {
        let [batch, _, height, width] = picture.dims();
        assert_shape!(known, [batch, 1, height, width]);
        self.conv_in.forward(Tensor::cat(vec![picture * known.clone(), known], 1))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use unclip_core::nn::UNetInput;
    use unclip_testkit::{device, fixture_sets};

    use super::*;

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.into_data().try_to_vec().expect("32-bit floats")
    }

    #[test]
    fn a_network_that_knows_nothing_is_the_plain_network() {
        let set = fixture_sets().remove(0);
        let device = device();
        let dir = set.model_dir().join("decoder");
        let config = DecoderConfig::open(&dir).expect("a recorded configuration");
        let unet = config.load(&dir, None, WeightPrecision::F32, &device).expect("it loads");
        let mut mask = config.init_mask_channels(&device);
        let shape = [2, 3, 16, 16];
        let noisy = Tensor::random(shape, Distribution::Default, &device);
        let picture = Tensor::random(shape, Distribution::Default, &device);
        let context = Tensor::ones([2, 2, config.context_width()], &device);
        let plain = UNetInput::new(noisy, &[5.0, 700.0]).context(context);
        let with = |mask: &MaskChannels, known: Tensor<4>| {
            let features = mask.forward(picture.clone(), known);
            values(unet.forward(plain.clone().first_features(features)))
        };
        let alone = values(unet.forward(plain.clone()));
        let known = Tensor::ones([2, 1, 16, 16], &device);
        // Zero weights change nothing, whatever is known; and whatever the weights, knowing nothing changes nothing.
        assert_eq!(with(&mask, known.clone()), alone);
        let weights = mask.conv_in.weight.val();
        let random = Tensor::random(weights.dims(), Distribution::Default, &device);
        mask.conv_in.weight = mask.conv_in.weight.with_value(|_| random);
        assert_eq!(with(&mask, known.clone() * 0.0), alone);
        assert_ne!(with(&mask, known), alone);
    }

    #[test]
    fn the_weights_have_a_file_of_their_own() {
        let set = fixture_sets().remove(0);
        let config = DecoderConfig::open(set.model_dir().join("decoder")).expect("a configuration");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = || {
            let (precision, device) = (WeightPrecision::F32, device());
            MaskChannels::from_dir(folder.path(), &config, None, precision, &device)
        };
        let find = || {
            let (precision, device) = (WeightPrecision::F32, device());
            MaskChannels::find(folder.path(), &config, None, precision, &device)
        };
        let text = open().expect_err("there is none yet").to_string();
        assert!(text.contains("mask_channels"), "{text}");
        assert!(find().expect("no fault").is_none(), "there is none yet");
        let mut mask = config.init_mask_channels(&device());
        mask.conv_in.weight = mask.conv_in.weight.with_value(|weight| weight + 0.25);
        mask.save_dir(folder.path(), &SaveOptions::default()).expect("is written");
        let again = open().expect("is there").conv_in.weight.val();
        assert_eq!(values(again), values(mask.conv_in.weight.val()));
        assert!(find().expect("no fault").is_some(), "there it is");
    }
}
