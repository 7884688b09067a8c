//! Opening a pipeline.

use std::sync::Arc;

use burn::tensor::Device;
#[cfg(feature = "hub")]
use unclip_core::checkpoint::hub;
use unclip_core::{
    Precision,
    checkpoint::{Folder, ModelDir, WeightPrecision},
};
use unclip_safety::{
    AuditSink, Guard, NoFilter, Policy, SafetyFilter, Watermark,
    mark::{InvisibleMark, Signature},
};

use crate::{
    Offload, Pipeline,
    error::{Error, Result, invalid},
    guidance::Guidance,
    marks::Marks,
    parts::{
        DecoderPart, ImagePart, PriorPart, Reading, Spec, Specs, TextPart, UpsamplerPart,
        UpsamplerSpec,
    },
    pipeline::{Inner, warn_of_unchecked},
    precision::weights,
    resident::{Part, Resident},
};

/// Collects what a [`Pipeline`] is made of; [`build`](Self::build) checks that it fits together.
///
/// The model comes from one source: a [directory](Self::model_dir), a repository of the hub, or the parts themselves.
/// Parts that are given as well take the place of the source's.
#[derive(Debug, Default)]
#[must_use]
pub struct PipelineBuilder {
    model_dir: Option<Folder>,
    #[cfg(feature = "hub")]
    repository: Option<hub::Repository>,
    image_encoder_from: Option<Folder>,
    variant: Option<String>,
    device: Option<Device>,
    precision: Precision,
    weights: Option<WeightPrecision>,
    offload: Offload,
    batch_limit: Option<usize>,
    text: Option<TextPart>,
    image: Option<ImagePart>,
    prior: Option<PriorPart>,
    decoder: Option<DecoderPart>,
    upsampler: Option<UpsamplerPart>,
    upsampler_large: Option<UpsamplerPart>,
    filter: Option<Arc<dyn SafetyFilter>>,
    policy: Option<Policy>,
    audit: Option<Arc<dyn AuditSink>>,
    marks: Marks,
}

impl PipelineBuilder {
    /// Reads the model from a directory in the layout that diffusers writes, text-to-image or image-variation; or from
    /// such a directory that was [compiled into the program](Folder::embedded). By default the model that the library
    /// carries, with the feature `default-model`, which is on.
    pub fn model_dir(mut self, dir: impl Into<Folder>) -> Self {
        self.model_dir = Some(dir.into());
        self
    }

    /// Reads the model from a repository of the hub, downloading what the shared cache lacks.
    #[cfg(feature = "hub")]
    pub fn repository(mut self, repository: impl Into<hub::Repository>) -> Self {
        self.repository = Some(repository.into());
        self
    }

    /// Takes the image encoder from another model directory: the published models keep it in the directory for
    /// variations, apart from the one for captions.
    pub fn image_encoder_from(mut self, dir: impl Into<Folder>) -> Self {
        self.image_encoder_from = Some(dir.into());
        self
    }

    /// Reads files of this variant, such as `fp16`; by default the ones without a variant.
    pub fn variant(mut self, variant: impl Into<String>) -> Self {
        self.variant = Some(variant.into());
        self
    }

    /// Sets the device by name; see [`device`](crate::device). By default `auto`.
    ///
    /// # Errors
    ///
    /// When the name is unknown, its backend not built in, or the device not there.
    pub fn device(mut self, name: &str) -> Result<Self> {
        self.device = Some(unclip_core::device::device(name)?);
        Ok(self)
    }

    /// Sets a device that the caller already has.
    pub fn on_device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Sets the type that the prior, the decoder and the upsamplers compute in; [32 bits](Precision::F32) by default.
    /// Parts that are given compute in the type that they were set to, and CLIP's encoders, which run once, in 32 bits.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Sets the type that weights are held in. By default it follows the [precision](Self::precision): `bf16` where the
    /// networks compute in it, and otherwise as the files hold them.
    pub fn weights(mut self, weights: WeightPrecision) -> Self {
        self.weights = Some(weights);
        self
    }

    /// Sets which parts stay in memory; [all](Offload::KeepAll) by default.
    pub fn offload(mut self, offload: Offload) -> Self {
        self.offload = offload;
        self
    }

    /// Sets how many pictures pass through a network at once; 1 by default. More take more memory and, on a
    /// graphics card, less time; the pixels stay the same.
    pub fn batch_limit(mut self, pictures: usize) -> Self {
        self.batch_limit = Some(pictures);
        self
    }

    /// Gives the text encoder.
    pub fn text(mut self, part: TextPart) -> Self {
        self.text = Some(part);
        self
    }

    /// Gives the image encoder.
    pub fn image(mut self, part: ImagePart) -> Self {
        self.image = Some(part);
        self
    }

    /// Gives the prior.
    pub fn prior(mut self, part: PriorPart) -> Self {
        self.prior = Some(part);
        self
    }

    /// Gives the decoder.
    pub fn decoder(mut self, part: DecoderPart) -> Self {
        self.decoder = Some(part);
        self
    }

    /// Gives the first upsampler.
    pub fn upsampler(mut self, part: UpsamplerPart) -> Self {
        self.upsampler = Some(part);
        self
    }

    /// Gives the second upsampler.
    pub fn upsampler_large(mut self, part: UpsamplerPart) -> Self {
        self.upsampler_large = Some(part);
        self
    }

    /// Sets the filter that judges captions, given pictures and finished pictures; by default a [`Guard`] with the
    /// [standard](Policy::standard) policy: the built-in lists for captions, OpenNSFW for pictures (feature `nsfw`, on by
    /// default), and with the feature `faces` a detector of faces for given pictures. Without that feature faces are not looked
    /// for, whatever the policy says of them, and [`build`](Self::build) says so in the log as information.
    ///
    /// [`build`](Self::build) says in the log what a filter leaves [unchecked](SafetyFilter::unchecked).
    pub fn safety(mut self, filter: impl SafetyFilter + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Judges by the built-in checks under `policy`.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.filter = None;
        self.policy = Some(policy);
        self
    }

    /// Switches the checks off: everything is allowed, and [`build`](Self::build) says so in the log.
    pub fn without_safety(self) -> Self {
        self.safety(NoFilter)
    }

    /// Records every request, those for embeddings and raw tensors included, with the verdicts on what it was refused for or
    /// on its pictures; see also [`Pipeline::for_user`]. Nothing is recorded by default.
    pub fn audit(mut self, sink: impl AuditSink + 'static) -> Self {
        self.audit = Some(Arc::new(sink));
        self
    }

    /// Sets the invisible mark of every finished picture, 48 bits that [`Detector`](unclip_safety::mark::Detector)
    /// reads; by default the payload `unclip` under the key 0. `None` leaves it out, and says so in the log.
    ///
    /// A picture smaller than a tile of the mark, 64 pixels, goes without it, and the result carries a
    /// [warning](crate::Warning::Unmarked).
    pub fn invisible_mark(mut self, mark: impl Into<Option<InvisibleMark>>) -> Self {
        self.marks.invisible = mark.into();
        self
    }

    /// Sets the five squares in the lower right corner of every finished picture; by default in the colours of this
    /// library. `None` leaves them out, and says so in the log.
    pub fn signature(mut self, signature: impl Into<Option<Signature>>) -> Self {
        self.marks.signature = signature.into();
        self
    }

    /// Leaves out the invisible mark and the signature, and says so in the log.
    pub fn unmarked(self) -> Self {
        self.invisible_mark(None).signature(None)
    }

    /// Adds a mark on every finished picture. Marks of the caller's own are put on in the order in which they were
    /// added, between the invisible mark and the signature.
    pub fn watermark(mut self, watermark: impl Watermark + 'static) -> Self {
        self.marks.own.push(Arc::new(watermark));
        self
    }

    /// Reads the configurations, checks that the parts fit, and reads the weights that the policy keeps.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] when there is no model or more than one, [`Error::StageMismatch`] when parts do not fit,
    /// [`Error::Unavailable`] when a given part lacks its neighbours, and whatever reading the files says.
    pub fn build(mut self) -> Result<Pipeline> {
        if self.batch_limit == Some(0) {
            return Err(invalid("batch_limit", 0, "at least 1"));
        }
        let device = match self.device.take() {
            Some(device) => device,
            None => unclip_core::device::device("auto")?,
        };
        self.marks.warn_of_missing();
        let mut resident = Resident::new(self.offload);
        let specs = match self.source()? {
            Some(dir) => {
                let model = ModelDir::open(dir)?;
                let images = self.image_encoder_from.as_ref().map(ModelDir::open).transpose()?;
                let mut specs = Specs::read(&model, images.as_ref())?;
                self.replace(&mut specs, &mut resident);
                specs
            }
            None => self.given(&mut resident)?,
        };
        specs.check()?;
        let filter = self.filter.unwrap_or_else(|| {
            Arc::new(guard(self.policy.unwrap_or_else(Policy::standard), &device))
        });
        warn_of_unchecked(&*filter);
        let activations = self.precision.activations(&device);
        let precision = weights(self.weights, activations);
        let reading = Reading { variant: self.variant, precision, activations, device };
        let pipeline = Pipeline {
            inner: Arc::new(Inner {
                specs: Arc::new(specs),
                reading,
                resident: Arc::new(resident),
                batch_limit: self.batch_limit.unwrap_or(1),
                filter,
                audit: self.audit,
                user: None,
                marks: self.marks,
            }),
        };
        pipeline.prepare(self.offload)?;
        Ok(pipeline)
    }

    /// The directory to read from, when there is one.
    fn source(&self) -> Result<Option<Folder>> {
        #[cfg(feature = "hub")]
        if let Some(repository) = &self.repository {
            if self.model_dir.is_some() {
                return Err(Error::Source {
                    reason: "both a directory and a repository were given".into(),
                });
            }
            let mut repository = repository.clone();
            if repository.variant.is_none() {
                repository.variant.clone_from(&self.variant);
            }
            let options = hub::HubOptions::from_env()?;
            // Every part that the index names, and what has arrived goes to the log.
            let mut report =
                |progress: hub::Download<'_>| tracing::debug!(?progress, "downloading");
            return Ok(Some(hub::fetch(&repository, &[], &options, &mut report)?.into()));
        }
        Ok(self.model_dir.clone().or_else(|| self.default_model()))
    }

    /// The model that the library carries, unless the parts that were given make one.
    fn default_model(&self) -> Option<Folder> {
        #[cfg(feature = "default-model")]
        if self.text.is_none() || self.decoder.is_none() {
            return Some(unclip_model::folder());
        }
        None
    }

    /// Puts the parts that were given in the place of the directory's.
    fn replace(&mut self, specs: &mut Specs, resident: &mut Resident) {
        if let Some(part) = self.text.take() {
            specs.text = given(part.encoder.config().clone());
            specs.tokenizer = part.tokenizer;
            resident.pin(Part::TextEncoder, part.encoder);
        }
        if let Some(part) = self.image.take() {
            specs.image = Some((given(part.encoder.config().clone()), part.preprocessor));
            resident.pin(Part::ImageEncoder, part.encoder);
        }
        if let Some(part) = self.prior.take() {
            specs.prior = Some((given(part.prior.config().clone()), part.sampler));
            resident.pin(Part::Prior, part.prior);
        }
        if let Some(part) = self.decoder.take() {
            specs.projection = given(part.decoder.projection().config().clone());
            specs.decoder = given(part.decoder.config().clone());
            specs.decoder_sampler = part.sampler;
            resident.pin(Part::Decoder, part.decoder);
        }
        if let Some(part) = self.upsampler.take() {
            specs.upsampler =
                Some(pin_upsampler(part, [Part::UpsampleFirst, Part::UpsampleLast], resident));
        }
        if let Some(part) = self.upsampler_large.take() {
            specs.upsampler_large =
                Some(pin_upsampler(part, [Part::UpsampleLarge, Part::UpsampleLarge], resident));
        }
    }

    /// A model of given parts alone: at least captions and a decoder.
    fn given(&mut self, resident: &mut Resident) -> Result<Specs> {
        let lacking = |part: &str| Error::Source {
            reason: format!("neither a directory, nor a repository, nor a {part} was given"),
        };
        let text = self.text.as_ref().ok_or_else(|| lacking("text encoder"))?;
        let decoder = self.decoder.as_ref().ok_or_else(|| lacking("decoder"))?;
        let mut specs = Specs {
            tokenizer: text.tokenizer.clone(),
            text: given(text.encoder.config().clone()),
            image: None,
            prior: None,
            projection: given(decoder.decoder.projection().config().clone()),
            decoder: given(decoder.decoder.config().clone()),
            decoder_sampler: decoder.sampler.clone(),
            upsampler: None,
            upsampler_large: None,
            guidance: Guidance::default(),
        };
        self.replace(&mut specs, resident);
        Ok(specs)
    }
}

/// The built-in checks under `policy`; the network runs where the model does.
fn guard(policy: Policy, device: &Device) -> Guard {
    #[cfg(feature = "nsfw")]
    let judges_pictures = {
        use unclip_safety::Subject::{Output, Upload};
        !policy.is_idle(Upload) || !policy.is_idle(Output)
    };
    #[cfg(not(feature = "nsfw"))]
    let _ = device;
    // No warning: few pipelines are given pictures of people, and every one would warn.
    #[cfg(not(feature = "faces"))]
    if policy.faces != unclip_safety::FacePolicy::Allow {
        tracing::info!("faces in given pictures are not looked for: the feature `faces` is off");
    }
    let guard = Guard::new(policy);
    #[cfg(feature = "faces")]
    let guard = guard.faces(unclip_safety::picture::FrontalFaces::bundled());
    #[cfg(feature = "nsfw")]
    if judges_pictures {
        return guard.pictures(unclip_safety::picture::OpenNsfw::bundled(device));
    }
    guard
}

fn given<C>(config: C) -> Spec<C> {
    Spec { config, dir: None }
}

fn pin_upsampler(part: UpsamplerPart, places: [Part; 2], resident: &mut Resident) -> UpsamplerSpec {
    let UpsamplerPart { upsampler, sampler } = part;
    resident.pin(places[0], upsampler.first().clone());
    let last = upsampler.last().map(|last| {
        resident.pin(places[1], last.clone());
        given(upsampler.config().clone())
    });
    UpsamplerSpec { first: given(upsampler.config().clone()), last, sampler }
}
