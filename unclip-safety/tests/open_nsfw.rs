//! OpenNSFW against the original, as `fixtures/record_open_nsfw.py` recorded it.
#![cfg(feature = "nsfw")]

use std::{fs, path::PathBuf};

use unclip_safety::picture::OpenNsfw;
use unclip_testkit::device;

#[derive(serde::Deserialize)]
struct Record {
    picture: String,
    original: f32,
    half: f32,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/open_nsfw")
}

/// The largest difference between what `network` says and what was recorded.
fn largest_difference(network: &OpenNsfw, recorded: impl Fn(&Record) -> f32) -> f32 {
    let json = fs::read_to_string(folder().join("scores.json")).expect("the recorded scores");
    let records: Vec<Record> = serde_json::from_str(&json).expect("the recorded scores");
    assert_eq!(records.len(), 30, "recorded pictures");
    records
        .iter()
        .map(|record| {
            let path = folder().join(&record.picture);
            let picture = image::open(path).expect("a recorded picture").into_rgb8();
            let score = network.score(&picture).expect("a picture");
            let difference = (score - recorded(record)).abs();
            println!("{}: {score:.6}, off by {difference:.1e}", record.picture);
            difference
        })
        .fold(0.0, f32::max)
}

#[test]
fn the_carried_weights_score_as_onnxruntime_does_and_near_the_original() {
    let network = OpenNsfw::bundled(&device());
    let same = largest_difference(&network, |record| record.half);
    assert!(same <= 1e-4, "off by {same} from the same weights");
    let original = largest_difference(&network, |record| record.original);
    assert!(original <= 0.01, "off by {original} from the original");
}

/// `UNCLIP_OPEN_NSFW` names the file that `unclip-safety-weights/convert.py --float` writes, 24 MB that are not carried.
#[test]
fn the_original_weights_score_as_the_original_does() {
    let Some(path) = std::env::var_os("UNCLIP_OPEN_NSFW") else { return };
    let bytes = fs::read(path).expect("the file that UNCLIP_OPEN_NSFW names");
    let network = OpenNsfw::from_safetensors(&bytes, &device()).expect("whole weights");
    let original = largest_difference(&network, |record| record.original);
    assert!(original <= 1e-4, "off by {original}");
}

#[test]
fn damaged_weights_are_errors() {
    let whole = unclip_safety_weights::OPEN_NSFW;
    for cut in [0, 7, 8, 100, 5000, whole.len() / 2, whole.len() - 1] {
        let error = OpenNsfw::from_safetensors(&whole[..cut], &device()).expect_err("cut off");
        assert!(error.to_string().starts_with("the weights of open_nsfw"), "{error}");
    }
}
