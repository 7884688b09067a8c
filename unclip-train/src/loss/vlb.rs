//! The variational bound, which teaches a network its variance.
//!
//! Nichol & Dhariwal 2021, §3.1; follows openai/guided-diffusion `gaussian_diffusion.py`, `_vb_terms_bpd`, and
//! `losses.py`.

use std::f64::consts::LN_2;

use burn::tensor::{Tensor, TensorData};
use unclip_core::diffusion::NoiseSchedule;

/// Half the width of a grey level, in `[-1, 1]`.
const HALF_LEVEL: f64 = 1.0 / 255.0;

/// The posterior's tables.
#[derive(Debug, Clone)]
pub(super) struct VariationalBound {
    /// How much of the clean sample is in the posterior's mean.
    of_clean: Vec<f32>,
    /// How much of the noisy one.
    of_noisy: Vec<f32>,
    /// The logarithm of the posterior's variance, the lower end of what a network may say. At timestep 0 it is that of
    /// timestep 1, since the variance itself is none.
    lower: Vec<f32>,
    /// The logarithm of the forward process's variance, the upper end.
    upper: Vec<f32>,
}

impl VariationalBound {
    #[expect(clippy::cast_possible_truncation, reason = "tensors are 32 bits wide")]
    pub(super) fn new(schedule: &NoiseSchedule) -> Self {
        let signal: Vec<f64> = schedule.alphas_cumprod().iter().map(|&x| f64::from(x)).collect();
        let before = |i: usize| if i == 0 { 1.0 } else { signal[i - 1] };
        let table = |f: &dyn Fn(usize, f64) -> f64| {
            let betas = schedule.betas().iter().enumerate();
            betas.map(|(i, &beta)| f(i, f64::from(beta)) as f32).collect::<Vec<f32>>()
        };
        let posterior = |i: usize, beta: f64| beta * (1.0 - before(i)) / (1.0 - signal[i]);
        let second = schedule.betas().get(1).map_or(f64::MIN_POSITIVE, |&beta| {
            posterior(1, f64::from(beta)).max(f64::MIN_POSITIVE)
        });
        Self {
            of_clean: table(&|i, beta| beta * before(i).sqrt() / (1.0 - signal[i])),
            of_noisy: table(&|i, beta| (1.0 - beta).sqrt() * (1.0 - before(i)) / (1.0 - signal[i])),
            lower: table(&|i, beta| if i == 0 { second } else { posterior(i, beta) }.ln()),
            upper: table(&|_, beta| beta.ln()),
        }
    }

    /// The bound of each row in bits a value: the divergence of the posterior, or at timestep 0 the likelihood of the
    /// picture's grey levels.
    ///
    /// # Shapes
    ///
    /// - `clean`, `noisy`, `predicted`, `share`: equal; `share` is -1 at the lower variance and 1 at the upper one
    /// - output: `[batch]`
    pub(super) fn losses(
        &self,
        clean: &Tensor<4>,
        noisy: &Tensor<4>,
        predicted: Tensor<4>,
        share: Tensor<4>,
        timesteps: &[usize],
    ) -> Tensor<1> {
        let device = clean.device();
        let rows = timesteps.len();
        let column = |table: &[f32]| -> Tensor<4> {
            let values: Vec<f32> = timesteps.iter().map(|&timestep| table[timestep]).collect();
            Tensor::from_data(TensorData::new(values, [rows, 1, 1, 1]), &device)
        };
        let (lower, upper) = (column(&self.lower), column(&self.upper));
        let fraction = (share + 1.0) / 2.0;
        let log_variance = fraction * (upper - lower.clone()) + lower.clone();
        let mean = |clean: Tensor<4>| {
            clean * column(&self.of_clean) + noisy.clone() * column(&self.of_noisy)
        };
        let flat = |x: Tensor<4>| x.flatten::<2>(1, 3).mean_dim(1);

        let distance = (mean(clean.clone()) - mean(predicted.clone())).square();
        let divergence = (log_variance.clone() - lower.clone() - 1.0
            + (lower - log_variance.clone()).exp()
            + distance * (-log_variance.clone()).exp())
            * (0.5 / LN_2);
        let divergence = flat(divergence);
        if timesteps.iter().all(|&timestep| timestep > 0) {
            return divergence.reshape([rows]);
        }
        let likelihood = likelihood(clean, mean(predicted), log_variance * 0.5) * (-1.0 / LN_2);
        let first: Vec<f32> = timesteps.iter().map(|&t| f32::from(t == 0)).collect();
        let first = Tensor::<2>::from_data(TensorData::new(first, [rows, 1]), &device);
        (flat(likelihood) * first.clone() + divergence * (first * -1.0 + 1.0)).reshape([rows])
    }
}

/// The logarithm of the probability that a Gaussian gives to the grey level of each value.
fn likelihood(x: &Tensor<4>, mean: Tensor<4>, log_deviation: Tensor<4>) -> Tensor<4> {
    let centred = x.clone() - mean;
    let inverse = (-log_deviation).exp();
    let above = cumulative((centred.clone() + HALF_LEVEL) * inverse.clone());
    let below = cumulative((centred - HALF_LEVEL) * inverse);
    let log = |x: Tensor<4>| x.clamp_min(1e-12).log();
    let inside = log(above.clone() - below.clone());
    // The darkest level reaches down without end, and the brightest up.
    let darkest = x.clone().lower_elem(-0.999);
    let brightest = x.clone().greater_elem(0.999);
    inside.mask_where(darkest, log(above)).mask_where(brightest, log(below * -1.0 + 1.0))
}

/// The cumulative standard normal distribution, approximated as the reference does.
fn cumulative(x: Tensor<4>) -> Tensor<4> {
    let inner = (x.clone() + x.powi_scalar(3) * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt();
    (inner.tanh() + 1.0) * 0.5
}
