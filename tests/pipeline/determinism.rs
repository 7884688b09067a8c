//! The same request gives the same pixels, however it is cut up.

use unclip::{Generation, NoiseStream, Offload, image::RgbImage};

use crate::{builder, pipeline, quick};

fn pixels(generation: &Generation) -> Vec<RgbImage> {
    generation.images.iter().map(|image| image.picture.clone()).collect()
}

#[test]
fn the_batch_limit_changes_no_pixel() {
    for noise in [NoiseStream::Counter, NoiseStream::Torch] {
        let request = quick("two small boats").images(3).prior_candidates(2).noise(noise);
        let one = pipeline().generate(&request).expect("a valid request");
        for limit in [2, 5] {
            let several = builder().batch_limit(limit).build().expect("a whole model");
            let generation = several.generate(&request).expect("a valid request");
            assert!(
                pixels(&generation) == pixels(&one),
                "a limit of {limit} with {noise:?} noise changed pixels"
            );
        }
    }
}

#[test]
fn a_picture_of_a_batch_can_be_made_alone_from_its_seed() {
    let pipeline = pipeline();
    let batch = pipeline.generate(quick("a red frog").images(3)).expect("a valid request");
    assert_eq!(batch.images.iter().map(|image| image.seed).collect::<Vec<_>>(), [5, 6, 7]);
    assert!(batch.images[0].picture != batch.images[1].picture, "seeds make different pictures");
    let alone =
        pipeline.generate(quick("a red frog").seed(batch.images[2].seed)).expect("a valid request");
    assert!(
        alone.images[0].picture == batch.images[2].picture,
        "picture 2 differs when made alone"
    );
}

#[test]
fn captions_of_a_request_do_not_influence_each_other() {
    let pipeline = pipeline();
    let mut both = quick("a cat");
    both.captions.push("a stormy sea, an oil painting".into());
    let both = pipeline.generate(both).expect("a valid request");
    let second =
        pipeline.generate(quick("a stormy sea, an oil painting").seed(6)).expect("a valid request");
    assert_eq!(both.images[1].source, 1);
    assert!(
        both.images[1].picture == second.images[0].picture,
        "the neighbour changed the picture"
    );
}

#[test]
fn the_memory_policy_changes_no_pixel() {
    let expected = pixels(&pipeline().generate(quick("a small house")).expect("a valid request"));
    for policy in [Offload::OneStage, Offload::DropAfterUse] {
        let pipeline = builder().offload(policy).build().expect("a whole model");
        for _ in 0..2 {
            let again =
                pixels(&pipeline.generate(quick("a small house")).expect("a valid request"));
            assert!(again == expected, "{policy:?} changed pixels");
        }
    }
}

#[test]
fn threads_share_a_pipeline() {
    let pipeline = pipeline();
    let expected = pixels(&pipeline.generate(quick("a tree")).expect("a valid request"));
    std::thread::scope(|scope| {
        for handle in [(); 3]
            .map(|()| scope.spawn(|| pixels(&pipeline.generate(quick("a tree")).expect("valid"))))
        {
            assert!(
                handle.join().expect("no panic") == expected,
                "a shared pipeline changed pixels"
            );
        }
    });
}

#[test]
fn an_open_seed_is_filled_in_and_makes_the_picture_again() {
    let pipeline = pipeline();
    let mut request = quick("a lamp");
    request.painting.seed = None;
    let first = pipeline.generate(&request).expect("a valid request");
    let second = pipeline.generate(&request).expect("a valid request");
    assert_ne!(first.images[0].seed, second.images[0].seed);
    let again =
        pipeline.generate(quick("a lamp").seed(first.images[0].seed)).expect("a valid request");
    assert!(pixels(&again) == pixels(&first), "the stated seed makes another picture");
}
