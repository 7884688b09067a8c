//! Normalisation over channels-last activations: statistics, their application, and the gradients of both.
//!
//! A group normalisation is applied as one multiplication and one addition a value, `x · scale + shift`, with a scale
//! and a shift for each channel of each picture. [`group_statistics`] and [`GroupStatistics::affine`] make those from
//! one pass over the activations; a convolution applies them to its input as it reads it, so that normalised
//! activations are never written, and [`apply`] does where no convolution follows.

mod apply;
mod group;
mod layer;

pub use apply::{ApplyGradients, apply, apply_backward};
pub use group::{GroupGradients, GroupStatistics, group_backward, group_statistics};
pub use layer::{LayerGradients, layer_norm, layer_norm_backward};

/// The sizes of channels-last activations, `[batch, pixels, channels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pixels {
    /// Pictures.
    pub batch: usize,
    /// Pixels of a picture, rows times columns.
    pub pixels: usize,
    /// Values of a pixel.
    pub channels: usize,
}

impl Pixels {
    /// The number of values.
    ///
    /// # Panics
    ///
    /// When it exceeds what memory can hold.
    pub fn len(self) -> usize {
        self.batch
            .checked_mul(self.pixels)
            .and_then(|n| n.checked_mul(self.channels))
            .expect("activations fit in memory")
    }

    /// Whether there are no values.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
