//! Where Gaussian noise comes from.
//!
//! Noise is always made on the host, so that a seed means the same on every backend.
//!
//! | source | for |
//! |---|---|
//! | [`CounterNoise`] | everyday use: one stream a picture and stage, so that batches can be cut anywhere |
//! | [`TorchNoise`] | the picture that a diffusers user gets from the same seed |
//! | [`RecordedNoise`] | noise that the caller supplies, and replays in tests |

mod counter;
mod recorded;
mod torch;

use burn::tensor::{Device, Tensor, TensorData};

use crate::{Error, Result};

pub use counter::CounterNoise;
pub use recorded::RecordedNoise;
pub use torch::TorchNoise;

/// The most values that one draw may ask for: 2²⁹, 2 GiB.
const MAX_VALUES: usize = 1 << 29;

/// A source of standard normal values.
pub trait NoiseSource {
    /// Standard normal values for a tensor of `shape`, row-major; axis 0 is the batch.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when the source cannot serve this shape.
    fn draw(&mut self, shape: &[usize]) -> Result<Vec<f32>>;
}

impl<N: NoiseSource + ?Sized> NoiseSource for &mut N {
    fn draw(&mut self, shape: &[usize]) -> Result<Vec<f32>> {
        (**self).draw(shape)
    }
}

impl<N: NoiseSource + ?Sized> NoiseSource for Box<N> {
    fn draw(&mut self, shape: &[usize]) -> Result<Vec<f32>> {
        (**self).draw(shape)
    }
}

/// A tensor of noise on `device`.
///
/// # Shapes
///
/// - output: `shape`, standard normal
///
/// # Errors
///
/// [`Error::InvalidInput`] when the source cannot serve this shape.
pub fn draw<const D: usize>(
    source: &mut dyn NoiseSource,
    shape: [usize; D],
    device: &Device,
) -> Result<Tensor<D>> {
    let expected = volume(&shape)?;
    let values = source.draw(&shape)?;
    if values.len() != expected {
        let expected = format!("{expected}, as {shape:?} holds");
        return Err(Error::invalid("noise", format_args!("{} values", values.len()), expected));
    }
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}

/// The number of values in `shape`, unless it is absurd.
fn volume(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .filter(|&values| values <= MAX_VALUES)
        .ok_or_else(|| {
            Error::invalid(
                "shape",
                format_args!("{shape:?}"),
                format!("at most {MAX_VALUES} values"),
            )
        })
}

#[cfg(test)]
mod tests {
    use unclip_testkit::device;

    use super::*;

    /// Returns what it is told to.
    struct Fixed(Vec<f32>);

    impl NoiseSource for Fixed {
        fn draw(&mut self, _shape: &[usize]) -> Result<Vec<f32>> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn a_source_that_returns_too_little_is_an_error() {
        let error = draw(&mut Fixed(vec![0.0; 3]), [2, 2], &device()).expect_err("one is lacking");
        assert_eq!(error.to_string(), "`noise` is 3 values, expected 4, as [2, 2] holds");
        let noise = draw(&mut Fixed(vec![1.0; 4]), [2, 2], &device()).expect("four are right");
        assert_eq!(noise.dims(), [2, 2]);
    }

    #[test]
    fn absurd_shapes_are_refused_before_anything_is_allocated() {
        for shape in [[usize::MAX, 2], [1 << 20, 1 << 20]] {
            let error = draw(&mut TorchNoise::new(0), shape, &device()).expect_err("too large");
            assert!(matches!(error, Error::InvalidInput { field: "shape", .. }), "{error}");
        }
    }
}
