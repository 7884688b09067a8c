//! The prior's folder in a model directory: a configuration and weights.

use std::path::Path;

use burn::tensor::Device;
use unclip_core::checkpoint::{
    DIFFUSERS_STEM, Folder, LoadOptions, SaveOptions, WeightPrecision, Weights, load, save,
    write_json_atomic,
};

use crate::{PRIOR_NAMES, Prior, PriorConfig, Result};

impl Prior {
    /// Opens the prior in `dir`: `config.json` and `diffusion_pytorch_model[.variant].safetensors`, or its shards.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error`]: `Io`, `Json` and `Config` for the configuration, `MissingPart` and `Safetensors` for the
    /// weights file, `Weights` when the two do not fit, `InvalidInput` when the device lacks the precision.
    pub fn from_dir(
        dir: impl Into<Folder>,
        variant: Option<&str>,
        precision: WeightPrecision,
        device: &Device,
    ) -> Result<Self> {
        let dir = dir.into();
        let config = PriorConfig::open(&dir)?;
        let weights = Weights::open(dir, DIFFUSERS_STEM, variant)?;
        Self::from_weights(&config, &weights, precision, device)
    }

    /// The prior of `config` with `weights`.
    ///
    /// # Errors
    ///
    /// As [`from_dir`](Self::from_dir), except for the configuration.
    pub fn from_weights(
        config: &PriorConfig,
        weights: &Weights,
        precision: WeightPrecision,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let options = LoadOptions { names: PRIOR_NAMES, precision, ..LoadOptions::default() };
        Ok(load(config.init(device), weights, &options)?)
    }

    /// Writes the folder that [`from_dir`](Self::from_dir) and diffusers open. The names in `options` are replaced by
    /// the prior's own.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`] when a file cannot be written, and what [`save`] reports.
    pub fn save_dir(&self, dir: impl AsRef<Path>, options: &SaveOptions<'_>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(unclip_core::Error::io("create", dir))?;
        save(self, dir, DIFFUSERS_STEM, &SaveOptions { names: PRIOR_NAMES, ..*options })?;
        write_json_atomic(dir.join("config.json"), &self.config().to_json())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use unclip_testkit::{device, fixture_sets};

    use super::*;

    #[test]
    fn what_is_saved_opens_again() {
        let set = fixture_sets().remove(0);
        let device = device();
        let dir = set.model_dir().join("prior");
        let open = |dir: &Path| Prior::from_dir(dir, None, WeightPrecision::F32, &device);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let prior = open(&dir).expect("the recorded prior opens");
        prior.save_dir(folder.path(), &SaveOptions::default()).expect("is written");
        let again = open(folder.path()).expect("our own folder opens");
        assert_eq!(again.config(), prior.config());
        let [one, other] =
            [dir.as_path(), folder.path()].map(|dir| Weights::open(dir, DIFFUSERS_STEM, None));
        let (one, other) = (one.expect("opens"), other.expect("opens"));
        assert!(one.names().eq(other.names()), "the names of the tensors");
        for name in one.names() {
            let read = |weights: &Weights| weights.read(name).expect("a tensor");
            assert_eq!(read(&one), read(&other), "{name}");
        }
    }

    #[test]
    fn weights_of_another_size_are_refused_tensor_by_tensor() {
        let set = fixture_sets().remove(0);
        let dir = set.model_dir().join("prior");
        let mut config = PriorConfig::open(&dir).expect("a recorded configuration");
        config.num_layers += 1;
        let weights = Weights::open(&dir, DIFFUSERS_STEM, None).expect("opens");
        let error = Prior::from_weights(&config, &weights, WeightPrecision::F32, &device());
        let text = error.expect_err("one block is lacking").to_string();
        assert!(text.contains("missing transformer_blocks.3.ff.net.0.proj.weight"), "{text}");
    }
}
