//! Replays the recorded runs of diffusers' DDPM, DDIM and DPM-Solver++ schedulers (`record_samplers.py`).

use std::{ops::ControlFlow, path::Path};

use burn::tensor::Tensor;
use ndarray::{Array, IxDyn};
use unclip_testkit::{Recorded, compare, device, fixtures_root};

use super::{SamplerConfig, SamplerKind, Spacing, denoise, step_bound};
use crate::{
    Stage,
    noise::RecordedNoise,
    progress::{Observed, Observer, StepEvent},
};

fn recorded() -> Recorded {
    Recorded::open(fixtures_root().join("samplers.safetensors"))
}

/// What a recorded scheduler says of itself, and the two things that it has no word for.
fn config(text: &str, eta: f64, clipped: bool) -> SamplerConfig {
    let mut config = SamplerConfig::from_text(Path::new("samplers"), text.as_bytes().to_vec())
        .expect("a scheduler's configuration");
    if let SamplerKind::Ddim { eta: found } = &mut config.kind {
        *found = eta;
    }
    config.clip_sample = if clipped { Some(1.0) } else { config.clip_sample };
    config
}

/// Keeps every predicted clean sample.
struct Keeping(Vec<f32>);

impl Observer for Keeping {
    fn step(&mut self, _event: StepEvent, clean: Observed<'_>) -> ControlFlow<()> {
        let Observed::Picture(clean) = clean else { panic!("pictures are denoised") };
        self.0.extend(clean.try_to_vec_as::<f32>().expect("floats"));
        ControlFlow::Continue(())
    }
}

#[test]
fn recorded_runs_of_every_sampler_are_reproduced() {
    let (recorded, bound) = (recorded(), step_bound());
    for name in [
        "ddpm_small",
        "ddpm_small_log",
        "ddpm_large",
        "ddpm_range",
        "ddpm_range_offset",
        "ddpm_trailing",
        "ddpm_every",
        "ddim",
        "ddim_eta",
        "ddim_ancestral",
        "ddim_sample",
        "ddim_v",
        "ddim_offset",
        "dpm",
        "dpm_20",
        "dpm_sample",
        "dpm_v",
        "dpm_clipped",
        "dpm_clipped_20",
    ] {
        let text =
            |key: &str| recorded.metadata(key).unwrap_or_else(|| panic!("{key} is recorded"));
        let eta = text(&format!("{name}.eta")).parse().expect("a number");
        let steps = text(&format!("{name}.steps")).parse().expect("a count");
        let sampler =
            config(text(name), eta, name.contains("clipped")).sampler(steps).expect("valid");

        let tensor = |part: &str| {
            let part = format!("{name}.{part}");
            let shape = IxDyn(recorded.shape(&part));
            Array::from_shape_vec(shape, recorded.floats(&part)).expect("consistent")
        };
        let mut noise = RecordedNoise::new(if sampler.draws() == 0 {
            Vec::new()
        } else {
            tensor("noises").outer_iter().map(|noise| noise.to_owned()).collect()
        })
        .expect("finite");
        assert_eq!(sampler.draws(), noise.remaining(), "draws of {name}");
        let outputs: Tensor<5> = recorded.tensor(&format!("{name}.outputs"), &device());
        let mut samples = Vec::new();
        let mut keeping = Keeping(Vec::new());
        let result = denoise(
            &sampler,
            Stage::Decoder,
            recorded.tensor::<4>(&format!("{name}.init"), &device()),
            &mut noise,
            |sample, _timestep, index| {
                if index > 0 {
                    samples.extend(sample.try_to_vec_as::<f32>().expect("floats"));
                }
                Ok(outputs.clone().narrow(0, index, 1).squeeze_dim(0))
            },
            &mut keeping,
            |clean| Observed::Picture(clean),
        );
        let result = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        samples.extend(result.try_to_vec_as::<f32>().expect("floats"));
        let sample = compare(&samples, &recorded.floats(&format!("{name}.samples")));
        let clean = compare(&keeping.0, &recorded.floats(&format!("{name}.cleans")));
        println!("{name}: samples {:.1e}, clean samples {:.1e}", sample.relative, clean.relative);
        assert!(sample.relative <= bound, "{name}: samples are off by {:.1e}", sample.relative);
        assert!(clean.relative <= bound, "{name}: clean samples are off by {:.1e}", clean.relative);
    }
}

#[test]
fn recorded_timesteps_of_every_spacing_are_reproduced() {
    let recorded = recorded();
    for (class, kinds) in [
        ("DDPMScheduler", &[SamplerKind::Ddpm, SamplerKind::Ddim { eta: 0.0 }][..]),
        ("DPMSolverMultistepScheduler", &[SamplerKind::DpmSolverPp2M]),
    ] {
        for (name, spacing) in [
            ("leading", Spacing::Leading),
            ("linspace", Spacing::Linspace),
            ("trailing", Spacing::Trailing),
        ] {
            for steps in [1, 2, 3, 7, 16, 25, 48, 50, 99] {
                let expected = recorded.ints(&format!("timesteps.{class}.{name}.{steps}"));
                for &kind in kinds {
                    let config = SamplerConfig {
                        spacing: Some(spacing),
                        ..SamplerConfig::karlo_super_res().with_kind(kind)
                    };
                    let found: Vec<i64> = config
                        .sampler(steps)
                        .expect("valid")
                        .timesteps()
                        .iter()
                        .map(|&t| i64::try_from(t).expect("small"))
                        .collect();
                    assert_eq!(found, expected, "{kind} {name} {steps}");
                }
            }
        }
    }
}

#[test]
fn recorded_timesteps_of_karlo_are_reproduced() {
    for set in unclip_testkit::fixture_sets() {
        let recorded = set.tensors("scheduler_prior");
        for steps in [3, 4, 5, 10, 50, 100, 999, 1000] {
            let sampler = SamplerConfig::karlo_prior().sampler(steps).expect("valid");
            let found: Vec<i64> =
                sampler.timesteps().iter().map(|&t| i64::try_from(t).expect("small")).collect();
            assert_eq!(found, recorded.ints(&format!("timesteps.{steps}")), "{steps} steps");
        }
    }
}
