//! What `tests/interop/roundtrip.py` reads.

use std::{fs, path::PathBuf};

use burn::tensor::Tensor;
use safetensors::{Dtype, tensor::TensorView};
use unclip::core::checkpoint::SaveOptions;
use unclip_testkit::fixture_sets;

use crate::replay;

/// Names the folder to write to.
const VARIABLE: &str = "UNCLIP_INTEROP";

/// Saves every recorded model through our own writer, and the pictures of its runs beside it.
#[test]
#[ignore = "writes the folders that tests/interop/roundtrip.py reads"]
fn write_for_interop() {
    let root = std::env::var_os(VARIABLE).map(PathBuf::from);
    let root = root.unwrap_or_else(|| panic!("{VARIABLE} names the folder to write to"));
    for set in fixture_sets() {
        let pipeline = replay::open(&set);
        let folder = root.join(set.name());
        fs::create_dir_all(&folder).expect("a new folder");
        pipeline.save(folder.join("model"), &SaveOptions::default()).expect("the model is saved");
        // What is saved is what is read back.
        let pipeline = unclip::Pipeline::builder()
            .unmarked()
            .model_dir(folder.join("model"))
            .on_device(unclip_testkit::device())
            .build()
            .expect("the saved model loads");
        let mut pictures: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut keep = |name: &str, finished: Tensor<4>| {
            let shape = finished.dims().to_vec();
            let values = finished.to_data_as::<f32>().try_to_vec::<f32>().expect("32-bit floats");
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            pictures.push((format!("image.{name}"), shape, bytes));
        };
        for run in replay::runs(&set, "t2i") {
            let request = run.generation();
            let captions: Vec<&str> = request.captions.iter().map(String::as_str).collect();
            let embeddings = pipeline.sample_prior(&request).expect("the recorded run is valid");
            let stages = replay::paint(&pipeline, embeddings, &captions, &request.painting);
            keep(&run.name, stages.finished);
        }
        for run in replay::runs(&set, "var") {
            let embeddings = pipeline.embed_images(&run.pictures()).expect("recorded pictures");
            let painting = run.variation().painting;
            keep(&run.name, replay::paint(&pipeline, embeddings, &[""], &painting).finished);
        }
        let views = pictures.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name.as_str(), view.expect("as many bytes as the shape says"))
        });
        let file = safetensors::serialize(views.collect::<Vec<_>>(), None).expect("plain tensors");
        fs::write(folder.join("pictures.safetensors"), file).expect("a small file");
    }
}
