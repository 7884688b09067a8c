//! What a network predicts.

use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What the output of a denoising network means.
///
/// With `x_t = √ᾱ · x_0 + √(1 − ᾱ) · ε`, any of the three gives the other two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise `ε` (Ho et al. 2020). Karlo's decoder and upsamplers.
    Epsilon,
    /// The clean sample `x_0`. unCLIP's prior (paper §2.2).
    Sample,
    /// `v = √ᾱ · ε − √(1 − ᾱ) · x_0` (Salimans & Ho 2022).
    #[serde(rename = "v_prediction")]
    V,
}

impl fmt::Display for Prediction {
    /// The name in diffusers' `scheduler_config.json`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epsilon => "epsilon",
            Self::Sample => "sample",
            Self::V => "v_prediction",
        })
    }
}

/// Both sides of a prediction.
#[derive(Debug, Clone)]
pub struct Predicted<const D: usize> {
    /// The clean sample `x_0`.
    pub clean: Tensor<D>,
    /// The noise `ε`.
    pub epsilon: Tensor<D>,
}

impl Prediction {
    /// The clean sample, for `noisy` at cumulative product `alpha_cumprod`.
    ///
    /// Scalars are rounded to 32 bits and operations keep the reference's order: subtraction before division.
    ///
    /// # Shapes
    ///
    /// - `output`, `noisy`: equal
    /// - result: the same
    ///
    /// # Panics
    ///
    /// When the shapes differ.
    pub fn clean<const D: usize>(
        self,
        output: Tensor<D>,
        noisy: &Tensor<D>,
        alpha_cumprod: f32,
    ) -> Tensor<D> {
        let signal = alpha_cumprod.sqrt();
        let amount = (1.0 - alpha_cumprod).sqrt();
        match self {
            Self::Epsilon => (noisy.clone() - output * amount) / signal,
            Self::Sample => output,
            Self::V => noisy.clone() * signal - output * amount,
        }
    }

    /// The clean sample and the noise, for `noisy` at cumulative product `alpha_cumprod`.
    ///
    /// # Shapes
    ///
    /// - `output`, `noisy`: equal
    /// - results: the same
    ///
    /// # Panics
    ///
    /// When the shapes differ.
    pub fn split<const D: usize>(
        self,
        output: Tensor<D>,
        noisy: &Tensor<D>,
        alpha_cumprod: f32,
    ) -> Predicted<D> {
        let signal = alpha_cumprod.sqrt();
        let amount = (1.0 - alpha_cumprod).sqrt();
        let clean = self.clean(output.clone(), noisy, alpha_cumprod);
        let epsilon = match self {
            Self::Epsilon => output,
            Self::Sample => (noisy.clone() - output * signal) / amount,
            Self::V => output * signal + noisy.clone() * amount,
        };
        Predicted { clean, epsilon }
    }
}

#[cfg(test)]
mod tests {
    use unclip_testkit::{compare, device};

    use super::*;

    fn floats(tensor: &Tensor<1>) -> Vec<f32> {
        tensor.try_to_vec_as().expect("readable floats")
    }

    #[test]
    fn every_kind_recovers_the_clean_sample_and_the_noise() {
        let device = device();
        let clean = Tensor::<1>::from_floats([0.5, -1.0, 0.25, 3.0], &device);
        let epsilon = Tensor::<1>::from_floats([1.5, 0.125, -2.0, 0.0], &device);
        for alpha_cumprod in [0.02f32, 0.3, 0.97] {
            let (signal, amount) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
            let noisy = clean.clone() * signal + epsilon.clone() * amount;
            let v = epsilon.clone() * signal - clean.clone() * amount;
            for (kind, output) in [
                (Prediction::Epsilon, epsilon.clone()),
                (Prediction::Sample, clean.clone()),
                (Prediction::V, v),
            ] {
                let predicted = kind.split(output, &noisy, alpha_cumprod);
                let error = compare(&floats(&predicted.clean), &floats(&clean)).max_abs;
                assert!(error < 5e-6, "{kind} at {alpha_cumprod}: clean is off by {error}");
                let error = compare(&floats(&predicted.epsilon), &floats(&epsilon)).max_abs;
                assert!(error < 5e-6, "{kind} at {alpha_cumprod}: noise is off by {error}");
            }
        }
    }

    #[test]
    fn names_are_those_of_diffusers() {
        for kind in [Prediction::Epsilon, Prediction::Sample, Prediction::V] {
            let json = serde_json::to_value(kind).expect("serialisable");
            assert_eq!(json, kind.to_string());
        }
    }
}
