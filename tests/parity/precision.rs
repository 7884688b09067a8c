//! Networks that compute in 16 bits, against the reference's 32-bit run.
//!
//! A factor of `bf16` is off by up to 2⁻⁹ of itself, and so is what one layer hands the next. The random networks of the
//! recorded sets amplify that little in one pass, and by an order of magnitude over the 25 guided steps of a run.

use burn::tensor::{FloatDType, Tensor};
use unclip::Precision;
use unclip_core::checkpoint::WeightPrecision;
use unclip_upsample::Networks;

use crate::{decoder, prior, replay, report, super_res};

/// One pass through a network.
const FORWARD: f64 = 3e-2;
/// A finished picture in `[0, 1]`, after a whole run.
const RUN: f64 = 2e-1;

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data_as::<f32>().try_to_vec().expect("32-bit floats")
}

#[test]
fn one_pass_in_sixteen_bits_stays_close() {
    report::replay("one pass in bf16", |set, report| {
        let (weights, dtype) = (WeightPrecision::Bf16, FloatDType::BF16);

        let recorded = set.tensors("decoder");
        let sample = decoder::predict(&decoder::open(set, weights).compute_in(dtype), &recorded);
        report.typical("decoder", &values(&sample), &recorded.floats("out.sample"), FORWARD);

        let recorded = set.tensors("prior");
        let embeddings = prior::predict(&prior::open(set, weights).compute_in(dtype), &recorded);
        let names = ["out.predicted_image_embedding", "out.no_mask"];
        for (embedding, name) in embeddings.iter().zip(names) {
            report.typical("prior", &values(embedding), &recorded.floats(name), FORWARD);
        }

        let mut upsampler = &super_res::open(set, weights);
        for (part, last) in [("super_res_first", false), ("super_res_last", true)] {
            let recorded = set.tensors(part);
            let network = upsampler.network(last).expect("both networks are in memory");
            let sample = super_res::predict(&network.clone().compute_in(dtype), &recorded);
            report.typical(part, &values(&sample), &recorded.floats("out.sample"), FORWARD);
        }
    });
}

#[test]
fn runs_in_sixteen_bits_stay_close() {
    report::replay("runs in bf16", |set, report| {
        let pipeline = replay::open_in(set, Precision::Bf16);
        for run in replay::runs(set, "t2i") {
            let generation = pipeline.generate(&run.generation()).expect("the run is valid");
            let values: Vec<f32> = generation
                .images
                .iter()
                .flat_map(|image| image.picture.as_raw())
                .map(|&byte| f32::from(byte) / 255.0)
                .collect();
            report.typical(&run.name, &values, &run.recorded.floats("out.image"), RUN);
        }
    });
}
