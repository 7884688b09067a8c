//! A prior learns from embeddings that were computed before what it learns from the pictures.

use std::fs;

use ndarray::Array2;
use serde_json::json;
use unclip_clip::Clip;
use unclip_core::{
    checkpoint::WeightPrecision,
    resize::{Filter, resize_rgb8},
};
use unclip_testkit::device;
use unclip_train::data::{DataConfig, FolderConfig, write_npy};

use crate::setup::{Setup, train};

#[test]
fn a_prior_learns_the_same_from_embeddings_as_from_pictures() {
    let setup = Setup::new();
    setup.foundation("prior");
    let clip = Clip::from_dir(setup.path("model"), &device(), WeightPrecision::F32);
    let clip = clip.expect("CLIP opens");
    let config = DataConfig::Folder(FolderConfig::new(setup.path("pictures")));
    let mut source = config.open_once().expect("opens");
    let (mut rows, mut lines) = (Vec::new(), String::new());
    while let Some(sample) = source.next().expect("readable") {
        let picture = sample.picture().expect("a folder holds pictures");
        let view = resize_rgb8(picture, 16, 16, Filter::Bicubic).expect("resizes");
        let row = clip.embed_images(&[view]).expect("an embedding");
        rows.extend(row.try_into_vec_as::<f32>().expect("floats"));
        lines.push_str(&format!("{}\n", json!({"captions": sample.captions})));
    }
    let rows = Array2::from_shape_vec((24, 32), rows).expect("a row a picture");
    let (image, captions) = (setup.path("image.npy"), setup.path("captions.jsonl"));
    write_npy(&image, rows.view()).expect("is written");
    fs::write(&captions, lines).expect("is written");

    let pictures = setup.config("prior", "pictures-run", 6);
    let mut stored = setup.config("prior", "embeddings-run", 6);
    stored["data"] = json!({"kind": "embeddings", "image": [image], "captions": [captions]});
    let (expected, found) = (train(&pictures), train(&stored));
    for (expected, found) in expected.iter().zip(&found) {
        assert!((expected - found).abs() < 1e-4 * expected, "{found} is not {expected}");
    }

    // Rows of another width than CLIP's.
    let narrow = Array2::<f32>::zeros((24, 31));
    write_npy(setup.path("image.npy"), narrow.view()).expect("is written");
    stored["output"] = json!(setup.path("narrow-run"));
    let config = crate::setup::read(&stored);
    let error = unclip_train::Trainer::start(config, &device()).expect_err("a number is missing");
    assert!(error.to_string().contains("31 numbers in sample image.npy: row"), "{error}");
}
