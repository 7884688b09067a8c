//! Timestep embeddings.
//!
//! Vaswani et al. 2017, §3.5, in the form that Ho et al. 2020 gave it. Implementations disagree on two points, so both
//! are configuration: which half comes first, and whether frequencies divide by `half` or by `half − 1`.

use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor, TensorData},
};

use super::{Activation, Linear, LinearConfig};
use crate::ops::LinearInput;

/// The form of [`sinusoidal`] embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sinusoid {
    /// Width of an embedding; an odd one ends in a zero.
    pub width: usize,
    /// Whether cosines fill the first half (guided-diffusion, Karlo) instead of sines (the original transformer).
    pub cosine_first: bool,
    /// Subtracted from `half` in the exponent's divisor: 0 in Karlo, 1 in the original transformer.
    pub frequency_shift: f64,
}

/// `cos(t·f)` and `sin(t·f)` with `f_i = 10000^(−i / (half − frequency_shift))`.
///
/// Computed on the host in 32 bits, with the reference's order of roundings, whatever the type of the network.
///
/// # Shapes
///
/// - `timesteps`: one training timestep a row, 0 the least noisy
/// - output: `[timesteps.len(), width]`
pub fn sinusoidal(timesteps: &[f32], form: Sinusoid, device: &Device) -> Tensor<2> {
    let Sinusoid { width, cosine_first, frequency_shift } = form;
    let half = width / 2;
    // The narrowings to 32 bits are the reference's own.
    #[expect(clippy::cast_possible_truncation, reason = "the reference computes these in 32 bits")]
    let frequencies: Vec<f32> = (0..half)
        .map(|i| {
            let exponent =
                -(10000f64.ln() as f32) * i as f32 / (half as f64 - frequency_shift) as f32;
            f64::from(exponent).exp() as f32
        })
        .collect();
    let mut values = Vec::with_capacity(timesteps.len() * width);
    for &timestep in timesteps {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the reference computes these in 32 bits"
        )]
        let rounded =
            |f: fn(f64) -> f64| frequencies.iter().map(move |&w| f(f64::from(timestep * w)) as f32);
        let halves: [fn(f64) -> f64; 2] =
            if cosine_first { [f64::cos, f64::sin] } else { [f64::sin, f64::cos] };
        for half in halves {
            values.extend(rounded(half));
        }
        values.extend(std::iter::repeat_n(0.0, width % 2));
    }
    Tensor::from_data(TensorData::new(values, [timesteps.len(), width]), device)
}

/// The sizes of a [`TimestepEmbedding`].
#[derive(Config, Debug)]
pub struct TimestepEmbeddingConfig {
    /// Width of the sinusoids.
    pub channels_in: usize,
    /// Width between the two layers.
    pub channels_hidden: usize,
    /// Width of the embedding.
    pub channels_out: usize,
}

/// Two linear layers with an activation between them, over sinusoids.
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl TimestepEmbeddingConfig {
    /// The two layers with random weights on `device`.
    pub fn init(&self, activation: Activation, device: &Device) -> TimestepEmbedding {
        TimestepEmbedding {
            linear_1: LinearConfig::new(self.channels_in, self.channels_hidden).init(device),
            linear_2: LinearConfig::new(self.channels_hidden, self.channels_out).init(device),
            activation,
        }
    }
}

impl TimestepEmbedding {
    /// # Shapes
    ///
    /// - `sinusoids`: `[batch, channels_in]`
    /// - output: `[batch, channels_out]`
    pub fn forward(&self, sinusoids: Tensor<2>) -> Tensor<2> {
        let inner = LinearInput::new(sinusoids).activation(self.activation);
        self.linear_2.forward(self.linear_1.apply(inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KARLO: Sinusoid = Sinusoid { width: 8, cosine_first: true, frequency_shift: 0.0 };

    #[test]
    fn step_zero_is_ones_then_zeros() {
        let row = sinusoidal(&[0.0], KARLO, &Device::flex())
            .into_data()
            .try_to_vec::<f32>()
            .expect("32-bit floats");
        assert_eq!(row, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn each_row_is_its_own_timestep_and_frequencies_fall_to_a_ten_thousandth() {
        let device = Device::flex();
        let both = sinusoidal(&[3.0, 700.0], KARLO, &device)
            .into_data()
            .try_to_vec::<f32>()
            .expect("32-bit floats");
        let second = sinusoidal(&[700.0], KARLO, &device)
            .into_data()
            .try_to_vec::<f32>()
            .expect("32-bit floats");
        assert_eq!(both[8..], second[..]);
        // 10000^(−3/4) = 1e-3 is the lowest of four frequencies.
        assert!((both[3] - (3e-3f32).cos()).abs() < 1e-6, "{}", both[3]);
        assert!((both[4] - 3f32.sin()).abs() < 1e-6, "{}", both[4]);
    }

    #[test]
    fn sines_may_come_first_and_an_odd_width_ends_in_zero() {
        let form = Sinusoid { width: 5, cosine_first: false, frequency_shift: 1.0 };
        let row = sinusoidal(&[2.0], form, &Device::flex())
            .into_data()
            .try_to_vec::<f32>()
            .expect("32-bit floats");
        assert_eq!(row.len(), 5);
        assert!((row[0] - 2f32.sin()).abs() < 1e-6 && (row[1] - 2e-4).abs() < 1e-6, "{row:?}");
        assert_eq!(row[4], 0.0);
    }
}
