//! The loss of a denoising network.
//!
//! Ho et al. 2020 with any of the three predictions (Salimans & Ho 2022), min-SNR weights (Hang et al. 2023) and a
//! learned variance (Nichol & Dhariwal 2021).

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use unclip_core::{
    Error as CoreError,
    diffusion::{BetaSchedule, NoiseSchedule, Prediction},
};

use super::vlb::VariationalBound;
use crate::{Result, draws::Draws};

/// How much a timestep counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Weighting {
    /// The mean square error of what the network predicts, as it is.
    Simple,
    /// The error of the clean sample counts as often as the signal-to-noise ratio says, but at least `floor` and at most
    /// `gamma` times, whatever the network predicts.
    MinSnr {
        /// The largest weight; 5 in the paper.
        gamma: f64,
        /// The smallest weight; 0 in the paper, and 1 for the truncated weights of Salimans & Ho.
        #[serde(default)]
        floor: f64,
    },
}

/// What a denoising network learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// What the network predicts.
    pub prediction: Prediction,
    /// How much noise each timestep adds.
    #[serde(default = "squared_cosine")]
    pub beta_schedule: BetaSchedule,
    /// Timesteps.
    #[serde(default = "thousand")]
    pub timesteps: usize,
    /// How far the timesteps that are drawn lean to the noisy end: a share `t` of the way becomes `s t / (1 + (s - 1) t)`
    /// (Esser et al. 2024, §5.3.2). 1 draws all alike; 3 draws two in three from the noisier 40 %, where a picture's layout
    /// is settled.
    #[serde(default = "whole")]
    pub timestep_shift: f64,
    /// How much each of them counts.
    pub weighting: Weighting,
    /// The weight of the variational bound, in units of all timesteps; 0.001 in the paper. Read where the network
    /// predicts the variance too; 0 leaves that where it starts, in the middle of its bounds.
    ///
    /// A network that predicts the clean sample is off by more than the noise of the first timesteps. There the bound
    /// asks for more variance than the range has, and the network learns to exceed it everywhere: hardly seen in a
    /// thousand steps, whose ranges are narrow, and ruinous in 25. So 0 goes with [`Prediction::Sample`].
    #[serde(default = "thousandth")]
    pub bound: f64,
}

fn squared_cosine() -> BetaSchedule {
    BetaSchedule::SquaredCosine
}

fn thousand() -> usize {
    1000
}

fn whole() -> f64 {
    1.0
}

fn thousandth() -> f64 {
    0.001
}

impl DiffusionConfig {
    /// The timestep at `place` of the way through those that are drawn, from 0 to below 1.
    pub fn timestep_at(&self, place: f64) -> usize {
        let shifted = self.timestep_shift * place / (1.0 + (self.timestep_shift - 1.0) * place);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to the number of timesteps"
        )]
        let timestep = (shifted * self.timesteps as f64) as usize;
        timestep.min(self.timesteps.saturating_sub(1))
    }
}

/// Clean samples with noise on them.
#[derive(Debug, Clone)]
pub struct Noised<const D: usize> {
    /// What the network is given.
    pub noisy: Tensor<D>,
    /// The noise in it.
    pub noise: Tensor<D>,
    /// One timestep a row.
    pub timesteps: Vec<usize>,
}

impl<const D: usize> Noised<D> {
    /// The timesteps as networks take them.
    pub fn network_timesteps(&self) -> Vec<f32> {
        self.timesteps.iter().map(|&timestep| timestep as f32).collect()
    }
}

/// The tables behind a loss.
#[derive(Debug, Clone)]
pub struct Diffusion {
    config: DiffusionConfig,
    schedule: NoiseSchedule,
    bound: VariationalBound,
}

impl Diffusion {
    /// The tables of `config`.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when the schedule has no table, the shift of timesteps is not a positive number,
    /// or the weights are negative, not numbers, or without bound for what the network predicts.
    pub fn new(config: DiffusionConfig) -> Result<Self> {
        let schedule = NoiseSchedule::new(config.beta_schedule, config.timesteps)?;
        if let Weighting::MinSnr { gamma, floor } = config.weighting {
            let fits = floor.is_finite() && gamma.is_finite() && 0.0 <= floor && floor <= gamma;
            if !fits || gamma == 0.0 {
                let found = format_args!("from {floor} to {gamma}");
                let expected = "a floor of at least 0 and a positive gamma above it";
                return Err(CoreError::invalid("weighting", found, expected).into());
            }
            if floor > 0.0 && config.prediction == Prediction::Epsilon {
                let expected = "0 where the network predicts noise, whose error without signal says \
                                nothing of the clean sample";
                return Err(CoreError::invalid("floor", floor, expected).into());
            }
        }
        let shift = config.timestep_shift;
        if !(shift.is_finite() && shift > 0.0) {
            return Err(CoreError::invalid("timestep_shift", shift, "a positive number").into());
        }
        if !(config.bound.is_finite() && config.bound >= 0.0) {
            return Err(CoreError::invalid("bound", config.bound, "a number from 0").into());
        }
        let bound = VariationalBound::new(&schedule);
        Ok(Self { config, schedule, bound })
    }

    /// What the network learns.
    pub fn config(&self) -> &DiffusionConfig {
        &self.config
    }

    /// Draws noise for each row of `clean`, one stream a row, and puts it on at the given timesteps.
    ///
    /// # Errors
    ///
    /// As [`noised_with`](Self::noised_with).
    ///
    /// # Panics
    ///
    /// When there is not one stream for each row.
    pub fn noised<const D: usize>(
        &self,
        clean: &Tensor<D>,
        timesteps: Vec<usize>,
        draws: &mut [Draws],
    ) -> Result<Noised<D>> {
        let shape = clean.dims();
        assert_eq!(shape[0], draws.len(), "one stream a row");
        let row: usize = shape[1..].iter().product();
        let mut values = Vec::with_capacity(row * draws.len());
        for draws in draws {
            values.extend(draws.normals(row));
        }
        let noise = Tensor::from_data(TensorData::new(values, shape), &clean.device());
        self.noised_with(clean, noise, timesteps)
    }

    /// Puts `noise` on `clean`, at the given timesteps.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when a timestep is beyond the table, or there is not one a row.
    pub fn noised_with<const D: usize>(
        &self,
        clean: &Tensor<D>,
        noise: Tensor<D>,
        timesteps: Vec<usize>,
    ) -> Result<Noised<D>> {
        let noisy = self.schedule.add_noise(clean.clone(), noise.clone(), &timesteps)?;
        Ok(Noised { noisy, noise, timesteps })
    }

    /// The loss of each row: the weighted mean square error of the prediction.
    ///
    /// # Shapes
    ///
    /// - `output`, `clean` and the tensors of `noised`: equal, `[batch, ..]`
    /// - output: `[batch]`
    ///
    /// # Panics
    ///
    /// When the shapes differ.
    pub fn losses<const D: usize>(
        &self,
        output: Tensor<D>,
        clean: &Tensor<D>,
        noised: &Noised<D>,
    ) -> Tensor<1> {
        let rows = clean.dims()[0];
        let device = clean.device();
        let flat = |x: Tensor<D>| x.flatten::<2>(1, D - 1);
        let target = match self.config.prediction {
            Prediction::Epsilon => noised.noise.clone(),
            Prediction::Sample => clean.clone(),
            Prediction::V => {
                let share = |f: fn(f64) -> f64| {
                    self.column::<D>(&noised.timesteps, &device, move |signal, _| f(signal))
                };
                noised.noise.clone() * share(f64::sqrt)
                    - clean.clone() * share(|signal| (1.0 - signal).sqrt())
            }
        };
        let errors = flat(output - target).square().mean_dim(1);
        let weights = self.column(&noised.timesteps, &device, |signal, _| self.weight(signal));
        (errors * weights).reshape([rows])
    }

    /// As [`losses`](Self::losses), for a network that also predicts where its variance lies between its bounds.
    ///
    /// # Shapes
    ///
    /// - `output`: `[batch, 2 · channels, height, width]`
    /// - `clean` and the tensors of `noised`: `[batch, channels, height, width]`
    /// - output: `[batch]`
    ///
    /// # Panics
    ///
    /// When the shapes differ.
    pub fn hybrid_losses(
        &self,
        output: Tensor<4>,
        clean: &Tensor<4>,
        noised: &Noised<4>,
    ) -> Tensor<1> {
        let channels = clean.dims()[1];
        let prediction = output.clone().narrow(1, 0, channels);
        let losses = self.losses(prediction.clone(), clean, noised);
        if self.config.bound == 0.0 {
            return losses;
        }
        let share = output.narrow(1, channels, channels);
        // The bound teaches the variance alone: the mean is taken as it is.
        let predicted = self.clean(prediction.detach(), noised);
        let bound = self.bound.losses(clean, &noised.noisy, predicted, share, &noised.timesteps);
        losses + bound * (self.config.bound * self.config.timesteps as f64)
    }

    /// The clean samples that a prediction stands for.
    ///
    /// # Shapes
    ///
    /// - `output` and the tensors of `noised`: equal
    /// - output: the same
    pub fn clean<const D: usize>(&self, output: Tensor<D>, noised: &Noised<D>) -> Tensor<D> {
        let device = noised.noisy.device();
        let column = |f: fn(f64) -> f64| {
            self.column::<D>(&noised.timesteps, &device, move |signal, _| f(signal))
        };
        let noisy = noised.noisy.clone();
        match self.config.prediction {
            Prediction::Sample => output,
            Prediction::Epsilon => {
                (noisy - output * column(|signal| (1.0 - signal).sqrt())) / column(f64::sqrt)
            }
            Prediction::V => {
                noisy * column(f64::sqrt) - output * column(|signal| (1.0 - signal).sqrt())
            }
        }
    }

    /// What the squared error of a prediction counts, at this share of signal.
    fn weight(&self, signal: f64) -> f64 {
        let Weighting::MinSnr { gamma, floor } = self.config.weighting else { return 1.0 };
        let ratio = signal / (1.0 - signal);
        let of_clean = ratio.clamp(floor, gamma);
        match self.config.prediction {
            Prediction::Sample => of_clean,
            Prediction::Epsilon => of_clean / ratio,
            Prediction::V => of_clean / (ratio + 1.0),
        }
    }

    /// One number a row, from its share of signal and its timestep, with further axes of 1.
    fn column<const D: usize>(
        &self,
        timesteps: &[usize],
        device: &Device,
        number: impl Fn(f64, usize) -> f64,
    ) -> Tensor<D> {
        let signal = self.schedule.alphas_cumprod();
        #[expect(clippy::cast_possible_truncation, reason = "tensors are 32 bits wide")]
        let values: Vec<f32> = timesteps
            .iter()
            .map(|&timestep| number(f64::from(signal[timestep]), timestep) as f32)
            .collect();
        let mut shape = [1; D];
        shape[0] = values.len();
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use unclip_testkit::device;

    use super::*;

    /// Recorded by `tests/reference/record_losses.py`.
    fn recorded() -> Value {
        let text = include_str!("../../tests/reference/losses.json");
        serde_json::from_str(text).expect("recorded as JSON")
    }

    fn floats(value: &Value) -> Vec<f32> {
        serde_json::from_value(value.clone()).expect("a list of numbers")
    }

    fn config(prediction: Prediction, weighting: Weighting) -> DiffusionConfig {
        DiffusionConfig {
            prediction,
            beta_schedule: squared_cosine(),
            timesteps: thousand(),
            timestep_shift: whole(),
            weighting,
            bound: thousandth(),
        }
    }

    fn close(found: &Tensor<1>, expected: &[f32], share: f32, what: &str) {
        let found: Vec<f32> = found.clone().into_data().try_to_vec().expect("floats");
        for (found, expected) in found.iter().zip(expected) {
            let bound = share * expected.abs() + 1e-6;
            assert!((found - expected).abs() < bound, "{what}: {found} is not {expected}");
        }
    }

    #[test]
    fn losses_of_every_prediction_are_the_reference_s() {
        let device = device();
        let recorded = recorded();
        let tensor = |name: &str, channels: usize| -> Tensor<4> {
            let data = TensorData::new(floats(&recorded[name]), [4, channels, 2, 3]);
            Tensor::from_data(data, &device)
        };
        let (clean, noise, output) = (tensor("clean", 2), tensor("noise", 2), tensor("output", 4));
        let timesteps: Vec<usize> =
            serde_json::from_value(recorded["timesteps"].clone()).expect("timesteps");
        for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::V] {
            let expected = &recorded["losses"][prediction.to_string()];
            for (name, weighting) in [
                ("simple", Weighting::Simple),
                ("min_snr", Weighting::MinSnr { gamma: 5.0, floor: 0.0 }),
            ] {
                let diffusion = Diffusion::new(config(prediction, weighting)).expect("a schedule");
                let noised = diffusion
                    .noised_with(&clean, noise.clone(), timesteps.clone())
                    .expect("timesteps of the table");
                let plain = diffusion.losses(output.clone().narrow(1, 0, 2), &clean, &noised);
                let simple = floats(&expected[name]);
                close(&plain, &simple, 2e-3, &format!("{prediction} {name}"));
                // 0.001 of a thousand timesteps is one bound.
                let hybrid = diffusion.hybrid_losses(output.clone(), &clean, &noised);
                let bound = floats(&expected["bound"]);
                // At timestep 0 the bound is that of a very narrow Gaussian, whose 32-bit table is off by as much.
                close(&(hybrid - plain), &bound, 3e-2, &format!("{prediction} bound"));
            }
        }
    }

    #[test]
    fn the_bound_teaches_the_variance_alone() {
        let device = device().autodiff();
        let shape = [2, 3, 4, 4];
        let clean = Tensor::<4>::ones(shape, &device) * 0.3;
        let diffusion =
            Diffusion::new(config(Prediction::Sample, Weighting::Simple)).expect("a schedule");
        let noise = Tensor::ones(shape, &device);
        let noised = diffusion.noised_with(&clean, noise, vec![10, 900]).expect("timesteps");
        let leaf = || (Tensor::<4>::ones([2, 6, 4, 4], &device) * 0.1).require_grad();
        let gradient = |output: Tensor<4>, loss: Tensor<1>| {
            let mut gradients = loss.sum().backward();
            let gradient = output.grad_remove(&mut gradients).expect("a gradient");
            gradient.narrow(1, 0, 3).into_data().try_to_vec::<f32>().expect("floats")
        };
        let hybrid = leaf();
        let of_hybrid = diffusion.hybrid_losses(hybrid.clone(), &clean, &noised);
        let plain = leaf();
        let of_plain = diffusion.losses(plain.clone().narrow(1, 0, 3), &clean, &noised);
        assert_eq!(gradient(hybrid, of_hybrid), gradient(plain, of_plain));
    }

    #[test]
    fn shifts_that_no_timestep_survives_are_refused() {
        for shift in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let plain = config(Prediction::Sample, Weighting::Simple);
            let error = Diffusion::new(DiffusionConfig { timestep_shift: shift, ..plain });
            let error = error.expect_err("no positive number").to_string();
            assert!(error.contains("`timestep_shift`"), "{error}");
        }
    }

    #[test]
    fn weights_without_bound_are_refused() {
        let refuse = |prediction, weighting| {
            let error = Diffusion::new(config(prediction, weighting)).expect_err("refused");
            error.to_string()
        };
        let floor = Weighting::MinSnr { gamma: 5.0, floor: 1.0 };
        assert!(refuse(Prediction::Epsilon, floor).contains("`floor`"));
        let order = Weighting::MinSnr { gamma: 1.0, floor: 2.0 };
        assert!(refuse(Prediction::Sample, order).contains("`weighting`"));
    }
}
