//! Ancestral sampling: UnCLIP (Karlo) and DDPM (Ho et al. 2020, equation 7).
//!
//! Follows diffusers' `UnCLIPScheduler.step` and `DDPMScheduler.step`. Every scalar is a 32-bit float and every
//! operation is rounded to one, because that is what the reference's numbers are: at Karlo's last step the
//! coefficient of the clean sample is 0.999_472_32, where exact arithmetic gives 1.

use burn::tensor::Tensor;

use super::Variance;
use crate::diffusion::NoiseSchedule;

/// Variances are not allowed below this before their logarithm is taken.
const SMALLEST: f32 = 1e-20;

/// The coefficients of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ancestral {
    /// Of the predicted clean sample.
    clean: f32,
    /// Of the noisy sample.
    noisy: f32,
    /// Absent at timestep 0.
    noise: Option<Deviation>,
}

/// The standard deviation of the added noise.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Deviation {
    Fixed(f32),
    /// The network chooses between these logarithms of the variance.
    Between {
        smallest: f32,
        largest: f32,
    },
}

/// The scalars that both samplers start from, at timestep `t` and the next.
struct Products {
    /// `ᾱ` here and at the next timestep.
    here: f32,
    next: f32,
    /// `1 − ᾱ` here and at the next timestep.
    noise_here: f32,
    noise_next: f32,
}

impl Products {
    fn new(tables: &NoiseSchedule, t: usize, next: Option<usize>) -> Self {
        let here = tables.alphas_cumprod()[t];
        let next = next.map_or(1.0, |next| tables.alphas_cumprod()[next]);
        Self { here, next, noise_here: 1.0 - here, noise_next: 1.0 - next }
    }

    fn step(&self, alpha: f32, beta: f32, noise: Option<Deviation>) -> Ancestral {
        Ancestral {
            clean: self.next.sqrt() * beta / self.noise_here,
            noisy: alpha.sqrt() * self.noise_next / self.noise_here,
            noise,
        }
    }
}

impl Ancestral {
    /// UnCLIP's step from `t` to `next`, or to the clean sample.
    ///
    /// Between neighbours, beta is the table's; where timesteps are skipped it is recomputed from the products. A last
    /// timestep above 0 is taken to lead to the one below it, as in diffusers, where the caller leaves `next` out.
    pub(super) fn unclip(
        tables: &NoiseSchedule,
        variance: Variance,
        t: usize,
        next: Option<usize>,
    ) -> Self {
        let next = next.or_else(|| t.checked_sub(1));
        let products = Products::new(tables, t, next);
        let (alpha, beta) = if next == t.checked_sub(1) {
            (tables.alphas()[t], tables.betas()[t])
        } else {
            let beta = 1.0 - products.here / products.next;
            (1.0 - beta, beta)
        };
        let small = products.noise_next / products.noise_here * beta;
        let deviation = match variance {
            Variance::LearnedRange => {
                Deviation::Between { smallest: logarithm(small), largest: logarithm(beta) }
            }
            _ => Deviation::Fixed(through_logarithm(small.max(SMALLEST))),
        };
        products.step(alpha, beta, (t > 0).then_some(deviation))
    }

    /// DDPM's step from `t` to `next`, or to the clean sample. Beta is always recomputed from the products.
    pub(super) fn ddpm(
        tables: &NoiseSchedule,
        variance: Variance,
        t: usize,
        next: Option<usize>,
    ) -> Self {
        let products = Products::new(tables, t, next);
        let alpha = products.here / products.next;
        let beta = 1.0 - alpha;
        let small = (products.noise_next / products.noise_here * beta).max(SMALLEST);
        let deviation = match variance {
            Variance::FixedSmall => Deviation::Fixed(small.sqrt()),
            Variance::FixedSmallLog => Deviation::Fixed(through_logarithm(small)),
            Variance::FixedLarge => Deviation::Fixed(beta.sqrt()),
            Variance::LearnedRange => {
                Deviation::Between { smallest: logarithm(small), largest: logarithm(beta) }
            }
        };
        products.step(alpha, beta, (t > 0).then_some(deviation))
    }

    /// Whether the step adds noise.
    pub(super) fn draws(&self) -> bool {
        self.noise.is_some()
    }

    /// Takes the step.
    ///
    /// # Shapes
    ///
    /// - all: equal; `spread` in `[-1, 1]` runs from the smallest variance to the largest
    pub(super) fn apply<const D: usize>(
        &self,
        clean: Tensor<D>,
        noisy: Tensor<D>,
        spread: Option<Tensor<D>>,
        noise: Option<Tensor<D>>,
    ) -> Tensor<D> {
        let mean = clean * self.clean + noisy * self.noisy;
        match (self.noise, noise, spread) {
            (Some(Deviation::Fixed(deviation)), Some(noise), _) => mean + noise * deviation,
            (Some(Deviation::Between { smallest, largest }), Some(noise), Some(spread)) => {
                let share = (spread + 1.0) / 2.0;
                let rest = share.clone().neg() + 1.0;
                let log_variance = share * largest + rest * smallest;
                mean + (log_variance * 0.5).exp() * noise
            }
            _ => mean,
        }
    }
}

/// The natural logarithm, correctly rounded in all but the rarest cases.
#[expect(clippy::cast_possible_truncation, reason = "the reference's scalars are 32 bits wide")]
fn logarithm(x: f32) -> f32 {
    libm::log(f64::from(x)) as f32
}

/// `√variance`, as the reference's `exp(ln(variance) / 2)` rounds it.
#[expect(clippy::cast_possible_truncation, reason = "the reference's scalars are 32 bits wide")]
fn through_logarithm(variance: f32) -> f32 {
    libm::exp(f64::from(0.5 * logarithm(variance))) as f32
}

#[cfg(test)]
mod tests {
    use unclip_testkit::{Recorded, device, fixture_sets};

    use super::*;
    use crate::{
        diffusion::BetaSchedule,
        sampler::{SamplerConfig, clip, split_variance, step_bound},
    };

    fn tables() -> NoiseSchedule {
        NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).expect("a valid schedule")
    }

    #[test]
    fn coefficients_are_the_reference_s() {
        let tables = tables();
        for (t, next, clean, noisy, deviation) in [
            (999, Some(957), 0.065_408_17, 0.000_768_737_46, 0.997_858_3),
            (500, Some(458), 0.172_320_49, 0.818_688_9, 0.319_509_48),
            (42, Some(0), 0.993_300_2, 0.006_697_5, 0.006_405_476_5),
            (166, Some(0), 0.99945, 0.000_549_496_2, 0.006_425_275),
        ] {
            let step = Ancestral::unclip(&tables, Variance::FixedSmallLog, t, next);
            let Some(Deviation::Fixed(found)) = step.noise else {
                panic!("step {t} adds noise of a fixed deviation")
            };
            for (found, expected) in [(step.clean, clean), (step.noisy, noisy), (found, deviation)]
            {
                assert!((found / expected - 1.0).abs() < 1e-6, "{t}: {found}, not {expected}");
            }
        }
        let last = Ancestral::unclip(&tables, Variance::FixedSmallLog, 0, None);
        assert_eq!(last, Ancestral { clean: 0.999_472_3, noisy: 0.0, noise: None });
    }

    /// Replays isolated steps from one sample, with neighbours, skips and left-out next timesteps.
    fn replay_singles<const D: usize>(config: &SamplerConfig, recorded: &Recorded) -> f64 {
        let (tables, device) = (tables(), device());
        let mut worst = 0f64;
        for (t, next) in [
            (999, None),
            (500, None),
            (1, None),
            (0, None),
            (999, Some(998)),
            (42, Some(0)),
            (1, Some(0)),
            (700, Some(100)),
        ] {
            let sample: Tensor<D> = recorded.tensor("single.sample", &device);
            let output = recorded.tensor("single.model_output", &device);
            let noise = recorded.tensor("single.noise", &device);
            let (output, spread) = split_variance(output, &sample).expect("recorded shapes fit");
            let step = Ancestral::unclip(&tables, config.variance, t, next);
            let clean = config.prediction.clean(output, &sample, tables.alphas_cumprod()[t]);
            let clean = clip(clean, config.clip_sample);
            let stepped = step.apply(clean.clone(), sample, spread, Some(noise));
            let tag = format!("single.{t}.{}", next.map_or("none".into(), |next| next.to_string()));
            for (tensor, name) in [(clean, "pred_original_sample"), (stepped, "prev_sample")] {
                let name = format!("{tag}.{name}");
                worst = worst.max(
                    unclip_testkit::assert_close(&tensor, recorded, &name, step_bound()).relative,
                );
            }
        }
        worst
    }

    #[test]
    fn isolated_steps_are_reproduced() {
        for set in fixture_sets() {
            let errors = [
                replay_singles::<2>(&SamplerConfig::karlo_prior(), &set.tensors("scheduler_prior")),
                replay_singles::<4>(
                    &SamplerConfig::karlo_decoder(),
                    &set.tensors("scheduler_decoder"),
                ),
                replay_singles::<4>(
                    &SamplerConfig::karlo_super_res(),
                    &set.tensors("scheduler_super_res"),
                ),
            ];
            println!("{}: isolated steps, relative errors {errors:?}", set.name());
        }
    }
}
