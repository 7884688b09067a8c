//! Checks of pictures: whether they are fit to be shown, and whether they show faces.

#[cfg(feature = "faces")]
mod faces;
#[cfg(feature = "nsfw")]
mod jpeg;
#[cfg(feature = "nsfw")]
mod nsfw;

use std::fmt;

use image::RgbImage;

use crate::Region;
#[cfg(feature = "faces")]
pub use faces::FrontalFaces;
#[cfg(feature = "nsfw")]
pub use nsfw::OpenNsfw;

/// A picture could not be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The weights of a check cannot be used.
    #[error("the weights of {check} cannot be used: {reason}")]
    Weights {
        /// The check.
        check: &'static str,
        /// What is wrong, with the tensor concerned.
        reason: String,
    },
    /// The picture is empty or larger than any check takes.
    #[error("the picture cannot be checked: {reason}")]
    Unreadable {
        /// Why not.
        reason: String,
    },
    /// The device failed while computing.
    #[error("the device failed while checking a picture: {reason}")]
    Device {
        /// What the backend said.
        reason: String,
    },
}

/// Finds faces.
pub trait FaceDetector: fmt::Debug + Send + Sync {
    /// A short name, for verdicts.
    fn name(&self) -> &str;

    /// Where `picture` shows faces, and how sure that is, from 0 to 1.
    ///
    /// # Errors
    ///
    /// When the detector fails.
    fn faces(&self, picture: &RgbImage) -> Result<Vec<(Region, f32)>, PictureError>;
}
