//! Each stage learns, and writes what the pipeline opens.

use std::fs;

use serde_json::json;
use unclip_core::checkpoint::{WeightPrecision, Weights};
use unclip_decoder::{Decoder, DecoderConfig, MaskChannels};
use unclip_prior::Prior;
use unclip_testkit::device;
use unclip_train::Trainer;
use unclip_upsample::Upsampler;

use crate::setup::{STAGES, Setup, checkpoint, read, train};

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn every_stage_learns_and_the_model_directory_opens() {
    let setup = Setup::of(200);
    for (stage, steps) in STAGES.into_iter().zip([300, 300, 300, 200]) {
        let mut config = setup.config(stage, &format!("run-{stage}"), steps);
        config["training"]["sheet_every"] = json!(steps);
        config["training"]["checkpoint_every"] = json!(steps);
        let losses = train(&config);
        let (first, last) = (mean(&losses[..20]), mean(&losses[losses.len() - 20..]));
        println!("{stage}: {first:.4} to {last:.4}");
        assert!(last < 0.7 * first, "{stage}: {first} to {last}");
        let log = fs::read_to_string(setup.path(&format!("run-{stage}/log.jsonl"))).expect("a log");
        assert_eq!(log.lines().count(), losses.len());
    }
    for stage in ["decoder", "upsampler"] {
        let sheets = fs::read_dir(setup.path(&format!("run-{stage}/sheets"))).expect("a folder");
        assert_eq!(sheets.count(), 1, "{stage}");
    }
    let model = setup.path("model");
    let part = |name: &str| model.join(name);
    let (precision, device) = (WeightPrecision::F32, device());
    unclip_clip::Clip::from_dir(&model, &device, precision).expect("CLIP opens");
    Prior::from_dir(part("prior"), None, precision, &device).expect("the prior opens");
    Decoder::from_dirs(part("text_proj"), part("decoder"), None, precision, &device)
        .expect("the decoder opens");
    let config = DecoderConfig::open(part("decoder")).expect("a configuration");
    MaskChannels::from_dir(part("decoder"), &config, None, precision, &device)
        .expect("its mask channels open");
    for (first, last) in
        [("super_res_first", Some(part("super_res_last"))), ("super_res_large", None)]
    {
        Upsampler::from_dirs(part(first), last.map(Into::into), None, precision, &device)
            .expect("the upsampler opens");
    }
    assert!(part("model_index.json").is_file());
}

/// The tensors of a run's newest checkpoint.
pub(crate) fn tensors(setup: &Setup, output: &str) -> Vec<(String, Vec<f32>)> {
    let path = checkpoint(&setup.path(output)).join("tensors.safetensors");
    let weights = Weights::open_file(path).expect("a checkpoint");
    let read = |name: &str| weights.read(name).expect("a tensor").try_to_vec().expect("floats");
    weights.names().map(|name| (name.to_owned(), read(name))).collect()
}

/// How far two lists of numbers are apart, relative to the size of the first.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let apart: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (apart / a.iter().map(|&a| square(a)).sum::<f64>()).sqrt()
}

#[test]
fn steps_in_16_bits_follow_those_in_32() {
    let setup = Setup::new();
    for stage in STAGES {
        setup.foundation(stage);
        let run = |precision: &str| {
            let output = format!("{stage}-{precision}");
            let mut config = setup.config(stage, &output, 1);
            config["training"]["precision"] = json!(precision);
            let losses = train(&config);
            let moments = tensors(&setup, &output).into_iter();
            // Adam's first step has the sign of the gradient, so the first moment is what to compare.
            let moments = moments.filter(|(name, _)| name.starts_with("first_moment."));
            (losses[0], moments.flat_map(|(_, values)| values).collect::<Vec<f32>>())
        };
        let (wide, narrow) = (run("f32"), run("bf16"));
        let (loss, gradient) = ((wide.0 - narrow.0).abs() / wide.0, distance(&wide.1, &narrow.1));
        println!("{stage}: loss {loss:.1e}, gradient {gradient:.1e}");
        assert!(loss < 1e-2, "{stage}: the loss is off by {loss}");
        assert!((1e-5..5e-2).contains(&gradient), "{stage}: the gradient is off by {gradient}");
    }
}

#[test]
fn a_batch_in_parts_has_the_gradients_of_the_whole() {
    let setup = Setup::new();
    for stage in STAGES {
        setup.foundation(stage);
        let run = |output: String, part, checkpointing| {
            let mut config = setup.config(stage, &output, 1);
            config["training"]["part"] = part;
            config["training"]["gradient_checkpointing"] = json!(checkpointing);
            let losses = train(&config);
            (losses[0], tensors(&setup, &output))
        };
        let whole = run(format!("{stage}-whole"), json!(null), false);
        for (part, checkpointing) in [(json!(3), false), (json!(null), true), (json!(4), true)] {
            let name = format!("{stage}-{part}-{checkpointing}");
            let parts = run(name.clone(), part, checkpointing);
            assert!((whole.0 - parts.0).abs() < 1e-5 * whole.0.abs(), "{name}: the loss");
            let moments = |(name, _): &&(String, Vec<f32>)| name.starts_with("first_moment.");
            for (a, b) in whole.1.iter().filter(moments).zip(parts.1.iter().filter(moments)) {
                assert_eq!(a.0, b.0);
                let size = a.1.iter().fold(1e-6f32, |size, x| size.max(x.abs()));
                let worst = a.1.iter().zip(&b.1).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(worst < 2e-3 * size, "{name}: {} is off by {worst} of {size}", a.0);
            }
        }
    }
}

#[test]
fn a_run_starts_from_the_weights_that_it_is_told_to() {
    let setup = Setup::new();
    for stage in STAGES {
        setup.foundation(stage);
        train(&setup.config(stage, &format!("{stage}-first"), 4));
        let mut config = setup.config(stage, &format!("{stage}-second"), 1);
        config["initial"] = json!(setup.path("model"));
        // Another seed, so that random weights would be others; and steps that change nothing to speak of.
        config["seed"] = json!(6);
        config["training"]["rate"]["peak"] = json!(1e-9);
        train(&config);
        let average = |output: &str| {
            let all = tensors(&setup, &format!("{stage}-{output}")).into_iter();
            // What turns CLIP's similarities into its loss is no part of a model directory.
            let kept = |name: &str| {
                name.starts_with("average.")
                    && name != "average.log_scale"
                    && name != "average.bias"
            };
            all.filter(|(name, _)| kept(name)).collect::<Vec<_>>()
        };
        let (first, second) = (average("first"), average("second"));
        assert_eq!(first.len(), second.len());
        for (before, after) in first.iter().zip(&second) {
            let worst = before.1.iter().zip(&after.1).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, f32::max);
            assert!(worst < 1e-6, "{stage}: {} moved by {worst}", before.0);
        }
        let mut other = config.clone();
        other["output"] = json!(setup.path(&format!("{stage}-third")));
        let (network, size) = match stage {
            "clip" => ("vision", ("intermediate_size", json!(48))),
            "prior" => ("network", ("num_layers", json!(3))),
            _ => ("network", ("block_out_channels", json!([8, 24]))),
        };
        other["stage"][stage][network][size.0] = size.1;
        let error = Trainer::start(read(&other), &device()).expect_err("weights of other sizes");
        println!("{stage}: {error}");
    }
}
