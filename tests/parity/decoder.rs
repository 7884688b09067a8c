//! The decoder; diffusers `UNet2DConditionModel`, and its loop in `UnCLIPPipeline.__call__`.

use burn::tensor::Tensor;
use unclip_core::{
    checkpoint::WeightPrecision,
    nn::{UNetInput, mask_bias},
    progress::Unobserved,
};
use unclip_decoder::{Decoder, DecoderInput};
use unclip_testkit::{FixtureSet, Recorded, device};

use crate::{
    common::{captions, guidance, mask, sampler_config, step_noise, timesteps},
    report::{bound, replay},
};

pub(crate) fn open(set: &FixtureSet, weights: WeightPrecision) -> Decoder {
    let [projection, network] = ["text_proj", "decoder"].map(|part| set.model_dir().join(part));
    Decoder::from_dirs(projection, network, None, weights, &device())
        .expect("the recorded decoder loads")
}

/// The recorded forward pass.
pub(crate) fn predict(decoder: &Decoder, recorded: &Recorded) -> Tensor<4> {
    let timesteps = timesteps(recorded, "in.timestep");
    let mask = mask(recorded, "in.attention_mask");
    let input = UNetInput::new(recorded.tensor("in.sample", &device()), &timesteps)
        .class_embedding(recorded.tensor("in.class_labels", &device()))
        .context(recorded.tensor("in.encoder_hidden_states", &device()))
        .context_bias(mask_bias(&mask, 0, &device()));
    decoder.unet().forward(input)
}

#[test]
fn noise_is_predicted_as_recorded() {
    replay("decoder", |set, report| {
        let recorded = set.tensors("decoder");
        let sample = predict(&open(set, WeightPrecision::F32), &recorded);
        let floor = Some(set.forward_floor("decoder", "sample"));
        report.tensor("sample", &sample, (&recorded, "out.sample"), floor, bound::FORWARD);
    });
}

/// The recorded run from a caption, from its image embedding to the small picture.
pub(crate) fn paint(decoder: &Decoder, set: &FixtureSet, run: &Recorded) -> Tensor<4> {
    let steps = run.shape("decoder.timesteps")[0];
    let embedding = run.tensor("text_proj.in.image_embeddings", &device());
    let input =
        DecoderInput::new(embedding, captions(run, "cond")).unconditional(captions(run, "uncond"));
    decoder
        .sample(
            &input,
            &sampler_config(set, "decoder").sampler(steps).expect("a valid number of steps"),
            guidance(set, 1),
            run.tensor("decoder.noise.init", &device()),
            &mut step_noise(run, "decoder"),
            &mut Unobserved,
        )
        .expect("the recorded run is valid")
}

#[test]
fn pictures_are_sampled_as_recorded() {
    replay("decoder, 25 steps", |set, report| {
        let run = set.tensors("e2e_t2i_default");
        let picture = paint(&open(set, WeightPrecision::F32), set, &run);
        let name = "decoder.out.image_small";
        let floor = Some(set.run_floor("t2i_default", name));
        report.tensor("image_small", &picture, (&run, name), floor, bound::RUN);
    });
}
