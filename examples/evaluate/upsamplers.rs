//! What the upsamplers gain over bicubic interpolation.

use unclip::{
    Stage, WeightPrecision,
    burn::tensor::{Device, Tensor, TensorData},
    core::{
        checkpoint::Folder,
        image::{to_images, to_tensor},
        noise::{CounterNoise, NoiseSource as _},
        progress::Unobserved,
        resize::{Filter, resize_rgb8},
        sampler::{Sampler, SamplerConfig},
    },
    image::RgbImage,
    upsample::{UpsampleInput, Upsampler, sample},
};
use unclip_train::{data::Portion, metrics::mean_psnr};

use crate::{
    Arguments,
    numbers::Numbers,
    samples::{Data, pictures, spread},
};

/// How much larger a stage makes a picture.
const FACTOR: u32 = 4;
/// Pictures that are enlarged at once.
const BATCH: usize = 4;

/// Measures every upsampler that the model has: the first on whole pictures, the second on crops out of large ones.
pub(crate) fn measure(
    model: &Folder,
    data: &Data,
    arguments: &Arguments,
    device: &Device,
    numbers: &mut Numbers,
) -> anyhow::Result<()> {
    for (stage, size, first, last, scheduler) in [
        (Stage::Upsample, 256, "super_res_first", Some("super_res_last"), "super_res_scheduler"),
        (Stage::UpsampleLarge, 1024, "super_res_large", None, "super_res_large_scheduler"),
    ] {
        if !model.join(first).exists() {
            continue;
        }
        let samples = data.icons(Portion::HeldOut, size)?;
        let truths = pictures(&spread(&samples, arguments.enlarged))?;
        let last = last.map(|part| model.join(part));
        let precision = WeightPrecision::F32;
        let upsampler = Upsampler::from_dirs(model.join(first), last, None, precision, device)?;
        let sampler =
            SamplerConfig::from_dir(model.join(scheduler))?.sampler(arguments.steps[2])?;
        let (mut made, mut bicubic) = (Vec::new(), Vec::new());
        for (batch, truths) in truths.chunks(BATCH).enumerate() {
            let small: Vec<RgbImage> = truths
                .iter()
                .map(|t| resize_rgb8(t, t.width() / FACTOR, t.height() / FACTOR, Filter::Bicubic))
                .collect::<Result<_, _>>()?;
            for (small, truth) in small.iter().zip(truths) {
                bicubic.push(resize_rgb8(small, truth.width(), truth.height(), Filter::Bicubic)?);
            }
            let seeds: Vec<u64> = (0..truths.len()).map(|k| (batch * BATCH + k) as u64).collect();
            let noise = CounterNoise::new(&seeds, stage);
            made.extend(enlarge(&upsampler, &sampler, stage, &small, noise, device)?);
        }
        let ours = mean_psnr(made.iter().zip(&truths))?;
        let plain = mean_psnr(bicubic.iter().zip(&truths))?;
        numbers.put(format!("psnr_{size}"), ours);
        numbers.put(format!("psnr_bicubic_{size}"), plain);
        numbers.put(format!("psnr_gain_{size}"), ours - plain);
    }
    Ok(())
}

fn enlarge(
    upsampler: &Upsampler,
    sampler: &Sampler,
    stage: Stage,
    small: &[RgbImage],
    mut noise: CounterNoise,
    device: &Device,
) -> anyhow::Result<Vec<RgbImage>> {
    let (width, height) = small[0].dimensions();
    let shape = [small.len(), 3, (height * FACTOR) as usize, (width * FACTOR) as usize];
    let initial = Tensor::from_data(TensorData::new(noise.draw(&shape)?, shape), device);
    let input = UpsampleInput::new(stage, to_tensor(small, device)?);
    let mut networks = upsampler;
    Ok(to_images(sample(&mut networks, &input, sampler, initial, &mut noise, &mut Unobserved)?)?)
}
