//! Writing WebDataset shards.

use std::{
    fs::{self, File},
    io::{BufWriter, Cursor},
    path::{Path, PathBuf},
};

use image::ImageFormat;
use tar::{Builder, Header};
use unclip_core::Error as CoreError;

use super::{Sample, metadata::Metadata};
use crate::Result;

/// What a [`ShardWriter`] wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardSummary {
    /// Samples in all.
    pub samples: usize,
    /// Archives.
    pub shards: usize,
}

/// Writes samples into numbered archives `00000.tar`, `00001.tar`, .., which [`ShardsConfig`](super::ShardsConfig) and
/// other WebDataset readers read.
///
/// A sample is a lossless WebP and a JSON object with its captions, concept, family and style. An archive takes its name
/// when it is complete. Nothing in it depends on the clock, so equal samples make equal files.
#[derive(Debug)]
pub struct ShardWriter {
    dir: PathBuf,
    samples_per_shard: usize,
    shard: Option<Shard>,
    written: ShardSummary,
}

#[derive(Debug)]
struct Shard {
    builder: BuilderBox,
    samples: usize,
}

/// `Builder` has no `Debug`.
struct BuilderBox(Builder<BufWriter<File>>);

impl std::fmt::Debug for BuilderBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("tar::Builder")
    }
}

/// What an archive is called until it is complete.
const UNFINISHED: &str = ".writing-shard";

impl ShardWriter {
    /// A writer into the folder `dir`, which is made if need be and must hold no archives yet.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`] when the folder cannot be made; [`unclip_core::Error::InvalidInput`] when it holds
    /// archives or `samples_per_shard` is 0.
    pub fn create(dir: impl Into<PathBuf>, samples_per_shard: usize) -> Result<Self> {
        let dir = dir.into();
        if samples_per_shard == 0 {
            return Err(CoreError::invalid("samples_per_shard", 0, "1 or more").into());
        }
        fs::create_dir_all(&dir).map_err(CoreError::io("create", &dir))?;
        for entry in fs::read_dir(&dir).map_err(CoreError::io("read", &dir))? {
            let path = entry.map_err(CoreError::io("read", &dir))?.path();
            if path.extension().is_some_and(|ending| ending == "tar") {
                return Err(
                    CoreError::invalid("dir", path.display(), "a folder without archives").into()
                );
            }
        }
        Ok(Self { dir, samples_per_shard, shard: None, written: ShardSummary::default() })
    }

    /// Appends a sample.
    ///
    /// # Errors
    ///
    /// [`WrongContent`](crate::Error::WrongContent) when it holds no picture; [`unclip_core::Error::InvalidInput`] when
    /// its key is empty or has a full stop; [`unclip_core::Error::Io`] and [`unclip_core::Error::Picture`] when it
    /// cannot be written.
    pub fn write(&mut self, sample: &Sample) -> Result<()> {
        let mut picture = Cursor::new(Vec::new());
        sample.picture()?.write_to(&mut picture, ImageFormat::WebP).map_err(|source| {
            CoreError::Picture { action: "encode", origin: sample.key.clone(), source }
        })?;
        if sample.key.is_empty() || sample.key.contains('.') {
            return Err(CoreError::invalid("key", &sample.key, "a name without a full stop").into());
        }
        let metadata = Metadata {
            caption: None,
            captions: sample.captions.clone(),
            concept: sample.concept.clone(),
            family: sample.family.clone(),
            style: sample.style.clone(),
        };
        let failed = || CoreError::io("write", self.dir.join(UNFINISHED));
        let json = serde_json::to_vec(&metadata).map_err(|error| failed()(error.into()))?;
        let shard = match &mut self.shard {
            Some(shard) => shard,
            None => {
                let path = self.dir.join(UNFINISHED);
                let file = File::create(&path).map_err(CoreError::io("create", path))?;
                let builder = BuilderBox(Builder::new(BufWriter::new(file)));
                self.shard.insert(Shard { builder, samples: 0 })
            }
        };
        for (ending, bytes) in [("webp", picture.get_ref()), ("json", &json)] {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            let name = format!("{}.{ending}", sample.key);
            let builder = &mut shard.builder.0;
            builder
                .append_data(&mut header, Path::new(&name), bytes.as_slice())
                .map_err(CoreError::io("write", self.dir.join(UNFINISHED)))?;
        }
        shard.samples += 1;
        self.written.samples += 1;
        if shard.samples == self.samples_per_shard {
            self.complete()?;
        }
        Ok(())
    }

    /// Completes the last archive.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`] when it cannot be written.
    pub fn finish(mut self) -> Result<ShardSummary> {
        self.complete()?;
        Ok(self.written)
    }

    fn complete(&mut self) -> Result<()> {
        let Some(shard) = self.shard.take() else { return Ok(()) };
        let unfinished = self.dir.join(UNFINISHED);
        let file = shard.builder.0.into_inner().and_then(|file| Ok(file.into_inner()?));
        file.and_then(|file| file.sync_all()).map_err(CoreError::io("write", &unfinished))?;
        let path = self.dir.join(format!("{:05}.tar", self.written.shards));
        fs::rename(&unfinished, &path).map_err(CoreError::io("write", path))?;
        self.written.shards += 1;
        Ok(())
    }
}
