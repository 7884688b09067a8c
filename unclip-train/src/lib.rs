//! Training for every stage of unCLIP.
//!
//! | module | holds |
//! |---|---|
//! | [`data`] | captioned pictures from folders, WebDataset shards and arrays of embeddings: shuffled, resumable, dealt to ranks |
//! | [`hygiene`] | near-duplicates, caps by family, splits by concept, a filter on what is unsafe and weights that make up for it |
//! | [`loss`] | the contrastive losses of CLIP, and the losses of denoising networks |
//! | [`mask`], [`degrade`] | what is known of a picture while editing is learned, and what spoils an upsampler's input |
//! | [`log`] | logs of one JSON object a line, and TensorBoard's events |
//! | [`metrics`] | recall, cosines, distances of distributions, R-precision, copies, signal-to-noise ratios |
//!
//! A [`RunConfig`] describes a run, one JSON file that reproduces it; a [`Trainer`] starts or continues it. Runs of the
//! four stages write one model directory, part by part, which the pipeline opens.

mod caption;
mod checkpoint;
mod config;
pub mod data;
pub mod degrade;
mod draws;
mod ema;
mod error;
mod export;
mod frozen;
pub mod hygiene;
pub mod log;
pub mod loss;
pub mod mask;
pub mod metrics;
mod muon;
mod optimizer;
mod parameters;
mod rate;
mod ridge;
mod sheet;
mod task;
mod trainer;
mod view;

pub use config::{RunConfig, StageConfig, TrainingConfig};
pub use draws::{Draws, Purpose};
pub use ema::EmaConfig;
pub use error::{Error, Result};
pub use export::write_index;
pub use muon::MuonSettings;
pub use optimizer::OptimizerConfig;
pub use rate::{Decay, RateConfig};
pub use ridge::Ridge;
pub use task::{
    ClipModel, ClipTaskConfig, DecoderTaskConfig, EmbeddingNoise, PriorTaskConfig, TokenizerConfig,
    UpsamplerPart, UpsamplerTaskConfig,
};
pub use trainer::{StepReport, Trainer};
