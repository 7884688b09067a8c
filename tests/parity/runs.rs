//! Whole runs with recorded noise; diffusers `UnCLIPPipeline` and `UnCLIPImageVariationPipeline`.
//!
//! A run is replayed twice: stage by stage, where the finished picture is a tensor that can be compared in full, and as
//! one request, whose pictures are rounded to bytes.

use image::RgbImage;
use unclip::Generation;
use unclip_testkit::FixtureSet;

use crate::{
    replay::{self, Run, Stages},
    report::{Report, bound},
};

/// What rounding to a byte may add.
const HALF_A_BYTE: f64 = 0.5 / 255.0;

#[test]
fn pictures_from_captions_are_the_recorded_ones() {
    crate::report::replay("runs from captions", |set, report| {
        let pipeline = replay::open(set);
        for run in replay::runs(set, "t2i") {
            let request = run.generation();
            let captions: Vec<&str> = request.captions.iter().map(String::as_str).collect();
            let embeddings = pipeline.sample_prior(&request).expect("the recorded run is valid");
            let stages = replay::paint(&pipeline, embeddings, &captions, &request.painting);
            compare_stages(report, set, &run, &stages);
            let generation = pipeline.generate(&request).expect("the recorded run is valid");
            compare_pictures(report, set, &run, &generation);
        }
    });
}

#[test]
fn variations_of_pictures_are_the_recorded_ones() {
    crate::report::replay("runs from pictures", |set, report| {
        let pipeline = replay::open(set);
        for run in replay::runs(set, "var") {
            let (request, pictures) = (run.variation(), run.pictures());
            let embeddings = pipeline.embed_images(&pictures).expect("recorded pictures");
            let stages = replay::paint(&pipeline, embeddings, &[""], &request.painting);
            compare_stages(report, set, &run, &stages);
            let generation =
                pipeline.variations(&pictures, &request).expect("the recorded run is valid");
            compare_pictures(report, set, &run, &generation);
        }
    });
}

fn compare_stages(report: &mut Report, set: &FixtureSet, run: &Run, stages: &Stages) {
    let label = |what: &str| format!("{} {what}", run.name);
    let floor = |name: &str| Some(set.run_floor(&run.name, name));
    let name = "text_proj.in.image_embeddings";
    let expected = (&run.recorded, name);
    report.tensor(&label("embedding"), &stages.embeddings, expected, floor(name), bound::RUN);
    for (what, tensor, name) in [
        ("small", &stages.small, "decoder.out.image_small"),
        ("image", &stages.finished, "out.image"),
    ] {
        report.tensor(&label(what), tensor, (&run.recorded, name), floor(name), bound::RUN);
    }
}

fn compare_pictures(report: &mut Report, set: &FixtureSet, run: &Run, generation: &Generation) {
    let pictures: Vec<&RgbImage> = generation.images.iter().map(|image| &image.picture).collect();
    let values: Vec<f32> =
        pictures.iter().flat_map(|p| p.as_raw()).map(|&byte| f32::from(byte) / 255.0).collect();
    let expected = run.recorded.floats("out.image");
    let bound = bound::RUN + HALF_A_BYTE;
    let floor = Some(set.run_floor(&run.name, "out.image"));
    report.values(&format!("{} bytes", run.name), &values, &expected, floor, bound);
}
