//! Recorded runs as requests to a [`Pipeline`].

use std::{fs, ops::Range, path::Path};

use burn::tensor::Tensor;
use image::RgbImage;
use serde_json::Value;
use unclip::{
    GenerateRequest, HostTensor, Painting, Pipeline, Precision, Supplied, SuppliedNoise,
    VariationRequest,
};
use unclip_testkit::{FixtureSet, Recorded, device};

/// A whole run of the reference.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) recorded: Recorded,
    captions: Vec<String>,
    images: usize,
    /// Steps of the prior, where there is one, the decoder and the upsampler.
    steps: Vec<usize>,
    /// Guidance of the prior, where there is one, and the decoder.
    scales: Vec<f64>,
}

/// The runs of a set: from captions (`t2i`) or from pictures (`var`).
pub(crate) fn runs(set: &FixtureSet, kind: &str) -> Vec<Run> {
    let runs = set.manifest["runs"].as_object().expect("the manifest lists runs");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let count =
        |value: &Value| usize::try_from(value.as_u64().expect("a count")).expect("a small count");
    runs.iter()
        .filter(|(_, run)| run["kind"] == kind)
        .map(|(name, run)| Run {
            name: name.clone(),
            recorded: set.tensors(&format!("e2e_{name}")),
            captions: list(&run["prompts"])
                .iter()
                .map(|caption| caption.as_str().expect("a caption").to_owned())
                .collect(),
            images: count(&run["n"]),
            steps: list(&run["steps"]).iter().map(count).collect(),
            scales: list(&run["scales"])
                .iter()
                .map(|scale| scale.as_f64().expect("a scale"))
                .collect(),
        })
        .collect()
}

impl Run {
    /// The request for a run from captions, with the recorded noise.
    pub(crate) fn generation(&self) -> GenerateRequest {
        let &[prior, _, _] = &*self.steps else { panic!("{}: three stages", self.name) };
        let mut request = GenerateRequest::of_captions(self.captions.clone())
            .images(self.images)
            .prior_steps(prior)
            .prior_guidance(self.scales[0]);
        request.painting = self.painting();
        request
    }

    /// The request for a run from pictures, with the recorded noise.
    pub(crate) fn variation(&self) -> VariationRequest {
        let mut request = VariationRequest::new().images(self.images);
        request.painting = self.painting();
        request
    }

    /// The settings of decoder and upsampler, and the recorded noise of all stages.
    fn painting(&self) -> Painting {
        let mut painting = Painting::default();
        painting.decoder.steps = self.steps.iter().rev().nth(1).copied();
        painting.decoder.guidance = self.scales.last().copied();
        painting.upsample.steps = self.steps.last().copied();
        painting.supplied = Supplied {
            prior_noise: self.noise("prior"),
            decoder_noise: self.noise("decoder"),
            upsample_noise: self.noise("super_res"),
            ..Supplied::default()
        };
        painting
    }

    fn noise(&self, stage: &str) -> Option<SuppliedNoise> {
        let draw = |which: &str| {
            let name = format!("{stage}.noise.{which}");
            self.recorded.has(&name).then(|| host(&self.recorded, &name))
        };
        let steps = (0..).map_while(|step: usize| draw(&step.to_string())).collect();
        Some(SuppliedNoise { initial: Some(draw("init")?), steps })
    }

    /// The pictures that a variation starts from.
    pub(crate) fn pictures(&self) -> Vec<RgbImage> {
        (0..)
            .map(|k: usize| format!("in.image.{k}.u8"))
            .take_while(|name| self.recorded.has(name))
            .map(|name| {
                let &[height, width, _] = self.recorded.shape(&name) else {
                    panic!("pictures have three axes");
                };
                let side = |side: usize| u32::try_from(side).expect("a small picture");
                RgbImage::from_raw(side(width), side(height), self.recorded.bytes(&name).to_vec())
                    .expect("three bytes a pixel")
            })
            .collect()
    }
}

fn host(recorded: &Recorded, name: &str) -> HostTensor {
    HostTensor::new(recorded.shape(name), recorded.floats(name)).expect("as recorded")
}

/// The same settings for some of the pictures.
pub(crate) fn of_pictures(painting: &Painting, pictures: Range<usize>) -> Painting {
    let cut = |tensor: &HostTensor| {
        let row = tensor.values.len() / tensor.shape[0];
        let mut shape = tensor.shape.clone();
        shape[0] = pictures.len();
        let values = tensor.values[pictures.start * row..pictures.end * row].to_vec();
        HostTensor::new(shape, values).expect("whole rows")
    };
    let cut = |noise: &Option<SuppliedNoise>| {
        noise.as_ref().map(|noise| SuppliedNoise {
            initial: noise.initial.as_ref().map(cut),
            steps: noise.steps.iter().map(cut).collect(),
        })
    };
    let mut painting = painting.clone();
    painting.supplied.decoder_noise = cut(&painting.supplied.decoder_noise);
    painting.supplied.upsample_noise = cut(&painting.supplied.upsample_noise);
    painting
}

/// What every stage gives on the way to the finished pictures.
pub(crate) struct Stages {
    pub(crate) embeddings: Tensor<2>,
    pub(crate) small: Tensor<4>,
    /// `[pictures, height, width, 3]` in `[0, 1]`, before the rounding to bytes.
    pub(crate) finished: Tensor<4>,
}

/// Decodes and enlarges embeddings, stage by stage, because a finished picture has only 8 bits.
pub(crate) fn paint(
    pipeline: &Pipeline,
    embeddings: Tensor<2>,
    captions: &[&str],
    painting: &Painting,
) -> Stages {
    let each = embeddings.dims()[0] / captions.len();
    let small = captions.iter().enumerate().map(|(k, caption)| {
        let pictures = k * each..(k + 1) * each;
        let rows = embeddings.clone().narrow(0, pictures.start, each);
        pipeline
            .decode_tensor(rows, caption, &of_pictures(painting, pictures))
            .expect("the recorded run is valid")
    });
    let small = Tensor::cat(small.collect(), 0);
    let large =
        pipeline.upscale_tensor(small.clone(), painting).expect("the recorded run is valid");
    let finished = (large * 0.5 + 0.5).clamp(0.0, 1.0).permute([0, 2, 3, 1]);
    Stages { embeddings, small, finished }
}

/// The recorded model, with the image encoder that its folder holds for the other pipeline.
pub(crate) fn open(set: &FixtureSet) -> Pipeline {
    open_in(set, Precision::F32)
}

/// As [`open`], with networks that compute in `precision`.
pub(crate) fn open_in(set: &FixtureSet, precision: Precision) -> Pipeline {
    let view = tempfile::tempdir().expect("a temporary folder");
    for part in ["image_encoder", "feature_extractor"] {
        copy(&set.model_dir().join(part), &view.path().join(part));
    }
    let index = set.model_dir().join("model_index.image_variation.json");
    fs::copy(index, view.path().join("model_index.json")).expect("the other index");
    Pipeline::builder()
        .unmarked()
        .model_dir(set.model_dir())
        .image_encoder_from(view.path())
        .on_device(device())
        .precision(precision)
        .build()
        .expect("the recorded model loads")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("the recorded folder") {
        let entry = entry.expect("a readable entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a small file");
    }
}
