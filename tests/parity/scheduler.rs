//! The schedulers of the three stages; diffusers `UnCLIPScheduler`.
//!
//! Each step starts from the recorded sample and not from our own, so that an error shows at the step that makes it.

use unclip_core::sampler::{Sampler, SamplerConfig, SamplerState};
use unclip_testkit::{Recorded, device};

use crate::{
    common::{recorded_noise, sampler_config},
    report::{Report, bound, replay},
};

const STAGES: [&str; 3] = ["prior", "decoder", "super_res"];

/// Timestep lists are recorded for these numbers of steps, beside those of the chains.
const LISTS: [usize; 8] = [3, 4, 5, 10, 50, 100, 999, 1000];
const CHAINS: [usize; 3] = [25, 7, 2];

/// Isolated recorded steps, and where they occur: `(recorded name, steps of a run, index)`.
const SINGLE: [(&str, usize, usize); 4] =
    [("999.998", 1000, 0), ("1.0", 1000, 998), ("0.none", 1000, 999), ("42.0", 25, 23)];

#[test]
fn tables_and_timesteps_are_the_references() {
    replay("scheduler tables", |set, report| {
        for stage in STAGES {
            let recorded = set.tensors(&format!("scheduler_{stage}"));
            let config = sampler_config(set, stage);
            let label = |what: &str| format!("{stage} {what}");
            let sampler = config.sampler(7).expect("a valid configuration");
            let tables = sampler.tables();
            for (name, table) in
                [("betas", tables.betas()), ("alphas_cumprod", tables.alphas_cumprod())]
            {
                report.values(&label(name), table, &recorded.floats(name), None, bound::SCHEDULER);
            }
            let lists = LISTS.map(|steps| (steps, format!("timesteps.{steps}")));
            let chains = CHAINS.map(|steps| (steps, format!("chain.{steps}.timesteps")));
            for (steps, name) in lists.into_iter().chain(chains) {
                let sampler = config.sampler(steps).expect("a valid number of steps");
                let timesteps: Vec<i64> = sampler.timesteps().iter().map(|&t| t as i64).collect();
                report.equal(&label("timesteps"), &timesteps, &recorded.ints(&name));
            }
        }
    });
}

#[test]
fn every_step_is_the_references() {
    replay("scheduler steps", |set, report| {
        for stage in STAGES {
            let recorded = set.tensors(&format!("scheduler_{stage}"));
            let config = sampler_config(set, stage);
            // The prior denoises embeddings, the other stages pictures.
            match recorded.shape("single.sample").len() {
                2 => compare_steps::<2>(report, stage, &config, &recorded),
                _ => compare_steps::<4>(report, stage, &config, &recorded),
            }
        }
    });
}

fn compare_steps<const D: usize>(
    report: &mut Report,
    stage: &str,
    config: &SamplerConfig,
    recorded: &Recorded,
) {
    for steps in CHAINS {
        let sampler = config.sampler(steps).expect("a valid number of steps");
        let name = |what: &str, index: usize| format!("chain.{steps}.{what}.{index}");
        for index in 0..steps {
            let sample = match index.checked_sub(1) {
                Some(before) => name("prev_sample", before),
                None => format!("chain.{steps}.init"),
            };
            Step {
                label: stage.to_owned(),
                sample,
                output: name("model_output", index),
                noise: name("noise", index),
                result: name("prev_sample", index),
                clean: name("pred_original_sample", index),
            }
            .compare::<D>(report, &sampler, index, recorded);
        }
    }
    for (name, steps, index) in SINGLE {
        let sampler = config.sampler(steps).expect("a valid number of steps");
        Step {
            label: format!("{stage} alone"),
            sample: "single.sample".to_owned(),
            output: "single.model_output".to_owned(),
            noise: "single.noise".to_owned(),
            result: format!("single.{name}.prev_sample"),
            clean: format!("single.{name}.pred_original_sample"),
        }
        .compare::<D>(report, &sampler, index, recorded);
    }
}

/// The recorded names of one step.
struct Step {
    label: String,
    sample: String,
    output: String,
    noise: String,
    result: String,
    clean: String,
}

impl Step {
    fn compare<const D: usize>(
        &self,
        report: &mut Report,
        sampler: &Sampler,
        index: usize,
        recorded: &Recorded,
    ) {
        let device = device();
        let drawn = recorded.has(&self.noise).then_some(self.noise.as_str());
        let stepped = sampler
            .step(
                &mut SamplerState::<D>::new(),
                index,
                recorded.tensor(&self.output, &device),
                recorded.tensor(&self.sample, &device),
                &mut recorded_noise(recorded, drawn),
            )
            .expect("the recorded step is valid");
        for (what, tensor, name) in
            [("sample", &stepped.sample, &self.result), ("x0", &stepped.clean, &self.clean)]
        {
            let label = format!("{} {what}", self.label);
            report.tensor(&label, tensor, (recorded, name), None, bound::SCHEDULER);
        }
    }
}
