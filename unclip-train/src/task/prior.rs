//! Training the prior.
//!
//! Paper §2.2: the network predicts the clean image embedding, and its caption is left out of one sample in ten, which
//! guidance needs. Embeddings are standardised, dimension by dimension, with statistics of the data.

use std::path::Path;

use burn::{
    module::Module as _,
    tensor::{Device, FloatDType, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unclip_core::{
    Error as CoreError,
    checkpoint::{SaveOptions, WeightPrecision},
    sampler::{SamplerConfig, SamplerKind},
};
use unclip_prior::{Prior, PriorConfig, PriorStep};

use super::{Batch, Gradients, Losses, Replica, Task, accumulate, agree, layer, on};
use crate::{
    Result,
    caption::choose,
    config::{RunConfig, are_known, are_shares},
    data::{Content, DataConfig, Sample},
    draws::{Draws, Purpose},
    export::write_scheduler,
    frozen::Frozen,
    loss::diffusion::{Diffusion, DiffusionConfig},
    parameters::{Fill, initialise},
    view::square,
};

/// How the prior is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorTaskConfig {
    /// The network, with the keys of diffusers' `PriorTransformer`.
    pub network: Value,
    /// What it learns.
    pub diffusion: DiffusionConfig,
    /// How often a sample has no caption.
    #[serde(default = "tenth")]
    pub caption_drop: f64,
    /// How often a word of a caption is left out.
    #[serde(default)]
    pub word_dropout: f64,
    /// The smallest part of a picture that is embedded, as a share of its side.
    #[serde(default = "one")]
    pub crop: f64,
    /// Samples from which the mean and the deviation of embeddings are taken.
    #[serde(default = "thousands")]
    pub statistics: usize,
}

fn tenth() -> f64 {
    0.1
}

fn one() -> f64 {
    1.0
}

fn thousands() -> usize {
    2048
}

impl PriorTaskConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        self.network()?;
        are_shares(&[
            ("prior.caption_drop", self.caption_drop),
            ("prior.word_dropout", self.word_dropout),
            ("prior.crop", self.crop),
        ])
    }

    fn network(&self) -> Result<PriorConfig> {
        let place = "stage.prior.network";
        let network = PriorConfig::from_bytes(place, self.network.to_string().as_bytes())?;
        are_known(place, &self.network, &network.to_json())?;
        Ok(network)
    }
}

pub(crate) struct PriorTask {
    config: PriorTaskConfig,
    network: PriorConfig,
    diffusion: Diffusion,
    clip: Frozen,
    data: DataConfig,
}

impl PriorTask {
    pub(crate) fn open(config: &PriorTaskConfig, run: &RunConfig, device: &Device) -> Result<Self> {
        let network = config.network()?;
        let clip = Frozen::open(&run.model, device)?;
        for (field, found, expected) in [
            ("network.embedding_dim", network.embedding_dim, clip.embedding_width()),
            ("network.num_embeddings", network.num_embeddings, clip.tokens()),
        ] {
            if found != expected {
                return Err(CoreError::invalid(field, found, format!("CLIP's {expected}")).into());
            }
        }
        let diffusion = Diffusion::new(config.diffusion.clone())?;
        Ok(Self { config: config.clone(), network, diffusion, clip, data: run.data.clone() })
    }

    fn losses(&self, model: &Prior, part: &Batch<'_>) -> Result<Losses> {
        let rows = part.samples.len();
        let mut captions = Vec::with_capacity(rows);
        let draws = part.draws(Purpose::Caption).into_iter().zip(part.draws(Purpose::Condition));
        for (sample, (mut caption, mut condition)) in part.samples.iter().zip(draws) {
            let text = choose(&sample.captions, self.config.word_dropout, &mut caption);
            let dropped = condition.chance(self.config.caption_drop);
            captions.push(if dropped { String::new() } else { text });
        }
        let text = self.clip.captions(&captions)?;
        let views = views(part.samples, &self.clip, self.config.crop, part.draws(Purpose::View))?;
        let truth = self.clip.embeddings(part.samples, &views)?;
        let clean = model.normalise(truth.clone()).inner();
        let timesteps = part.timesteps(&self.diffusion);
        let noised = self.diffusion.noised(&clean, timesteps, &mut part.draws(Purpose::Noise))?;

        let timesteps = noised.network_timesteps();
        let autodiff = model.devices()[0].clone();
        let bias = on(&autodiff, model.attention_bias(&text.mask, &clean.device()));
        let noisy = on(&autodiff, noised.noisy.clone()).unsqueeze_dim(1);
        let step = PriorStep::new(noisy, &timesteps, on(&autodiff, text.embedding))
            .text_states(on(&autodiff, text.states))
            .attention_bias(bias);
        let output: Tensor<2> = model.forward(step).squeeze_dim(1);
        let losses = self.diffusion.losses(output.clone(), &clean, &noised);

        let predicted = self.diffusion.clean(output.inner(), &noised);
        let cosine = cosines(model.denormalise(predicted).inner(), truth);
        let numbers = vec![("cosine", super::read(cosine.sum())?)];
        Ok(Losses { losses, numbers, further: None })
    }

    /// Mean and deviation of the embeddings of the data, dimension by dimension.
    fn statistics(&self, seed: u64) -> Result<(Vec<f32>, Vec<f32>)> {
        let mut source = self.data.open(seed, 0, 1)?;
        let width = self.clip.embedding_width();
        let (mut sum, mut squares, mut count) = (vec![0f64; width], vec![0f64; width], 0usize);
        while count < self.config.statistics {
            let mut samples = Vec::new();
            while samples.len() < 64 && count + samples.len() < self.config.statistics {
                match source.next()? {
                    Some(sample) => samples.push(sample),
                    None => break,
                }
            }
            if samples.is_empty() {
                break;
            }
            let first = count as u64;
            let draws = (first..).take(samples.len());
            let draws = draws.map(|i| Draws::new(seed, Purpose::View, u64::MAX, i)).collect();
            let views = views(&samples, &self.clip, self.config.crop, draws)?;
            let values = self.clip.embeddings(&samples, &views)?.try_into_vec_as::<f32>();
            let values = values.map_err(|error| CoreError::Execution {
                action: "reading embeddings",
                reason: error.to_string(),
            })?;
            for row in values.chunks(width) {
                for ((sum, square), &value) in sum.iter_mut().zip(&mut squares).zip(row) {
                    *sum += f64::from(value);
                    *square += f64::from(value).powi(2);
                }
            }
            count += samples.len();
        }
        let count = count.max(1) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "weights are 32 bits wide")]
        let pairs = sum.iter().zip(&squares).map(|(sum, square)| {
            let mean = sum / count;
            // A dimension that never changes is left as it is.
            let variance = (square / count - mean * mean).max(0.0);
            let deviation = if variance < 1e-12 { 1.0 } else { variance.sqrt() };
            (mean as f32, deviation as f32)
        });
        Ok(pairs.unzip())
    }
}

/// The views of samples that hold pictures; none of those that hold embeddings.
fn views(
    samples: &[Sample],
    clip: &Frozen,
    crop: f64,
    draws: Vec<Draws>,
) -> Result<Vec<image::RgbImage>> {
    let pictures = samples.iter().zip(draws);
    let pictures = pictures.filter(|(sample, _)| matches!(sample.content, Content::Picture(_)));
    pictures
        .map(|(sample, mut draws)| square(sample.picture()?, clip.side(), crop, &mut draws))
        .collect()
}

/// The cosine of each row with the same row of another: `[rows, 1]`.
fn cosines(a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
    let length = |x: &Tensor<2>| x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    let lengths = length(&a) * length(&b);
    ((a * b).sum_dim(1) / lengths).flatten(0, 1)
}

impl Task for PriorTask {
    type Model = Prior;

    fn architecture(&self) -> Value {
        json!({"stage": "prior", "network": self.network.to_json()})
    }

    fn foundation(&self) -> Option<&str> {
        Some(self.clip.digest())
    }

    fn init(&self, seed: u64, fresh: bool, device: &Device) -> Result<Prior> {
        let layers = self.network.num_layers as f64;
        let width = self.network.width() as f64;
        let prior = initialise(self.network.init(device), seed, |name, shape| {
            match layer(name) {
                (_, "clip_mean" | "clip_std") => Fill::Keep,
                // The first prediction is the mean of all embeddings.
                ("proj_to_clip_embeddings", _) | (_, "bias") => Fill::Constant(0.0),
                (_, "positional_embedding" | "prd_embedding") => Fill::Normal(0.02),
                ("to_out" | "ff_out", _) => Fill::Normal((2.0 * layers * width).powf(-0.5) * 0.5),
                (norm, _) if norm.contains("norm") => Fill::Constant(1.0),
                _ => Fill::fan_in(shape[1]),
            }
        });
        if !fresh {
            return Ok(prior);
        }
        let (mean, deviation) = self.statistics(seed)?;
        let shape = [1, mean.len()];
        Ok(prior.with_statistics(
            Tensor::from_data(TensorData::new(mean, shape), device),
            Tensor::from_data(TensorData::new(deviation, shape), device),
        ))
    }

    fn load(&self, initial: &Path, device: &Device) -> Result<Prior> {
        let folder = initial.join("prior");
        let prior = Prior::from_dir(&*folder, None, WeightPrecision::F32, device)?;
        agree(&folder, &prior.config().to_json(), &self.network.to_json())?;
        Ok(prior)
    }

    fn compute_in(model: Prior, dtype: FloatDType) -> Prior {
        model.compute_in(dtype)
    }

    fn gradients(replicas: &[Replica<'_, Self>], batch: &Batch<'_>) -> Result<Gradients> {
        accumulate(replicas, batch, |replica, part| replica.task.losses(&replica.model, part))
    }

    fn export(&self, average: &Prior, model: &Path) -> Result<()> {
        average.save_dir(model.join("prior"), &SaveOptions::default())?;
        let DiffusionConfig { prediction, beta_schedule, timesteps, .. } = *self.diffusion.config();
        let sampler = SamplerConfig {
            kind: SamplerKind::UnClip,
            prediction,
            beta_schedule,
            train_timesteps: timesteps,
            ..SamplerConfig::karlo_prior()
        };
        write_scheduler(model, "prior_scheduler", &sampler)
    }
}
