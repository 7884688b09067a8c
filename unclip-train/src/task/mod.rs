//! What there is to train: one file a stage.

mod clip;
mod decoder;
mod prior;
mod upsampler;

use std::path::Path;

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, FloatDType, Tensor},
};
use image::RgbImage;
use serde_json::Value;

use crate::{
    Error, Result,
    data::Sample,
    draws::{Draws, Purpose},
};

pub use clip::{ClipModel, ClipTaskConfig, TokenizerConfig};
pub use decoder::{DecoderTaskConfig, EmbeddingNoise};
pub use prior::PriorTaskConfig;
pub use upsampler::{UpsamplerPart, UpsamplerTaskConfig};

pub(crate) use clip::ClipTask;
pub(crate) use decoder::DecoderTask;
pub(crate) use prior::PriorTask;
pub(crate) use upsampler::UpsamplerTask;

/// A stage that can be trained.
pub(crate) trait Task {
    /// What is trained.
    type Model: Module + 'static;

    /// The stage and the sizes of its networks: what a checkpoint has to agree with.
    fn architecture(&self) -> Value;

    /// A digest of what the stage is trained on top of.
    fn foundation(&self) -> Option<&str> {
        None
    }

    /// The network that a run starts from. One that is continued fills it with other weights, so that what is costly
    /// to find out needs to be only where `fresh`.
    fn init(&self, seed: u64, fresh: bool, device: &Device) -> Result<Self::Model>;

    /// The same network with activations of another type.
    fn compute_in(model: Self::Model, dtype: FloatDType) -> Self::Model;

    /// The loss of a batch and its gradients.
    fn gradients(&self, model: &Self::Model, batch: &Batch<'_>) -> Result<Gradients>;

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

    /// A stream for each sample.
    pub(crate) fn draws(&self, purpose: Purpose) -> Vec<Draws> {
        let indices = self.first..self.first + self.samples.len();
        indices.map(|index| Draws::new(self.seed, purpose, self.step, index as u64)).collect()
    }
}

/// What a step found.
pub(crate) struct Gradients {
    pub(crate) params: GradientsParams,
    /// The mean loss of the batch.
    pub(crate) loss: f64,
    /// Further numbers for the log.
    pub(crate) numbers: Vec<(&'static str, f64)>,
}

/// The loss of each sample of a part, and numbers of each sample for the log.
pub(crate) struct Losses {
    /// `[samples]`.
    pub(crate) losses: Tensor<1>,
    /// Sums over the samples.
    pub(crate) numbers: Vec<(&'static str, f64)>,
}

/// The gradients of the mean loss of a batch, part by part: where samples do not meet in the loss, the sum over parts is
/// the whole.
pub(crate) fn accumulate<M: Module>(
    model: &M,
    batch: &Batch<'_>,
    losses: impl Fn(&M, &Batch<'_>) -> Result<Losses>,
) -> Result<Gradients> {
    let mut accumulator = GradientsAccumulator::<M>::new();
    let mut loss = 0.0;
    let mut numbers: Vec<(&'static str, f64)> = Vec::new();
    let total = batch.total as f64;
    for part in batch.parts() {
        let found = losses(model, &part)?;
        let sum = found.losses.sum() / total;
        loss += read(sum.clone())?;
        let gradients = GradientsParams::from_grads(sum.backward(), model);
        accumulator.accumulate(model, gradients);
        for (name, value) in found.numbers {
            match numbers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value / total,
                None => numbers.push((name, value / total)),
            }
        }
    }
    Ok(Gradients { params: accumulator.grads(), loss, numbers })
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
