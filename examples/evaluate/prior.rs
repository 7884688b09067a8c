//! What the prior draws, beside what a linear map does.

use ndarray::{Array2, ArrayView2};
use unclip::{Pipeline, clip::Clip};
use unclip_train::{Ridge, data::Sample, metrics::prior_report};

use crate::{
    Arguments,
    numbers::Numbers,
    pictures::request,
    samples::{captions, host, pictures, same, spread},
};

/// The penalty of the ridge regression, in units of the captions' mean square.
const PENALTY: f64 = 0.1;

pub(crate) fn measure(
    clip: &Clip,
    pipeline: &Pipeline,
    train: &[Sample],
    held_out: &[Sample],
    arguments: &Arguments,
    numbers: &mut Numbers,
) -> anyhow::Result<()> {
    let values = |rows: &Array2<f32>| rows.iter().copied().collect::<Vec<f32>>();
    let fitted = spread(train, arguments.fitted);
    let from = host(clip.embed_texts(&captions(&fitted))?)?;
    let to = host(clip.embed_images(&pictures(&fitted)?)?)?;
    let width = to.ncols();
    let ridge = Ridge::fit(&values(&from), width, &values(&to), width, PENALTY)?;

    let samples = spread(held_out, arguments.found);
    let images = host(clip.embed_images(&pictures(&samples)?)?)?;
    let texts = host(clip.embed_texts(&captions(&samples))?)?;
    let drawn = host(pipeline.sample_prior(request(captions(&samples), arguments))?)?;
    let linear = Array2::from_shape_vec((samples.len(), width), ridge.predict(&values(&texts)))?;
    let report = |predicted: ArrayView2<'_, f32>| {
        prior_report(predicted, images.view(), texts.view(), |a, b| same(samples[a], samples[b]))
    };
    let drawn = report(drawn.view())?;
    numbers.put("data_to_text", drawn.data_to_text);
    for (name, report) in [("prior", drawn), ("ridge", report(linear.view())?)] {
        numbers.put(format!("{name}_to_image"), report.to_image);
        numbers.put(format!("{name}_to_text"), report.to_text);
        numbers.put(format!("{name}_to_unrelated"), report.to_unrelated);
        numbers.put(format!("{name}_recall_1"), report.recall.at_1);
        // Among the first five.
        numbers.put(format!("{name}_recall"), report.recall.at_5);
    }
    Ok(())
}
