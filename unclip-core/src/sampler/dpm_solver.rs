//! DPM-Solver++ of second order, multistep (Lu et al. 2022, algorithm 2, in the midpoint form).
//!
//! Follows diffusers' `DPMSolverMultistepScheduler` with `algorithm_type` dpmsolver++, `solver_order` 2, `solver_type`
//! midpoint and `final_sigmas_type` zero. Noise levels are the reference's 32-bit `σ = √((1 − ᾱ) / ᾱ)`; everything
//! after them is computed in 64 bits, because `σ` reaches 20 291 in Karlo's schedule.

use burn::tensor::Tensor;

use crate::diffusion::{NoiseSchedule, Prediction};

/// The coefficients of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DpmSolver {
    /// `√ᾱ` and `√(1 − ᾱ)` of the step's own noise level.
    signal: f32,
    amount: f32,
    /// Of the noisy sample.
    noisy: f32,
    /// Of the predicted clean sample.
    clean: f32,
    /// Of the difference between this and the previous predicted clean sample; absent in steps of first order.
    change: Option<f32>,
}

impl DpmSolver {
    /// The step from `t` to `next`, or to the clean sample, after one from `before`.
    #[expect(clippy::cast_possible_truncation, reason = "tensors are 32 bits wide")]
    pub(super) fn new(
        tables: &NoiseSchedule,
        before: Option<usize>,
        t: usize,
        next: Option<usize>,
    ) -> Self {
        let level = |t: usize| {
            let product = tables.alphas_cumprod()[t];
            f64::from(((1.0 - product) / product).sqrt())
        };
        let here = level(t);
        let end = next.map_or(0.0, level);
        let signal_of = |level: f64| 1.0 / (level * level + 1.0).sqrt();
        let (signal, signal_end) = (signal_of(here), signal_of(end));
        // With λ = −ln σ, the paper's e^(−h) is a quotient of noise levels.
        let clean = signal_end * (1.0 - end / here);
        // Where more steps are asked for than there are timesteps between, one may be visited twice; the slope there
        // is unknown.
        let earlier = before.map(level).filter(|&earlier| end > 0.0 && earlier > here);
        let change = earlier.map(|earlier| 0.5 * clean * (here / end).ln() / (earlier / here).ln());
        Self {
            signal: signal as f32,
            amount: (here * signal) as f32,
            noisy: (end * signal_end / (here * signal)) as f32,
            clean: clean as f32,
            change: change.map(|change| change as f32),
        }
    }

    /// The predicted clean sample.
    ///
    /// # Shapes
    ///
    /// - all: equal
    pub(super) fn clean<const D: usize>(
        &self,
        prediction: Prediction,
        output: Tensor<D>,
        noisy: &Tensor<D>,
    ) -> Tensor<D> {
        match prediction {
            Prediction::Epsilon => (noisy.clone() - output * self.amount) / self.signal,
            Prediction::Sample => output,
            Prediction::V => noisy.clone() * self.signal - output * self.amount,
        }
    }

    /// Takes the step.
    ///
    /// # Shapes
    ///
    /// - all: equal
    pub(super) fn apply<const D: usize>(
        &self,
        clean: Tensor<D>,
        previous: Option<Tensor<D>>,
        noisy: Tensor<D>,
    ) -> Tensor<D> {
        let first_order = noisy * self.noisy + clean.clone() * self.clean;
        match (self.change, previous) {
            (Some(change), Some(previous)) => first_order + (clean - previous) * change,
            _ => first_order,
        }
    }
}
