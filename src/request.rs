//! What a caller asks for.
//!
//! Requests are plain data: they can be stored, sent and replayed, and an unknown key in stored JSON is refused by
//! name. What a request leaves open (`None`) the model decides, and the result tells what was used.

use serde::{Deserialize, Serialize};
use unclip_core::sampler::SamplerKind;

use crate::{
    HostTensor,
    error::{Result, invalid},
    guidance::{MAX_GUIDANCE, check_candidates},
};

/// The largest number of steps that any schedule is asked for.
const MAX_STEPS: usize = 1000;
/// The largest number of pictures that one request may ask for.
const MAX_PICTURES: usize = 1000;

/// Which generator noise is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseStream {
    /// A counter-based generator with one stream per picture and stage: picture `k` of a batch can be made alone from
    /// the seed that the result states, and batch limits change nothing.
    #[default]
    Counter,
    /// PyTorch's CPU generator, drawn from in the order in which diffusers draws: the same seed gives the same picture
    /// there and here. Picture `k` of a batch needs the whole batch.
    Torch,
}

/// Steps, guidance and sampler of one stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageSettings {
    /// Denoising steps; 25 for the prior and the decoder, 7 for an upsampler, where left open.
    pub steps: Option<usize>,
    /// Classifier-free guidance. Where left open, what the model's `guidance.json` says, and without one 4 for the prior and
    /// 8 for the decoder. Upsamplers have none.
    pub guidance: Option<f64>,
    /// The sampler; the model's own where left open.
    pub sampler: Option<SamplerKind>,
}

/// The noise of one stage, given instead of drawn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SuppliedNoise {
    /// What the stage starts from, one row a picture; drawn where left open.
    pub initial: Option<HostTensor>,
    /// What is added after each step, one tensor for each draw of the sampler; drawn where empty.
    pub steps: Vec<HostTensor>,
}

/// What the caller supplies instead of having it computed or drawn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Supplied {
    /// CLIP image embeddings `[pictures, width]`, not normalised: the prior is skipped.
    pub image_embeddings: Option<HostTensor>,
    /// The prior's noise: `[pictures, width]`.
    pub prior_noise: Option<SuppliedNoise>,
    /// The decoder's noise: `[pictures, 3, height, width]`.
    pub decoder_noise: Option<SuppliedNoise>,
    /// The first upsampler's noise: `[pictures, 3, height, width]`.
    pub upsample_noise: Option<SuppliedNoise>,
    /// The second upsampler's noise: `[pictures, 3, height, width]`.
    pub upsample_large_noise: Option<SuppliedNoise>,
}

impl Supplied {
    /// Whether nothing is supplied.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How pictures are painted from image embeddings: what generation and variations share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Painting {
    /// The seed of the first picture; picture `k` has `seed + k`. Drawn from the system where left open.
    pub seed: Option<u64>,
    /// Which generator noise is drawn from.
    pub noise: NoiseStream,
    /// Width and height of the pictures: a size that a stage of the model gives, or 512 or 1024. The largest size that
    /// the model's own stages give where left open.
    pub size: Option<u32>,
    /// The decoder's settings.
    pub decoder: StageSettings,
    /// The first upsampler's settings.
    pub upsample: StageSettings,
    /// The second upsampler's settings.
    pub upsample_large: StageSettings,
    /// Whether the people in given pictures have agreed to what is made of them, as the policy may ask for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub consent: bool,
    /// What is supplied instead of computed.
    #[serde(skip_serializing_if = "Supplied::is_empty")]
    pub supplied: Supplied,
}

/// Pictures from captions.
///
/// ```
/// use unclip::GenerateRequest;
///
/// let request = GenerateRequest::new("a corgi playing a trumpet").images(4).seed(7).decoder_guidance(6.0);
/// let json = serde_json::to_string(&request)?;
/// assert_eq!(serde_json::from_str::<GenerateRequest>(&json)?, request);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateRequest {
    /// What the pictures show; at least one caption.
    pub captions: Vec<String>,
    /// What they should not show: takes the place of the empty caption in guidance, in the prior and the decoder.
    pub negative_caption: Option<String>,
    /// Pictures for each caption.
    pub images_per_caption: usize,
    /// The prior's settings.
    pub prior: StageSettings,
    /// Embeddings that the prior draws for each picture, of which the one with the largest `z_t · z_i` is painted
    /// (paper §2.2 draws two). Where left open, what the model's `guidance.json` says, and without one, or with noise
    /// supplied, 1.
    pub prior_candidates: Option<usize>,
    /// Whether each caption's pictures are ordered by their CLIP similarity to it, the best first.
    pub rank_images: bool,
    /// How the pictures are painted.
    pub painting: Painting,
}

impl Default for GenerateRequest {
    fn default() -> Self {
        Self {
            captions: Vec::new(),
            negative_caption: None,
            images_per_caption: 1,
            prior: StageSettings::default(),
            prior_candidates: None,
            rank_images: false,
            painting: Painting::default(),
        }
    }
}

/// Variations of pictures: what they show is kept, the rest is drawn anew (paper §3.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VariationRequest {
    /// Variations of each picture.
    pub images_per_picture: usize,
    /// How they are painted.
    pub painting: Painting,
}

impl Default for VariationRequest {
    fn default() -> Self {
        Self { images_per_picture: 1, painting: Painting::default() }
    }
}

/// The setters that both requests have, written once.
macro_rules! painting_setters {
    () => {
        /// Sets the seed of the first picture; the next ones count up from it.
        #[must_use]
        pub fn seed(mut self, seed: u64) -> Self {
            self.painting.seed = Some(seed);
            self
        }

        /// Sets which generator noise is drawn from; [`NoiseStream::Counter`] by default.
        #[must_use]
        pub fn noise(mut self, noise: NoiseStream) -> Self {
            self.painting.noise = noise;
            self
        }

        /// Sets width and height; by default the largest size that the model's own stages give.
        #[must_use]
        pub fn size(mut self, size: u32) -> Self {
            self.painting.size = Some(size);
            self
        }

        /// States whether the people in given pictures have agreed to what is made of them; not stated by default.
        #[must_use]
        pub fn consent(mut self, consent: bool) -> Self {
            self.painting.consent = consent;
            self
        }

        /// Sets the decoder's denoising steps; 25 by default.
        #[must_use]
        pub fn decoder_steps(mut self, steps: usize) -> Self {
            self.painting.decoder.steps = Some(steps);
            self
        }

        /// Sets the decoder's guidance scale; the model's by default, or 8.
        #[must_use]
        pub fn decoder_guidance(mut self, guidance: f64) -> Self {
            self.painting.decoder.guidance = Some(guidance);
            self
        }

        /// Sets the decoder's sampler; the model's own by default.
        #[must_use]
        pub fn decoder_sampler(mut self, sampler: SamplerKind) -> Self {
            self.painting.decoder.sampler = Some(sampler);
            self
        }

        /// Sets the first upsampler's denoising steps; 7 by default.
        #[must_use]
        pub fn upsample_steps(mut self, steps: usize) -> Self {
            self.painting.upsample.steps = Some(steps);
            self
        }

        /// Sets the first upsampler's sampler; the model's own by default.
        #[must_use]
        pub fn upsample_sampler(mut self, sampler: SamplerKind) -> Self {
            self.painting.upsample.sampler = Some(sampler);
            self
        }

        /// Sets the second upsampler's denoising steps; 7 by default.
        #[must_use]
        pub fn upsample_large_steps(mut self, steps: usize) -> Self {
            self.painting.upsample_large.steps = Some(steps);
            self
        }

        /// Sets the second upsampler's sampler; the model's own by default.
        #[must_use]
        pub fn upsample_large_sampler(mut self, sampler: SamplerKind) -> Self {
            self.painting.upsample_large.sampler = Some(sampler);
            self
        }

        /// Supplies noise or embeddings instead of having them drawn or computed.
        #[must_use]
        pub fn supplied(mut self, supplied: Supplied) -> Self {
            self.painting.supplied = supplied;
            self
        }
    };
}

impl GenerateRequest {
    /// One picture of `caption`, with the model's own settings.
    pub fn new(caption: impl Into<String>) -> Self {
        Self { captions: vec![caption.into()], ..Self::default() }
    }

    /// One picture of each caption.
    pub fn of_captions<C: Into<String>>(captions: impl IntoIterator<Item = C>) -> Self {
        Self { captions: captions.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Sets what the pictures should not show.
    #[must_use]
    pub fn negative_caption(mut self, caption: impl Into<String>) -> Self {
        self.negative_caption = Some(caption.into());
        self
    }

    /// Sets the number of pictures for each caption; 1 by default.
    #[must_use]
    pub fn images(mut self, images_per_caption: usize) -> Self {
        self.images_per_caption = images_per_caption;
        self
    }

    /// Sets the prior's denoising steps; 25 by default.
    #[must_use]
    pub fn prior_steps(mut self, steps: usize) -> Self {
        self.prior.steps = Some(steps);
        self
    }

    /// Sets the prior's guidance scale; the model's by default, or 4.
    #[must_use]
    pub fn prior_guidance(mut self, guidance: f64) -> Self {
        self.prior.guidance = Some(guidance);
        self
    }

    /// Sets the prior's sampler; the model's own by default.
    #[must_use]
    pub fn prior_sampler(mut self, sampler: SamplerKind) -> Self {
        self.prior.sampler = Some(sampler);
        self
    }

    /// Sets how many embeddings the prior draws for each picture; 2 in the paper.
    #[must_use]
    pub fn prior_candidates(mut self, candidates: usize) -> Self {
        self.prior_candidates = Some(candidates);
        self
    }

    /// Sets whether pictures are ordered by their CLIP similarity to the caption; off by default.
    #[must_use]
    pub fn rank_images(mut self, rank: bool) -> Self {
        self.rank_images = rank;
        self
    }

    painting_setters!();

    /// Pictures that the request asks for in all.
    pub(crate) fn pictures(&self) -> usize {
        self.captions.len().saturating_mul(self.images_per_caption)
    }

    /// Checks every field that can be checked without a model.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.captions.is_empty() {
            return Err(invalid("captions", "an empty list", "at least one caption"));
        }
        for caption in self.captions.iter().chain(&self.negative_caption) {
            check_caption(caption)?;
        }
        check_count("images_per_caption", self.images_per_caption)?;
        if self.pictures() > MAX_PICTURES {
            return Err(invalid(
                "captions × images_per_caption",
                self.pictures(),
                format!("at most {MAX_PICTURES}"),
            ));
        }
        if let Some(candidates) = self.prior_candidates {
            check_candidates("prior_candidates", candidates)?;
        }
        check_stage(&self.prior, "prior.steps", Some("prior.guidance"))?;
        self.painting.validate()
    }
}

impl VariationRequest {
    /// One variation of each picture, with the model's own settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of variations of each picture; 1 by default.
    #[must_use]
    pub fn images(mut self, images_per_picture: usize) -> Self {
        self.images_per_picture = images_per_picture;
        self
    }

    painting_setters!();

    /// Checks every field that can be checked without a model.
    pub(crate) fn validate(&self, pictures: usize) -> Result<()> {
        if pictures == 0 {
            return Err(invalid("pictures", "an empty list", "at least one picture"));
        }
        check_count("images_per_picture", self.images_per_picture)?;
        if pictures.saturating_mul(self.images_per_picture) > MAX_PICTURES {
            let all = pictures.saturating_mul(self.images_per_picture);
            return Err(invalid(
                "pictures × images_per_picture",
                all,
                format!("at most {MAX_PICTURES}"),
            ));
        }
        self.painting.validate()
    }
}

impl Painting {
    pub(crate) fn validate(&self) -> Result<()> {
        check_stage(&self.decoder, "decoder.steps", Some("decoder.guidance"))?;
        check_stage(&self.upsample, "upsample.steps", None)?;
        check_stage(&self.upsample_large, "upsample_large.steps", None)
    }
}

impl From<&str> for GenerateRequest {
    fn from(caption: &str) -> Self {
        Self::new(caption)
    }
}

impl From<String> for GenerateRequest {
    fn from(caption: String) -> Self {
        Self::new(caption)
    }
}

impl From<&Self> for GenerateRequest {
    fn from(request: &Self) -> Self {
        request.clone()
    }
}

/// Captions are cut to 77 tokens anyway; this bounds the work of cutting them.
fn check_caption(caption: &str) -> Result<()> {
    /// Far beyond the 77 tokens that any caption is cut to.
    const MAX_BYTES: usize = 1 << 20;
    if caption.len() > MAX_BYTES {
        return Err(invalid(
            "caption",
            format!("{} bytes long", caption.len()),
            format!("at most {MAX_BYTES} bytes"),
        ));
    }
    Ok(())
}

fn check_count(field: &'static str, count: usize) -> Result<()> {
    if (1..=MAX_PICTURES).contains(&count) {
        Ok(())
    } else {
        Err(invalid(field, count, format!("1 to {MAX_PICTURES}")))
    }
}

fn check_stage(
    settings: &StageSettings,
    steps: &'static str,
    guidance: Option<&'static str>,
) -> Result<()> {
    if let Some(count) = settings.steps
        && !(1..=MAX_STEPS).contains(&count)
    {
        return Err(invalid(steps, count, format!("1 to {MAX_STEPS}")));
    }
    match (settings.guidance, guidance) {
        (Some(scale), Some(field)) if !(0.0..=MAX_GUIDANCE).contains(&scale) => {
            Err(invalid(field, scale, format!("0 to {MAX_GUIDANCE}")))
        }
        (Some(scale), None) => Err(invalid(
            "upsample.guidance",
            scale,
            "none: upsamplers are not conditioned on a caption",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(request: &GenerateRequest) -> String {
        request.validate().expect_err("an invalid request").to_string()
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_field_value_and_range() {
        let base = || GenerateRequest::new("a cat");
        assert!(base().validate().is_ok());
        for (request, parts) in [
            (GenerateRequest::default(), ["captions", "empty"]),
            (base().images(0), ["images_per_caption", "0"]),
            (base().images(100_000), ["images_per_caption", "100000"]),
            (base().prior_steps(0), ["prior.steps", "0"]),
            (base().decoder_steps(10_000), ["decoder.steps", "10000"]),
            (base().upsample_steps(0), ["upsample.steps", "0"]),
            (base().prior_guidance(f64::NAN), ["prior.guidance", "NaN"]),
            (base().decoder_guidance(f64::INFINITY), ["decoder.guidance", "inf"]),
            (base().decoder_guidance(-1.0), ["decoder.guidance", "-1"]),
            (base().prior_candidates(0), ["prior_candidates", "0"]),
        ] {
            let text = refusal(&request);
            assert!(parts.iter().all(|part| text.contains(part)), "{text:?} should name {parts:?}");
        }
        assert!(
            refusal(&GenerateRequest::new("x".repeat(2 << 20))).contains("caption"),
            "a long caption is named"
        );
    }

    #[test]
    fn stored_json_may_be_short_but_not_misspelt() {
        let request: GenerateRequest =
            serde_json::from_str(r#"{"captions": ["a cat"]}"#).expect("defaults fill in");
        assert_eq!(request, GenerateRequest::new("a cat"));
        let error =
            serde_json::from_str::<GenerateRequest>(r#"{"captions": ["a cat"], "sead": 3}"#);
        assert!(
            error.expect_err("an unknown key").to_string().contains("sead"),
            "the key is named"
        );
    }
}
