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
//! of sums look alike in the end, so that the bounds there only tell a picture from another one. What tells them apart is a
//! run whose every step starts where the 32-bit run is; a run's number is the root mean square of its stages':
//!
//! | step by step | sums in 32 bits | sums in 16 bits |
//! |---|---|---|
//! | prior, 25 steps | 0.71 to 1.1 % | 1.4 to 2.0 % |
//! | decoder, 25 steps | 0.48 to 0.79 % | 0.93 to 1.6 % |
//! | upsampler, 7 steps | 0.66 to 0.92 % | 0.92 to 1.2 % |
//! | the run | 0.70 to 0.96 % | 1.2 to 1.5 % |

use burn::tensor::{FloatDType, Tensor};
use unclip::Precision;
use unclip_core::{
    checkpoint::WeightPrecision,
    diffusion::{guide_halves, guide_halves_learned_range},
    nn::{TextConditioning, UNetInput, mask_bias},
    sampler::SamplerState,
};
use unclip_decoder::Decoder;
use unclip_prior::{Prior, PriorStep};
use unclip_testkit::{FixtureSet, Recorded, device, is_default_device};
use unclip_upsample::{Networks, Upsampler};

use crate::{
    common::{captions, guidance, sampler_config, step_noise},
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

/// All steps, each from the sample of the 32-bit run.
mod step {
    pub(super) const PRIOR: f64 = 1.25e-2;
    pub(super) const DECODER: f64 = 8.6e-3;
    pub(super) const SUPER_RES: f64 = 1.05e-2;
    pub(super) const RUN: f64 = 1.05e-2;
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

/// What a network, with its captions, predicts of a noisy sample at a timestep, guidance applied; the last argument is
/// whether the step is the stage's last.
type Predict<'a, const D: usize> = Box<dyn FnMut(Tensor<D>, f32, bool) -> Tensor<D> + 'a>;

/// The recorded run from a caption with the default steps.
struct Steps<'a> {
    set: &'a FixtureSet,
    run: Recorded,
    /// The empty caption, and the run's.
    captions: TextConditioning,
}

impl<'a> Steps<'a> {
    fn open(set: &'a FixtureSet) -> Self {
        let run = set.tensors("e2e_t2i_default");
        let captions = captions(&run, "uncond").followed_by(&captions(&run, "cond"));
        Self { set, run, captions }
    }

    /// Compares where the steps of a stage lead with networks in 16 bits, `rounded`, with where they lead with `exact` ones.
    /// Every step starts from the sample that the exact ones lead to, so that none inherits what an earlier one lost; their
    /// last is the recorded one.
    fn compare<const D: usize>(
        &self,
        report: &mut Report,
        (stage, bound): (&str, f64),
        mut exact: Predict<'_, D>,
        mut rounded: Predict<'_, D>,
    ) -> f64 {
        let steps = self.run.shape(&format!("{stage}.timesteps"))[0];
        let sampler = sampler_config(self.set, stage).sampler(steps).expect("a valid number");
        let mut noises = [step_noise(&self.run, stage), step_noise(&self.run, stage)];
        let mut sample: Tensor<D> = self.run.tensor(&format!("{stage}.noise.init"), &device());
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for (index, &timestep) in sampler.timesteps().iter().enumerate() {
            let step = |predict: &mut Predict<'_, D>, noise| {
                let output = predict(sample.clone(), timestep as f32, index + 1 == steps);
                sampler
                    .step(&mut SamplerState::new(), index, output, sample.clone(), noise)
                    .expect("the recorded run is valid")
                    .sample
            };
            let [noise, same] = &mut noises;
            found.extend(values(&step(&mut rounded, noise)));
            let next = step(&mut exact, same);
            expected.extend(values(&next));
            sample = next;
        }
        let floor = self.set.run_floor("t2i_default", &format!("{stage}.prev.*"));
        let last = format!("{stage}.prev.{}", steps - 1);
        let output = format!("{stage}, 32 bits");
        report.tensor(&output, &sample, (&self.run, &last), Some(floor), report::bound::RUN);
        report.typical(stage, &found, &expected, bound)
    }

    fn prior<'m>(&self, prior: &'m Prior) -> Predict<'m, 2> {
        let captions = self.captions.clone();
        let bias = prior.attention_bias(&captions.mask, &device());
        let scale = guidance(self.set, 0);
        Box::new(move |sample, timestep, _| {
            let timesteps = [timestep; 2];
            let noisy = sample.repeat_dim(0, 2).unsqueeze_dim(1);
            let step = PriorStep::new(noisy, &timesteps, captions.embedding.clone())
                .text_states(captions.states.clone())
                .attention_bias(bias.clone());
            guide_halves(prior.forward(step).squeeze_dim(1), scale)
        })
    }

    fn decoder<'m>(&self, decoder: &'m Decoder) -> Predict<'m, 4> {
        let projection = decoder.projection();
        let captions = self.captions.clone();
        let extra = projection.config().clip_extra_context_tokens;
        let bias = mask_bias(&captions.mask, extra, &device());
        let embedding = self.run.tensor("text_proj.in.image_embeddings", &device());
        let image = Tensor::cat(vec![projection.null_embedding(1), embedding], 0);
        let conditions = projection.forward(image, captions.embedding, captions.states);
        let scale = guidance(self.set, 1);
        Box::new(move |sample, timestep, _| {
            let timesteps = [timestep; 2];
            let input = UNetInput::new(sample.repeat_dim(0, 2), &timesteps)
                .class_embedding(conditions.time.clone())
                .context(conditions.context.clone())
                .context_bias(bias.clone());
            guide_halves_learned_range(decoder.unet().forward(input), scale)
        })
    }

    fn upsampler<'m>(&self, mut upsampler: &'m Upsampler) -> Predict<'m, 4> {
        let enlarged: Tensor<4> = self.run.tensor("super_res.in.image_upscaled", &device());
        Box::new(move |sample, timestep, last| {
            let network = upsampler.network(last).expect("both networks are in memory");
            let both = Tensor::cat(vec![sample, enlarged.clone()], 1);
            network.forward(UNetInput::new(both, &[timestep]))
        })
    }
}

#[test]
fn steps_of_a_run_in_sixteen_bits_stay_close() {
    replay("a run in bf16, step by step", |set, report| {
        let steps = Steps::open(set);

        let exact = prior::open(set, WeightPrecision::F32);
        let rounded = prior::open(set, WEIGHTS).compute_in(COMPUTE);
        let [exact, rounded] = [&exact, &rounded].map(|prior| steps.prior(prior));
        let prior = steps.compare(report, ("prior", step::PRIOR), exact, rounded);

        let exact = decoder::open(set, WeightPrecision::F32);
        let rounded = decoder::open(set, WEIGHTS).compute_in(COMPUTE);
        let [exact, rounded] = [&exact, &rounded].map(|decoder| steps.decoder(decoder));
        let decoder = steps.compare(report, ("decoder", step::DECODER), exact, rounded);

        let exact = super_res::open(set, WeightPrecision::F32);
        let rounded = super_res::open(set, WEIGHTS).compute_in(COMPUTE);
        let [exact, rounded] = [&exact, &rounded].map(|upsampler| steps.upsampler(upsampler));
        let super_res = steps.compare(report, ("super_res", step::SUPER_RES), exact, rounded);

        report.together("run", &[prior, decoder, super_res], step::RUN);
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
