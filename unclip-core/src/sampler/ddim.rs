//! DDIM (Song et al. 2021, equations 12 and 16).
//!
//! Follows diffusers' `DDIMScheduler.step`, scalars in 32 bits. One deviation: diffusers takes the next timestep to be
//! `⌊n / k⌋` below, which misses the next one visited where the spacing is uneven (linspace; trailing with a `k` that
//! does not divide `n`); here it is the next one visited.

use burn::tensor::Tensor;

use crate::diffusion::NoiseSchedule;

/// The coefficients of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ddim {
    /// Of the predicted clean sample.
    clean: f32,
    /// Of the predicted noise.
    epsilon: f32,
    /// Of fresh noise, where `eta` is above 0.
    noise: Option<f32>,
}

impl Ddim {
    /// The step from `t` to `next`, or to the clean sample (`to_one`) or the products' first entry.
    #[expect(clippy::cast_possible_truncation, reason = "the reference's scalars are 32 bits wide")]
    pub(super) fn new(
        tables: &NoiseSchedule,
        eta: f64,
        t: usize,
        next: Option<usize>,
        to_one: bool,
    ) -> Self {
        let products = tables.alphas_cumprod();
        let here = products[t];
        let next = match next {
            Some(next) => products[next],
            None if to_one => 1.0,
            None => products[0],
        };
        let variance = (1.0 - next) / (1.0 - here) * (1.0 - here / next);
        let deviation = eta as f32 * variance.sqrt();
        // Rounding may leave a little less than nothing where `eta` is 1.
        let direction = (1.0 - next - deviation * deviation).max(0.0);
        Self {
            clean: next.sqrt(),
            epsilon: direction.sqrt(),
            noise: (eta > 0.0).then_some(deviation),
        }
    }

    /// Whether the step adds noise.
    pub(super) fn draws(&self) -> bool {
        self.noise.is_some()
    }

    /// Takes the step.
    ///
    /// # Shapes
    ///
    /// - all: equal
    pub(super) fn apply<const D: usize>(
        &self,
        clean: Tensor<D>,
        epsilon: Tensor<D>,
        noise: Option<Tensor<D>>,
    ) -> Tensor<D> {
        let sample = clean * self.clean + epsilon * self.epsilon;
        match (self.noise, noise) {
            (Some(deviation), Some(noise)) => sample + noise * deviation,
            _ => sample,
        }
    }
}
