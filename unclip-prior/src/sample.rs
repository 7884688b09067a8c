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
    rows: Vec<usize>,
    unconditional: Option<TextConditioning>,
}

impl PriorInput {
    /// One image embedding for each caption.
    pub fn new(caption: TextConditioning) -> Self {
        let rows = (0..caption.batch()).collect();
        Self { caption, rows, unconditional: None }
    }

    /// An image embedding for each of `captions`, which names captions by their place: several embeddings of a caption
    /// share what is computed of it.
    #[must_use]
    pub fn rows(mut self, captions: Vec<usize>) -> Self {
        self.rows = captions;
        self
    }

    /// What guidance leads away from: an empty or negative caption, one for all or one for each caption. Without it there
    /// is no guidance.
    #[must_use]
    pub fn unconditional(mut self, unconditional: TextConditioning) -> Self {
        self.unconditional = Some(unconditional);
        self
    }

    /// The captions of a forward pass, each once, and which of them each of its rows has: of a guided one the
    /// unconditional rows come first.
    fn batch(&self) -> (TextConditioning, Vec<usize>) {
        let mut named = self.rows.clone();
        named.sort_unstable();
        named.dedup();
        let captions = self.caption.select(&named);
        // Each row is among those that are named.
        let rows = self.rows.iter().map(|row| named.partition_point(|other| other < row));
        let Some(unconditional) = &self.unconditional else {
            return (captions, rows.collect());
        };
        let (opposite, opposite_rows) = match unconditional.batch() {
            1 => (unconditional.clone(), vec![0; self.rows.len()]),
            _ => (unconditional.select(&named), rows.clone().collect()),
        };
        let count = opposite.batch();
        let rows = opposite_rows.into_iter().chain(rows.map(|row| count + row)).collect();
        (opposite.followed_by(&captions), rows)
    }
}

/// A prediction of clean embeddings, `[batch, 1, clip_width]`, from noisy ones, `[batch, 1, embedding_dim]`, and a timestep a
/// row.
type Predictor<'p> = Box<dyn FnMut(Tensor<3>, &[f32]) -> Tensor<3> + 'p>;

impl Prior {
    /// Draws image embeddings in CLIP's space, from `initial` noise.
    ///
    /// With unconditional captions, each step is one forward pass over a doubled batch, mixed as
    /// `uncond + guidance · (cond − uncond)` even where `guidance` is at most 1; without them `guidance` has no effect.
    /// What the network makes of the captions is computed once, see [`cache_captions`](Self::cache_captions).
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
        let (captions, rows) = input.batch();
        let captions = captions.cast(initial.dtype());
        let mut predict = self.predictor(&captions, &rows);
        let model = |noisy: &Tensor<2>, timestep: usize, _index: usize| {
            let noisy = noisy.clone().repeat_dim(0, if guided { 2 } else { 1 });
            let timesteps = vec![timestep as f32; rows.len()];
            let clean: Tensor<2> = predict(noisy.unsqueeze_dim(1), &timesteps).squeeze_dim(1);
            Ok(if guided { guide_halves(clean, guidance) } else { clean })
        };
        let embedding = denoise(sampler, Stage::Prior, initial, noise, model, observer, |clean| {
            Observed::Embedding(clean)
        })?;
        Ok(self.denormalise(embedding))
    }

    /// What predicts embeddings for the captions that `rows` names.
    fn predictor<'p>(&'p self, captions: &TextConditioning, rows: &[usize]) -> Predictor<'p> {
        if let Some(mut cache) = self.cache_captions(captions, rows) {
            return Box::new(move |noisy, timesteps| {
                self.forward_cached(noisy, timesteps, &mut cache)
            });
        }
        let captions = captions.select(rows);
        let bias = self.attention_bias(&captions.mask, &captions.states.device());
        Box::new(move |noisy, timesteps| {
            let step = PriorStep::new(noisy, timesteps, captions.embedding.clone())
                .text_states(captions.states.clone())
                .attention_bias(bias.clone());
            self.forward(step)
        })
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
        let captions = input.caption.batch();
        let batch = input.rows.len();
        if batch == 0 || input.rows.iter().any(|&row| row >= captions) {
            let found = format!("{:?}", input.rows);
            let expected =
                format!("one or more, each less than {captions}, the number of captions");
            return Err(Error::invalid("rows", found, expected).into());
        }
        if initial.dims() != [batch, config.embedding_dim] {
            let found = format!("of shape {:?}", initial.dims());
            let expected = format!("[{batch}, {}]", config.embedding_dim);
            return Err(Error::invalid("initial", found, expected).into());
        }
        let state_width = match config.encoder_hid_proj_type {
            Some(_) => config.embedding_dim,
            None => config.width(),
        };
        for (field, given) in
            [("caption", Some(&input.caption)), ("unconditional", input.unconditional.as_ref())]
        {
            let Some(given) = given else { continue };
            // An unconditional caption may be one for all.
            let batch = if field == "unconditional" && given.batch() == 1 { 1 } else { captions };
            given.check(field, batch, config.text_width(), state_width)?;
            if given.tokens() != config.num_embeddings {
                let found = format!("{} tokens", given.tokens());
                let expected = format!("{} tokens", config.num_embeddings);
                return Err(Error::invalid(field, found, expected).into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use unclip_core::{
        checkpoint::WeightPrecision,
        noise::{CounterNoise, RecordedNoise},
        progress::Unobserved,
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

    /// Draws for `input` from noise that is the same each time.
    fn draw(prior: &Prior, input: &PriorInput, initial: Tensor<2>) -> Vec<f32> {
        let sampler = SamplerConfig::karlo_prior().sampler(3).expect("a valid number");
        let mut noise = CounterNoise::new(&vec![7; initial.dims()[0]], Stage::Prior);
        prior
            .sample(input, &sampler, 4.0, initial, &mut noise, &mut Unobserved)
            .expect("the input fits")
            .into_data()
            .try_to_vec()
            .expect("floats")
    }

    #[test]
    fn captions_of_several_embeddings_and_captions_as_often_are_the_same() {
        let set = fixture_sets().remove(0);
        let prior = open(&set);
        let run = set.tensors("e2e_t2i_default");
        let (caption, opposite) = (caption(&run, "cond", 1), caption(&run, "uncond", 0));
        let two = caption.followed_by(&opposite);
        let initial = Tensor::<2>::from_floats([[0.1], [0.7], [-0.4]], &device())
            .expand([3, prior.config().embedding_dim]);
        let repeated = PriorInput::new(two.select(&[1, 0, 1])).unconditional(opposite.clone());
        let expected = draw(&prior, &repeated, initial.clone());
        let named = PriorInput::new(two.clone()).rows(vec![1, 0, 1]);
        let one = named.clone().unconditional(opposite.clone());
        assert_eq!(draw(&prior, &one, initial.clone()), expected);
        // Each caption with an opposite of its own: the other one's.
        let each = named.unconditional(two.select(&[1, 0]));
        let repeated =
            PriorInput::new(two.select(&[1, 0, 1])).unconditional(two.select(&[0, 1, 0]));
        let expected = draw(&prior, &repeated, initial.clone());
        assert_eq!(draw(&prior, &each, initial), expected);
    }

    /// Noise says what is computed in.
    #[test]
    fn captions_of_another_type_are_taken_for_their_values() {
        let set = fixture_sets().remove(0);
        let prior = open(&set);
        let caption = caption(&set.tensors("e2e_t2i_default"), "cond", 1).cast(DType::BF16);
        let initial = Tensor::full([1, prior.config().embedding_dim], 0.3, &device());
        let drawn = draw(&prior, &PriorInput::new(caption.clone()), initial.clone());
        assert_eq!(drawn, draw(&prior, &PriorInput::new(caption.cast(DType::F32)), initial));
    }

    /// Such a caption sees what comes after it, so that every step computes all of it.
    #[test]
    fn a_caption_that_begins_with_padding_is_drawn_for_as_well() {
        let set = fixture_sets().remove(0);
        let prior = open(&set);
        let run = set.tensors("e2e_t2i_default");
        let mut caption = caption(&run, "cond", 1);
        caption.mask[0].fill(false);
        let initial = Tensor::full([1, prior.config().embedding_dim], 0.3, &device());
        let drawn = draw(&prior, &PriorInput::new(caption.clone()), initial.clone());
        let sampler = SamplerConfig::karlo_prior().sampler(3).expect("a valid number");
        let bias = prior.attention_bias(&caption.mask, &device());
        let model = |noisy: &Tensor<2>, timestep: usize, _: usize| {
            let timesteps = [timestep as f32];
            let noisy = noisy.clone().unsqueeze_dim(1);
            let step = PriorStep::new(noisy, &timesteps, caption.embedding.clone())
                .text_states(caption.states.clone())
                .attention_bias(bias.clone());
            Ok(prior.forward(step).squeeze_dim(1))
        };
        let mut noise = CounterNoise::new(&[7], Stage::Prior);
        let watch = &mut Unobserved;
        let expected =
            denoise(&sampler, Stage::Prior, initial, &mut noise, model, watch, |clean| {
                Observed::Embedding(clean)
            });
        let expected = prior.denormalise(expected.expect("denoises"));
        assert_eq!(drawn, expected.into_data().try_to_vec::<f32>().expect("floats"));
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

        for rows in [vec![], vec![0, 1]] {
            let text = refuse(&prior, &input.clone().rows(rows), 1.0, 1);
            assert!(text.starts_with("`rows` is ["), "{text}");
        }
        let three = PriorInput::new(good.select(&[0, 0])).unconditional(good.select(&[0; 3]));
        let text = refuse(&prior, &three, 1.0, 2);
        assert!(text.starts_with("`unconditional` is an embedding of shape [3, "), "{text}");

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
