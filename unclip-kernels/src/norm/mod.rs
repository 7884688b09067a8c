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

use crate::parallel::{Shared, for_each};

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

/// Hands `task` runs of at most `len` pixels, none of two pictures: the picture's number, where the run begins in `values`, and
/// its part of them.
fn for_each_run<T: Send>(
    values: &mut [T],
    shape: Pixels,
    len: usize,
    task: impl Fn(usize, usize, &mut [T]) + Send + Sync,
) {
    let Pixels { batch, pixels, channels } = shape;
    let runs = pixels.div_ceil(len);
    let values = Shared::new(values);
    for_each(batch * runs, |index| {
        let (picture, first) = (index / runs, index % runs * len);
        let start = (picture * pixels + first) * channels;
        let end = start + len.min(pixels - first) * channels;
        // SAFETY: runs share no pixel, and every number is handed out once.
        task(picture, start, unsafe { values.slice(start..end) });
    });
}

#[cfg(test)]
mod tests;
