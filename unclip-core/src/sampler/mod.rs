//! Samplers: from noise to a clean sample, step by step.
//!
//! | [`SamplerKind`] | draws noise | follows diffusers' |
//! |---|---|---|
//! | [`UnClip`](SamplerKind::UnClip) | in every step but the last | `UnCLIPScheduler` |
//! | [`Ddpm`](SamplerKind::Ddpm) | in every step but that of timestep 0 | `DDPMScheduler` |
//! | [`Ddim`](SamplerKind::Ddim) | only where `eta` is above 0 | `DDIMScheduler` |
//! | [`DpmSolverPp2M`](SamplerKind::DpmSolverPp2M) | never | `DPMSolverMultistepScheduler` |
//!
//! A [`SamplerConfig`] is what a checkpoint's `scheduler_config.json` says; [`SamplerConfig::sampler`] makes from it,
//! for a number of steps, a [`Sampler`] whose coefficients are computed once, on the host. A `Sampler` never changes;
//! what a run has to remember between steps is its [`SamplerState`]. [`denoise`] is the loop that every stage uses.

mod ancestral;
mod config;
mod ddim;
mod denoise;
mod dpm_solver;
mod file;
mod timesteps;

#[cfg(test)]
mod parity;

use burn::tensor::Tensor;

use crate::{
    Error, Result,
    diffusion::{NoiseSchedule, Predicted},
    noise::{self, NoiseSource},
};

pub use config::{SamplerConfig, SamplerKind, Variance};
pub use denoise::denoise;
pub use timesteps::Spacing;

use ancestral::Ancestral;
use ddim::Ddim;
use dpm_solver::DpmSolver;

/// A sampler for a fixed number of steps.
///
/// ```
/// # use unclip_core::sampler::SamplerConfig;
/// let sampler = SamplerConfig::karlo_decoder().sampler(7)?;
/// assert_eq!(sampler.timesteps(), [999, 832, 666, 500, 333, 166, 0]);
/// assert_eq!(sampler.draws(), 6);
/// # Ok::<(), unclip_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplerConfig,
    tables: NoiseSchedule,
    timesteps: Vec<usize>,
    steps: Vec<Step>,
}

/// What a run remembers between steps: the previous predicted clean sample, for the sampler of second order.
#[derive(Debug, Clone)]
pub struct SamplerState<const D: usize> {
    previous_clean: Option<Tensor<D>>,
}

impl<const D: usize> Default for SamplerState<D> {
    fn default() -> Self {
        Self { previous_clean: None }
    }
}

impl<const D: usize> SamplerState<D> {
    /// The state before the first step.
    pub fn new() -> Self {
        Self::default()
    }
}

/// The outcome of a step.
#[derive(Debug, Clone)]
pub struct Stepped<const D: usize> {
    /// The less noisy sample.
    pub sample: Tensor<D>,
    /// The predicted clean sample, clipped where the configuration says so.
    pub clean: Tensor<D>,
}

/// The coefficients of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Ancestral(Ancestral),
    Ddim(Ddim),
    DpmSolver(DpmSolver),
}

impl Step {
    fn draws(&self) -> bool {
        match self {
            Self::Ancestral(step) => step.draws(),
            Self::Ddim(step) => step.draws(),
            Self::DpmSolver(_) => false,
        }
    }
}

impl Sampler {
    fn new(config: SamplerConfig, count: usize) -> Result<Self> {
        config.validate()?;
        let tables = NoiseSchedule::new(config.beta_schedule, config.train_timesteps)?;
        let timesteps = timesteps::timesteps(&config, count)?;
        let steps = (0..count)
            .map(|index| {
                let next = timesteps.get(index + 1).copied();
                let t = timesteps[index];
                match config.kind {
                    SamplerKind::UnClip => {
                        Step::Ancestral(Ancestral::unclip(&tables, config.variance, t, next))
                    }
                    SamplerKind::Ddpm => {
                        Step::Ancestral(Ancestral::ddpm(&tables, config.variance, t, next))
                    }
                    SamplerKind::Ddim { eta } => {
                        let last = config.set_alpha_to_one;
                        Step::Ddim(Ddim::new(&tables, eta, t, next, last))
                    }
                    SamplerKind::DpmSolverPp2M => {
                        let before = index.checked_sub(1).map(|index| timesteps[index]);
                        Step::DpmSolver(DpmSolver::new(&tables, before, t, next))
                    }
                }
            })
            .collect();
        Ok(Self { config, tables, timesteps, steps })
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// The noise schedule's tables.
    pub fn tables(&self) -> &NoiseSchedule {
        &self.tables
    }

    /// The training timesteps in the order in which they are denoised.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// The noise tensors that the whole loop draws, after the initial one.
    pub fn draws(&self) -> usize {
        self.steps.iter().filter(|step| step.draws()).count()
    }

    /// Takes step `index`, from `sample` at `timesteps()[index]` to the next timestep.
    ///
    /// Where `output` has twice the channels of `sample`, the second half is a predicted variance; samplers that
    /// learn no variance ignore it.
    ///
    /// # Shapes
    ///
    /// - `sample`: `[batch, channels, ..]`
    /// - `output`: the same, or `[batch, 2·channels, ..]`
    /// - results: as `sample`
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] naming `index` or `output` when one does not fit, and what `noise` reports.
    pub fn step<const D: usize>(
        &self,
        state: &mut SamplerState<D>,
        index: usize,
        output: Tensor<D>,
        sample: Tensor<D>,
        noise: &mut dyn NoiseSource,
    ) -> Result<Stepped<D>> {
        let Some(step) = self.steps.get(index) else {
            let steps = self.steps.len();
            return Err(Error::invalid("index", index, format!("a step below {steps}")));
        };
        let (output, spread) = split_variance(output, &sample)?;
        if step.draws() && self.config.variance_is_needed() && spread.is_none() {
            return Err(Error::invalid(
                "output",
                format_args!("{:?}", output.dims()),
                "twice the channels of the sample: the variance is learned",
            ));
        }
        let drawn = if step.draws() {
            Some(noise::draw(noise, sample.dims(), &sample.device())?.cast(sample.dtype()))
        } else {
            None
        };
        let alpha_cumprod = self.tables.alphas_cumprod()[self.timesteps[index]];
        let prediction = self.config.prediction;
        let clip = |clean| clip(clean, self.config.clip_sample);
        Ok(match step {
            Step::Ancestral(step) => {
                let clean = clip(prediction.clean(output, &sample, alpha_cumprod));
                let sample = step.apply(clean.clone(), sample, spread, drawn);
                Stepped { sample, clean }
            }
            Step::Ddim(step) => {
                let Predicted { clean, epsilon } = prediction.split(output, &sample, alpha_cumprod);
                let clean = clip(clean);
                Stepped { sample: step.apply(clean.clone(), epsilon, drawn), clean }
            }
            Step::DpmSolver(step) => {
                let clean = clip(step.clean(prediction, output, &sample));
                let previous = state.previous_clean.replace(clean.clone());
                Stepped { sample: step.apply(clean.clone(), previous, sample), clean }
            }
        })
    }
}

/// The output proper, and the predicted variance where there is one.
fn split_variance<const D: usize>(
    output: Tensor<D>,
    sample: &Tensor<D>,
) -> Result<(Tensor<D>, Option<Tensor<D>>)> {
    let mut shape = sample.dims();
    if output.dims() == shape {
        return Ok((output, None));
    }
    let channels = shape.get(1).copied().unwrap_or(0);
    if let Some(size) = shape.get_mut(1) {
        *size = channels.saturating_mul(2);
    }
    if output.dims() != shape {
        return Err(Error::invalid(
            "output",
            format_args!("{:?}", output.dims()),
            format!("the sample's shape {:?}, or twice its channels", sample.dims()),
        ));
    }
    let spread = output.clone().narrow(1, channels, channels);
    Ok((output.narrow(1, 0, channels), Some(spread)))
}

/// `clean` within `-range ..= range`, where there is a range.
fn clip<const D: usize>(clean: Tensor<D>, range: Option<f64>) -> Tensor<D> {
    match range {
        Some(range) => clean.clamp(-range, range),
        None => clean,
    }
}

/// How far steps may be from recorded ones: 1e-6, and ten times that on backends that round otherwise.
#[cfg(test)]
fn step_bound() -> f64 {
    if unclip_testkit::is_default_device() { 1e-6 } else { 1e-5 }
}

#[cfg(test)]
mod tests {
    use unclip_testkit::device;

    use super::*;
    use crate::{Stage, noise::CounterNoise};

    fn sampler(kind: SamplerKind, steps: usize) -> Sampler {
        SamplerConfig::karlo_decoder().with_kind(kind).sampler(steps).expect("valid")
    }

    fn first_step(sampler: &Sampler, index: usize, channels: usize) -> Result<Stepped<4>> {
        sampler.step(
            &mut SamplerState::new(),
            index,
            Tensor::zeros([1, channels, 2, 2], &device()),
            Tensor::zeros([1, 3, 2, 2], &device()),
            &mut CounterNoise::new(&[0], Stage::Decoder),
        )
    }

    #[test]
    fn draws_are_counted() {
        for (kind, draws) in [
            (SamplerKind::UnClip, 6),
            (SamplerKind::Ddpm, 6),
            (SamplerKind::Ddim { eta: 0.0 }, 0),
            (SamplerKind::Ddim { eta: 0.3 }, 7),
            (SamplerKind::DpmSolverPp2M, 0),
        ] {
            assert_eq!(sampler(kind, 7).draws(), draws, "{kind}");
        }
    }

    #[test]
    fn a_step_that_does_not_fit_is_refused_by_name() {
        let unclip = sampler(SamplerKind::UnClip, 5);
        let error = first_step(&unclip, 5, 6).expect_err("steps are numbered from 0");
        assert_eq!(error.to_string(), "`index` is 5, expected a step below 5");
        let error = first_step(&unclip, 0, 4).expect_err("neither three channels nor six");
        assert_eq!(
            error.to_string(),
            "`output` is [1, 4, 2, 2], expected the sample's shape [1, 3, 2, 2], or twice its \
             channels"
        );
        let error = first_step(&unclip, 0, 3).expect_err("the variance is learned");
        assert!(matches!(error, Error::InvalidInput { field: "output", .. }), "{error}");
        assert!(first_step(&unclip, 4, 3).is_ok(), "the last step needs no variance");
    }

    #[test]
    fn samplers_without_noise_take_outputs_with_and_without_a_variance() {
        for kind in [SamplerKind::Ddim { eta: 0.0 }, SamplerKind::DpmSolverPp2M] {
            for channels in [3, 6] {
                let stepped = first_step(&sampler(kind, 5), 0, channels).expect("fits");
                assert_eq!(stepped.sample.dims(), [1, 3, 2, 2], "{kind}");
                assert_eq!(stepped.clean.dims(), [1, 3, 2, 2], "{kind}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_passes_through_without_a_panic() {
        for kind in [SamplerKind::UnClip, SamplerKind::DpmSolverPp2M] {
            let output = Tensor::<4>::full([1, 6, 2, 2], f32::NAN, &device());
            let stepped = sampler(kind, 5).step(
                &mut SamplerState::new(),
                0,
                output,
                Tensor::zeros([1, 3, 2, 2], &device()),
                &mut CounterNoise::new(&[0], Stage::Decoder),
            );
            assert!(stepped.is_ok(), "{kind}");
        }
    }

    #[test]
    fn coefficients_are_finite_whatever_the_schedule() {
        for kind in ["unclip", "ddpm", "ddim", "dpm_solver_pp_2m"] {
            for steps in [2, 3, 25, 999, 1000] {
                let sampler = sampler(kind.parse().expect("a name"), steps);
                let text = format!("{:?}", sampler.steps);
                assert!(!text.contains("NaN") && !text.contains("inf"), "{kind}, {steps} steps");
            }
        }
    }
}
