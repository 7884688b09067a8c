//! What is painted of captions, and what another CLIP makes of it.

use anyhow::{Context, ensure};
use ndarray::Array2;
use unclip::{
    GenerateRequest, Pipeline,
    clip::Clip,
    image::{RgbImage, imageops},
};
use unclip_train::{
    data::Sample,
    metrics::{clip_score, cmmd, kid, memorised, r_precision},
};

use crate::{
    Arguments,
    numbers::Numbers,
    samples::{captions, host, pictures, same, spread},
};

/// Captions that compete in R-precision.
const CANDIDATES: usize = 100;
/// The side at which pictures are compared with the training pictures.
const COMPARED_AT: u32 = 32;
/// The width of CMMD's kernel, for embeddings of length 1 that spread over the whole sphere.
const SIGMA: f64 = 1.0;

/// A request with the arguments' steps and guidance.
pub(crate) fn request<C: Into<String>>(
    captions: impl IntoIterator<Item = C>,
    arguments: &Arguments,
) -> GenerateRequest {
    let mut request = GenerateRequest::of_captions(captions)
        .seed(arguments.seed)
        .prior_steps(arguments.steps[0])
        .decoder_steps(arguments.steps[1]);
    if let Some(guidance) = &arguments.guidance {
        request = request.prior_guidance(guidance[0]).decoder_guidance(guidance[1]);
    }
    if let Some(candidates) = arguments.candidates {
        request = request.prior_candidates(candidates);
    }
    request
}

/// The decoder's pictures of the samples' captions.
pub(crate) fn paint(
    pipeline: &Pipeline,
    samples: &[&Sample],
    arguments: &Arguments,
) -> anyhow::Result<Vec<RgbImage>> {
    let smallest = pipeline.sizes().first().copied().context("the model has no decoder")?;
    let result = pipeline.generate(request(captions(samples), arguments).size(smallest))?;
    Ok(result.images.into_iter().map(|image| image.picture).collect())
}

/// Whether they are spread as true pictures are, by the model's own features.
pub(crate) fn spread_out(
    clip: &Clip,
    split: &str,
    samples: &[&Sample],
    made: &[RgbImage],
    numbers: &mut Numbers,
) -> anyhow::Result<()> {
    let made = host(clip.embed_images(made)?)?;
    let real = host(clip.embed_images(&pictures(samples)?)?)?;
    numbers.put(format!("kid_{split}"), kid(real.view(), made.view())?);
    numbers.put(format!("cmmd_{split}"), cmmd(real.view(), made.view(), SIGMA)?);
    Ok(())
}

/// Whether they show what the captions say.
pub(crate) fn judge(
    judge: &Clip,
    split: &str,
    samples: &[&Sample],
    made: &[RgbImage],
    seed: u64,
    numbers: &mut Numbers,
) -> anyhow::Result<()> {
    let made = host(judge.embed_images(made)?)?;
    let real = host(judge.embed_images(&pictures(samples)?)?)?;
    let texts = host(judge.embed_texts(&captions(samples))?)?;
    let right = |a: usize, b: usize| same(samples[a], samples[b]);
    // A small split has fewer captions; chance is then one in as many.
    let wrong = |a: usize| (0..samples.len()).filter(|&b| !right(a, b)).count();
    let fewest = (0..samples.len()).map(wrong).min().unwrap_or(0);
    let candidates = CANDIDATES.min(fewest + 1);
    let precision =
        |images: &Array2<f32>| r_precision(images.view(), texts.view(), candidates, seed, right);
    numbers.put(format!("r_precision_{split}"), precision(&made)?);
    numbers.put(format!("r_precision_true_{split}"), precision(&real)?);
    numbers.put(format!("candidates_{split}"), candidates as f64);
    numbers.put(format!("clip_score_{split}"), clip_score(made.view(), texts.view())?);
    numbers.put(format!("clip_score_true_{split}"), clip_score(real.view(), texts.view())?);
    Ok(())
}

/// How many are copies of training pictures, beside how many held-out pictures look like copies by chance.
pub(crate) fn remembered(
    train: &[Sample],
    held_out: &[Sample],
    made: &[RgbImage],
    numbers: &mut Numbers,
) -> anyhow::Result<()> {
    let pixels = |pictures: &[RgbImage]| {
        let side = COMPARED_AT as usize;
        let rows: Vec<f32> = (pictures.iter())
            .flat_map(|p| imageops::thumbnail(p, COMPARED_AT, COMPARED_AT).into_raw())
            .map(f32::from)
            .collect();
        Array2::from_shape_vec((pictures.len(), 3 * side * side), rows)
    };
    ensure!(train.len() > 1, "one training picture has no second neighbour");
    let training = pixels(&pictures(&train.iter().collect::<Vec<_>>())?)?;
    let chance = pixels(&pictures(&spread(held_out, made.len()))?)?;
    let share = |pictures: Array2<f32>| memorised(pictures.view(), training.view());
    numbers.put("memorised_share", share(pixels(made)?)?.share);
    numbers.put("memorised_by_chance", share(chance)?.share);
    Ok(())
}
