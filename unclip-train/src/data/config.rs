//! Which data to read.

use std::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    embeddings::Embeddings,
    folder::Folder,
    shards::Shards,
    stream::{Records, Source, Stream, Walk},
};
use crate::Result;

/// Where samples come from. In JSON an object whose `kind` is `folder`, `shards` or `embeddings`; unknown keys are
/// refused. Relative paths start at the current folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum DataConfig {
    /// Pictures in a folder.
    Folder(FolderConfig),
    /// WebDataset tar shards.
    Shards(ShardsConfig),
    /// Embeddings that were computed before.
    Embeddings(EmbeddingsConfig),
}

/// A folder of pictures, with captions in `.txt` files of the same name, one a line, or in `metadata.jsonl`, one object
/// a line with `file_name`, `text` (or `caption`, or a list `captions`), `concept`, `family` and `style`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder; folders inside it belong to it.
    pub path: PathBuf,
    /// The side in pixels that the central square of every picture is resized to; pictures stay as they are without
    /// one.
    #[serde(default)]
    pub side: Option<NonZeroU32>,
    /// Whether a picture without a caption is skipped; true by default.
    #[serde(default = "yes")]
    pub captions_required: bool,
}

/// WebDataset shards: tar archives whose members of one sample share a name up to the first full stop, such as
/// `000010005.jpg`, `000010005.txt`, `000010005.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardsConfig {
    /// Archives, folders whose archives are meant, or names with a range such as `{00000..00099}.tar`.
    pub paths: Vec<ShardPath>,
    /// The side in pixels that the central square of every picture is resized to; pictures stay as they are without
    /// one.
    #[serde(default)]
    pub side: Option<NonZeroU32>,
    /// Whether a picture without a caption is skipped; true by default.
    #[serde(default = "yes")]
    pub captions_required: bool,
    /// Shards that are shuffled together; 32 by default. Their lists of members are held in memory.
    #[serde(default = "shards_at_once")]
    pub shards_at_once: usize,
}

/// Where archives lie, and how often a pass over the data goes through them. In JSON `"shards"`, or
/// `{"path": "shards", "times": 3}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ShardPath {
    /// Once.
    Once(String),
    /// Several times, each in its own place of the order: what is to be learned more than the rest.
    Repeated(RepeatedPath),
}

/// Archives that a pass goes through several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepeatedPath {
    /// As in [`ShardsConfig::paths`].
    pub path: String,
    /// How often, at most 65,535: each time is a part of the order of its own.
    pub times: NonZeroU16,
}

impl ShardPath {
    /// The path.
    pub fn path(&self) -> &str {
        match self {
            Self::Once(path) | Self::Repeated(RepeatedPath { path, .. }) => path,
        }
    }

    /// How often a pass goes through it.
    pub fn times(&self) -> usize {
        match self {
            Self::Once(_) => 1,
            Self::Repeated(RepeatedPath { times, .. }) => times.get().into(),
        }
    }
}

impl From<String> for ShardPath {
    fn from(path: String) -> Self {
        Self::Once(path)
    }
}

// Derived, it would not name a key that it does not know.
impl<'de> Deserialize<'de> for ShardPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnceOrRepeated;

        impl<'de> Visitor<'de> for OnceOrRepeated {
            type Value = ShardPath;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a path, or an object with `path` and `times`")
            }

            fn visit_str<E>(self, path: &str) -> Result<ShardPath, E> {
                Ok(ShardPath::Once(path.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ShardPath, A::Error> {
                RepeatedPath::deserialize(MapAccessDeserializer::new(map)).map(ShardPath::Repeated)
            }
        }

        deserializer.deserialize_any(OnceOrRepeated)
    }
}

/// Rows of embeddings with a caption each, in the order of clip-retrieval: `image[i]`, `text[i]` and `captions[i]`
/// describe the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingsConfig {
    /// `.npy` files of 16- or 32-bit numbers, `[rows, width]`: the pictures' embeddings.
    pub image: Vec<PathBuf>,
    /// The captions' embeddings; none where they are computed from the captions.
    #[serde(default)]
    pub text: Vec<PathBuf>,
    /// The captions: `.txt` with one a line, or `.jsonl` with objects as in a folder's list.
    pub captions: Vec<PathBuf>,
}

fn yes() -> bool {
    true
}

fn shards_at_once() -> usize {
    32
}

impl FolderConfig {
    /// The folder `path`, its pictures as they are, captions required.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), side: None, captions_required: true }
    }
}

impl ShardsConfig {
    /// The shards at `path` (see [`paths`](Self::paths)), their pictures as they are, captions required.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            paths: vec![ShardPath::Once(path.into())],
            side: None,
            captions_required: true,
            shards_at_once: shards_at_once(),
        }
    }
}

impl DataConfig {
    /// Opens the data as an endless stream, shuffled anew in each pass.
    ///
    /// The samples of all ranks together are those of one: rank `r` of `ranks` takes every `ranks`-th one of each group
    /// of shards, beginning with the `r`-th.
    ///
    /// # Errors
    ///
    /// [`Error::NoSamples`](crate::Error::NoSamples), [`Error::Shard`](crate::Error::Shard),
    /// [`Error::Npy`](crate::Error::Npy) and [`Error::RowsDisagree`](crate::Error::RowsDisagree) when the data cannot be
    /// used; [`Error::Core`](crate::Error::Core) when it cannot be read, `rank` is not below `ranks`, or a value of the
    /// configuration is out of its range.
    pub fn open(&self, seed: u64, rank: usize, ranks: usize) -> Result<Box<dyn Source + Send>> {
        self.open_as(Walk::Endless, seed, rank, ranks)
    }

    /// Opens the data to be read once, in the order in which it lies.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_once(&self) -> Result<Box<dyn Source + Send>> {
        self.open_as(Walk::Once, 0, 0, 1)
    }

    fn open_as(
        &self,
        walk: Walk,
        seed: u64,
        rank: usize,
        ranks: usize,
    ) -> Result<Box<dyn Source + Send>> {
        fn boxed<R: Records + 'static>(
            stream: Result<Stream<R>>,
        ) -> Result<Box<dyn Source + Send>> {
            Ok(Box::new(stream?))
        }
        let ranks = (rank, ranks);
        match self {
            Self::Folder(config) => {
                boxed(Stream::new(Folder::open(config.clone())?, walk, 1, seed, ranks))
            }
            Self::Shards(config) => {
                let at_once = config.shards_at_once;
                boxed(Stream::new(Shards::open(config.clone())?, walk, at_once, seed, ranks))
            }
            Self::Embeddings(config) => {
                // The lists are row numbers: all of them together are small beside one file.
                let (records, files) = (Embeddings::open(config)?, config.image.len());
                boxed(Stream::new(records, walk, files, seed, ranks))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_goes_through_json() {
        for config in [
            DataConfig::Folder(FolderConfig {
                side: NonZeroU32::new(64),
                ..FolderConfig::new("a")
            }),
            DataConfig::Shards(ShardsConfig::new("icons/{000..012}.tar")),
            DataConfig::Shards(ShardsConfig {
                paths: vec![
                    ShardPath::Once("all".into()),
                    ShardPath::Repeated(RepeatedPath {
                        path: "best".into(),
                        times: NonZeroU16::MIN.saturating_add(2),
                    }),
                ],
                ..ShardsConfig::new("")
            }),
            DataConfig::Embeddings(EmbeddingsConfig {
                image: vec!["i.npy".into()],
                text: vec![],
                captions: vec!["c.txt".into()],
            }),
        ] {
            let text = serde_json::to_string(&config).expect("serialisable");
            assert_eq!(serde_json::from_str::<DataConfig>(&text).expect("readable"), config);
        }
    }

    #[test]
    fn unknown_keys_and_values_are_refused_by_name() {
        for (text, part) in [
            (r#"{"kind": "folder", "path": "a", "sied": 64}"#, "sied"),
            (r#"{"kind": "shards", "paths": ["a"], "shufle": 1}"#, "shufle"),
            (r#"{"kind": "embeddings", "image": [], "captions": [], "txt": []}"#, "txt"),
            (r#"{"kind": "shards", "paths": [{"path": "a", "times": 0}]}"#, "nonzero"),
            (r#"{"kind": "shards", "paths": [{"path": "a", "times": 65536}]}"#, "65536"),
            (r#"{"kind": "shards", "paths": [{"path": "a", "tims": 2}]}"#, "tims"),
            (r#"{"kind": "shards", "paths": [3]}"#, "`path` and `times`"),
            (r#"{"kind": "parquet"}"#, "parquet"),
            (r#"{"kind": "folder", "path": "a", "side": 0}"#, "nonzero"),
        ] {
            let error = serde_json::from_str::<DataConfig>(text).expect_err("refused");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
