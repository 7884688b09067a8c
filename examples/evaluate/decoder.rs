//! The decoder's loss by noise, on pictures that it learned from and on others.

use unclip::{
    WeightPrecision,
    burn::tensor::{Tensor, TensorData},
    clip::Clip,
    core::{
        checkpoint::Folder,
        image::to_tensor,
        nn::{UNetInput, mask_bias},
        sampler::SamplerConfig,
    },
    decoder::Decoder,
};
use unclip_train::{
    Draws, Purpose,
    data::Sample,
    loss::diffusion::{Diffusion, DiffusionConfig, Weighting},
    metrics::NoiseBins,
};

use crate::{
    Arguments, BATCH,
    numbers::Numbers,
    samples::{captions, pictures, spread},
};

/// Ranges of timesteps.
const BINS: usize = 5;

pub(crate) fn measure(
    clip: &Clip,
    model: &Folder,
    train: &[Sample],
    held_out: &[Sample],
    arguments: &Arguments,
    numbers: &mut Numbers,
) -> anyhow::Result<()> {
    let device = clip.vision().device();
    let (projection, network) = (model.join("text_proj"), model.join("decoder"));
    let decoder = Decoder::from_dirs(projection, network, None, WeightPrecision::F32, &device)?;
    let sampler = SamplerConfig::from_dir(model.join("decoder_scheduler"))?;
    let diffusion = Diffusion::new(DiffusionConfig {
        prediction: sampler.prediction,
        beta_schedule: sampler.beta_schedule,
        timesteps: sampler.train_timesteps,
        timestep_shift: 1.0,
        weighting: Weighting::Simple,
        bound: 0.0,
    })?;
    for (split, samples) in [("train", train), ("held_out", held_out)] {
        let samples = spread(samples, arguments.pictures);
        let mut bins = NoiseBins::new(BINS, sampler.train_timesteps)?;
        for (batch, chosen) in samples.chunks(BATCH).enumerate() {
            let first = batch * BATCH;
            // Timesteps in turn, and the same noise for both splits.
            let steps: Vec<usize> = (first..first + chosen.len())
                .map(|index| index * sampler.train_timesteps / samples.len())
                .collect();
            let losses = losses(clip, &decoder, &diffusion, chosen, &steps, first, arguments.seed)?;
            for (step, loss) in steps.into_iter().zip(losses) {
                bins.add(step, f64::from(loss))?;
            }
        }
        for (range, mean) in bins.ranges().zip(bins.means()) {
            if let Some(mean) = mean {
                numbers.put(format!("decoder_loss_{split}_{}", range.start), mean);
            }
        }
    }
    Ok(())
}

/// The mean square error of each picture, painted of its own embedding and caption.
fn losses(
    clip: &Clip,
    decoder: &Decoder,
    diffusion: &Diffusion,
    samples: &[&Sample],
    steps: &[usize],
    first: usize,
    seed: u64,
) -> anyhow::Result<Vec<f32>> {
    let device = clip.vision().device();
    let pictures = pictures(samples)?;
    let clean = to_tensor(&pictures, &device)?;
    let shape = clean.dims();
    let row = shape[1..].iter().product();
    let noise: Vec<f32> = (first..first + samples.len())
        .flat_map(|index| {
            let mut draws = Draws::new(seed, Purpose::Noise, 0, index as u64);
            draws.normals(row).collect::<Vec<f32>>()
        })
        .collect();
    let noise = Tensor::from_data(TensorData::new(noise, shape), &device);
    let noised = diffusion.noised_with(&clean, noise, steps.to_vec())?;

    let encoded = clip.tokenizer().encode_many(&captions(samples))?;
    let text = clip.text().forward(&encoded);
    let mask: Vec<Vec<bool>> = encoded.into_iter().map(|encoding| encoding.mask).collect();
    let projection = decoder.projection();
    let image = clip.embed_images(&pictures)?;
    let conditions = projection.forward(image, text.text_embeds, text.last_hidden_state);
    let extra = projection.config().clip_extra_context_tokens;
    let timesteps = noised.network_timesteps();
    let mut input = UNetInput::new(noised.noisy.clone(), &timesteps)
        .context(conditions.context)
        .context_bias(mask_bias(&mask, extra, &device));
    if decoder.config().class_embed_type.is_some() {
        input = input.class_embedding(conditions.time);
    }
    // What it says of its variance is no part of this.
    let output = decoder.unet().forward(input).narrow(1, 0, shape[1]);
    Ok(diffusion.losses(output, &clean, &noised).try_into_vec_as::<f32>()?)
}
