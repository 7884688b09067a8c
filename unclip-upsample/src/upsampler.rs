//! An upsampler held in memory, and its folders in a model directory.

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use unclip_core::{
    Error,
    checkpoint::{
        DIFFUSERS_STEM, Folder, LoadOptions, SaveOptions, WeightPrecision, Weights, load, save,
        write_json_atomic,
    },
    nn::{UNET_NAMES, UNet},
};

use crate::{Networks, Result, UpsamplerConfig};

/// A network for the last step and one for all before, or one for all steps.
#[derive(Debug, Clone)]
pub struct Upsampler {
    config: UpsamplerConfig,
    first: UNet,
    last: Option<UNet>,
}

impl UpsamplerConfig {
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
    /// [`unclip_core::Error`]: `MissingPart`, `Io` and `Safetensors` for the weights file, `Weights` when it does not
    /// fit the configuration, `InvalidInput` when the device lacks the precision.
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

    /// Writes `network`, whose sizes these are, as [`load`](Self::load) and diffusers open it. The names in `options`
    /// are replaced by the network's own.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`] when a file cannot be written, and what [`save`] reports.
    pub fn save_dir(
        &self,
        network: &UNet,
        dir: impl AsRef<Path>,
        options: &SaveOptions<'_>,
    ) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        save(network, dir, DIFFUSERS_STEM, &SaveOptions { names: UNET_NAMES, ..*options })?;
        write_json_atomic(dir.join("config.json"), &self.to_json())?;
        Ok(())
    }

    /// Demands that a network of these sizes and one of `other`'s can take turns.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] naming the size that differs.
    pub fn fits(&self, other: &Self) -> Result<()> {
        for (key, found, expected) in [
            ("sample_size", other.sample_size, self.sample_size),
            ("in_channels", other.in_channels, self.in_channels),
            ("out_channels", other.out_channels, self.out_channels),
            ("block_out_channels", other.block_out_channels.len(), self.block_out_channels.len()),
        ] {
            if found != expected {
                let (found, expected) = match key {
                    "block_out_channels" => {
                        (format!("of {found} levels"), format!("the first network's {expected}"))
                    }
                    _ => (found.to_string(), format!("the first network's {expected}")),
                };
                return Err(Error::invalid(key, found, expected).into());
            }
        }
        Ok(())
    }
}

impl Upsampler {
    /// The upsampler of these networks, both of the sizes in `config`. Without `last`, `first` takes every step.
    pub fn new(config: UpsamplerConfig, first: UNet, last: Option<UNet>) -> Self {
        Self { config, first, last }
    }

    /// Computes in `dtype`, as [`UNet::compute_in`] says.
    #[must_use]
    pub fn compute_in(self, dtype: FloatDType) -> Self {
        let Self { config, first, last } = self;
        let last = last.map(|network| network.compute_in(dtype));
        Self { config, first: first.compute_in(dtype), last }
    }

    /// Opens an upsampler: `config.json` and `diffusion_pytorch_model[.variant].safetensors`, or its shards, in each of
    /// the folders (`super_res_first` and `super_res_last`; the same one or none for `last_dir` makes one network take
    /// every step).
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error`]: `Io`, `Json` and `Config` for a configuration, `InvalidInput` when the two do not
    /// [fit](UpsamplerConfig::fits), and what [`UpsamplerConfig::load`] reports.
    pub fn from_dirs(
        first_dir: impl Into<Folder>,
        last_dir: Option<Folder>,
        variant: Option<&str>,
        precision: WeightPrecision,
        device: &Device,
    ) -> Result<Self> {
        let first_dir = first_dir.into();
        let config = UpsamplerConfig::open(&first_dir)?;
        let first = config.load(&first_dir, variant, precision, device)?;
        let last = match last_dir.filter(|dir| dir.path() != first_dir.path()) {
            Some(dir) => {
                let last_config = UpsamplerConfig::open(&dir)?;
                config.fits(&last_config)?;
                Some(last_config.load(dir, variant, precision, device)?)
            }
            None => None,
        };
        Ok(Self { config, first, last })
    }

    /// The sizes that the networks share.
    pub fn config(&self) -> &UpsamplerConfig {
        &self.config
    }

    /// The network of all steps but the last.
    pub fn first(&self) -> &UNet {
        &self.first
    }

    /// The network of the last step, where it is another one.
    pub fn last(&self) -> Option<&UNet> {
        self.last.as_ref()
    }
}

impl Networks for &Upsampler {
    fn config(&self) -> &UpsamplerConfig {
        &self.config
    }

    fn network(&mut self, last: bool) -> Result<&UNet> {
        Ok(self.last.as_ref().filter(|_| last).unwrap_or(&self.first))
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use unclip_core::{checkpoint::shapes, nn::UNetInput};
    use unclip_testkit::{
        Comparison, FixtureSet, Recorded, assert_close, device, fixture_sets, fixtures_root,
    };

    use super::*;

    fn open(set: &FixtureSet, precision: WeightPrecision) -> Upsampler {
        let [first, last] =
            ["super_res_first", "super_res_last"].map(|part| set.model_dir().join(part));
        Upsampler::from_dirs(first, Some(last.into()), None, precision, &device())
            .expect("the recorded upsampler loads")
    }

    /// Replays the recorded forward pass of one of the networks.
    fn replay(set: &FixtureSet, upsampler: &Upsampler, last: bool, bound: f64) -> Comparison {
        let device = device();
        let recorded = set.tensors(if last { "super_res_last" } else { "super_res_first" });
        let timesteps: Vec<f32> =
            recorded.ints("in.timestep").into_iter().map(|t| t as f32).collect();
        let input = UNetInput::new(recorded.tensor("in.sample", &device), &timesteps);
        let mut networks = upsampler;
        let network = networks.network(last).expect("both are in memory");
        assert_close(&network.forward(input), &recorded, "out.sample", bound)
    }

    /// Follows diffusers `UNet2DModel.forward`.
    #[test]
    fn recorded_forward_passes_are_reproduced() {
        for set in fixture_sets() {
            let upsampler = open(&set, WeightPrecision::F32);
            for (last, name) in [(false, "super_res_first"), (true, "super_res_last")] {
                let error = replay(&set, &upsampler, last, 1e-5);
                println!(
                    "{}: {name} {:.1e}, relative {:.1e}; recorded floor {:.1e}",
                    set.name(),
                    error.max_abs,
                    error.relative,
                    set.forward_floor(name, "sample"),
                );
            }
        }
    }

    /// Follows diffusers where Karlo's configuration does not reach: scale and shift, another width of the time
    /// embedding, centred input.
    #[test]
    fn a_configuration_beyond_karlo_is_reproduced() {
        let device = device();
        let dir = fixtures_root().join("rare/upsampler");
        let upsampler = Upsampler::from_dirs(&dir, None, None, WeightPrecision::F32, &device)
            .expect("diffusers wrote it");
        let recorded = Recorded::open(dir.join("forward.safetensors"));
        let timesteps: Vec<f32> =
            recorded.ints("in.timestep").into_iter().map(|t| t as f32).collect();
        let input = UNetInput::new(recorded.tensor("in.sample", &device), &timesteps);
        let out = upsampler.first().forward(input);
        let error = assert_close(&out, &recorded, "out.sample", 1e-5);
        println!("upsampler beyond Karlo: {:.1e}", error.relative);
    }

    #[test]
    fn weights_in_half_precision_stay_close() {
        for set in fixture_sets() {
            let upsampler = open(&set, WeightPrecision::F16);
            let error = replay(&set, &upsampler, false, 2e-2);
            println!("{}: super_res_first in f16 {:.1e}", set.name(), error.relative);
        }
    }

    #[test]
    fn karlo_has_its_published_size() {
        let unet = UpsamplerConfig::karlo_v1_alpha().init(&device());
        assert_eq!(unet.num_params(), 691_579_523);
        assert_eq!(shapes(&unet, UNET_NAMES).len(), 408);
    }

    #[test]
    fn what_is_saved_opens_again() {
        let set = fixture_sets().remove(0);
        let upsampler = open(&set, WeightPrecision::F32);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().join("super_res_first");
        upsampler
            .config
            .save_dir(upsampler.first(), &dir, &SaveOptions::default())
            .expect("is written");
        let again =
            Upsampler::from_dirs(&dir, Some((&dir).into()), None, WeightPrecision::F32, &device())
                .expect("our own folder opens");
        assert!(again.last().is_none(), "one folder is one network");
        replay(&set, &again, false, 1e-5);
    }

    #[test]
    fn networks_of_different_sizes_cannot_take_turns() {
        let first = UpsamplerConfig::karlo_v1_alpha();
        first.fits(&first).expect("equal sizes fit");
        let mut other = first.clone();
        other.sample_size = 1024;
        let text = first.fits(&other).expect_err("sizes differ").to_string();
        assert_eq!(text, "`sample_size` is 1024, expected the first network's 256");
        let mut other = first.clone();
        other.block_out_channels.pop();
        let text = first.fits(&other).expect_err("levels differ").to_string();
        assert!(text.starts_with("`block_out_channels` is of 3 levels"), "{text}");
    }
}
