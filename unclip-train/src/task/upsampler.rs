//! Training an upsampler, on crops.
//!
//! Paper §2.1: the network sees the small picture, spoilt and enlarged, beside the noise, and nothing else. It learns
//! on crops a quarter as wide as the picture, and is applied to the whole. One set of weights may serve both
//! enlargements: it then learns from pictures of both sizes.

use std::path::Path;

use burn::{
    module::Module,
    tensor::{Device, FloatDType, Tensor},
};
use image::{RgbImage, imageops};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unclip_core::{
    Error as CoreError, Stage,
    checkpoint::{SaveOptions, WeightPrecision},
    image::{to_images, to_tensor},
    nn::{UNet, UNetInput},
    progress::Unobserved,
    resize::{Filter, resize_bicubic, resize_rgb8},
    sampler::{SamplerConfig, SamplerKind},
};
use unclip_upsample::{UpsampleInput, Upsampler, UpsamplerConfig, sample};

use super::{Batch, Gradients, Losses, Replica, Task, accumulate, forward, on};
use crate::{
    Result,
    config::{are_known, are_shares},
    data::{Fault, Sample},
    degrade::DegradationConfig,
    draws::{Draws, Purpose},
    export::{unet_fill, write_scheduler},
    loss::diffusion::{Diffusion, DiffusionConfig},
    parameters::initialise,
    sheet::{DrawsNoise, grid},
    view::place,
};

/// How an upsampler is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpsamplerTaskConfig {
    /// The network, with the keys of diffusers' `UNet2DModel`.
    pub network: Value,
    /// What it learns.
    pub diffusion: DiffusionConfig,
    /// Side of a crop, in pixels of the large picture.
    ///
    /// The network normalises over all that it is given, so what it learned on small crops is off on whole pictures, whose
    /// even areas then come out in a wrong shade. Small crops are many a second; end with wide ones.
    pub crop: usize,
    /// How much larger the large picture is.
    #[serde(default = "four")]
    pub factor: u32,
    /// What is wrong with the small one.
    pub degradation: DegradationConfig,
    /// The share of crops that are the richest in edges of several.
    #[serde(default = "half")]
    pub detailed: f64,
    /// Which enlargements of the model directory the weights are for.
    pub parts: Vec<UpsamplerPart>,
    /// Steps of the pictures on sample sheets.
    #[serde(default = "six")]
    pub sheet_steps: usize,
}

/// An enlargement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpsamplerPart {
    /// 64 to 256: `super_res_first`, and the same weights as `super_res_last`.
    SuperRes,
    /// 256 to 1024: `super_res_large`.
    SuperResLarge,
}

fn four() -> u32 {
    4
}

fn half() -> f64 {
    0.5
}

fn six() -> usize {
    6
}

impl UpsamplerTaskConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        self.network()?;
        are_shares(&[
            ("upsampler.detailed", self.detailed),
            ("upsampler.degradation.bsr", self.degradation.bsr),
            ("upsampler.degradation.blur", self.degradation.blur),
            ("upsampler.degradation.noise", self.degradation.noise),
        ])
    }

    fn network(&self) -> Result<UpsamplerConfig> {
        let place = "stage.upsampler.network";
        let network = UpsamplerConfig::from_bytes(place, self.network.to_string().as_bytes())?;
        are_known(place, &self.network, &network.to_json())?;
        Ok(network)
    }
}

/// Crops that the richest one is chosen of.
const CANDIDATES: usize = 6;

/// The network alone, under a name of its own in checkpoints.
#[derive(Module, Debug)]
pub(crate) struct UpsamplerModel {
    unet: UNet,
}

pub(crate) struct UpsamplerTask {
    config: UpsamplerTaskConfig,
    network: UpsamplerConfig,
    diffusion: Diffusion,
}

/// Crops of a part of a batch.
struct Crops {
    large: Tensor<4>,
    enlarged: Tensor<4>,
}

impl UpsamplerTask {
    pub(crate) fn open(config: &UpsamplerTaskConfig) -> Result<Self> {
        let network = config.network()?;
        let reduction = network.unet().reduction();
        if config.crop == 0 || !config.crop.is_multiple_of(reduction) {
            let expected = format!("a positive multiple of {reduction}");
            return Err(CoreError::invalid("crop", config.crop, expected).into());
        }
        if config.factor < 2 {
            return Err(CoreError::invalid("factor", config.factor, "2 or more").into());
        }
        let diffusion = Diffusion::new(config.diffusion.clone())?;
        Ok(Self { config: config.clone(), network, diffusion })
    }

    fn crops(&self, batch: &Batch<'_>, device: &Device) -> Result<Crops> {
        let (mut large, mut enlarged) = (Vec::new(), Vec::new());
        let draws = batch.draws(Purpose::View).into_iter().zip(batch.draws(Purpose::Degradation));
        let side = u32::try_from(self.config.crop).unwrap_or(u32::MAX);
        for (sample, (mut view, mut spoil)) in batch.samples.iter().zip(draws) {
            let picture = sample.picture()?;
            let (width, height) = picture.dimensions();
            let small = self.config.degradation.apply(picture, self.config.factor, &mut spoil)?;
            let whole = to_tensor(std::slice::from_ref(&small), device)?;
            let whole = resize_bicubic(whole, height as usize, width as usize)?;
            let (left, top) = self.corner(picture, side, &mut view);
            let crop = imageops::crop_imm(picture, left, top, side, side).to_image();
            large.push(crop);
            let rows = whole.narrow(2, top as usize, self.config.crop);
            enlarged.push(rows.narrow(3, left as usize, self.config.crop));
        }
        Ok(Crops { large: to_tensor(&large, device)?, enlarged: Tensor::cat(enlarged, 0) })
    }

    /// Where a crop begins: icons are mostly flat, so often the richest of some is taken.
    fn corner(&self, picture: &RgbImage, side: u32, draws: &mut Draws) -> (u32, u32) {
        let count = if draws.chance(self.config.detailed) { CANDIDATES } else { 1 };
        let (width, height) = picture.dimensions();
        let mut best = (0, (0, 0));
        for i in 0..count {
            let corner = (place(width - side, draws), place(height - side, draws));
            let edges = if count == 1 { 0 } else { edges(picture, corner, side) };
            if i == 0 || edges > best.0 {
                best = (edges, corner);
            }
        }
        best.1
    }

    fn losses(&self, model: &UpsamplerModel, part: &Batch<'_>) -> Result<Losses> {
        let autodiff = model.unet.devices()[0].clone();
        let device = autodiff.clone().inner();
        let Crops { large, enlarged } = self.crops(part, &device)?;
        let timesteps = part.timesteps(&self.diffusion);
        let noised = self.diffusion.noised(&large, timesteps, &mut part.draws(Purpose::Noise))?;
        let timesteps = noised.network_timesteps();
        let both = Tensor::cat(vec![noised.noisy.clone(), enlarged], 1);
        let input = UNetInput::new(on(&autodiff, both), &timesteps);
        let (output, further) = forward(&model.unet, input);
        let losses = self.diffusion.losses(output, &large, &noised);
        Ok(Losses { losses, numbers: Vec::new(), further })
    }

    fn sampler(&self) -> SamplerConfig {
        let DiffusionConfig { prediction, beta_schedule, timesteps, .. } = *self.diffusion.config();
        let kind = SamplerKind::UnClip;
        SamplerConfig {
            prediction,
            beta_schedule,
            train_timesteps: timesteps,
            ..SamplerConfig::karlo_super_res().with_kind(kind)
        }
    }
}

/// How much neighbouring pixels of a crop differ, of every other row and column.
fn edges(picture: &RgbImage, (left, top): (u32, u32), side: u32) -> u64 {
    let mut sum = 0;
    for y in (0..side.saturating_sub(2)).step_by(2) {
        for x in (0..side.saturating_sub(2)).step_by(2) {
            let here = picture.get_pixel(left + x, top + y);
            for other in
                [picture.get_pixel(left + x + 2, top + y), picture.get_pixel(left + x, top + y + 2)]
            {
                let channels = here.0.iter().zip(other.0);
                sum += channels.map(|(&a, b)| u64::from(a.abs_diff(b))).sum::<u64>();
            }
        }
    }
    sum
}

impl Task for UpsamplerTask {
    type Model = UpsamplerModel;

    fn architecture(&self) -> Value {
        json!({
            "stage": "upsampler",
            "network": self.network.to_json(),
            "prediction": self.diffusion.config().prediction,
        })
    }

    fn init(&self, seed: u64, _fresh: bool, device: &Device) -> Result<UpsamplerModel> {
        let model = UpsamplerModel { unet: self.network.init(device) };
        Ok(initialise(model, seed, unet_fill))
    }

    /// All parts have the same weights, so those of the first are loaded.
    fn load(&self, initial: &Path, device: &Device) -> Result<UpsamplerModel> {
        let folder = initial.join(match self.config.parts.first() {
            Some(UpsamplerPart::SuperResLarge) => "super_res_large",
            _ => "super_res_first",
        });
        let unet = self.network.load(&*folder, None, WeightPrecision::F32, device)?;
        Ok(UpsamplerModel { unet })
    }

    fn compute_in(model: UpsamplerModel, dtype: FloatDType) -> UpsamplerModel {
        UpsamplerModel { unet: model.unet.compute_in(dtype) }
    }

    /// A crop has to fit in, and a pixel has to be left when the picture is reduced.
    fn unfit(&self, sample: &Sample) -> Option<Fault> {
        let (width, height) = sample.picture().ok()?.dimensions();
        let crop = u32::try_from(self.config.crop).unwrap_or(u32::MAX);
        let least = crop.max(self.config.factor);
        (width.min(height) < least).then_some(Fault::TooSmall { width, height, least })
    }

    fn gradients(replicas: &[Replica<'_, Self>], batch: &Batch<'_>) -> Result<Gradients> {
        accumulate(replicas, batch, |replica, part| replica.task.losses(&replica.model, part))
    }

    fn export(&self, average: &UpsamplerModel, model: &Path) -> Result<()> {
        let options = SaveOptions::default();
        for part in &self.config.parts {
            let (folders, scheduler, scale): (&[&str], _, usize) = match part {
                UpsamplerPart::SuperRes => {
                    (&["super_res_first", "super_res_last"], "super_res_scheduler", 1)
                }
                UpsamplerPart::SuperResLarge => {
                    (&["super_res_large"], "super_res_large_scheduler", self.config.factor as usize)
                }
            };
            let mut network = self.network.clone();
            network.sample_size *= scale;
            for folder in folders {
                network.save_dir(&average.unet, model.join(folder), &options)?;
            }
            write_scheduler(model, scheduler, &self.sampler())?;
        }
        Ok(())
    }

    /// Three rows: the small pictures enlarged by interpolation, by the network, and the large ones.
    fn sheet(&self, average: &UpsamplerModel, batch: &Batch<'_>) -> Result<Option<RgbImage>> {
        let device = average.unet.devices()[0].clone();
        let reduction = u32::try_from(self.network.unet().reduction()).unwrap_or(1);
        let upsampler = Upsampler::new(self.network.clone(), average.unet.clone(), None);
        let sampler = self.sampler().sampler(self.config.sheet_steps)?;
        let mut noise = DrawsNoise::new(batch.seed);
        let (mut plain, mut painted, mut large) = (Vec::new(), Vec::new(), Vec::new());
        for sample in batch.samples.iter().take(4) {
            let picture = sample.picture()?;
            let side = picture.width().min(picture.height());
            let side = side - side % (reduction * self.config.factor);
            // Large enough for a crop, and too small for the network at both sizes.
            if side == 0 {
                continue;
            }
            let picture = imageops::crop_imm(picture, 0, 0, side, side).to_image();
            let small = side / self.config.factor;
            let small = resize_rgb8(&picture, small, small, Filter::Bicubic)?;
            plain.push(resize_rgb8(&small, side, side, Filter::Bicubic)?);
            let small = to_tensor(std::slice::from_ref(&small), &device)?;
            let initial = noise.tensor([1, 3, side as usize, side as usize], &device);
            let input = UpsampleInput::new(Stage::Upsample, small);
            let out = sample_one(&upsampler, &input, &sampler, initial, &mut noise)?;
            painted.extend(to_images(out)?);
            large.push(picture);
        }
        Ok((!large.is_empty()).then(|| grid(&[plain, painted, large])))
    }
}

fn sample_one(
    upsampler: &Upsampler,
    input: &UpsampleInput,
    sampler: &unclip_core::sampler::Sampler,
    initial: Tensor<4>,
    noise: &mut DrawsNoise,
) -> Result<Tensor<4>> {
    Ok(sample(&mut &*upsampler, input, sampler, initial, noise, &mut Unobserved)?)
}
