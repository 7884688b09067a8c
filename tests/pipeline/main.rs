//! What the pipeline promises, on the tiny recorded model: determinism, control, hooks, and answers to bad input.

mod bad_input;
mod control;
#[cfg(feature = "default-model")]
mod default_model;
mod determinism;
mod guarded;
mod hooks;
mod requests;
mod safety;
mod saving;
mod trained;

use std::path::PathBuf;

use unclip::{GenerateRequest, Pipeline, PipelineBuilder};

/// The tiny model, which has every part.
fn model() -> PathBuf {
    unclip_testkit::fixtures_root().join("seed0/model")
}

fn builder() -> PipelineBuilder {
    // The index of that folder does not name the image encoder, but the encoder is there.
    Pipeline::builder()
        .model_dir(model())
        .image_encoder_from(images().path())
        .on_device(unclip_testkit::device())
}

fn pipeline() -> Pipeline {
    builder().build().expect("a whole model")
}

/// A view of the tiny model whose index is the one for variations.
fn images() -> &'static tempfile::TempDir {
    static VIEW: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    VIEW.get_or_init(|| {
        let view = tempfile::tempdir().expect("a temporary folder");
        copy(&model(), view.path());
        std::fs::rename(
            view.path().join("model_index.image_variation.json"),
            view.path().join("model_index.json"),
        )
        .expect("the recorded set has both indices");
        view
    })
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a writable folder");
    for entry in std::fs::read_dir(from).expect("a readable folder") {
        let entry = entry.expect("a readable entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a readable file");
        }
    }
}

/// A request of few steps.
fn quick(caption: &str) -> GenerateRequest {
    GenerateRequest::new(caption).seed(5).prior_steps(3).decoder_steps(3).upsample_steps(2)
}
