//! Random numbers that depend on where they are used, and on nothing else.
//!
//! A draw is named by the run's seed, what it is for, the step and the sample's place in it. No generator lives from
//! one step to the next, so a run that is taken up again at any step draws what it would have drawn, and a batch may be
//! cut into parts anywhere.

use std::f64::consts::TAU;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

/// What random numbers are for: each purpose has streams of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The weights that a network starts from.
    Weights = 1,
    /// Which caption a picture gets, and what is left out of it.
    Caption = 2,
    /// Which part of a picture is shown.
    View = 3,
    /// The noise that a network is to remove.
    Noise = 4,
    /// Which conditions are dropped, and the noise on those that are not.
    Condition = 5,
    /// Which pixels are known.
    Mask = 6,
    /// What spoils the small picture that an upsampler is given.
    Degradation = 7,
    /// The noise that sample sheets begin with.
    Sheet = 8,
    /// How much noise a network is to remove.
    Timestep = 9,
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Draws {
    words: ChaCha8Rng,
    /// The second value of a pair whose first has been handed out.
    spare: Option<f32>,
}

impl Draws {
    /// The stream of `purpose` in a run with `seed`, for a `step` and an `index` within it.
    pub fn new(seed: u64, purpose: Purpose, step: u64, index: u64) -> Self {
        let mut key = [0; 32];
        for (bytes, number) in key.chunks_mut(8).zip([seed, purpose as u64, step, index]) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Self { words: ChaCha8Rng::from_seed(key), spare: None }
    }

    /// A number from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        const STEP: f64 = 1.0 / 4_294_967_296.0;
        f64::from(self.words.next_u32()) * STEP
    }

    /// A number from `low` to below `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number below `count`, which is not 0.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below `count`")]
    pub fn below(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count.saturating_sub(1))
    }

    /// A standard normal value (Box & Muller 1958).
    #[expect(clippy::cast_possible_truncation, reason = "noise is 32 bits wide")]
    pub fn normal(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * libm::log(1.0 - self.unit())).sqrt();
        let (sine, cosine) = libm::sincos(self.unit() * TAU);
        self.spare = Some((radius * sine) as f32);
        (radius * cosine) as f32
    }

    /// `count` standard normal values.
    pub fn normals(&mut self, count: usize) -> impl Iterator<Item = f32> {
        (0..count).map(|_| self.normal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(draws: &mut Draws) -> Vec<f64> {
        (0..8).map(|_| draws.unit()).collect()
    }

    #[test]
    fn a_stream_is_its_names_and_nothing_else() {
        let stream =
            |seed, purpose, step, index| numbers(&mut Draws::new(seed, purpose, step, index));
        let one = stream(1, Purpose::Noise, 2, 3);
        assert_eq!(one, stream(1, Purpose::Noise, 2, 3));
        for other in [
            stream(2, Purpose::Noise, 2, 3),
            stream(1, Purpose::Mask, 2, 3),
            stream(1, Purpose::Noise, 3, 3),
            stream(1, Purpose::Noise, 2, 4),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn normal_values_have_mean_0_and_variance_1() {
        let values: Vec<f32> = Draws::new(0, Purpose::Noise, 0, 0).normals(20_000).collect();
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / 20_000.0;
        let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.05, "{mean} {square}");
        assert!(values.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn every_choice_is_made_and_none_beyond() {
        let mut draws = Draws::new(7, Purpose::Caption, 0, 0);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[draws.below(5)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
        assert_eq!(draws.below(1), 0);
    }
}
