//! What cannot be trained ends in a typed error that says why, and costs nothing that was saved.

use std::fs;

use serde_json::{Value, json};
use unclip_testkit::device;
use unclip_train::{Error, Trainer};

use crate::setup::{Setup, checkpoint, read, train};

fn start(config: &Value) -> Error {
    Trainer::start(read(config), &device()).expect_err("it does not start")
}

fn resume(config: &Value) -> Error {
    Trainer::resume(read(config), &device()).expect_err("it does not continue")
}

#[test]
fn a_run_is_not_begun_over_another_nor_continued_without_one() {
    let setup = Setup::new();
    let config = setup.config("upsampler", "run", 3);
    assert!(matches!(resume(&config), Error::NoCheckpoint { .. }));
    train(&config);
    assert!(matches!(start(&config), Error::RunExists { .. }));
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_what_differs() {
    let setup = Setup::new();
    let config = setup.config("upsampler", "run", 3);
    train(&config);
    let changed = |place: &str, value: Value| {
        let mut config = config.clone();
        *config.pointer_mut(place).expect("a place") = value;
        resume(&config).to_string()
    };
    let text = changed("/stage/upsampler/network/block_out_channels", json!([8, 8]));
    assert!(text.contains("the architecture") && text.contains("[8,8]"), "{text}");
    let text = changed("/seed", json!(6));
    assert!(text.contains("the seed 5, expected 6"), "{text}");

    let state = checkpoint(&setup.path("run")).join("state.json");
    let text = fs::read_to_string(&state).expect("is there");
    fs::write(&state, text.replace("\"version\": 1", "\"version\": 7")).expect("is written");
    let text = resume(&config).to_string();
    assert!(text.contains("the layout version 7, expected 1"), "{text}");
    fs::write(&state, "{").expect("is written");
    assert!(matches!(resume(&config), Error::Checkpoint { .. }));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_last_checkpoint() {
    let setup = Setup::new();
    let mut config = setup.config("upsampler", "run", 40);
    train(&setup.config("upsampler", "run", 3));
    config["training"]["rate"] = json!({"peak": 1e30, "decay": "constant"});
    config["training"]["optimizer"]["clip_norm"] = json!(null);
    let mut trainer = Trainer::resume(read(&config), &device()).expect("it continues");
    let error = trainer
        .run(|_| std::ops::ControlFlow::Continue(()))
        .expect_err("no network survives such a rate");
    let Error::NotFinite { step, checkpoint: Some(path), .. } = &error else {
        panic!("{error}");
    };
    assert!(*step > 3, "{error}");
    assert!(path.join("tensors.safetensors").is_file(), "{error}");
}

#[test]
fn a_stage_without_the_one_before_it_says_what_is_lacking() {
    let setup = Setup::new();
    for stage in ["prior", "decoder"] {
        let text = start(&setup.config(stage, "run", 3)).to_string();
        assert!(text.contains("text_encoder"), "{text}");
    }
}

#[test]
fn sizes_that_do_not_fit_each_other_are_named() {
    let setup = Setup::new();
    setup.foundation("prior");
    for (stage, place, value, field) in [
        ("prior", "/stage/prior/network/embedding_dim", json!(48), "network.embedding_dim"),
        ("prior", "/stage/prior/network/num_embeddings", json!(9), "network.num_embeddings"),
        (
            "decoder",
            "/stage/decoder/projection/clip_embeddings_dim",
            json!(16),
            "projection.clip_embeddings_dim",
        ),
        ("upsampler", "/stage/upsampler/crop", json!(15), "crop"),
        ("clip", "/stage/clip/text/projection_dim", json!(16), "text.projection_dim"),
    ] {
        let mut config = setup.config(stage, "run", 3);
        *config.pointer_mut(place).expect("a place") = value;
        let text = start(&config).to_string();
        assert!(text.contains(&format!("`{field}`")), "{text}");
    }
}

#[test]
fn empty_data_are_an_error() {
    let setup = Setup::new();
    let empty = setup.path("empty");
    fs::create_dir(&empty).expect("is created");
    let mut config = setup.config("upsampler", "run", 3);
    config["data"]["path"] = json!(empty);
    assert!(matches!(start(&config), Error::NoSamples { .. }));
}
