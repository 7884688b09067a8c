//! Counter-based noise: a stream of its own for every seed and stage.

use std::f64::consts::TAU;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use rayon::prelude::*;

use super::{NoiseSource, volume};
use crate::{Error, Result, Stage};

/// Pairs of values that one thread computes at a time, a millisecond's work.
const RUN: usize = 1 << 13;

/// Separates these streams from other uses of the same seed.
const DOMAIN: &[u8; 16] = b"unclip noise v1\0";

/// Noise whose row `r` comes from the stream of `(seeds[r], stage)`.
///
/// A value depends on the seed, the stage and its position in the stream, and on nothing else: not on the backend,
/// the platform or the other rows. So picture `k` of a batch can be made alone, and a batch can be cut anywhere.
///
/// # Construction
///
/// The stream is that of ChaCha with 8 rounds in Bernstein's layout (64-bit block counter from 0, 64-bit nonce):
///
/// - key, 32 bytes: the seed (8 bytes, little endian), the ASCII text `unclip noise v1` and a zero (16 bytes), eight
///   zeros;
/// - nonce: the stage, encode 0, prior 1, decoder 2, upsample 3, upsample-large 4, finish 5;
/// - the key stream is read as 32-bit little-endian words `w_0, w_1, ..`;
/// - values `2k` and `2k + 1` are `r cos θ` and `r sin θ` (Box & Muller 1958) with `r = √(−2 ln((w_2k + 1) / 2³²))`
///   and `θ = 2π w_(2k+1) / 2³²`, computed in 64 bits with the `libm` crate's logarithm, sine and cosine, then
///   rounded to 32 bits.
///
/// A draw of shape `[rows, ..]` takes the next values of every row's stream. No value exceeds 6.66.
///
/// ```
/// # use unclip_core::{Stage, noise::{CounterNoise, NoiseSource}};
/// let mut both = CounterNoise::new(&[7, 8], Stage::Prior);
/// let mut second = CounterNoise::new(&[8], Stage::Prior);
/// assert_eq!(both.draw(&[2, 3])?[3..], second.draw(&[1, 3])?[..]);
/// # Ok::<(), unclip_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CounterNoise {
    rows: Vec<Stream>,
}

impl CounterNoise {
    /// One stream for each seed, at its start.
    pub fn new(seeds: &[u64], stage: Stage) -> Self {
        Self { rows: seeds.iter().map(|&seed| Stream::new(seed, stage)).collect() }
    }
}

impl NoiseSource for CounterNoise {
    fn draw(&mut self, shape: &[usize]) -> Result<Vec<f32>> {
        let total = volume(shape)?;
        let rows = self.rows.len();
        if shape.first() != Some(&rows) {
            return Err(Error::invalid(
                "shape",
                format_args!("{shape:?}"),
                format!("{rows} rows, one for each seed"),
            ));
        }
        let mut values = vec![0.0; total];
        if total > 0 {
            for (stream, values) in self.rows.iter_mut().zip(values.chunks_exact_mut(total / rows))
            {
                stream.fill(values);
            }
        }
        Ok(values)
    }
}

/// The number that stands for a stage; part of the construction, so never to be changed.
fn number(stage: Stage) -> u64 {
    match stage {
        Stage::Encode => 0,
        Stage::Prior => 1,
        Stage::Decoder => 2,
        Stage::Upsample => 3,
        Stage::UpsampleLarge => 4,
        Stage::Finish => 5,
    }
}

/// The stream of one seed and stage.
#[derive(Debug, Clone)]
struct Stream {
    words: ChaCha8Rng,
    /// The second value of a pair whose first has been handed out.
    spare: Option<f32>,
}

impl Stream {
    fn new(seed: u64, stage: Stage) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..24].copy_from_slice(DOMAIN);
        let mut words = ChaCha8Rng::from_seed(key);
        words.set_stream(number(stage));
        Self { words, spare: None }
    }

    /// Sets `values` to the next ones of the stream: long runs on all threads, each of which begins where its part does.
    fn fill(&mut self, values: &mut [f32]) {
        let spare = if values.is_empty() { None } else { self.spare.take() };
        let (first, values) = values.split_at_mut(usize::from(spare.is_some()));
        first.copy_from_slice(spare.as_slice());
        let (pairs, last) = values.as_chunks_mut::<2>();
        let (start, words) = (self.words.get_word_pos(), &self.words);
        let fill = |(index, pairs): (usize, &mut [[f32; 2]])| {
            let mut words = words.clone();
            words.set_word_pos(start + 2 * (index * RUN) as u128);
            pairs.fill_with(|| pair(&mut words));
        };
        let count = pairs.len();
        if count <= RUN {
            fill((0, pairs));
        } else {
            pairs.par_chunks_mut(RUN).enumerate().for_each(fill);
        }
        self.words.set_word_pos(start + 2 * count as u128);
        if let [last] = last {
            let [first, second] = pair(&mut self.words);
            *last = first;
            self.spare = Some(second);
        }
    }
}

/// The values of the next two words.
#[expect(clippy::cast_possible_truncation, reason = "noise is 32 bits wide")]
fn pair(words: &mut ChaCha8Rng) -> [f32; 2] {
    const STEP: f64 = 1.0 / 4_294_967_296.0;
    let radius = (-2.0 * libm::log((f64::from(words.next_u32()) + 1.0) * STEP)).sqrt();
    let (sine, cosine) = libm::sincos(f64::from(words.next_u32()) * STEP * TAU);
    [(radius * cosine) as f32, (radius * sine) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seed: u64, stage: Stage, count: usize) -> Vec<f64> {
        let values = CounterNoise::new(&[seed], stage).draw(&[1, count]).expect("a valid shape");
        values.into_iter().map(f64::from).collect()
    }

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = values.len() as f64;
        values.sum::<f64>() / count
    }

    #[test]
    fn values_are_those_of_another_implementation_of_the_construction() {
        for (seed, stage, expected) in [
            (0, Stage::Prior, [0.239_824_82, -0.389_902_17, -0.458_371_04, -2.595_568_7]),
            (42, Stage::Decoder, [0.659_231_66, 1.166_072_5, 1.436_727_4, -0.537_649_5]),
            (u64::MAX, Stage::UpsampleLarge, [0.195_776_02, 0.533_535_84, -1.664_501_2, 1.228_274]),
        ] {
            let values = CounterNoise::new(&[seed], stage).draw(&[1, 1000]).expect("valid");
            assert_eq!([0, 1, 500, 999].map(|i| values[i]), expected, "{seed} {stage}");
        }
    }

    #[test]
    fn runs_of_several_threads_are_one_stream() {
        let count = 4 * RUN + 7;
        let whole = CounterNoise::new(&[5], Stage::Upsample).draw(&[1, count]).expect("valid");
        let mut parts = CounterNoise::new(&[5], Stage::Upsample);
        let mut values = Vec::new();
        while values.len() < count {
            let len = 777.min(count - values.len());
            values.extend(parts.draw(&[1, len]).expect("valid"));
        }
        assert_eq!(whole, values);
        assert!(parts.draw(&[1, 0]).expect("valid").is_empty());
        let mut again = CounterNoise::new(&[5], Stage::Upsample);
        again.draw(&[1, count]).expect("valid");
        assert_eq!(again.draw(&[1, 3]).expect("valid"), parts.draw(&[1, 3]).expect("valid"));
    }

    #[test]
    fn cutting_a_batch_or_a_draw_changes_no_value() {
        let seeds = [3, u64::MAX, 3];
        let whole = CounterNoise::new(&seeds, Stage::Decoder).draw(&[3, 3, 5]).expect("valid");
        for (row, seed) in seeds.into_iter().enumerate() {
            let mut alone = CounterNoise::new(&[seed], Stage::Decoder);
            let mut values = alone.draw(&[1, 4]).expect("valid");
            values.extend(alone.draw(&[1, 1]).expect("valid"));
            values.extend(alone.draw(&[1, 2, 5]).expect("valid"));
            assert_eq!(values, whole[15 * row..][..15], "row {row}");
        }
    }

    #[test]
    fn values_are_standard_normal() {
        let values = sample(2024, Stage::Upsample, 1 << 20);
        let moment = |power: i32| mean(values.iter().map(|v| v.powi(power)));
        // Standard errors at 2^20 samples: 0.001, 0.0014, 0.0038 and 0.0096.
        let [first, second, third, fourth] = [1, 2, 3, 4].map(moment);
        assert!(first.abs() < 0.004, "mean {first}");
        assert!((second - 1.0).abs() < 0.006, "variance {second}");
        assert!(third.abs() < 0.016, "skewness {third}");
        assert!((fourth - 3.0).abs() < 0.04, "kurtosis {fourth}");
        let beyond_two = mean(values.iter().map(|v| f64::from(v.abs() > 2.0)));
        assert!((beyond_two - 0.0455).abs() < 0.001, "{beyond_two} beyond two deviations");
        let neighbours = mean(values.windows(2).map(|pair| pair[0] * pair[1]));
        assert!(neighbours.abs() < 0.004, "correlation of neighbours {neighbours}");
    }

    #[test]
    fn streams_of_other_seeds_and_stages_are_unrelated() {
        const COUNT: usize = 1 << 18;
        let base = sample(1, Stage::Prior, COUNT);
        for (seed, stage) in [(2, Stage::Prior), (1, Stage::Decoder), (1 << 32 | 1, Stage::Prior)] {
            let other = sample(seed, stage, COUNT);
            let correlation = mean(base.iter().zip(&other).map(|(a, b)| a * b));
            assert!(correlation.abs() < 0.008, "{seed} {stage}: {correlation}");
        }
    }

    #[test]
    fn a_wrong_number_of_rows_is_refused() {
        let mut noise = CounterNoise::new(&[1, 2], Stage::Prior);
        for shape in [&[3, 4][..], &[1, 4], &[]] {
            let error = noise.draw(shape).expect_err("two rows are offered");
            assert!(matches!(error, Error::InvalidInput { field: "shape", .. }), "{error}");
        }
        assert!(noise.draw(&[2, 0]).expect("an empty draw").is_empty(), "nothing was asked for");
        let none = CounterNoise::new(&[], Stage::Prior).draw(&[0, 4]).expect("no rows");
        assert!(none.is_empty(), "no row was asked for");
    }
}
