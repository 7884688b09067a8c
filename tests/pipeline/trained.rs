//! What is trained is what the pipeline opens: every stage for a few steps, then pictures of every size.

#[path = "../../unclip-train/tests/training/setup.rs"]
#[expect(dead_code, reason = "it also sets up what the tests of training alone need")]
mod setup;

use std::{fs, path::Path};

use unclip::{
    Error, GenerateRequest, NoiseStream, Pipeline, SamplerConfig, SamplerKind, image::RgbImage,
};

use self::setup::{STAGES, Setup, train};
use crate::{copy, quick};

/// A model of every stage, trained for a few steps on drawn shapes.
fn trained() -> Setup {
    let setup = Setup::new();
    for stage in STAGES {
        train(&setup.config(stage, &format!("run-{stage}"), 6));
    }
    setup
}

fn open(dir: &Path) -> Pipeline {
    let builder = Pipeline::builder().model_dir(dir).on_device(unclip_testkit::device());
    builder.without_safety().unmarked().build().expect("a whole model")
}

fn paint(pipeline: &Pipeline, size: u32) -> RgbImage {
    let result = pipeline.generate(quick("a red circle").size(size));
    result.expect("a picture").images.remove(0).picture
}

#[test]
fn it_paints_at_every_size_and_again_once_it_is_saved() {
    let setup = trained();
    let model = setup.path("model");
    let pipeline = open(&model);
    assert_eq!(pipeline.sizes(), [16, 32, 128]);
    assert!(pipeline.can_generate() && pipeline.can_vary(), "every part was written");
    let saved = setup.path("saved");
    pipeline.save_diffusers(&saved).expect("diffusers knows every stage");
    let again = open(&saved);
    for size in pipeline.sizes() {
        let picture = paint(&pipeline, size);
        assert_eq!(picture.dimensions(), (size, size));
        assert!(picture == paint(&again, size), "saving changed the picture of {size} pixels");
    }

    let read = |dir: &Path, file: &str| fs::read(dir.join("decoder").join(file)).expect("is there");
    let config: serde_json::Value =
        serde_json::from_slice(&read(&saved, "config.json")).expect("JSON");
    assert_eq!(config["in_channels"], 3, "the decoder is plain");
    let file = "mask_channels.safetensors";
    let mask = safetensors::SafeTensors::deserialize;
    let (ours, theirs) = (read(&model, file), read(&saved, file));
    let [ours, theirs] = [&ours, &theirs].map(|bytes| mask(bytes).expect("tensors"));
    for (name, tensor) in ours.iter() {
        assert!(tensor.data().iter().any(|&byte| byte != 0), "{name} has learned nothing");
        assert!(theirs.tensor(name).expect("is kept").data() == tensor.data(), "{name}");
    }
}

#[test]
fn what_diffusers_cannot_sample_is_not_saved_for_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    copy(&crate::model(), &model);
    let sampler = SamplerConfig::karlo_decoder().with_kind(SamplerKind::Ddim { eta: 0.0 });
    let file = model.join("decoder_scheduler/scheduler_config.json");
    fs::write(file, sampler.to_json().to_string()).expect("is written");
    let saved = folder.path().join("saved");
    let text = open(&model).save_diffusers(&saved).expect_err("another sampler").to_string();
    assert!(text.contains("decoder") && text.contains("Ddim"), "{text}");
    assert!(!saved.exists(), "nothing is written");

    copy(crate::images().path(), &folder.path().join("variations"));
    let error = open(&folder.path().join("variations")).save_diffusers(&saved);
    let error = error.expect_err("a model of variations has no prior");
    assert!(matches!(error, Error::Unavailable { part: "prior", .. }), "{error}");
}

/// A trained model and a picture of it, with PyTorch's noise, in the folder `trained` of what `UNCLIP_INTEROP` names.
#[test]
#[ignore = "writes the folder that tests/interop/same_picture.py reads"]
fn write_trained_for_interop() {
    let root = std::env::var_os("UNCLIP_INTEROP").expect("UNCLIP_INTEROP names a folder");
    let folder = Path::new(&root).join("trained");
    let setup = trained();
    open(&setup.path("model")).save_diffusers(folder.join("model")).expect("a new folder");
    let pipeline = open(&folder.join("model"));
    let request = GenerateRequest::new("a red circle").noise(NoiseStream::Torch);
    let result = pipeline.generate(request.seed(7).size(32)).expect("a picture");
    result.images[0].save(folder.join("picture.png")).expect("is written");
}
