//! unCLIP, the system behind DALL·E 2 (Ramesh et al. 2022, arXiv 2204.06125), on the [Burn](https://burn.dev) framework.
//!
//! A caption becomes a picture in four steps: CLIP encodes the caption; the prior draws a CLIP image embedding from it;
//! the decoder paints a small picture from the embedding; upsamplers enlarge it. [`Pipeline`] runs all of them on a
//! model in the directory layout that diffusers reads, such as `kakaobrain/karlo-v1-alpha`:
//!
//! ```no_run
//! use unclip::Pipeline;
//!
//! let pipeline = Pipeline::builder().model_dir("karlo-v1-alpha").device("auto")?.build()?;
//! let result = pipeline.generate("a high-resolution photograph of a big red frog on a green leaf.")?;
//! result.images[0].save("frog.png")?;
//! # Ok::<(), unclip::Error>(())
//! ```
//!
//! A [`GenerateRequest`] says more than a caption: several captions and pictures, seeds, steps, guidance and samplers a
//! stage, supplied noise. [`Pipeline::variations`] paints a picture anew, and each stage runs alone as well.
//!
//! The same request, seed and model give the same pixels: noise is drawn on the host, one stream a picture and stage,
//! so neither the device's generator nor the batch split can change them.

mod builder;
mod error;
mod guidance;
mod host_tensor;
mod marks;
mod metadata;
mod noise_plan;
mod operation;
mod output;
mod parts;
mod pipeline;
mod precision;
mod progress;
mod request;
mod resident;
mod safety_checker;
mod save;

pub use builder::PipelineBuilder;
pub use burn;
pub use error::{Error, Result};
pub use host_tensor::HostTensor;
pub use image;
pub use metadata::{PictureMetadata, Replay};
pub use operation::TextEmbedding;
pub use output::{EnlargedImage, GeneratedImage, Generation, StageTiming, Timings, Warning};
pub use parts::{DecoderPart, ImagePart, PriorPart, TextPart, UpsamplerPart};
pub use pipeline::Pipeline;
pub use progress::Progress;
pub use request::{
    GenerateRequest, NoiseStream, Painting, StageSettings, Supplied, SuppliedNoise,
    VariationRequest,
};
pub use resident::Offload;
pub use safety_checker::{ConceptMargins, SafetyChecker};
pub use unclip_core::{
    Precision, Stage,
    checkpoint::WeightPrecision,
    device::{device, keep_freed_memory},
    progress::CancelToken,
    sampler::{SamplerConfig, SamplerKind},
};
#[cfg(feature = "default-model")]
pub use unclip_model::folder as default_model;
pub use {
    unclip_clip as clip, unclip_core as core, unclip_decoder as decoder, unclip_prior as prior,
    unclip_safety as safety, unclip_upsample as upsample,
};
