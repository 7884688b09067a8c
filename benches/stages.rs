//! Each stage of a model: the tiny one of the tests, or the directory that `UNCLIP_BENCH_MODEL` names.
//!
//! ```text
//! cargo bench --bench stages
//! UNCLIP_BENCH_MODEL=/tmp/karlo cargo bench --bench stages -- decoder
//! ```

#![expect(missing_docs, reason = "criterion's macros write items without documentation")]

use std::path::PathBuf;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use unclip::{GenerateRequest, Painting, Pipeline, StageSettings};

fn pipeline() -> Pipeline {
    let model = std::env::var_os("UNCLIP_BENCH_MODEL").map_or_else(
        || [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/seed0/model"].iter().collect(),
        PathBuf::from,
    );
    let device = std::env::var("UNCLIP_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    Pipeline::builder()
        .model_dir(model)
        .device(&device)
        .and_then(unclip::PipelineBuilder::build)
        .expect("UNCLIP_BENCH_MODEL names a model directory and UNCLIP_BENCH_DEVICE a device")
}

fn stages(criterion: &mut Criterion) {
    let pipeline = pipeline();
    let device = pipeline.device().clone();
    let caption = "a photo of a red frog on a green leaf";
    // Two steps, the fewest that the models' own sampler takes; a step is half of each figure.
    let two = StageSettings { steps: Some(2), ..StageSettings::default() };
    let painting =
        Painting { seed: Some(0), decoder: two.clone(), upsample: two, ..Painting::default() };
    let request = GenerateRequest::new(caption).seed(0).prior_steps(2);
    let embedding = pipeline.sample_prior(request.clone()).expect("the model has a prior");
    let small = pipeline
        .decode_tensor(embedding.clone(), caption, &painting)
        .expect("of the model's own size");

    let mut group = criterion.benchmark_group("stages");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    let settle = || device.sync().expect("the device answers");
    group.bench_function("encode", |bencher| {
        bencher.iter(|| (pipeline.embed_text(&[caption]).expect("a plain caption"), settle()));
    });
    group.bench_function("prior/2", |bencher| {
        bencher.iter(|| (pipeline.sample_prior(request.clone()).expect("as before"), settle()));
    });
    group.bench_function("decoder/2", |bencher| {
        bencher.iter(|| {
            (
                pipeline.decode_tensor(embedding.clone(), caption, &painting).expect("as before"),
                settle(),
            )
        });
    });
    group.bench_function("upsample/2", |bencher| {
        bencher.iter(|| {
            (pipeline.upscale_tensor(small.clone(), &painting).expect("as before"), settle())
        });
    });
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
