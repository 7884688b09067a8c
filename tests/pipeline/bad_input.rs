//! Bad input ends in an error that says where, and leaves nothing behind.

use std::{fs, path::Path};

use image::RgbImage;
use unclip::{Error, Painting, Pipeline, VariationRequest};

use crate::{builder, copy, model, pipeline, quick};

/// A copy of the tiny model, broken by `breakage`, and what building it says.
fn build_broken(breakage: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&model(), folder.path());
    breakage(folder.path());
    let built =
        Pipeline::builder().model_dir(folder.path()).on_device(unclip_testkit::device()).build();
    built.expect_err("a broken model").to_string()
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON");
    edit(&mut json);
    fs::write(path, serde_json::to_vec(&json).expect("plain data")).expect("writable");
}

#[cfg(not(feature = "default-model"))]
#[test]
fn no_model_and_no_parts_is_said() {
    let error =
        Pipeline::builder().on_device(unclip_testkit::device()).build().expect_err("nothing given");
    assert!(matches!(error, Error::Source { .. }), "{error}");
    let missing = Pipeline::builder()
        .model_dir("/nowhere/at/all")
        .on_device(unclip_testkit::device())
        .build();
    assert!(
        missing.expect_err("no such folder").to_string().contains("/nowhere/at/all"),
        "the path is named"
    );
}

#[test]
fn a_missing_part_is_named() {
    for part in ["decoder", "text_encoder", "tokenizer", "prior", "super_res_last"] {
        let text = build_broken(|dir| fs::remove_dir_all(dir.join(part)).expect("removable"));
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = build_broken(|dir| {
        fs::remove_file(dir.join("prior/diffusion_pytorch_model.safetensors")).expect("removable");
    });
    assert!(text.contains("prior") && text.contains("safetensors"), "{text}");
}

#[test]
fn damaged_weights_are_an_error_wherever_they_are_cut() {
    let weights = "decoder/diffusion_pytorch_model.safetensors";
    let length = fs::metadata(model().join(weights)).expect("readable").len();
    for keep in [0, 4, 8, 100, length / 2, length - 1] {
        let text = build_broken(|dir| {
            let file =
                fs::OpenOptions::new().write(true).open(dir.join(weights)).expect("writable");
            file.set_len(keep).expect("resizable");
        });
        assert!(text.contains("decoder"), "{keep} bytes: {text}");
    }
}

#[test]
fn a_configuration_that_disagrees_with_its_weights_lists_every_tensor() {
    let text = build_broken(|dir| {
        edit_json(&dir.join("prior/config.json"), |json| json["num_layers"] = 2.into());
    });
    assert!(text.matches("transformer_blocks.2.").count() > 10, "{text}");
    let text = build_broken(|dir| {
        edit_json(&dir.join("prior/config.json"), |json| json["num_layers"] = 4.into());
    });
    assert!(text.contains("missing transformer_blocks.3.norm1.weight"), "{text}");
}

#[test]
fn a_value_that_is_not_implemented_is_refused_by_name() {
    for (file, key, value) in [
        ("decoder/config.json", "class_embed_type", serde_json::json!("timestep")),
        ("decoder/config.json", "act_fn", "mish".into()),
        ("super_res_first/config.json", "add_attention", true.into()),
        ("prior/config.json", "added_emb_type", "other".into()),
        ("text_encoder/config.json", "hidden_act", "relu".into()),
        ("decoder_scheduler/scheduler_config.json", "variance_type", "other".into()),
    ] {
        let text = build_broken(|dir| edit_json(&dir.join(file), |json| json[key] = value));
        assert!(text.contains(key) && text.contains(file), "{text}");
    }
}

#[test]
fn stages_that_do_not_fit_are_told_apart() {
    let other = unclip_testkit::fixtures_root().join("seed2/model");
    let text = build_broken(|dir| {
        for part in ["text_encoder", "tokenizer"] {
            fs::remove_dir_all(dir.join(part)).expect("removable");
            copy(&other.join(part), &dir.join(part));
        }
    });
    assert!(text.contains("28") && text.contains("24"), "{text}");
}

#[test]
fn a_hostile_index_reads_nothing_outside_its_folder() {
    let text = build_broken(|dir| {
        edit_json(&dir.join("model_index.json"), |json| {
            json["../../etc"] = serde_json::json!(["diffusers", "UNet2DModel"]);
        });
    });
    assert!(text.contains("model_index.json"), "{text}");
}

#[test]
fn an_operation_that_the_model_cannot_do_is_named() {
    let no_images = Pipeline::builder()
        .model_dir(model())
        .on_device(unclip_testkit::device())
        .build()
        .expect("a model");
    assert!(no_images.can_generate() && !no_images.can_vary());
    let picture = RgbImage::from_pixel(8, 8, image::Rgb([1, 2, 3]));
    let error =
        no_images.variations(&[picture], &VariationRequest::new()).expect_err("no image encoder");
    assert!(matches!(error, Error::Unavailable { part: "image_encoder", .. }), "{error}");
    let error = no_images.generate(quick("a cat").rank_images(true)).expect_err("no image encoder");
    assert!(error.to_string().contains("ranking"), "{error}");
    let no_prior = Pipeline::builder()
        .model_dir(crate::images().path())
        .on_device(unclip_testkit::device())
        .build();
    let error = no_prior.expect("a model for variations").generate("a cat").expect_err("no prior");
    assert!(matches!(error, Error::Unavailable { part: "prior", .. }), "{error}");
}

#[test]
fn requests_out_of_range_are_refused_before_anything_runs() {
    let pipeline = pipeline();
    for (request, field) in [
        (quick("a cat").size(100), "size"),
        (quick("a cat").size(0), "size"),
        (quick("a cat").decoder_guidance(f64::NAN), "guidance"),
        (quick("a cat").prior_steps(0), "steps"),
        (quick("a cat").prior_steps(1), "steps"),
        (quick("a cat").decoder_steps(10_000), "steps"),
        (quick("a cat").images(0), "images"),
        (quick(&"x".repeat(3 << 20)), "caption"),
    ] {
        let text = pipeline.generate(request).expect_err("out of range").to_string();
        assert!(text.contains(field), "{field}: {text}");
    }
    assert!(pipeline.generate(quick(&"x".repeat(100 << 10))).is_ok(), "100 KB are merely cut");
}

#[test]
fn pictures_that_are_none_are_refused() {
    let pipeline = pipeline();
    let request = VariationRequest::new().decoder_steps(2).upsample_steps(2);
    assert!(pipeline.variations(&[], &request).is_err(), "no picture");
    assert!(pipeline.variations(&[RgbImage::new(0, 5)], &request).is_err(), "an empty picture");
    assert!(
        pipeline.upscale(&[RgbImage::new(0, 0)], &Painting::default()).is_err(),
        "an empty picture"
    );
    let thin = RgbImage::new(4, 400);
    assert!(
        pipeline.variations(&[thin], &request).is_ok(),
        "a thin picture is cropped like any other"
    );
    let thread = RgbImage::new(1, 60_000);
    let text =
        pipeline.variations(&[thread], &request).expect_err("nothing is left of it").to_string();
    assert!(text.contains("60000"), "{text}");
    for bytes in [&b"not a picture"[..], b"", b"\x89PNG\r\n\x1a\n"] {
        let text = unclip::core::image::decode_rgb(bytes, "upload.png")
            .expect_err("not a picture")
            .to_string();
        assert!(text.contains("upload.png"), "{text}");
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    for name in ["", "gpu", "cuda:99", "wgpu:discrete:7", "cpu:1", "vulkan"] {
        let text = unclip::device(name).expect_err("no such device here").to_string();
        assert!(text.contains(&format!("`{name}`")), "{text}");
    }
    assert!(builder().batch_limit(0).build().is_err(), "a batch of nothing");
}

#[test]
fn a_picture_that_cannot_be_saved_leaves_nothing() {
    let image = pipeline().generate(quick("a cat")).expect("valid").images.remove(0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("file"), "x").expect("writable");
    let error =
        image.save(folder.path().join("file/x.png")).expect_err("a file is no folder").to_string();
    assert!(error.contains("file"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1, "nothing is left behind");
}
