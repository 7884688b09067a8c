//! What several replays need of a recorded set.

use unclip_core::{nn::TextConditioning, noise::RecordedNoise, sampler::SamplerConfig};
use unclip_testkit::{FixtureSet, Recorded, device};

/// Recorded noise tensors, in order.
pub(crate) fn recorded_noise<'a>(
    recorded: &Recorded,
    names: impl IntoIterator<Item = &'a str>,
) -> RecordedNoise {
    let tensors = names.into_iter().map(|name| recorded.array(name));
    RecordedNoise::new(tensors).expect("recorded noise is finite")
}

/// The noise of a stage's steps in a recorded run, without the initial one.
pub(crate) fn step_noise(run: &Recorded, stage: &str) -> RecordedNoise {
    RecordedNoise::new(run.sequence(&format!("{stage}.noise"))).expect("recorded noise is finite")
}

/// The sampler that the recorded model names for a stage.
pub(crate) fn sampler_config(set: &FixtureSet, stage: &str) -> SamplerConfig {
    let folder = set.model_dir().join(format!("{stage}_scheduler"));
    SamplerConfig::from_dir(folder).expect("the recorded file is valid")
}

/// The guidance of a stage in the recorded run from a caption with the default steps: 0 is the prior, 1 the decoder.
pub(crate) fn guidance(set: &FixtureSet, stage: usize) -> f64 {
    set.manifest["runs"]["t2i_default"]["scales"][stage].as_f64().expect("a scale")
}

/// A recorded mask of 0 and 1.
pub(crate) fn mask(recorded: &Recorded, name: &str) -> Vec<Vec<bool>> {
    let columns = recorded.shape(name)[1];
    let values: Vec<bool> = recorded.ints(name).into_iter().map(|value| value != 0).collect();
    values.chunks_exact(columns).map(<[bool]>::to_vec).collect()
}

/// Recorded timesteps, one a row.
pub(crate) fn timesteps(recorded: &Recorded, name: &str) -> Vec<f32> {
    recorded.ints(name).into_iter().map(|timestep| timestep as f32).collect()
}

/// The captions of a recorded run over one picture: `cond` or `uncond`.
pub(crate) fn captions(run: &Recorded, which: &str) -> TextConditioning {
    let device = device();
    // The unconditional half comes first, and so does its mask.
    let masks = mask(run, "prior.in.attention_mask");
    let row = if which == "uncond" { 0 } else { masks.len() - 1 };
    TextConditioning {
        embedding: run.tensor(&format!("text.{which}.text_embeds"), &device),
        states: run.tensor(&format!("text.{which}.last_hidden_state"), &device),
        mask: vec![masks[row].clone()],
    }
}
