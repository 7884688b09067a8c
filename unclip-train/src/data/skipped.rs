//! What could not be used, by name.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

/// Why a sample was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// There is a caption or a description, and no picture beside it.
    NoPicture,
    /// The picture cannot be read or decoded; the text says why.
    Picture(String),
    /// The picture has fewer pixels than what is learned from it.
    TooSmall {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// The least that either has to be.
        least: u32,
    },
    /// There is no caption, or only white space.
    NoCaption,
    /// The caption or description cannot be read; the text says why.
    Caption(String),
    /// An embedding holds something that is no finite number.
    NotFinite,
    /// The rest of a shard cannot be read; the text says why.
    Shard(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPicture => f.write_str("there is no picture"),
            Self::Picture(reason) => write!(f, "the picture cannot be read: {reason}"),
            Self::TooSmall { width, height, least } => {
                write!(
                    f,
                    "the picture has {width} × {height} pixels, expected {least} × {least} or more"
                )
            }
            Self::NoCaption => f.write_str("there is no caption"),
            Self::Caption(reason) => write!(f, "the caption cannot be read: {reason}"),
            Self::NotFinite => f.write_str("the embedding holds values that are not finite"),
            Self::Shard(reason) => write!(f, "the rest of the shard cannot be read: {reason}"),
        }
    }
}

/// The samples that a source had to leave out. A sample counts once, however often it was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    by_name: BTreeMap<String, Fault>,
}

impl Skipped {
    /// How many samples were left out.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Each sample that was left out, with the reason, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Fault)> {
        self.by_name.iter().map(|(name, fault)| (name.as_str(), fault))
    }

    /// Notes a fault, and says so in the log when it is new.
    pub(crate) fn add(&mut self, name: String, fault: Fault) {
        if let Entry::Vacant(entry) = self.by_name.entry(name) {
            tracing::warn!(sample = entry.key().as_str(), %fault, "skipped a sample");
            entry.insert(fault);
        }
    }
}
