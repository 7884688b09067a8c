//! The decoder's sampling loop.
//!
//! Paper §2.1 with classifier-free guidance (Ho & Salimans 2022); follows the decoder's part of diffusers
//! `pipelines/deprecated/unclip/pipeline_unclip.py`, `UnCLIPPipeline.__call__`.

use burn::tensor::Tensor;
use unclip_core::{
    Error, Stage,
    diffusion::{guide_halves, guide_halves_learned_range},
    nn::{TextConditioning, UNetInput, mask_bias},
    noise::NoiseSource,
    progress::{Observed, Observer},
    sampler::{Sampler, denoise},
};

use crate::{Conditions, Decoder, Result};

/// What pictures are painted of.
#[derive(Debug, Clone)]
pub struct DecoderInput {
    image_embedding: Tensor<2>,
    caption: TextConditioning,
    unconditional: Option<TextConditioning>,
}

impl DecoderInput {
    /// One picture for each row of `image_embedding`, `[batch, clip_width]` in CLIP's space, with as many captions; a
    /// variation's captions are empty.
    pub fn new(image_embedding: Tensor<2>, caption: TextConditioning) -> Self {
        Self { image_embedding, caption, unconditional: None }
    }

    /// What guidance leads away from: as many empty or negative captions, together with the learned null embedding.
    /// Without them there is no guidance.
    #[must_use]
    pub fn unconditional(mut self, unconditional: TextConditioning) -> Self {
        self.unconditional = Some(unconditional);
        self
    }
}

impl Decoder {
    /// Paints small pictures in `[-1, 1]`, from `initial` noise.
    ///
    /// With unconditional captions, each step is one forward pass over a doubled batch; the noise is mixed as
    /// `uncond + guidance · (cond − uncond)`, even where `guidance` is at most 1, and a predicted variance is the
    /// conditional one. Without them `guidance` has no effect.
    ///
    /// # Shapes
    ///
    /// - `initial`: `[batch, channels, height, width]`, standard Gaussian; the sides are multiples of the network's
    ///   [reduction](unclip_core::nn::UNetConfig::reduction)
    /// - output: the same
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when the input does not fit the network, or `guidance` is not finite;
    /// [`unclip_core::Error::Cancelled`] when the observer breaks off; whatever `noise` reports.
    pub fn sample(
        &self,
        input: &DecoderInput,
        sampler: &Sampler,
        guidance: f64,
        initial: Tensor<4>,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer,
    ) -> Result<Tensor<4>> {
        self.check(input, guidance, &initial)?;
        let guided = input.unconditional.is_some();
        let predicts_variance = self.config().predicts_variance();
        let (conditions, bias) = self.conditions(input);
        let rows = conditions.time.dims()[0];
        let context = self.unet().cache_context(conditions.context.cast(initial.dtype()));
        let model = |noisy: &Tensor<4>, timestep: usize, _index: usize| {
            let noisy = noisy.clone().repeat_dim(0, if guided { 2 } else { 1 });
            let timesteps = vec![timestep as f32; rows];
            let mut step = UNetInput::new(noisy, &timesteps)
                .context_cache(context.clone())
                .context_bias(bias.clone());
            if self.config().class_embed_type.is_some() {
                step = step.class_embedding(conditions.time.clone());
            }
            let output = self.unet().forward(step);
            Ok(match (guided, predicts_variance) {
                (true, true) => guide_halves_learned_range(output, guidance),
                (true, false) => guide_halves(output, guidance),
                (false, _) => output,
            })
        };
        let picture = denoise(sampler, Stage::Decoder, initial, noise, model, observer, |clean| {
            Observed::Picture(clean)
        })?;
        Ok(picture.clamp(-1.0, 1.0))
    }

    /// What the network is conditioned on in every step, and the bias of its context tokens; with guidance, the
    /// unconditional half first.
    fn conditions(&self, input: &DecoderInput) -> (Conditions, Tensor<2>) {
        let image = input.image_embedding.clone();
        let batch = image.dims()[0];
        let (image, captions) = match &input.unconditional {
            Some(unconditional) => (
                Tensor::cat(vec![self.projection().null_embedding(batch), image], 0),
                unconditional.followed_by(&input.caption),
            ),
            None => (image, input.caption.clone()),
        };
        let extra = self.projection().config().clip_extra_context_tokens;
        let bias = mask_bias(&captions.mask, extra, &image.device());
        let conditions = self.projection().forward(image, captions.embedding, captions.states);
        (conditions, bias)
    }

    fn check(&self, input: &DecoderInput, guidance: f64, initial: &Tensor<4>) -> Result<()> {
        if !guidance.is_finite() {
            return Err(Error::invalid("guidance", guidance, "a finite number").into());
        }
        let width = self.projection().config().clip_embeddings_dim;
        let [batch, found] = input.image_embedding.dims();
        if batch == 0 || found != width {
            let found = format!("of shape [{batch}, {found}]");
            let expected = format!("[batch, {width}]");
            return Err(Error::invalid("image_embedding", found, expected).into());
        }
        let channels = self.config().in_channels;
        let reduction = self.config().unet().reduction();
        let [rows, planes, height, breadth] = initial.dims();
        let fits = |side: usize| side > 0 && side.is_multiple_of(reduction);
        if [rows, planes] != [batch, channels] || !fits(height) || !fits(breadth) {
            let found = format!("of shape {:?}", initial.dims());
            let expected =
                format!("[{batch}, {channels}, height, width], sides multiples of {reduction}");
            return Err(Error::invalid("initial", found, expected).into());
        }
        input.caption.check("caption", batch, width, width)?;
        if let Some(unconditional) = &input.unconditional {
            unconditional.check("unconditional", batch, width, width)?;
            if unconditional.tokens() != input.caption.tokens() {
                let found = format!("{} tokens", unconditional.tokens());
                let expected = format!("the caption's {}", input.caption.tokens());
                return Err(Error::invalid("unconditional", found, expected).into());
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
        RecordedNoise::new(run.sequence("decoder.noise")).expect("recorded noise is finite")
    }

    fn open(set: &FixtureSet) -> Decoder {
        let dir = set.model_dir();
        let [projection, network] = ["text_proj", "decoder"].map(|part| dir.join(part));
        Decoder::from_dirs(projection, network, None, WeightPrecision::F32, &device())
            .expect("the recorded decoder loads")
    }

    /// One caption of a run of batch 1; `row` counts in the doubled batch. The recorded mask covers `extra` tokens more.
    fn caption(run: &Recorded, name: &str, row: usize, extra: usize) -> TextConditioning {
        let device = device();
        let states: Tensor<3> = run.tensor(&format!("text.{name}.last_hidden_state"), &device);
        let tokens = states.dims()[1];
        let kept = &run.ints("decoder.in.attention_mask")[row * (tokens + extra)..];
        let kept = &kept[extra..extra + tokens];
        TextConditioning {
            embedding: run.tensor::<2>("text_proj.in.prompt_embeds", &device).narrow(0, row, 1),
            states,
            mask: vec![kept.iter().map(|&bit| bit != 0).collect()],
        }
    }

    fn replay(decoder: &Decoder, run: &Recorded, input: &DecoderInput, guidance: f64) -> f64 {
        let steps = run.shape("decoder.timesteps")[0];
        let sampler = SamplerConfig::karlo_decoder().sampler(steps).expect("a valid number");
        let mut noise = recorded_noise(run);
        assert_eq!(noise.remaining(), steps - 1);
        let initial = run.tensor("decoder.noise.init", &device());
        let picture = decoder
            .sample(input, &sampler, guidance, initial, &mut noise, &mut Unobserved)
            .expect("the recorded run fits");
        assert_eq!(noise.remaining(), 0);
        assert_close(&picture, run, "decoder.out.image_small", 5e-4).max_abs
    }

    /// Follows the decoder's part of diffusers `UnCLIPPipeline.__call__`.
    #[test]
    fn recorded_runs_are_reproduced_with_and_without_guidance() {
        for set in fixture_sets() {
            let decoder = open(&set);
            let extra = decoder.projection().config().clip_extra_context_tokens;
            let image = |run: &Recorded| run.tensor("text_proj.in.image_embeddings", &device());
            let run = set.tensors("e2e_t2i_default");
            let input = DecoderInput::new(image(&run), caption(&run, "cond", 1, extra))
                .unconditional(caption(&run, "uncond", 0, extra));
            let guided = replay(&decoder, &run, &input, 8.0);
            let run = set.tensors("e2e_t2i_no_guidance");
            let input = DecoderInput::new(image(&run), caption(&run, "cond", 0, extra));
            let plain = replay(&decoder, &run, &input, 8.0);
            println!("{}: decoder runs, guided {guided:.1e}, plain {plain:.1e}", set.name());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let set = fixture_sets().remove(0);
        let decoder = open(&set);
        let extra = decoder.projection().config().clip_extra_context_tokens;
        let run = set.tensors("e2e_t2i_default");
        let image: Tensor<2> = run.tensor("text_proj.in.image_embeddings", &device());
        let good = caption(&run, "cond", 1, extra);
        let sampler = SamplerConfig::karlo_decoder().sampler(2).expect("a valid number");
        let refuse = |input: &DecoderInput, guidance: f64, shape: [usize; 4]| {
            let mut noise = recorded_noise(&run);
            let initial = Tensor::zeros(shape, &device());
            decoder
                .sample(input, &sampler, guidance, initial, &mut noise, &mut Unobserved)
                .expect_err("the input does not fit")
                .to_string()
        };
        let size = decoder.config().sample_size;
        let shape = [1, 3, size, size];
        let input = DecoderInput::new(image.clone(), good.clone());
        let text = refuse(&input, f64::INFINITY, shape);
        assert!(text.starts_with("`guidance` is inf"), "{text}");
        for shape in [[2, 3, size, size], [1, 4, size, size], [1, 3, size + 1, size]] {
            let text = refuse(&input, 1.0, shape);
            assert!(text.starts_with(&format!("`initial` is of shape {shape:?}")), "{text}");
        }
        let narrow = DecoderInput::new(image.clone().narrow(1, 0, 5), good.clone());
        let text = refuse(&narrow, 1.0, shape);
        assert!(text.starts_with("`image_embedding` is of shape [1, 5]"), "{text}");
        let short = TextConditioning {
            states: good.states.clone().narrow(1, 0, 5),
            mask: vec![vec![true; 5]],
            ..good.clone()
        };
        let text = refuse(&DecoderInput::new(image, good).unconditional(short), 1.0, shape);
        assert!(text.starts_with("`unconditional` is 5 tokens"), "{text}");
    }
}
