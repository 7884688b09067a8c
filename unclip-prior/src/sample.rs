//! The prior's sampling loop.
//!
//! Paper §2.2 with classifier-free guidance (Ho & Salimans 2022); follows the prior's part of diffusers
//! `pipelines/deprecated/unclip/pipeline_unclip.py`, `UnCLIPPipeline.__call__`.

use burn::tensor::Tensor;
use unclip_core::{
    Error, Stage,
    diffusion::guide_halves,
    nn::TextConditioning,
    noise::NoiseSource,
    progress::{Observed, Observer},
    sampler::{Sampler, denoise},
};

use crate::{Prior, PriorStep, Result};

/// What image embeddings are drawn for.
#[derive(Debug, Clone)]
pub struct PriorInput {
    caption: TextConditioning,
    unconditional: Option<TextConditioning>,
}

impl PriorInput {
    /// One image embedding for each caption; a caption that is to have several stands there as often.
    pub fn new(caption: TextConditioning) -> Self {
        Self { caption, unconditional: None }
    }

    /// What guidance leads away from: as many empty or negative captions. Without them there is no guidance.
    #[must_use]
    pub fn unconditional(mut self, unconditional: TextConditioning) -> Self {
        self.unconditional = Some(unconditional);
        self
    }
}

impl Prior {
    /// Draws image embeddings in CLIP's space, from `initial` noise.
    ///
    /// With unconditional captions, each step is one forward pass over a doubled batch, mixed as
    /// `uncond + guidance · (cond − uncond)` even where `guidance` is at most 1; without them `guidance` has no effect.
    ///
    /// # Shapes
    ///
    /// - `initial`: `[batch, embedding_dim]`, standard Gaussian
    /// - output: `[batch, clip_width]`
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when the captions do not fit the network or each other, or `guidance` is
    /// not finite; [`unclip_core::Error::Cancelled`] when the observer breaks off; whatever `noise` reports.
    pub fn sample(
        &self,
        input: &PriorInput,
        sampler: &Sampler,
        guidance: f64,
        initial: Tensor<2>,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Tensor<2>> {
        self.check(input, guidance, &initial)?;
        let guided = input.unconditional.is_some();
        let captions = match &input.unconditional {
            Some(unconditional) => unconditional.followed_by(&input.caption),
            None => input.caption.clone(),
        };
        let bias = self.attention_bias(&captions.mask, &initial.device());
        let rows = captions.batch();
        let model = |noisy: &Tensor<2>, timestep: usize, _index: usize| {
            let noisy = noisy.clone().repeat_dim(0, if guided { 2 } else { 1 });
            let timesteps = vec![timestep as f32; rows];
            let step =
                PriorStep::new(noisy.unsqueeze_dim(1), &timesteps, captions.embedding.clone())
                    .text_states(captions.states.clone())
                    .attention_bias(bias.clone());
            let clean: Tensor<2> = self.forward(step).squeeze_dim(1);
            Ok(if guided { guide_halves(clean, guidance) } else { clean })
        };
        let embedding = denoise(sampler, Stage::Prior, initial, noise, model, observer, |clean| {
            Observed::Embedding(clean)
        })?;
        Ok(self.denormalise(embedding))
    }

    fn check(&self, input: &PriorInput, guidance: f64, initial: &Tensor<2>) -> Result<()> {
        let config = self.config();
        let behind = 3 + usize::from(config.added_emb_type.is_some());
        if config.additional_embeddings != behind {
            let found = config.additional_embeddings;
            let expected = format!("{behind} in a prior over captions");
            return Err(Error::invalid("additional_embeddings", found, expected).into());
        }
        if config.clip_width() != config.embedding_dim {
            let expected = format!("`embedding_dim` ({})", config.embedding_dim);
            return Err(Error::invalid("clip_embed_dim", config.clip_width(), expected).into());
        }
        if !guidance.is_finite() {
            return Err(Error::invalid("guidance", guidance, "a finite number").into());
        }
        let batch = input.caption.batch();
        if initial.dims() != [batch, config.embedding_dim] {
            let found = format!("of shape {:?}", initial.dims());
            let expected = format!("[{batch}, {}]", config.embedding_dim);
            return Err(Error::invalid("initial", found, expected).into());
        }
        let state_width = match config.encoder_hid_proj_type {
            Some(_) => config.embedding_dim,
            None => config.width(),
        };
        for (field, captions) in
            [("caption", Some(&input.caption)), ("unconditional", input.unconditional.as_ref())]
        {
            let Some(captions) = captions else { continue };
            captions.check(field, batch, config.text_width(), state_width)?;
            if captions.tokens() != config.num_embeddings {
                let found = format!("{} tokens", captions.tokens());
                let expected = format!("{} tokens", config.num_embeddings);
                return Err(Error::invalid(field, found, expected).into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use unclip_core::{
        checkpoint::WeightPrecision, noise::RecordedNoise, progress::Unobserved,
        sampler::SamplerConfig,
    };
    use unclip_testkit::{FixtureSet, Recorded, assert_close, device, fixture_sets};

    use super::*;

    fn recorded_noise(run: &Recorded) -> RecordedNoise {
        RecordedNoise::new(run.sequence("prior.noise")).expect("recorded noise is finite")
    }

    fn open(set: &FixtureSet) -> Prior {
        let dir = set.model_dir().join("prior");
        Prior::from_dir(dir, None, WeightPrecision::F32, &device()).expect("the prior loads")
    }

    /// One caption of a run of batch 1; `row` counts in the doubled batch.
    fn caption(run: &Recorded, name: &str, row: usize) -> TextConditioning {
        let device = device();
        let states: Tensor<3> = run.tensor(&format!("text.{name}.last_hidden_state"), &device);
        let tokens = states.dims()[1];
        let kept = &run.ints("prior.in.attention_mask")[row * tokens..][..tokens];
        TextConditioning {
            embedding: run.tensor::<2>("prior.in.proj_embedding", &device).narrow(0, row, 1),
            states,
            mask: vec![kept.iter().map(|&bit| bit != 0).collect()],
        }
    }

    fn replay(prior: &Prior, run: &Recorded, input: &PriorInput, guidance: f64) -> f64 {
        let steps = run.shape("prior.timesteps")[0];
        let sampler = SamplerConfig::karlo_prior().sampler(steps).expect("a valid number");
        let mut noise = recorded_noise(run);
        assert_eq!(noise.remaining(), steps - 1);
        let initial = run.tensor("prior.noise.init", &device());
        let embedding = prior
            .sample(input, &sampler, guidance, initial, &mut noise, &mut Unobserved)
            .expect("the recorded run fits");
        assert_eq!(noise.remaining(), 0);
        assert_close(&embedding, run, "text_proj.in.image_embeddings", 1e-4).max_abs
    }

    /// Follows the prior's part of diffusers `UnCLIPPipeline.__call__`.
    #[test]
    fn recorded_runs_are_reproduced_with_and_without_guidance() {
        for set in fixture_sets() {
            let prior = open(&set);
            let run = set.tensors("e2e_t2i_default");
            let input =
                PriorInput::new(caption(&run, "cond", 1)).unconditional(caption(&run, "uncond", 0));
            let guided = replay(&prior, &run, &input, 4.0);
            let run = set.tensors("e2e_t2i_no_guidance");
            let plain = replay(&prior, &run, &PriorInput::new(caption(&run, "cond", 0)), 4.0);
            println!("{}: prior runs, guided {guided:.1e}, plain {plain:.1e}", set.name());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let set = fixture_sets().remove(0);
        let prior = open(&set);
        let run = set.tensors("e2e_t2i_default");
        let good = caption(&run, "cond", 1);
        let sampler = SamplerConfig::karlo_prior().sampler(2).expect("a valid number");
        let refuse = |prior: &Prior, input: &PriorInput, guidance: f64, batch: usize| {
            let initial = Tensor::zeros([batch, prior.config().embedding_dim], &device());
            let mut noise = recorded_noise(&run);
            prior
                .sample(input, &sampler, guidance, initial, &mut noise, &mut Unobserved)
                .expect_err("the input does not fit")
                .to_string()
        };
        let input = PriorInput::new(good.clone());
        assert!(refuse(&prior, &input, f64::NAN, 1).starts_with("`guidance` is NaN"), "NaN");
        assert!(refuse(&prior, &input, 1.0, 2).starts_with("`initial` is "), "two rows");

        let short = TextConditioning {
            states: good.states.clone().narrow(1, 0, 5),
            mask: vec![vec![true; 5]],
            ..good.clone()
        };
        let text = refuse(&prior, &PriorInput::new(short.clone()), 1.0, 1);
        assert!(text.starts_with("`caption` is 5 tokens"), "{text}");
        let text = refuse(&prior, &PriorInput::new(good.clone()).unconditional(short), 1.0, 1);
        assert!(text.starts_with("`unconditional` is 5 tokens"), "{text}");

        let mut config = prior.config().clone();
        config.additional_embeddings = 0;
        let text = refuse(&config.init(&device()), &input, 1.0, 1);
        assert!(text.starts_with("`additional_embeddings` is 0"), "{text}");
    }
}
