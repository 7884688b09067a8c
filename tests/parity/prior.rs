//! The prior; diffusers `PriorTransformer`, and its loop in `UnCLIPPipeline.__call__`.

use burn::tensor::Tensor;
use unclip_core::{checkpoint::WeightPrecision, progress::Unobserved};
use unclip_prior::{Prior, PriorInput, PriorStep};
use unclip_testkit::{FixtureSet, Recorded, device};

use crate::{
    common::{captions, guidance, mask, sampler_config, step_noise, timesteps},
    report::{bound, replay},
};

pub(crate) fn open(set: &FixtureSet, weights: WeightPrecision) -> Prior {
    Prior::from_dir(set.model_dir().join("prior"), None, weights, &device())
        .expect("the recorded prior loads")
}

/// The recorded forward passes, with and without a mask.
pub(crate) fn predict(prior: &Prior, recorded: &Recorded) -> [Tensor<2>; 2] {
    let noisy: Tensor<2> = recorded.tensor("in.hidden_states", &device());
    let timesteps = timesteps(recorded, "in.timestep");
    let bias = prior.attention_bias(&mask(recorded, "in.attention_mask"), &device());
    let text = recorded.tensor("in.proj_embedding", &device());
    let step = PriorStep::new(noisy.unsqueeze_dim(1), &timesteps, text)
        .text_states(recorded.tensor("in.encoder_hidden_states", &device()));
    [step.clone().attention_bias(bias), step].map(|step| prior.forward(step).squeeze_dim(1))
}

#[test]
fn embeddings_are_predicted_as_recorded() {
    replay("prior", |set, report| {
        let prior = open(set, WeightPrecision::F32);
        let recorded = set.tensors("prior");
        let [masked, unmasked] = predict(&prior, &recorded);
        let finished = prior.denormalise(masked.clone());
        for (name, embedding) in [
            ("predicted_image_embedding", masked),
            ("no_mask", unmasked),
            ("post_processed", finished),
        ] {
            let key = format!("out.{name}");
            let floor = Some(set.forward_floor("prior", name));
            report.tensor(name, &embedding, (&recorded, &key), floor, bound::FORWARD);
        }
    });
}

/// The recorded run from a caption, up to its image embedding.
pub(crate) fn sample(prior: &Prior, set: &FixtureSet, run: &Recorded) -> Tensor<2> {
    let steps = run.shape("prior.timesteps")[0];
    let input = PriorInput::new(captions(run, "cond")).unconditional(captions(run, "uncond"));
    prior
        .sample(
            &input,
            &sampler_config(set, "prior").sampler(steps).expect("a valid number of steps"),
            guidance(set, 0),
            run.tensor("prior.noise.init", &device()),
            &mut step_noise(run, "prior"),
            &mut Unobserved,
        )
        .expect("the recorded run is valid")
}

#[test]
fn embeddings_are_sampled_as_recorded() {
    replay("prior, 25 steps", |set, report| {
        let run = set.tensors("e2e_t2i_default");
        let embedding = sample(&open(set, WeightPrecision::F32), set, &run);
        let name = "text_proj.in.image_embeddings";
        let floor = Some(set.run_floor("t2i_default", name));
        report.tensor("image_embeddings", &embedding, (&run, name), floor, bound::RUN);
    });
}
