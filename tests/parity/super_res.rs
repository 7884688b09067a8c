//! The upsampler's two networks; diffusers `UNet2DModel`, and their loop in `UnCLIPPipeline.__call__`.

use burn::tensor::Tensor;
use unclip_core::{
    Stage,
    checkpoint::WeightPrecision,
    nn::{UNet, UNetInput},
    progress::Unobserved,
};
use unclip_testkit::{FixtureSet, Recorded, device};
use unclip_upsample::{Networks, UpsampleInput, Upsampler, sample};

use crate::{
    common::{sampler_config, step_noise, timesteps},
    report::{bound, replay},
};

pub(crate) fn open(set: &FixtureSet, weights: WeightPrecision) -> Upsampler {
    let [first, last] =
        ["super_res_first", "super_res_last"].map(|part| set.model_dir().join(part));
    Upsampler::from_dirs(first, Some(last.into()), None, weights, &device())
        .expect("the recorded upsampler loads")
}

/// The recorded forward pass of one of the networks.
pub(crate) fn predict(network: &UNet, recorded: &Recorded) -> Tensor<4> {
    let timesteps = timesteps(recorded, "in.timestep");
    network.forward(UNetInput::new(recorded.tensor("in.sample", &device()), &timesteps))
}

#[test]
fn noise_is_predicted_as_recorded() {
    replay("super resolution", |set, report| {
        let mut upsampler = &open(set, WeightPrecision::F32);
        for (part, last) in [("super_res_first", false), ("super_res_last", true)] {
            let recorded = set.tensors(part);
            let network = upsampler.network(last).expect("both networks are in memory");
            let sample = predict(network, &recorded);
            let floor = Some(set.forward_floor(part, "sample"));
            report.tensor(part, &sample, (&recorded, "out.sample"), floor, bound::FORWARD);
        }
    });
}

/// The last sample of a run from a caption.
pub(crate) fn last(run: &Recorded) -> String {
    format!("super_res.prev.{}", run.shape("super_res.timesteps")[0] - 1)
}

/// The recorded run from a caption, from its small picture to the [`last`] sample.
pub(crate) fn enlarge(mut upsampler: &Upsampler, set: &FixtureSet, run: &Recorded) -> Tensor<4> {
    let steps = run.shape("super_res.timesteps")[0];
    sample(
        &mut upsampler,
        &UpsampleInput::new(Stage::Upsample, run.tensor("decoder.out.image_small", &device())),
        &sampler_config(set, "super_res").sampler(steps).expect("a valid number of steps"),
        run.tensor("super_res.noise.init", &device()),
        &mut step_noise(run, "super_res"),
        &mut Unobserved,
    )
    .expect("the recorded run is valid")
}

#[test]
fn pictures_are_enlarged_as_recorded() {
    replay("super resolution, 7 steps", |set, report| {
        let run = set.tensors("e2e_t2i_default");
        let picture = enlarge(&open(set, WeightPrecision::F32), set, &run);
        let floor = Some(set.run_floor("t2i_default", "super_res.prev.*"));
        report.tensor("image", &picture, (&run, &last(&run)), floor, bound::RUN);
    });
}
