//! Whether CLIP finds the right caption of a picture it has not seen, and the other way round.

use unclip::clip::Clip;
use unclip_train::{data::Sample, metrics::recall};

use crate::{
    numbers::Numbers,
    samples::{captions, host, pictures, same, spread},
};

pub(crate) fn measure(
    clip: &Clip,
    held_out: &[Sample],
    count: usize,
    numbers: &mut Numbers,
) -> anyhow::Result<()> {
    let samples = spread(held_out, count);
    let images = host(clip.embed_images(&pictures(&samples)?)?)?;
    let texts = host(clip.embed_texts(&captions(&samples))?)?;
    let right = |a: usize, b: usize| same(samples[a], samples[b]);
    for (name, recall) in [
        ("clip_text", recall(images.view(), texts.view(), right)?),
        ("clip_image", recall(texts.view(), images.view(), right)?),
    ] {
        numbers.put(format!("{name}_recall_1"), recall.at_1);
        numbers.put(format!("{name}_recall_5"), recall.at_5);
        numbers.put(format!("{name}_recall_10"), recall.at_10);
    }
    Ok(())
}
