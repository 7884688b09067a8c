//! The pipeline: a model, a device, and the hooks.

use std::{fmt, sync::Arc};

use burn::tensor::Device;
use unclip_clip::{TextEncoder, VisionEncoder};
use unclip_core::{checkpoint::Folder, nn::UNet, sampler::SamplerConfig};
use unclip_decoder::Decoder;
use unclip_prior::Prior;
use unclip_safety::{AuditSink, SafetyFilter, Subject};

use crate::{
    Offload, PipelineBuilder,
    error::{Error, Result},
    marks::Marks,
    parts::{Reading, Spec, Specs, UpsamplerSpec},
    resident::{InUse, Part, Resident},
};

/// A model that turns captions into pictures.
///
/// A pipeline is cheap to clone and may be shared between threads; every operation takes `&self` and keeps its state in
/// the call.
///
/// ```no_run
/// use unclip::{GenerateRequest, Offload, Pipeline};
///
/// let pipeline =
///     Pipeline::builder().model_dir("karlo-v1-alpha").device("cpu")?.offload(Offload::OneStage).build()?;
/// let request = GenerateRequest::new("a corgi playing a trumpet").images(2).seed(7);
/// let result = pipeline.generate_with(request, |progress| {
///     println!("{} {}/{}", progress.stage, progress.step, progress.total);
///     std::ops::ControlFlow::Continue(())
/// })?;
/// for (k, image) in result.images.iter().enumerate() {
///     image.save(format!("corgi-{k}.png"))?;
/// }
/// # Ok::<(), unclip::Error>(())
/// ```
#[derive(Clone)]
pub struct Pipeline {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Clone)]
pub(crate) struct Inner {
    pub(crate) specs: Arc<Specs>,
    pub(crate) reading: Reading,
    pub(crate) resident: Arc<Resident>,
    pub(crate) batch_limit: usize,
    pub(crate) filter: Arc<dyn SafetyFilter>,
    pub(crate) audit: Option<Arc<dyn AuditSink>>,
    pub(crate) user: Option<String>,
    pub(crate) marks: Marks,
}

impl Pipeline {
    /// Starts a pipeline; see [`PipelineBuilder`].
    pub fn builder() -> PipelineBuilder {
        PipelineBuilder::default()
    }

    /// The device that the networks run on.
    pub fn device(&self) -> &Device {
        &self.inner.reading.device
    }

    /// The sizes that stages of this model give, in pixels, the smallest first.
    ///
    /// A request may ask for one of these, or for 512 or 1024, which are resampled from the largest where no stage
    /// gives them.
    pub fn sizes(&self) -> Vec<u32> {
        self.inner.specs.sizes().into_iter().map(|(_, size)| size).collect()
    }

    /// Whether [`generate`](Self::generate) can run: the model has a prior.
    pub fn can_generate(&self) -> bool {
        self.inner.specs.prior.is_some()
    }

    /// Whether [`variations`](Self::variations) can run: the model has an image encoder.
    pub fn can_vary(&self) -> bool {
        self.inner.specs.image.is_some()
    }

    /// This pipeline under another filter: the parts in memory are shared, nothing is read again.
    ///
    /// What the filter leaves [unchecked](SafetyFilter::unchecked) is warned of in the log.
    #[must_use]
    pub fn with_safety(&self, filter: impl SafetyFilter + 'static) -> Self {
        warn_of_unchecked(&filter);
        self.with(|inner| inner.filter = Arc::new(filter))
    }

    /// This pipeline on behalf of `user`, whom the [record](PipelineBuilder::audit) then names.
    #[must_use]
    pub fn for_user(&self, user: impl Into<String>) -> Self {
        self.with(|inner| inner.user = Some(user.into()))
    }

    fn with(&self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = (*self.inner).clone();
        change(&mut inner);
        Self { inner: Arc::new(inner) }
    }

    /// Reads every part when all of them stay, so that the first request does not; else only the headers of their
    /// files, so that a missing or damaged file is found now and not in the middle of a request.
    pub(crate) fn prepare(&self, offload: Offload) -> Result<()> {
        let inner = &self.inner;
        if offload != Offload::KeepAll {
            return inner.specs.check_files(inner.reading.variant.as_deref());
        }
        inner.text_encoder()?;
        if inner.specs.image.is_some() {
            inner.image_encoder("loading")?;
        }
        if inner.specs.prior.is_some() {
            inner.prior("loading")?;
        }
        inner.decoder()?;
        if let Some(spec) = &inner.specs.upsampler {
            inner.upsampler(Part::UpsampleFirst, spec)?;
            inner.upsampler(Part::UpsampleLast, spec)?;
        }
        if let Some(spec) = &inner.specs.upsampler_large {
            inner.upsampler(Part::UpsampleLarge, spec)?;
        }
        Ok(())
    }
}

impl Inner {
    pub(crate) fn text_encoder(&self) -> Result<InUse<TextEncoder>> {
        let Reading { variant, precision, device, .. } = &self.reading;
        self.resident.get(Part::TextEncoder, || {
            let dir = directory(&self.specs.text)?;
            Ok(TextEncoder::from_dir(dir, variant.as_deref(), *precision, device)?)
        })
    }

    pub(crate) fn image_encoder(&self, operation: &'static str) -> Result<InUse<VisionEncoder>> {
        let Reading { variant, precision, device, .. } = &self.reading;
        let (spec, _) = self
            .specs
            .image
            .as_ref()
            .ok_or(Error::Unavailable { operation, part: "image_encoder" })?;
        self.resident.get(Part::ImageEncoder, || {
            Ok(VisionEncoder::from_dir(directory(spec)?, variant.as_deref(), *precision, device)?)
        })
    }

    /// The prior's sampler, or that there is no prior.
    pub(crate) fn prior_sampler(&self, operation: &'static str) -> Result<&SamplerConfig> {
        let prior =
            self.specs.prior.as_ref().ok_or(Error::Unavailable { operation, part: "prior" })?;
        Ok(&prior.1)
    }

    pub(crate) fn prior(&self, operation: &'static str) -> Result<InUse<Prior>> {
        let Reading { variant, precision, device, .. } = &self.reading;
        let (spec, _) =
            self.specs.prior.as_ref().ok_or(Error::Unavailable { operation, part: "prior" })?;
        self.resident.get(Part::Prior, || {
            let prior = Prior::from_dir(directory(spec)?, variant.as_deref(), *precision, device)?;
            Ok(match self.reading.activations {
                Some(dtype) => prior.compute_in(dtype),
                None => prior,
            })
        })
    }

    pub(crate) fn decoder(&self) -> Result<InUse<Decoder>> {
        let Reading { variant, precision, device, .. } = &self.reading;
        self.resident.get(Part::Decoder, || {
            let projection = directory(&self.specs.projection)?;
            let network = directory(&self.specs.decoder)?;
            let decoder =
                Decoder::from_dirs(projection, network, variant.as_deref(), *precision, device)?;
            Ok(match self.reading.activations {
                Some(dtype) => decoder.compute_in(dtype),
                None => decoder,
            })
        })
    }

    /// One network of an upsampler: the one of the last step when `part` is [`Part::UpsampleLast`].
    pub(crate) fn upsampler(
        &self,
        part: Part,
        spec: &UpsamplerSpec,
    ) -> unclip_upsample::Result<InUse<UNet>> {
        let Reading { variant, precision, device, .. } = &self.reading;
        let (part, spec) = match (part, &spec.last) {
            (Part::UpsampleLast, Some(last)) => (part, last),
            (Part::UpsampleLast, None) => (Part::UpsampleFirst, &spec.first),
            (part, _) => (part, &spec.first),
        };
        self.resident.get(part, || {
            // A network without a folder was given, and is pinned.
            let dir = spec.dir.clone().unwrap_or_else(|| Folder::from(""));
            let network = spec.config.load(dir, variant.as_deref(), *precision, device)?;
            Ok(match self.reading.activations {
                Some(dtype) => network.compute_in(dtype),
                None => network,
            })
        })
    }

    /// The image part without its weights' owner: what turns pictures into the encoder's input.
    pub(crate) fn preprocessor(
        &self,
        operation: &'static str,
    ) -> Result<&unclip_clip::Preprocessor> {
        let image = self
            .specs
            .image
            .as_ref()
            .ok_or(Error::Unavailable { operation, part: "image_encoder" })?;
        Ok(&image.1)
    }
}

/// Says in the log what goes through unseen.
pub(crate) fn warn_of_unchecked(filter: &dyn SafetyFilter) {
    let unchecked = filter.unchecked();
    if [Subject::Caption, Subject::Upload, Subject::Output].iter().all(|s| unchecked.contains(s)) {
        tracing::warn!("safety checks are off: every caption and picture is allowed");
        return;
    }
    for subject in unchecked {
        let what = match subject {
            Subject::Caption => "captions",
            Subject::Upload => "given pictures",
            Subject::Output => "finished pictures",
        };
        tracing::warn!("{what} are not checked: each is allowed");
    }
}

/// Where a part is read from. Parts that were given are pinned and never read.
fn directory<C>(spec: &Spec<C>) -> Result<&Folder> {
    spec.dir
        .as_ref()
        .ok_or_else(|| Error::Source { reason: "a part that was given has been lost".into() })
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("device", self.device())
            .field("sizes", &self.sizes())
            .field("can_generate", &self.can_generate())
            .field("can_vary", &self.can_vary())
            .field("resident", &self.inner.resident)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_can_be_shared_between_threads() {
        fn shared<T: Clone + Send + Sync + 'static>() {}
        shared::<Pipeline>();
    }
}
