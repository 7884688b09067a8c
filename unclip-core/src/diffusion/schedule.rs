//! Noise schedules.
//!
//! Ho et al. 2020 (linear), Rombach et al. 2022 (scaled linear), Nichol & Dhariwal 2021 (squared cosine).

use std::f64::consts::FRAC_PI_2;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The most training timesteps that a table is made for. Published models have 1000.
pub const MAX_TRAIN_TIMESTEPS: usize = 1_000_000;

/// How much noise each training timestep adds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// `β_i = min(1 − c((i + 1) / n) / c(i / n), 0.999)` with `c(u) = cos²((u + 0.008) / 1.008 · π / 2)`; diffusers
    /// names it `squaredcos_cap_v2`. Karlo's.
    SquaredCosine,
    /// From `start` to `end` in equal steps.
    Linear {
        /// The first beta.
        start: f64,
        /// The last beta.
        end: f64,
    },
    /// The squares of equal steps from `√start` to `√end`.
    ScaledLinear {
        /// The first beta.
        start: f64,
        /// The last beta.
        end: f64,
    },
}

impl BetaSchedule {
    /// Checks that every beta lies strictly between 0 and 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] naming `beta_schedule`.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::SquaredCosine => Ok(()),
            Self::Linear { start, end } | Self::ScaledLinear { start, end } => {
                let inside = |beta: f64| beta >= f64::from(f32::EPSILON) && beta < 1.0;
                if inside(start) && inside(end) {
                    Ok(())
                } else {
                    Err(Error::invalid(
                        "beta_schedule",
                        format_args!("{start} to {end}"),
                        "betas from 1.2e-7 to below 1",
                    ))
                }
            }
        }
    }

    /// The betas, computed in 64 bits (cosine) or 32 bits (linear), as the reference does, and stored in 32.
    #[expect(clippy::cast_possible_truncation, reason = "the reference stores 32-bit betas")]
    fn betas(&self, count: usize) -> Vec<f32> {
        match *self {
            Self::SquaredCosine => {
                let remaining = |i: usize| {
                    let u = i as f64 / count as f64;
                    libm::cos((u + 0.008) / 1.008 * FRAC_PI_2).powi(2)
                };
                (0..count)
                    .map(|i| (1.0 - remaining(i + 1) / remaining(i)).min(0.999) as f32)
                    .collect()
            }
            Self::Linear { start, end } => equal_steps(start as f32, end as f32, count),
            Self::ScaledLinear { start, end } => {
                let roots = equal_steps(start.sqrt() as f32, end.sqrt() as f32, count);
                roots.into_iter().map(|root| root * root).collect()
            }
        }
    }
}

/// `count` values from `start` to `end`, as PyTorch's `linspace` rounds them: the second half counts back from `end`.
fn equal_steps(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|i| {
            if i < count / 2 {
                step.mul_add(i as f32, start)
            } else {
                step.mul_add(-((count - 1 - i) as f32), end)
            }
        })
        .collect()
}

/// The tables of a schedule, on the host.
///
/// With `β_i` the noise of training timestep `i`: `α_i = 1 − β_i`, `ᾱ_i = α_0 · … · α_i`. All three are 32-bit values,
/// and `ᾱ` is accumulated in 64 bits and rounded entry by entry: what PyTorch's CPU `cumprod` does. The roundings are
/// part of the numbers: with exact ones every finished Karlo picture would differ by 5e-4.
///
/// ```
/// # use unclip_core::diffusion::{BetaSchedule, NoiseSchedule};
/// let tables = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000)?;
/// assert_eq!(tables.alphas_cumprod()[999], 2.428_735e-9);
/// # Ok::<(), unclip_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    betas: Vec<f32>,
    alphas: Vec<f32>,
    alphas_cumprod: Vec<f32>,
}

impl NoiseSchedule {
    /// The tables for `train_timesteps` timesteps.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when there are no timesteps or more than [`MAX_TRAIN_TIMESTEPS`], or when a beta or a
    /// cumulative product is not strictly between 0 and 1, so that no sampler could divide by it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the reference rounds every entry to 32 bits"
    )]
    pub fn new(schedule: BetaSchedule, train_timesteps: usize) -> Result<Self> {
        if !(1..=MAX_TRAIN_TIMESTEPS).contains(&train_timesteps) {
            return Err(Error::invalid(
                "train_timesteps",
                train_timesteps,
                format!("1 to {MAX_TRAIN_TIMESTEPS}"),
            ));
        }
        schedule.validate()?;
        let betas = schedule.betas(train_timesteps);
        let alphas: Vec<f32> = betas.iter().map(|beta| 1.0 - beta).collect();
        let alphas_cumprod = alphas
            .iter()
            .scan(1f64, |product, &alpha| {
                *product *= f64::from(alpha);
                Some(*product as f32)
            })
            .collect::<Vec<f32>>();
        let inside = f32::MIN_POSITIVE..1.0;
        if !alphas_cumprod.iter().all(|product| inside.contains(product)) {
            return Err(Error::invalid(
                "beta_schedule",
                format_args!("{schedule:?} over {train_timesteps} timesteps"),
                "a schedule whose cumulative products lie strictly between 0 and 1 in 32 bits",
            ));
        }
        Ok(Self { betas, alphas, alphas_cumprod })
    }

    /// Training timesteps.
    pub fn train_timesteps(&self) -> usize {
        self.betas.len()
    }

    /// `β`, the variance that each timestep adds.
    pub fn betas(&self) -> &[f32] {
        &self.betas
    }

    /// `α = 1 − β`.
    pub fn alphas(&self) -> &[f32] {
        &self.alphas
    }

    /// `ᾱ`, the cumulative product of `α`: the share of the clean sample's variance that is left.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// The forward process in one go: `√ᾱ_t · clean + √(1 − ᾱ_t) · noise`, row by row.
    ///
    /// # Shapes
    ///
    /// - `clean`, `noise`: `[batch, ..]`
    /// - `timesteps`: one a row
    /// - output: as `clean`
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when a timestep is beyond the table, or there is not one for each row.
    ///
    /// # Panics
    ///
    /// When the shapes of `clean` and `noise` differ.
    pub fn add_noise<const D: usize>(
        &self,
        clean: Tensor<D>,
        noise: Tensor<D>,
        timesteps: &[usize],
    ) -> Result<Tensor<D>> {
        let rows = clean.dims()[0];
        if timesteps.len() != rows {
            return Err(Error::invalid("timesteps", timesteps.len(), format!("{rows}, one a row")));
        }
        let mut signal = Vec::with_capacity(rows);
        let mut amount = Vec::with_capacity(rows);
        for &t in timesteps {
            let Some(&cumprod) = self.alphas_cumprod.get(t) else {
                let last = self.train_timesteps() - 1;
                return Err(Error::invalid("timesteps", t, format!("0 to {last}")));
            };
            signal.push(cumprod.sqrt());
            amount.push((1.0 - cumprod).sqrt());
        }
        let column = |values: Vec<f32>| {
            let mut shape = [1; D];
            shape[0] = rows;
            let column = Tensor::<D>::from_data(TensorData::new(values, shape), &clean.device());
            column.cast(clean.dtype())
        };
        Ok(column(signal) * clean.clone() + column(amount) * noise)
    }
}

#[cfg(test)]
mod tests {
    use unclip_testkit::{Recorded, device, fixture_sets, fixtures_root};

    use super::*;

    #[track_caller]
    fn golden(schedule: BetaSchedule, expected: [(usize, f32, f32); 4]) {
        let tables = NoiseSchedule::new(schedule, 1000).expect("a valid schedule");
        for (i, beta, cumprod) in expected {
            assert_eq!(tables.betas()[i], beta, "beta {i} of {schedule:?}");
            assert_eq!(
                tables.alphas_cumprod()[i],
                cumprod,
                "cumulative product {i} of {schedule:?}"
            );
        }
    }

    #[test]
    fn the_cosine_table_is_the_reference_s() {
        golden(
            BetaSchedule::SquaredCosine,
            [
                (0, 4.128_422_4e-5, 0.999_958_7),
                (1, 4.614_175e-5, 0.999_912_56),
                (500, 0.003_155_691_5, 0.492_285_04),
                (999, 0.999, 2.428_735e-9),
            ],
        );
    }

    #[test]
    fn the_linear_tables_are_the_reference_s() {
        golden(
            BetaSchedule::Linear { start: 1e-4, end: 0.02 },
            [
                (0, 1e-4, 0.9999),
                (1, 1.199_199_2e-4, 0.999_780_06),
                (500, 0.010_059_959, 0.077_796_65),
                (999, 0.02, 4.035_830_4e-5),
            ],
        );
        golden(
            BetaSchedule::ScaledLinear { start: 0.00085, end: 0.012 },
            [
                (0, 8.499_999_5e-4, 0.99915),
                (1, 8.546_986e-4, 0.998_296),
                (500, 0.004_814_953_5, 0.276_332_47),
                (999, 0.011_999_999, 0.004_660_095),
            ],
        );
    }

    #[test]
    fn every_entry_of_the_recorded_tables_is_reproduced_to_the_bit() {
        let tables = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).expect("valid");
        for set in fixture_sets() {
            let recorded = set.tensors("scheduler_prior");
            assert_eq!(tables.betas(), recorded.floats("betas"));
            assert_eq!(tables.alphas_cumprod(), recorded.floats("alphas_cumprod"));
        }
        let recorded = Recorded::open(fixtures_root().join("samplers.safetensors"));
        for (name, schedule) in [
            ("squaredcos_cap_v2", BetaSchedule::SquaredCosine),
            ("linear", BetaSchedule::Linear { start: 1e-4, end: 0.02 }),
            ("scaled_linear", BetaSchedule::ScaledLinear { start: 0.00085, end: 0.012 }),
        ] {
            let tables = NoiseSchedule::new(schedule, 1000).expect("valid");
            assert_eq!(tables.betas(), recorded.floats(&format!("table.{name}.betas")), "{name}");
            let products = recorded.floats(&format!("table.{name}.alphas_cumprod"));
            assert_eq!(tables.alphas_cumprod(), products, "{name}");
        }
    }

    #[test]
    fn noise_is_added_row_by_row_as_recorded() {
        let tables = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).expect("valid");
        for set in fixture_sets() {
            let recorded = set.tensors("scheduler_decoder");
            let timesteps: Vec<usize> = recorded
                .ints("add_noise.timesteps")
                .into_iter()
                .map(|t| usize::try_from(t).expect("timesteps are not negative"))
                .collect();
            let noisy = tables
                .add_noise::<2>(
                    recorded.tensor("add_noise.x", &device()),
                    recorded.tensor("add_noise.noise", &device()),
                    &timesteps,
                )
                .expect("recorded timesteps are in range");
            unclip_testkit::assert_close(&noisy, &recorded, "add_noise.out", 1e-6);
        }
    }

    #[test]
    fn impossible_schedules_are_refused_by_name() {
        let linear = |start, end| NoiseSchedule::new(BetaSchedule::Linear { start, end }, 10);
        for result in [
            NoiseSchedule::new(BetaSchedule::SquaredCosine, 0),
            NoiseSchedule::new(BetaSchedule::SquaredCosine, usize::MAX),
            linear(0.0, 0.02),
            linear(1e-4, 1.0),
            linear(f64::NAN, 0.02),
            linear(-1.0, 0.02),
            // Products that underflow.
            NoiseSchedule::new(BetaSchedule::Linear { start: 0.5, end: 0.5 }, 1000),
        ] {
            let error = result.expect_err("an impossible schedule");
            assert!(matches!(error, Error::InvalidInput { .. }), "{error}");
        }
        assert_eq!(linear(0.1, 0.2).expect("valid").betas()[9], 0.2);
    }
}
