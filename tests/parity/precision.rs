//! Networks that compute in 16 bits, against the reference's 32-bit run.
//!
//! A factor of `bf16` is off by up to 2⁻⁹ of itself, and so is what one layer hands the next. The bounds are for the root
//! mean square of the differences, relative to that of the recorded values. Most lie between what the recorded sets
//! give and what they give with sums in 16 bits, which adds as much again:
//!
//! | | sums in 32 bits | sums in 16 bits |
//! |---|---|---|
//! | prior, one pass | 0.7 to 1.1 % | 1.6 to 2.1 % |
//! | decoder, one pass | 0.9 to 2.5 % | 1.7 to 4.7 % |
//! | upsampler, one pass | 0.6 to 1.4 % | 1.1 to 2.5 % |
//!
//! | prior, 25 steps | 1.1 to 16 % | up to 27 % |
//! | decoder, 25 steps | 2.6 to 57 % | up to 49 % |
//! | upsampler, 7 steps | 1.2 to 3.9 % | up to 4.8 % |
//!
//! Random networks under guidance amplify any difference. Over all steps of the decoder, and over a whole run, both kinds
//! of sums look alike in the end, so that the bounds there only tell a picture from another one.

use burn::tensor::{FloatDType, Tensor};
use unclip::Precision;
use unclip_core::checkpoint::WeightPrecision;
use unclip_upsample::Networks;

use unclip_testkit::{FixtureSet, is_default_device};

use crate::{
    decoder, prior, replay,
    report::{self, Report},
    super_res,
};

/// One pass through a network.
mod forward {
    pub(super) const PRIOR: f64 = 1.3e-2;
    pub(super) const DECODER: f64 = 3e-2;
    pub(super) const SUPER_RES: f64 = 1.6e-2;
}

/// All steps of a stage.
mod stage {
    pub(super) const PRIOR: f64 = 2.2e-1;
    pub(super) const DECODER: f64 = 7e-1;
    pub(super) const SUPER_RES: f64 = 4.3e-2;
}

/// A finished picture in `[0, 1]`, after a whole run.
const RUN: f64 = 5e-1;

const WEIGHTS: WeightPrecision = WeightPrecision::Bf16;
const COMPUTE: FloatDType = FloatDType::BF16;

/// Replays on the processor, whose kernels these bounds are for; elsewhere 16-bit products are the backend's own.
fn replay(title: &'static str, compare_set: impl FnMut(&FixtureSet, &mut Report)) {
    if is_default_device() {
        report::replay(title, compare_set);
    }
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data_as::<f32>().try_to_vec().expect("32-bit floats")
}

#[test]
fn one_pass_in_sixteen_bits_stays_close() {
    replay("one pass in bf16", |set, report| {
        let recorded = set.tensors("decoder");
        let sample = decoder::predict(&decoder::open(set, WEIGHTS).compute_in(COMPUTE), &recorded);
        report.typical(
            "decoder",
            &values(&sample),
            &recorded.floats("out.sample"),
            forward::DECODER,
        );

        let recorded = set.tensors("prior");
        let embeddings = prior::predict(&prior::open(set, WEIGHTS).compute_in(COMPUTE), &recorded);
        let names = ["out.predicted_image_embedding", "out.no_mask"];
        for (embedding, name) in embeddings.iter().zip(names) {
            report.typical("prior", &values(embedding), &recorded.floats(name), forward::PRIOR);
        }

        let mut upsampler = &super_res::open(set, WEIGHTS);
        for (part, last) in [("super_res_first", false), ("super_res_last", true)] {
            let recorded = set.tensors(part);
            let network = upsampler.network(last).expect("both networks are in memory");
            let sample = super_res::predict(&network.clone().compute_in(COMPUTE), &recorded);
            report.typical(
                part,
                &values(&sample),
                &recorded.floats("out.sample"),
                forward::SUPER_RES,
            );
        }
    });
}

#[test]
fn stages_in_sixteen_bits_stay_close() {
    replay("all steps of a stage in bf16", |set, report| {
        let run = set.tensors("e2e_t2i_default");
        let prior = prior::open(set, WEIGHTS).compute_in(COMPUTE);
        let expected = run.floats("text_proj.in.image_embeddings");
        let found = prior::sample(&prior, set, &run);
        report.typical("prior", &values(&found), &expected, stage::PRIOR);

        let name = "decoder.out.image_small";
        if !report::amplifies(set.run_floor("t2i_default", name)) {
            let decoder = decoder::open(set, WEIGHTS).compute_in(COMPUTE);
            let found = decoder::paint(&decoder, set, &run);
            report.typical("decoder", &values(&found), &run.floats(name), stage::DECODER);
        }

        let upsampler = super_res::open(set, WEIGHTS).compute_in(COMPUTE);
        let found = super_res::enlarge(&upsampler, set, &run);
        let expected = run.floats(&super_res::last(&run));
        report.typical("super_res", &values(&found), &expected, stage::SUPER_RES);
    });
}

#[test]
fn runs_in_sixteen_bits_stay_close() {
    replay("runs in bf16", |set, report| {
        let pipeline = replay::open_in(set, Precision::Bf16);
        for run in replay::runs(set, "t2i") {
            let generation = pipeline.generate(run.generation()).expect("the run is valid");
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
