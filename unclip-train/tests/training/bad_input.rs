//! What cannot be trained ends in a typed error that says why, and costs nothing that was saved.

use std::{fs, ops::ControlFlow, path::Path};

use image::RgbImage;
use serde_json::{Value, json};
use unclip_testkit::device;
use unclip_train::{Error, RunConfig, StepReport, Trainer};

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
    let error =
        trainer.run(|_| ControlFlow::Continue(())).expect_err("no network survives such a rate");
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

#[test]
fn pictures_smaller_than_a_crop_are_skipped_and_counted() {
    let setup = Setup::new();
    let config = setup.config("upsampler", "run", 4);
    let small = |name: &str| {
        let path = setup.path("pictures").join(name);
        RgbImage::new(40, 15).save(path.with_extension("png")).expect("is written");
        fs::write(path.with_extension("txt"), "a thin picture").expect("is written");
    };
    small("thin");
    small("thinner");
    let mut trainer = Trainer::start(read(&config), &device()).expect("it starts");
    let mut skipped = 0;
    let observer = |report: &StepReport| {
        skipped = report.skipped;
        ControlFlow::Continue(())
    };
    trainer.run(observer).expect("it trains on the others");
    assert_eq!(skipped, 2, "in a pass and a half");

    for number in 0..24 {
        let path = setup.path(&format!("pictures/{number:03}.png"));
        fs::remove_file(&path).expect("is removed");
        fs::remove_file(path.with_extension("txt")).expect("is removed");
    }
    let mut trainer = Trainer::start(read(&setup.config("upsampler", "none", 4)), &device())
        .expect("there are pictures to try");
    let error = trainer.step().expect_err("none has a crop");
    assert!(matches!(error, Error::NothingUsable { .. }), "{error}");
    assert!(error.to_string().contains("40 × 15 pixels, expected 16 × 16"), "{error}");
}

#[test]
fn keys_that_no_network_has_are_refused_by_name() {
    let setup = Setup::new();
    for (stage, part) in [
        ("clip", "text"),
        ("clip", "vision"),
        ("prior", "network"),
        ("decoder", "network"),
        ("decoder", "projection"),
        ("upsampler", "network"),
    ] {
        let mut config = setup.config(stage, "run", 3);
        config["stage"][stage][part]["widht"] = json!(8);
        let text = config.to_string();
        let error = RunConfig::from_bytes("run.json", text.as_bytes()).expect_err("refused");
        let text = error.to_string();
        assert!(text.contains("`widht`"), "{text}");
        assert!(text.contains(&format!("stage.{stage}.{part}")), "{text}");
    }
}

#[test]
fn a_clip_that_has_changed_is_not_gone_on_with() {
    let setup = Setup::new();
    setup.foundation("prior");
    let config = setup.config("prior", "run", 3);
    train(&config);
    let mut other = setup.config("clip", "run-other", 3);
    other["seed"] = json!(6);
    train(&other);
    let mut longer = config.clone();
    longer["training"]["steps"] = json!(6);
    let text = resume(&longer).to_string();
    assert!(text.contains("the CLIP"), "{text}");
}

#[test]
fn what_a_killed_run_has_not_written_is_written_by_the_next_start() {
    let setup = Setup::new();
    // A checkpoint, and no model yet.
    let config = setup.config("upsampler", "run", 3);
    train(&config);
    let part = setup.path("model/super_res_first");
    fs::remove_dir_all(&part).expect("was written");
    let mut trainer = Trainer::resume(read(&config), &device()).expect("it continues");
    trainer.run(|_| ControlFlow::Continue(())).expect("nothing is left to train");
    assert!(part.join("config.json").is_file());

    // Half a vocabulary.
    let output = setup.path("run-clip");
    let pending = output.join(".writing-tokenizer");
    fs::create_dir_all(&pending).expect("is created");
    fs::write(pending.join("vocab.json"), "{").expect("is written");
    train(&setup.config("clip", "run-clip", 3));
    assert!(output.join("tokenizer/merges.txt").is_file());
    assert!(!pending.exists());
}

#[test]
fn a_file_that_a_configuration_names_and_is_not_there_is_named() {
    let setup = Setup::new();
    let gone = setup.path("gone");
    let text = RunConfig::open(&gone).expect_err("no configuration").to_string();
    assert!(text.contains("gone"), "{text}");
    for (stage, place, value) in [
        ("clip", "/stage/clip/tokenizer", json!({"open": gone})),
        ("upsampler", "/data", json!({"kind": "folder", "path": gone})),
        ("upsampler", "/data", json!({"kind": "shards", "paths": [gone]})),
    ] {
        let mut config = setup.config(stage, "run", 3);
        *config.pointer_mut(place).expect("a place") = value;
        let text = start(&config).to_string();
        assert!(text.contains(&gone.display().to_string()), "{stage} {place}: {text}");
    }
}

/// What a process does that may write no file of more than `blocks` times 512 bytes: a write beyond fails, as on a full
/// disk.
#[cfg(target_os = "linux")]
fn with_small_files(config: &Path, blocks: u32) -> std::process::Output {
    let program = std::env::current_exe().expect("this program");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .arg(program)
        .args(["--exact", "child::trains_what_it_is_told_to", "--ignored", "--nocapture"])
        .env(crate::child::CONFIG, config)
        .output()
        .expect("a shell")
}

#[cfg(target_os = "linux")]
#[test]
fn a_write_that_fails_while_saving_costs_nothing_that_was_saved() {
    let setup = Setup::new();
    let config = setup.config("upsampler", "run", 6);
    let mut half = config.clone();
    half["training"]["steps"] = json!(3);
    train(&half);
    let saved = checkpoint(&setup.path("run"));
    let tensors = saved.join("tensors.safetensors");
    let before = fs::read(&tensors).expect("a checkpoint");
    let file = setup.path("run.json");
    fs::write(&file, config.to_string()).expect("is written");

    let output = with_small_files(&file, 64);
    assert!(before.len() > 64 * 1024, "the limit is below the size of a checkpoint");
    assert!(!output.status.success(), "there was no room for a checkpoint");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("it trains: Core(Io"), "{text}");
    assert!(text.contains("tensors.safetensors"), "{text}");
    assert_eq!(checkpoint(&setup.path("run")), saved, "the last one is still the last");
    assert!(fs::read(&tensors).expect("is there") == before, "it is as it was");
    let left = fs::read_dir(setup.path("run/checkpoints")).expect("a folder").count();
    assert_eq!(left, 1, "nothing half-written is left");

    let mut trainer = Trainer::resume(read(&config), &device()).expect("it continues");
    trainer.run(|_| ControlFlow::Continue(())).expect("there is room again");
    assert_eq!(trainer.step_count(), 6);
}
