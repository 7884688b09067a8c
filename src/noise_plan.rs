//! The noise of a whole stage, cut into batches.
//!
//! A stage draws what it starts from and then once for each step that adds noise. The counter-based generator has a
//! stream a picture, so every batch draws for itself. PyTorch's generator, and noise that the caller supplies, belong to
//! all pictures at once: those are laid out before the stage begins, and each batch takes its rows.

use std::ops::Range;

use ndarray::ArrayD;
use unclip_core::{
    Stage,
    noise::{CounterNoise, NoiseSource, RecordedNoise, TorchNoise},
};

use crate::{
    NoiseStream, SuppliedNoise,
    error::{Result, invalid},
};

/// Where a request's noise comes from, over all its stages.
pub(crate) enum NoiseRoot {
    /// One seed a picture.
    Counter(Vec<u64>),
    /// One generator for everything, in the order of the stages; boxed for its 2.5 kB of state.
    Torch(Box<TorchNoise>),
}

impl NoiseRoot {
    pub(crate) fn new(stream: NoiseStream, seed: u64, pictures: usize) -> Self {
        match stream {
            NoiseStream::Counter => {
                Self::Counter((0..pictures as u64).map(|k| seed.wrapping_add(k)).collect())
            }
            NoiseStream::Torch => Self::Torch(Box::new(TorchNoise::new(seed))),
        }
    }
}

/// The noise of one stage.
pub(crate) enum StageNoise {
    /// Each batch draws from the streams of its pictures.
    Counter { seeds: Vec<u64>, stage: Stage },
    /// All draws, laid out: one row a picture in each.
    Laid(RecordedNoise),
}

impl StageNoise {
    /// The noise of a stage that makes `[pictures, row..]` and draws `steps` times after the first.
    pub(crate) fn new(
        root: &mut NoiseRoot,
        stage: Stage,
        row: &[usize],
        pictures: usize,
        steps: usize,
        supplied: Option<&SuppliedNoise>,
    ) -> Result<Self> {
        let shape: Vec<usize> = std::iter::once(pictures).chain(row.iter().copied()).collect();
        if let Some(supplied) = supplied {
            check(supplied, field(stage), &shape, steps)?;
        }
        if let (NoiseRoot::Counter(seeds), None) = (&*root, supplied) {
            return Ok(Self::Counter { seeds: seeds.clone(), stage });
        }
        let initial = supplied.and_then(|noise| noise.initial.as_ref());
        let given_steps = supplied.map_or(&[][..], |noise| &noise.steps);
        let mut counter;
        let (source, skips): (&mut dyn NoiseSource, bool) = match root {
            // The stream of a picture does not move because its first draw is replaced.
            NoiseRoot::Counter(seeds) => {
                counter = CounterNoise::new(seeds, stage);
                (&mut counter, false)
            }
            // diffusers draws nothing where a start is passed in.
            NoiseRoot::Torch(torch) => (torch.as_mut(), true),
        };
        let mut draws = Vec::with_capacity(steps + 1);
        for given in std::iter::once(initial).chain((0..steps).map(|i| given_steps.get(i))) {
            let values = match given {
                Some(given) => {
                    if !skips {
                        source.draw(&shape)?;
                    }
                    given.values.clone()
                }
                None => source.draw(&shape)?,
            };
            draws.push(ArrayD::from_shape_vec(shape.as_slice(), values).map_err(|error| {
                invalid(
                    field(stage),
                    format!("of another length ({error})"),
                    format!("shape {shape:?}"),
                )
            })?);
        }
        Ok(Self::Laid(RecordedNoise::new(draws)?))
    }

    /// The noise of the pictures in `rows`.
    pub(crate) fn batch(&self, rows: Range<usize>) -> Result<Box<dyn NoiseSource>> {
        Ok(match self {
            Self::Counter { seeds, stage } => Box::new(CounterNoise::new(&seeds[rows], *stage)),
            Self::Laid(draws) => Box::new(draws.rows(rows)?),
        })
    }
}

/// Demands of supplied noise the stage's shape and number of draws.
fn check(
    supplied: &SuppliedNoise,
    field: &'static str,
    shape: &[usize],
    steps: usize,
) -> Result<()> {
    if !supplied.steps.is_empty() && supplied.steps.len() != steps {
        let found = format!("{} tensors for the steps", supplied.steps.len());
        return Err(invalid(field, found, format!("{steps}, one for each step that adds noise")));
    }
    supplied
        .initial
        .iter()
        .chain(&supplied.steps)
        .try_for_each(|tensor| tensor.expect_shape(field, shape))
}

/// The request's field that supplies a stage's noise.
fn field(stage: Stage) -> &'static str {
    match stage {
        Stage::Prior => "supplied.prior_noise",
        Stage::Decoder => "supplied.decoder_noise",
        Stage::Upsample => "supplied.upsample_noise",
        Stage::UpsampleLarge => "supplied.upsample_large_noise",
        _ => "supplied noise",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostTensor;

    fn rows(noise: &StageNoise, range: Range<usize>, draws: usize) -> Vec<f32> {
        let mut batch = noise.batch(range.clone()).expect("rows of the stage");
        (0..draws).flat_map(|_| batch.draw(&[range.len(), 5]).expect("enough draws")).collect()
    }

    fn interleave(parts: [Vec<f32>; 2], sizes: [usize; 2], draws: usize) -> Vec<f32> {
        (0..draws)
            .flat_map(|d| {
                (0..2).flat_map(move |p| (0..sizes[p] * 5).map(move |i| (p, d * sizes[p] * 5 + i)))
            })
            .map(|(p, i)| parts[p][i])
            .collect()
    }

    #[test]
    fn the_batch_split_changes_no_value() {
        for stream in [NoiseStream::Counter, NoiseStream::Torch] {
            let noise = || {
                let mut root = NoiseRoot::new(stream, 11, 3);
                StageNoise::new(&mut root, Stage::Decoder, &[5], 3, 2, None)
                    .expect("nothing supplied")
            };
            let whole = rows(&noise(), 0..3, 3);
            let split = interleave([rows(&noise(), 0..2, 3), rows(&noise(), 2..3, 3)], [2, 1], 3);
            assert_eq!(whole, split, "{stream:?}");
        }
    }

    #[test]
    fn a_supplied_start_replaces_the_first_draw_and_no_other() {
        let start = HostTensor::new([1, 5], vec![9.0; 5]).expect("five values");
        let supplied = SuppliedNoise { initial: Some(start), steps: Vec::new() };
        let with = StageNoise::new(
            &mut NoiseRoot::new(NoiseStream::Counter, 1, 1),
            Stage::Prior,
            &[5],
            1,
            1,
            Some(&supplied),
        )
        .expect("of the right shape");
        let without = StageNoise::new(
            &mut NoiseRoot::new(NoiseStream::Counter, 1, 1),
            Stage::Prior,
            &[5],
            1,
            1,
            None,
        )
        .expect("nothing supplied");
        let (with, without) = (rows(&with, 0..1, 2), rows(&without, 0..1, 2));
        assert_eq!(with[..5], [9.0; 5]);
        assert_eq!(with[5..], without[5..]);
    }

    #[test]
    fn noise_of_the_wrong_shape_is_refused_by_field() {
        let start = HostTensor::new([2, 5], vec![0.0; 10]).expect("ten values");
        let supplied = SuppliedNoise { initial: Some(start), steps: Vec::new() };
        let mut root = NoiseRoot::new(NoiseStream::Counter, 1, 1);
        let error = StageNoise::new(&mut root, Stage::Prior, &[5], 1, 1, Some(&supplied)).err();
        let text = error.expect("another batch").to_string();
        assert!(text.contains("supplied.prior_noise") && text.contains("[2, 5]"), "{text}");
    }
}
