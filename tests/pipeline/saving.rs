//! A saved model is the model.

use std::path::Path;

use unclip::{
    Offload, Pipeline, WeightPrecision,
    core::checkpoint::{Folder, SaveOptions},
};

use crate::{builder, model, pipeline, quick};

fn reopened(options: &SaveOptions<'_>, variant: Option<&str>) -> Pipeline {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("saved");
    builder().build().expect("a whole model").save(&dir, options).expect("a writable folder");
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("readable").count(),
        1,
        "no temporary folder is left"
    );
    let mut builder = Pipeline::builder().model_dir(&dir).on_device(unclip_testkit::device());
    if let Some(variant) = variant {
        builder = builder.variant(variant);
    }
    builder.build().expect("our own folder")
}

#[test]
fn it_makes_the_same_pictures_whole_or_in_shards() {
    let expected = pipeline().generate(quick("a cat")).expect("valid").images.remove(0).picture;
    for shard in [None, Some(20_000)] {
        let options = SaveOptions { max_shard_bytes: shard, ..SaveOptions::default() };
        let pipeline = reopened(&options, None);
        assert!(pipeline.can_generate() && pipeline.can_vary(), "every part was saved");
        let picture = pipeline.generate(quick("a cat")).expect("valid").images.remove(0).picture;
        assert!(picture == expected, "shards of {shard:?} changed pixels");
    }
}

#[test]
fn half_precision_in_a_variant_is_close() {
    let expected = pipeline()
        .generate(quick("a cat").decoder_guidance(1.0))
        .expect("valid")
        .images
        .remove(0)
        .picture;
    let options = SaveOptions {
        precision: WeightPrecision::F16,
        variant: Some("fp16"),
        ..SaveOptions::default()
    };
    let pipeline = reopened(&options, Some("fp16"));
    let picture = pipeline
        .generate(quick("a cat").decoder_guidance(1.0))
        .expect("valid")
        .images
        .remove(0)
        .picture;
    let difference: f64 = picture
        .as_raw()
        .iter()
        .zip(expected.as_raw())
        .map(|(a, b)| f64::from(a.abs_diff(*b)))
        .sum::<f64>()
        / picture.as_raw().len() as f64;
    assert!(difference > 0.0 && difference < 20.0, "a mean difference of {difference} levels");
}

#[test]
fn a_folder_that_holds_something_is_not_overwritten() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("precious.txt"), "x").expect("writable");
    assert!(pipeline().save(folder.path(), &SaveOptions::default()).is_err(), "it holds a file");
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1, "nothing was added");
}

/// The files below `dir`, as a program has those that are compiled into it: for good.
fn embedded(dir: &Path) -> Folder {
    fn collect(dir: &Path, prefix: &str, files: &mut Vec<(&'static str, &'static [u8])>) {
        for entry in std::fs::read_dir(dir).expect("a readable folder") {
            let entry = entry.expect("a readable entry");
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                collect(&entry.path(), &format!("{name}/"), files);
            } else {
                let bytes = std::fs::read(entry.path()).expect("a readable file");
                files.push((name.leak(), bytes.leak()));
            }
        }
    }
    let mut files = Vec::new();
    collect(dir, "", &mut files);
    Folder::embedded("tiny", files.leak())
}

#[test]
fn a_model_inside_the_program_paints_the_same_picture() {
    let open = |source: Folder| {
        let builder = Pipeline::builder().model_dir(source).offload(Offload::OneStage);
        builder.on_device(unclip_testkit::device()).build().expect("a whole model")
    };
    let paint = |pipeline: Pipeline| {
        pipeline.generate(quick("a red square").seed(3)).expect("a picture").images.remove(0)
    };
    let [inside, outside] = [embedded(&model()), model().into()].map(open).map(paint);
    assert_eq!(inside.picture, outside.picture);
}
