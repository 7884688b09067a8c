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

/// Measures both on each of `splits`, whose names the numbers' names end in.
pub(crate) fn measure(
    clip: &Clip,
    pipeline: &Pipeline,
    train: &[Sample],
    splits: &[(&str, &[Sample])],
    arguments: &Arguments,
    numbers: &mut Numbers,
) -> anyhow::Result<()> {
    let fitted = spread(train, arguments.fitted);
    let from = host(clip.embed_texts(&captions(&fitted))?)?;
    let to = host(clip.embed_images(&pictures(&fitted)?)?)?;
    let width = to.ncols();
    let ridge = Ridge::fit(&values(&from), width, &values(&to), width, PENALTY)?;
    for &(split, samples) in splits {
        compare(clip, pipeline, &ridge, (split, samples), arguments, numbers)?;
    }
    Ok(())
}

fn values(rows: &Array2<f32>) -> Vec<f32> {
    rows.iter().copied().collect()
}

fn compare(
    clip: &Clip,
    pipeline: &Pipeline,
    ridge: &Ridge,
    (split, samples): (&str, &[Sample]),
    arguments: &Arguments,
    numbers: &mut Numbers,
) -> anyhow::Result<()> {
    let samples = spread(samples, arguments.found);
    let images = host(clip.embed_images(&pictures(&samples)?)?)?;
    let texts = host(clip.embed_texts(&captions(&samples))?)?;
    let drawn = host(pipeline.sample_prior(request(captions(&samples), arguments))?)?;
    let linear = Array2::from_shape_vec(images.dim(), ridge.predict(&values(&texts)))?;
    let report = |predicted: ArrayView2<'_, f32>| {
        prior_report(predicted, images.view(), texts.view(), |a, b| same(samples[a], samples[b]))
    };
    let drawn = report(drawn.view())?;
    numbers.put(format!("data_to_text{split}"), drawn.data_to_text);
    for (name, report) in [("prior", drawn), ("ridge", report(linear.view())?)] {
        numbers.put(format!("{name}_to_image{split}"), report.to_image);
        numbers.put(format!("{name}_to_text{split}"), report.to_text);
        numbers.put(format!("{name}_to_unrelated{split}"), report.to_unrelated);
        numbers.put(format!("{name}_recall_1{split}"), report.recall.at_1);
        // Among the first five.
        numbers.put(format!("{name}_recall{split}"), report.recall.at_5);
    }
    Ok(())
}
