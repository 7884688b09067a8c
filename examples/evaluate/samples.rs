//! The prepared samples.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use ndarray::Array2;
use unclip::{burn::tensor::Tensor, image::RgbImage};
use unclip_train::data::{DataConfig, Portion, Sample, ShardsConfig};

/// The folder that `prepare_icons` wrote.
#[derive(Debug)]
pub(crate) struct Data(PathBuf);

impl Data {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Says how to prepare the data where some of it is not there.
    pub(crate) fn check(&self, needed: &[(Portion, u32)]) -> anyhow::Result<()> {
        for &(portion, size) in needed {
            let folder = portion.folder(&self.0, size);
            ensure!(
                folder.is_dir(),
                "{} is not there; prepare the data by\n  tools/fetch_icons\n  cargo run --release -p unclip-train \
                 --example prepare_icons",
                folder.display()
            );
        }
        Ok(())
    }

    /// The single icons of a portion; pairs of icons are left out.
    pub(crate) fn icons(&self, portion: Portion, size: u32) -> anyhow::Result<Vec<Sample>> {
        let folder = portion.folder(&self.0, size);
        let config = DataConfig::Shards(ShardsConfig::new(folder.display().to_string()));
        let mut source = config.open_once()?;
        let mut samples = Vec::new();
        while let Some(sample) =
            source.next().with_context(|| format!("reading {}", folder.display()))?
        {
            if !sample.key.contains('+') {
                samples.push(sample);
            }
        }
        Ok(samples)
    }
}

/// At most `count` samples, evenly spread over all.
pub(crate) fn spread(samples: &[Sample], count: usize) -> Vec<&Sample> {
    let count = count.min(samples.len());
    (0..count).map(|index| &samples[index * samples.len() / count]).collect()
}

/// Whether two samples show the same thing in the same style.
pub(crate) fn same(a: &Sample, b: &Sample) -> bool {
    a.concept == b.concept && a.style == b.style
}

pub(crate) fn pictures(samples: &[&Sample]) -> anyhow::Result<Vec<RgbImage>> {
    samples.iter().map(|sample| Ok(sample.picture()?.clone())).collect()
}

/// The first caption of each.
pub(crate) fn captions<'a>(samples: &[&'a Sample]) -> Vec<&'a str> {
    let first = |sample: &&'a Sample| sample.captions.first().map_or("", String::as_str);
    samples.iter().map(first).collect()
}

/// Rows of embeddings, off the device.
pub(crate) fn host(rows: Tensor<2>) -> anyhow::Result<Array2<f32>> {
    let shape = rows.dims();
    Ok(Array2::from_shape_vec(shape, rows.try_into_vec_as::<f32>()?)?)
}
