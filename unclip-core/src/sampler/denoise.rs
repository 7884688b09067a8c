//! The one loop that every stage uses.

use burn::tensor::Tensor;

use super::{Sampler, SamplerState, Stepped};
use crate::{
    Result, Stage,
    noise::NoiseSource,
    progress::{self, Observed, Observer, StepEvent},
};

/// Denoises `initial` step by step.
///
/// `model` is given the noisy sample, the training timestep and the index of the step, and returns its prediction,
/// guidance applied. After every step `observer` sees the predicted clean sample, through `as_observed`
/// ([`Observed::Embedding`] or [`Observed::Picture`]).
///
/// # Shapes
///
/// - `initial`: `[batch, channels, ..]`, standard normal
/// - prediction: the same, or `[batch, 2·channels, ..]` with a predicted variance
/// - output: as `initial`
///
/// # Errors
///
/// What `model` and `noise` report, [`Error::InvalidInput`](crate::Error::InvalidInput) when a prediction has another
/// shape, and [`Error::Cancelled`](crate::Error::Cancelled) after the step at which the observer broke off.
pub fn denoise<const D: usize>(
    sampler: &Sampler,
    stage: Stage,
    initial: Tensor<D>,
    noise: &mut dyn NoiseSource,
    mut model: impl FnMut(&Tensor<D>, usize, usize) -> Result<Tensor<D>>,
    observer: &mut dyn Observer,
    as_observed: fn(&Tensor<D>) -> Observed<'_>,
) -> Result<Tensor<D>> {
    let total = sampler.timesteps().len();
    let span = tracing::debug_span!("denoise", %stage, sampler = %sampler.config().kind, total);
    let _entered = span.enter();
    let mut state = SamplerState::new();
    let mut sample = initial;
    for (index, &timestep) in sampler.timesteps().iter().enumerate() {
        let output = model(&sample, timestep, index)?;
        let Stepped { sample: next, clean } =
            sampler.step(&mut state, index, output, sample, noise)?;
        sample = next;
        let step = index + 1;
        tracing::debug!(step, total, timestep, "denoised");
        let event = StepEvent { step, total, timestep };
        progress::check(observer.step(event, as_observed(&clean)), stage, step, total)?;
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use unclip_testkit::{Recorded, device, fixture_sets};

    use super::*;
    use crate::{
        Error,
        noise::{CounterNoise, RecordedNoise},
        progress::Unobserved,
        sampler::{SamplerConfig, SamplerKind, step_bound},
    };

    /// Compares every predicted clean sample with the recorded one.
    struct Comparing<'a> {
        recorded: &'a Recorded,
        steps: usize,
        worst: f64,
    }

    impl Observer for Comparing<'_> {
        fn step(&mut self, event: StepEvent, clean: Observed<'_>) -> ControlFlow<()> {
            let name = format!("chain.{}.pred_original_sample.{}", self.steps, event.step - 1);
            let comparison = match clean {
                Observed::Embedding(clean) => {
                    unclip_testkit::assert_close(clean, self.recorded, &name, step_bound())
                }
                Observed::Picture(clean) => {
                    unclip_testkit::assert_close(clean, self.recorded, &name, step_bound())
                }
            };
            self.worst = self.worst.max(comparison.relative);
            ControlFlow::Continue(())
        }
    }

    fn replay<const D: usize>(
        config: &SamplerConfig,
        recorded: &Recorded,
        as_observed: fn(&Tensor<D>) -> Observed<'_>,
    ) -> f64 {
        let device = device();
        let mut worst = 0f64;
        for steps in [25, 7, 2] {
            let sampler = config.sampler(steps).expect("a valid number of steps");
            let timesteps: Vec<i64> =
                sampler.timesteps().iter().map(|&t| i64::try_from(t).expect("small")).collect();
            assert_eq!(timesteps, recorded.ints(&format!("chain.{steps}.timesteps")));
            let noises = recorded.sequence(&format!("chain.{steps}.noise"));
            let mut noise = RecordedNoise::new(noises).expect("finite");
            assert_eq!(sampler.draws(), noise.remaining());
            let mut observer = Comparing { recorded, steps, worst: 0.0 };
            let model = |sample: &Tensor<D>, _timestep: usize, index: usize| {
                if index > 0 {
                    let name = format!("chain.{steps}.prev_sample.{}", index - 1);
                    let comparison =
                        unclip_testkit::assert_close(sample, recorded, &name, step_bound());
                    worst = worst.max(comparison.relative);
                }
                Ok(recorded.tensor(&format!("chain.{steps}.model_output.{index}"), &device))
            };
            let initial = recorded.tensor(&format!("chain.{steps}.init"), &device);
            let result = denoise(
                &sampler,
                Stage::Prior,
                initial,
                &mut noise,
                model,
                &mut observer,
                as_observed,
            );
            let name = format!("chain.{steps}.prev_sample.{}", steps - 1);
            let result = result.expect("the recorded run fits");
            let last = unclip_testkit::assert_close(&result, recorded, &name, step_bound());
            worst = worst.max(observer.worst).max(last.relative);
            assert_eq!(noise.remaining(), 0);
        }
        worst
    }

    #[test]
    fn recorded_chains_of_every_karlo_scheduler_are_reproduced() {
        for set in fixture_sets() {
            let errors = [
                replay::<2>(
                    &SamplerConfig::karlo_prior(),
                    &set.tensors("scheduler_prior"),
                    |clean| Observed::Embedding(clean),
                ),
                replay::<4>(
                    &SamplerConfig::karlo_decoder(),
                    &set.tensors("scheduler_decoder"),
                    |clean| Observed::Picture(clean),
                ),
                replay::<4>(
                    &SamplerConfig::karlo_super_res(),
                    &set.tensors("scheduler_super_res"),
                    |clean| Observed::Picture(clean),
                ),
            ];
            println!("{}: chains, relative errors {errors:?}", set.name());
        }
    }

    /// Breaks off after a number of steps.
    struct Patience(usize);

    impl Observer for Patience {
        fn step(&mut self, event: StepEvent, _clean: Observed<'_>) -> ControlFlow<()> {
            if event.step < self.0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
    }

    #[test]
    fn cancellation_takes_effect_after_the_step_in_hand() {
        let device = device();
        let sampler = SamplerConfig::karlo_prior().sampler(5).expect("valid");
        let mut calls = 0;
        let error = denoise(
            &sampler,
            Stage::Prior,
            Tensor::<2>::zeros([1, 4], &device),
            &mut CounterNoise::new(&[0], Stage::Prior),
            |sample, _, _| {
                calls += 1;
                Ok(sample.clone())
            },
            &mut Patience(3),
            |clean| Observed::Embedding(clean),
        )
        .expect_err("cancelled");
        assert!(
            matches!(error, Error::Cancelled { stage: Stage::Prior, completed: 3, total: 5 }),
            "{error}"
        );
        assert_eq!(calls, 3);
    }

    /// A perfect network for a single clean point knows the noise exactly, whatever the step.
    #[test]
    fn every_sampler_finds_the_point_that_its_network_knows() {
        let device = device();
        let clean = Tensor::<4>::from_floats([[[[0.75]], [[-0.5]], [[0.0]]]], &device);
        for kind in [
            SamplerKind::UnClip,
            SamplerKind::Ddpm,
            SamplerKind::Ddim { eta: 0.0 },
            SamplerKind::Ddim { eta: 1.0 },
            SamplerKind::DpmSolverPp2M,
        ] {
            for steps in [2, 9, 1000] {
                let config = SamplerConfig::karlo_super_res().with_kind(kind);
                let sampler = config.sampler(steps).expect("valid");
                let products = sampler.tables().alphas_cumprod().to_vec();
                let mut noise = CounterNoise::new(&[5], Stage::Decoder);
                let initial = crate::noise::draw(&mut noise, [1, 3, 1, 1], &device).expect("valid");
                let result = denoise(
                    &sampler,
                    Stage::Decoder,
                    initial,
                    &mut noise,
                    |noisy, t, _| {
                        let product = products[t];
                        Ok((noisy.clone() - clean.clone() * product.sqrt())
                            / (1.0 - product).sqrt())
                    },
                    &mut Unobserved,
                    |clean| Observed::Picture(clean),
                )
                .expect("the network is sound");
                let found: Vec<f32> = result.try_to_vec_as().expect("floats");
                for (found, expected) in found.into_iter().zip([0.75, -0.5, 0.0]) {
                    assert!((found - expected).abs() < 2e-3, "{kind}, {steps} steps: {found}");
                }
            }
        }
    }
}
