//! Where prepared data lie.

use std::path::{Path, PathBuf};

/// A part of prepared data, a folder of shards below one for the pictures' size: `64/train`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Portion {
    /// What is learned from.
    Train,
    /// The part of it that is learned most.
    Common,
    /// Concepts that are not learned from, in any style.
    HeldOut,
    /// Concepts that are learned from, in styles in which they are not.
    UnseenStyles,
    /// Pairs of concepts that are learned from, but not together.
    UnseenPairs,
}

impl Portion {
    /// The name of its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Common => "common",
            Self::HeldOut => "held_out",
            Self::UnseenStyles => "unseen_styles",
            Self::UnseenPairs => "unseen_pairs",
        }
    }

    /// Its folder for pictures of `size` pixels, in the folder `data` of all of them.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use unclip_train::data::Portion;
    /// assert_eq!(Portion::HeldOut.folder("data/icons", 64), Path::new("data/icons/64/held_out"));
    /// ```
    pub fn folder(self, data: impl AsRef<Path>, size: u32) -> PathBuf {
        data.as_ref().join(size.to_string()).join(self.name())
    }
}
