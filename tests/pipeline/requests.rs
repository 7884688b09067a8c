//! What requests can ask for.

use unclip::{
    GenerateRequest, HostTensor, Painting, PictureMetadata, Replay, SamplerKind, Stage, Supplied,
    SuppliedNoise, VariationRequest, Warning, core::checkpoint::SaveOptions, image::RgbImage,
};

use crate::{builder, pipeline, quick};

#[test]
fn a_str_is_enough() {
    let generation = pipeline().generate("a cat").expect("a caption");
    assert_eq!(generation.images.len(), 1);
    assert_eq!(generation.images[0].picture.dimensions(), (32, 32));
    assert!(generation.timings.computing(Stage::Decoder) > 0.0, "{:?}", generation.timings);
}

#[test]
fn the_size_is_exact_and_resampling_is_said() {
    let pipeline = pipeline();
    assert_eq!(pipeline.sizes(), [16, 32]);
    for (size, resampled) in [(16, false), (32, false), (512, true), (1024, true)] {
        let generation =
            pipeline.generate(quick("a cat").size(size)).expect("a size that is given");
        assert_eq!(generation.images[0].picture.dimensions(), (size, size));
        let expected = Warning::Resampled { from: 32, to: size };
        assert_eq!(
            generation.warnings.contains(&expected),
            resampled,
            "{size}: {:?}",
            generation.warnings
        );
    }
    let small = pipeline.generate(quick("a cat").size(16)).expect("the decoder's own size");
    assert!(
        small.timings.stages.iter().all(|timing| timing.stage != Stage::Upsample),
        "no upsampler ran"
    );
}

#[test]
fn a_long_caption_is_cut_and_said_so() {
    let generation = pipeline().generate(quick(&"word ".repeat(200))).expect("a caption");
    let cut = |warning: &Warning| matches!(warning, Warning::CaptionTruncated { caption: Some(0), kept: 77, dropped } if *dropped > 100);
    assert!(generation.warnings.iter().any(cut), "{:?}", generation.warnings);
}

#[test]
fn an_empty_caption_paints_and_is_mentioned() {
    let generation =
        pipeline().generate(quick("  ")).expect("an empty caption is a wish like any other");
    assert!(
        generation.warnings.contains(&Warning::EmptyCaption { caption: 0 }),
        "{:?}",
        generation.warnings
    );
}

#[test]
fn a_negative_caption_changes_the_picture_and_an_empty_one_does_not() {
    let pipeline = pipeline();
    let plain = pipeline.generate(quick("a cat")).expect("valid");
    let empty = pipeline.generate(quick("a cat").negative_caption("")).expect("valid");
    let negative = pipeline.generate(quick("a cat").negative_caption("blue water")).expect("valid");
    assert!(plain.images[0].picture == empty.images[0].picture, "the empty caption is the default");
    assert!(
        plain.images[0].picture != negative.images[0].picture,
        "the negative caption was ignored"
    );
}

#[test]
fn every_sampler_paints() {
    let pipeline = pipeline();
    let mut pictures: Vec<RgbImage> = Vec::new();
    for sampler in [
        SamplerKind::UnClip,
        SamplerKind::Ddpm,
        SamplerKind::Ddim { eta: 0.0 },
        SamplerKind::DpmSolverPp2M,
    ] {
        let request = quick("a cat")
            .prior_sampler(sampler)
            .decoder_sampler(sampler)
            .decoder_steps(6)
            .upsample_sampler(sampler)
            .upsample_steps(6);
        let picture =
            pipeline.generate(request).expect("every kind is supported").images.remove(0).picture;
        // Random weights drive most values to the ends of the range; a broken step would drive all of them there.
        let between = picture.as_raw().iter().filter(|value| (1..255).contains(*value)).count();
        assert!(between > 50, "{sampler:?} left {between} values between black and white");
        assert!(!pictures.contains(&picture), "{sampler:?} is another sampler under a new name");
        pictures.push(picture);
    }
}

#[test]
fn candidates_take_the_embedding_nearest_to_the_caption() {
    let pipeline = pipeline();
    let text =
        HostTensor::read(&pipeline.embed_text(&["a cat"]).expect("a caption").captions.embedding)
            .expect("readable");
    let product = |candidates: usize| {
        let request = quick("a cat").prior_candidates(candidates);
        let embedding =
            HostTensor::read(&pipeline.sample_prior(request).expect("valid")).expect("readable");
        embedding.values.iter().zip(&text.values).map(|(a, b)| a * b).sum::<f32>()
    };
    assert!(product(4) > product(1), "{} is not above {}", product(4), product(1));
}

#[test]
fn a_model_may_want_more_candidates_than_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    pipeline().save(folder.path(), &SaveOptions::default()).expect("is written");
    std::fs::write(
        folder.path().join("guidance.json"),
        r#"{"prior": 4.0, "decoder": 8.0, "prior_candidates": 4}"#,
    )
    .expect("is written");
    let own = builder().model_dir(folder.path()).build().expect("a whole model");
    let draw = |pipeline: &unclip::Pipeline, request: GenerateRequest| {
        HostTensor::read(&pipeline.sample_prior(request).expect("valid")).expect("readable")
    };
    let plain = pipeline();
    let four = draw(&plain, quick("a cat").prior_candidates(4));
    let one = draw(&plain, quick("a cat"));
    assert_eq!(draw(&own, quick("a cat")).values, four.values);
    assert_eq!(draw(&own, quick("a cat").prior_candidates(1)).values, one.values);
    assert_ne!(one.values, four.values);
}

#[test]
fn ranked_pictures_come_best_first() {
    let request = quick("a cat").images(4).rank_images(true);
    let generation = pipeline().generate(&request).expect("the model has an image encoder");
    let scores: Vec<f32> =
        generation.images.iter().map(|image| image.clip_similarity.expect("ranked")).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let mut seeds: Vec<u64> = generation.images.iter().map(|image| image.seed).collect();
    seeds.sort_unstable();
    assert_eq!(seeds, [5, 6, 7, 8]);
}

#[test]
fn supplied_embeddings_skip_the_prior() {
    let pipeline = pipeline();
    let drawn = pipeline.generate(quick("a cat")).expect("valid");
    let embedding =
        HostTensor::new([1, 24], drawn.images[0].image_embedding.clone()).expect("24 values");
    let supplied = Supplied { image_embeddings: Some(embedding), ..Supplied::default() };
    let again = pipeline.generate(quick("a cat").supplied(supplied)).expect("valid");
    assert!(
        again.images[0].picture == drawn.images[0].picture,
        "another picture from the same embedding"
    );
    assert!(
        again.timings.stages.iter().all(|timing| timing.stage != Stage::Prior),
        "the prior ran"
    );
}

#[test]
fn supplied_noise_of_the_wrong_shape_is_refused_by_field() {
    let initial = HostTensor::new([1, 3, 8, 8], vec![0.0; 192]).expect("192 values");
    let noise = SuppliedNoise { initial: Some(initial), steps: Vec::new() };
    let supplied = Supplied { decoder_noise: Some(noise), ..Supplied::default() };
    let text = pipeline()
        .generate(quick("a cat").supplied(supplied))
        .expect_err("8 is not 16")
        .to_string();
    assert!(text.contains("decoder_noise") && text.contains("[1, 3, 16, 16]"), "{text}");
}

#[test]
fn a_saved_picture_replays_to_the_same_pixels() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipeline = pipeline();
    let request = quick("a cat").images(2).negative_caption("rain").decoder_guidance(3.0);
    let generation = pipeline.generate(&request).expect("valid");
    let path = folder.path().join("second.png");
    generation.images[1].save(&path).expect("a writable folder");
    let Replay::Generate(replay) = PictureMetadata::read(&path).expect("our own picture").request
    else {
        panic!("it was made from a caption");
    };
    let again = pipeline.generate(replay).expect("valid");
    assert!(again.images[0].picture == generation.images[1].picture, "the replay differs");
    let file = image::open(&path).expect("any reader opens it").to_rgb8();
    assert!(file == again.images[0].picture, "the file holds other pixels");
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("readable").count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn stages_alone_give_what_the_whole_gives() {
    let pipeline = builder().unmarked().build().expect("a whole model");
    let request = quick("a cat");
    let whole = pipeline.generate(&request).expect("valid");
    let embedding = pipeline.sample_prior(&request).expect("valid");
    let painting: &Painting = &request.painting;
    let small = pipeline.decode_tensor(embedding, "a cat", painting).expect("valid");
    let large = pipeline.upscale_tensor(small, painting).expect("valid");
    let picture = unclip::core::image::to_images(large).expect("readable").remove(0);
    assert!(picture == whole.images[0].picture, "the stages one by one differ from the whole");
}

#[test]
fn variations_follow_their_picture() {
    let pipeline = pipeline();
    let pictures = [[200u8, 30, 30], [20, 40, 220]]
        .map(|color| RgbImage::from_pixel(37, 29, image::Rgb(color)));
    let request = VariationRequest::new().images(2).seed(3).decoder_steps(3).upsample_steps(2);
    let generation = pipeline.variations(&pictures, &request).expect("valid");
    assert_eq!(
        generation.images.iter().map(|image| image.source).collect::<Vec<_>>(),
        [0, 0, 1, 1]
    );
    let embedding =
        HostTensor::read(&pipeline.embed_images(&pictures).expect("valid")).expect("readable");
    assert_eq!(generation.images[2].image_embedding, embedding.values[24..]);
    assert!(generation.images[0].picture != generation.images[1].picture, "variations vary");
}

#[test]
fn requests_survive_json() {
    let request = quick("a cat").prior_sampler(SamplerKind::Ddim { eta: 0.5 }).size(512);
    let json = serde_json::to_string(&request).expect("plain data");
    assert_eq!(serde_json::from_str::<GenerateRequest>(&json).expect("our own JSON"), request);
}
