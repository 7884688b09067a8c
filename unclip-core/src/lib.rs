//! What every stage of unCLIP shares: diffusion mathematics, samplers, noise, checkpoints, and the blocks that two
//! networks have in common.
//!
//! | module | holds |
//! |---|---|
//! | [`ops`] | the hot operations, one door each: convolution, linear, attention, norms, activations |
//! | [`nn`] | layers over those operations, the residual and attention blocks, the [UNet](nn::UNet) |
//! | [`diffusion`] | noise schedules, prediction kinds, guidance: scalars on the host |
//! | [`sampler`] | UnCLIP (ancestral), DDPM, DDIM and DPM-Solver++ |
//! | [`noise`] | where Gaussian noise comes from: counter-based, PyTorch-compatible, or supplied |
//! | [`checkpoint`] | the diffusers directory layout: configurations, safetensors, strict loading, saving |
//! | [`resize`] | antialiased resampling of tensors and of 8-bit pictures |
//! | [`device`](mod@device) | a device by name, with an error where Burn would panic |
//! | [`progress`] | stages, progress events and cancellation |
//!
//! The crate enables no Burn backend and reads no clock; a backend is a feature that the application switches on.

pub mod checkpoint;
pub mod device;
pub mod diffusion;
mod error;
pub mod image;
mod memory;
pub mod nn;
pub mod noise;
pub mod ops;
mod precision;
pub mod progress;
pub mod resize;
pub mod sampler;

pub use error::{Error, Result, ShapeMismatch, TypeMismatch, WeightsMismatch};
pub use precision::Precision;
pub use progress::Stage;
