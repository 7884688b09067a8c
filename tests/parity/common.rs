//! What several replays need of a recorded set.

use ndarray::ArrayD;
use unclip_core::{noise::RecordedNoise, sampler::SamplerConfig};
use unclip_testkit::Recorded;

/// Recorded noise tensors, in order.
pub(crate) fn recorded_noise<'a>(
    recorded: &Recorded,
    names: impl IntoIterator<Item = &'a str>,
) -> RecordedNoise {
    let tensors = names.into_iter().map(|name| {
        ArrayD::from_shape_vec(recorded.shape(name), recorded.floats(name))
            .expect("as many values as the shape says")
    });
    RecordedNoise::new(tensors.collect::<Vec<_>>()).expect("recorded noise is finite")
}

/// Karlo's sampler of a stage; every recorded set has it.
pub(crate) fn sampler_config(stage: &str) -> SamplerConfig {
    match stage {
        "prior" => SamplerConfig::karlo_prior(),
        "decoder" => SamplerConfig::karlo_decoder(),
        "super_res" => SamplerConfig::karlo_super_res(),
        other => panic!("there is no stage {other}"),
    }
}
