//! The watermark hook.

use std::fmt::Debug;

use image::RgbImage;

/// A mark on every picture that leaves a pipeline.
pub trait Watermark: Debug + Send + Sync {
    /// A short name, for results and logs.
    fn name(&self) -> &str;

    /// Marks `picture` in place, keeping its size.
    ///
    /// # Errors
    ///
    /// When the picture cannot carry the mark; the pipeline then returns no picture.
    fn mark(&self, picture: &mut RgbImage) -> Result<(), MarkError>;
}

/// A picture could not be marked.
#[derive(Debug, thiserror::Error)]
#[error("the watermark {watermark} cannot be put on a picture of {width} × {height}: {reason}")]
pub struct MarkError {
    /// The watermark's name.
    pub watermark: String,
    /// Width of the picture.
    pub width: u32,
    /// Height of the picture.
    pub height: u32,
    /// Why not.
    pub reason: String,
}
