//! What there is to train: one file a stage.

mod clip;
mod decoder;
mod prior;
mod replicas;
mod upsampler;

use std::{ops::Range, path::Path};

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{
        Device, FloatDType, GradientCheckpointingStrategy, Gradients as BurnGradients, Tensor,
    },
};
use image::RgbImage;
use serde_json::Value;
use unclip_core::nn::{Checkpointed, UNet, UNetInput};

use crate::{
    Error, Result,
    data::{Fault, Sample},
    draws::{Draws, Purpose},
    loss::diffusion::Diffusion,
};

pub use clip::{ClipModel, ClipTaskConfig, TokenizerConfig};
pub use decoder::{DecoderTaskConfig, EmbeddingNoise};
pub use prior::PriorTaskConfig;
pub use upsampler::{UpsamplerPart, UpsamplerTaskConfig};

pub(crate) use clip::ClipTask;
pub(crate) use decoder::DecoderTask;
pub(crate) use prior::PriorTask;
pub(crate) use replicas::{Replica, on_each, sum};
pub(crate) use upsampler::UpsamplerTask;

/// A stage that can be trained.
pub(crate) trait Task: Sync + Sized {
    /// What is trained.
    type Model: Module + Sync + 'static;

    /// The stage and the sizes of its networks: what a checkpoint has to agree with.
    fn architecture(&self) -> Value;

    /// A digest of what the stage is trained on top of.
    fn foundation(&self) -> Option<&str> {
        None
    }

    /// The network that a run starts from. One that is continued fills it with other weights, so that what is costly
    /// to find out needs to be only where `fresh`.
    fn init(&self, seed: u64, fresh: bool, device: &Device) -> Result<Self::Model>;

    /// The network with the weights of this stage in the model directory `initial`, in 32 bits.
    fn load(&self, initial: &Path, device: &Device) -> Result<Self::Model>;

    /// The same network with activations of another type.
    fn compute_in(model: Self::Model, dtype: FloatDType) -> Self::Model;

    /// Why a sample cannot be learned from, where it cannot: it is skipped then.
    fn unfit(&self, _sample: &Sample) -> Option<Fault> {
        None
    }

    /// The loss of a batch and its gradients, on one device or several, of which the first has the gradients then.
    fn gradients(replicas: &[Replica<'_, Self>], batch: &Batch<'_>) -> Result<Gradients>;

    /// Writes the average of the weights into the model directory.
    fn export(&self, average: &Self::Model, model: &Path) -> Result<()>;

    /// Pictures that show what the average has learned.
    fn sheet(&self, _average: &Self::Model, _batch: &Batch<'_>) -> Result<Option<RgbImage>> {
        Ok(None)
    }
}

/// The samples of a step, or a part of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) samples: &'a [Sample],
    pub(crate) seed: u64,
    pub(crate) step: u64,
    /// Samples that go through a network at once.
    pub(crate) part: usize,
    /// The place of the first sample in the step.
    first: usize,
    /// Samples of the whole step.
    total: usize,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(samples: &'a [Sample], seed: u64, step: u64, part: usize) -> Self {
        Self { samples, seed, step, part, first: 0, total: samples.len() }
    }

    /// The parts that go through a network one after another.
    pub(crate) fn parts(self) -> impl Iterator<Item = Self> {
        self.samples.chunks(self.part.max(1)).enumerate().map(move |(i, samples)| Self {
            samples,
            first: self.first + i * self.part,
            ..self
        })
    }

    /// The places of the parts in the step.
    pub(crate) fn ranges(self) -> Vec<Range<usize>> {
        self.parts().map(|part| part.first..part.first + part.samples.len()).collect()
    }

    /// A share for each of `count` devices, one after another and as equal as they can be.
    pub(crate) fn shares(self, count: usize) -> Vec<Self> {
        let all = self.samples.len();
        let share = |i: usize| {
            let (from, to) = (i * all / count, (i + 1) * all / count);
            Self { samples: &self.samples[from..to], first: self.first + from, ..self }
        };
        (0..count).map(share).collect()
    }

    /// A stream for each sample.
    pub(crate) fn draws(&self, purpose: Purpose) -> Vec<Draws> {
        let indices = self.first..self.first + self.samples.len();
        indices.map(|index| Draws::new(self.seed, purpose, self.step, index as u64)).collect()
    }

    /// A timestep for each sample: those of a whole step are spaced evenly, from a random start (Kingma et al. 2021,
    /// appendix I.1). Each sample meets every timestep as often as with draws of its own, while the loss of a step, which
    /// depends on its timesteps more than on its pictures, varies less.
    pub(crate) fn timesteps(&self, diffusion: &Diffusion) -> Vec<usize> {
        let start = Draws::new(self.seed, Purpose::Timestep, self.step, 0).unit();
        let indices = self.first..self.first + self.samples.len();
        indices
            .map(|index| (start + index as f64 / self.total as f64).fract())
            .map(|place| diffusion.config().timestep_at(place))
            .collect()
    }
}

/// What a step found.
#[derive(Default)]
pub(crate) struct Gradients {
    pub(crate) params: GradientsParams,
    /// The mean loss of the batch.
    pub(crate) loss: f64,
    /// Further numbers for the log.
    pub(crate) numbers: Vec<(&'static str, f64)>,
}

impl Gradients {
    /// Adds to the numbers of these names.
    fn add(&mut self, numbers: impl IntoIterator<Item = (&'static str, f64)>) {
        for (name, value) in numbers {
            match self.numbers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => self.numbers.push((name, value)),
            }
        }
    }
}

/// The loss of each sample of a part, and numbers of each sample for the log.
pub(crate) struct Losses {
    /// `[samples]`.
    pub(crate) losses: Tensor<1>,
    /// Sums over the samples.
    pub(crate) numbers: Vec<(&'static str, f64)>,
    /// The rest of the way back, where the network kept little on its way forward.
    pub(crate) further: Option<Checkpointed>,
}

/// The gradients of the mean loss of a batch, part by part: where samples do not meet in the loss, the sum over parts
/// and devices is the whole.
pub(crate) fn accumulate<T: Task>(
    replicas: &[Replica<'_, T>],
    batch: &Batch<'_>,
    losses: impl Fn(&Replica<'_, T>, &Batch<'_>) -> Result<Losses> + Sync,
) -> Result<Gradients> {
    let total = batch.total as f64;
    let found = on_each(replicas, batch.shares(replicas.len()), |replica, share| {
        let mut accumulator = GradientsAccumulator::<T::Model>::new();
        let mut found = Gradients::default();
        for part in share.parts() {
            let Losses { losses, numbers, further } = losses(replica, &part)?;
            let sum = losses.sum() / total;
            found.loss += read(sum.clone())?;
            let mut gradients = sum.backward();
            let mut add = |gradients: &mut BurnGradients| {
                let params = GradientsParams::from_module(gradients, &replica.model);
                accumulator.accumulate(&replica.model, params);
            };
            add(&mut gradients);
            if let Some(further) = further {
                further.backward(&mut gradients, |mut gradients| add(&mut gradients));
            }
            found.add(numbers.into_iter().map(|(name, value)| (name, value / total)));
        }
        found.params = accumulator.grads();
        Ok(found)
    })?;
    let mut all = Gradients::default();
    let mut params = Vec::with_capacity(found.len());
    for share in found {
        all.loss += share.loss;
        all.add(share.numbers);
        params.push(share.params);
    }
    all.params = sum(&replicas[0].model, params);
    Ok(all)
}

/// Demands that a stage in a model directory that a run starts from has the run's sizes.
pub(crate) fn agree(folder: &Path, found: &Value, expected: &Value) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let found = format!("{} with {found}", folder.display());
    Err(unclip_core::Error::invalid("initial", found, expected.to_string()).into())
}

/// The output of a network, and the rest of the way back where its device computes things again rather than keeping
/// them.
pub(crate) fn forward(unet: &UNet, input: UNetInput<'_>) -> (Tensor<4>, Option<Checkpointed>) {
    let strategy = unet.devices()[0].gradient_checkpointing_strategy();
    if strategy == Some(GradientCheckpointingStrategy::Balanced) {
        let pass = unet.forward_checkpointed(input);
        return (pass.output(), Some(pass));
    }
    (unet.forward(input), None)
}

/// The one number of a tensor.
pub(crate) fn read(x: Tensor<1>) -> Result<f64> {
    match x.try_into_scalar::<f32>() {
        Ok(value) => Ok(f64::from(value)),
        Err(error) => Err(Error::Core(unclip_core::Error::Execution {
            action: "reading a loss",
            reason: error.to_string(),
        })),
    }
}

/// A tensor of constants with autodiff as on `device`, so that it meets a network's.
pub(crate) fn on<const D: usize>(device: &Device, x: Tensor<D>) -> Tensor<D> {
    match device.gradient_checkpointing_strategy() {
        Some(strategy) => x.autodiff().with_gradient_checkpointing_strategy(strategy),
        None => x,
    }
}

/// The last segment but one of a parameter's path, and the last: the layer and what it is of it.
pub(crate) fn layer(path: &str) -> (&str, &str) {
    let mut segments = path.rsplit('.');
    let last = segments.next().unwrap_or_default();
    (segments.next().unwrap_or_default(), last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::Content;

    fn diffusion(timestep_shift: f64) -> Diffusion {
        let config = json!({
            "prediction": "sample", "weighting": "simple", "timestep_shift": timestep_shift
        });
        let config = serde_json::from_value(config).expect("the rest has defaults");
        Diffusion::new(config).expect("fits")
    }

    fn samples(count: usize) -> Vec<Sample> {
        let content = Content::Embeddings { image: vec![1.0], text: None };
        let sample = Sample {
            key: String::new(),
            content,
            captions: Vec::new(),
            concept: None,
            family: None,
            style: None,
        };
        vec![sample; count]
    }

    #[test]
    fn the_timesteps_of_a_step_are_spread_over_all_however_it_is_cut() {
        let (samples, diffusion) = (samples(20), diffusion(1.0));
        for step in 0..50 {
            let batch = || Batch::new(&samples, 3, step, 6);
            let timesteps = batch().timesteps(&diffusion);
            let mut of_twentieths = [0; 20];
            timesteps.iter().for_each(|timestep| of_twentieths[timestep / 50] += 1);
            // Rounding may move one across the border of its twentieth, never two.
            assert!(of_twentieths.iter().all(|count| *count <= 2), "{timesteps:?}");
            let cut: Vec<usize> = batch()
                .shares(3)
                .into_iter()
                .flat_map(Batch::parts)
                .flat_map(|part| part.timesteps(&diffusion))
                .collect();
            assert_eq!(cut, timesteps);
        }
    }

    #[test]
    fn every_sample_meets_early_and_late_timesteps_alike() {
        let (samples, diffusion) = (samples(4), diffusion(1.0));
        let mut of_tenths = [[0; 10]; 4];
        for step in 0..2000 {
            let timesteps = Batch::new(&samples, 7, step, 4).timesteps(&diffusion);
            for (counts, timestep) in of_tenths.iter_mut().zip(timesteps) {
                counts[timestep / 100] += 1;
            }
        }
        // 200 each, with a deviation of 13.
        assert!(
            of_tenths.iter().flatten().all(|count| (140..=260).contains(count)),
            "{of_tenths:?}"
        );
    }

    #[test]
    fn shifted_timesteps_lean_to_the_noisy_end_and_stay_spread() {
        let (samples, diffusion) = (samples(30), diffusion(3.0));
        for step in 0..50 {
            let timesteps = Batch::new(&samples, 5, step, 30).timesteps(&diffusion);
            // 0.6 is where the share of 1/3 goes; rounding and the random start move one across.
            let noisy = timesteps.iter().filter(|timestep| **timestep >= 600).count();
            assert!((19..=21).contains(&noisy), "{timesteps:?}");
            let early = timesteps.iter().filter(|timestep| **timestep < 250).count();
            assert!((2..=4).contains(&early), "{timesteps:?}");
        }
    }
}
