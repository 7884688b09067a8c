//! The upsampler's two networks; diffusers `UNet2DModel`, and their loop in `UnCLIPPipeline.__call__`.

use unclip_core::{Stage, checkpoint::WeightPrecision, nn::UNetInput, progress::Unobserved};
use unclip_testkit::{FixtureSet, device};
use unclip_upsample::{Networks, UpsampleInput, Upsampler, sample};

use crate::{
    common::{sampler_config, step_noise, timesteps},
    report::{bound, replay},
};

fn open(set: &FixtureSet) -> Upsampler {
    let [first, last] =
        ["super_res_first", "super_res_last"].map(|part| set.model_dir().join(part));
    Upsampler::from_dirs(first, Some(last.into()), None, WeightPrecision::F32, &device())
        .expect("the recorded upsampler loads")
}

#[test]
fn noise_is_predicted_as_recorded() {
    replay("super resolution", |set, report| {
        let mut upsampler = &open(set);
        for (part, last) in [("super_res_first", false), ("super_res_last", true)] {
            let recorded = set.tensors(part);
            let timesteps = timesteps(&recorded, "in.timestep");
            let noisy = recorded.tensor("in.sample", &device());
            let network = upsampler.network(last).expect("both networks are in memory");
            let sample = network.forward(UNetInput::new(noisy, &timesteps));
            let floor = Some(set.forward_floor(part, "sample"));
            report.tensor(part, &sample, (&recorded, "out.sample"), floor, bound::FORWARD);
        }
    });
}

#[test]
fn pictures_are_enlarged_as_recorded() {
    replay("super resolution, 7 steps", |set, report| {
        let run = set.tensors("e2e_t2i_default");
        let steps = run.shape("super_res.timesteps")[0];
        let small = run.tensor("decoder.out.image_small", &device());
        let picture = sample(
            &mut &open(set),
            &UpsampleInput::new(Stage::Upsample, small),
            &sampler_config(set, "super_res").sampler(steps).expect("a valid number of steps"),
            run.tensor("super_res.noise.init", &device()),
            &mut step_noise(&run, "super_res"),
            &mut Unobserved,
        )
        .expect("the recorded run is valid");
        let name = format!("super_res.prev.{}", steps - 1);
        let floor = Some(set.run_floor("t2i_default", "super_res.prev.*"));
        report.tensor("image", &picture, (&run, &name), floor, bound::RUN);
    });
}
