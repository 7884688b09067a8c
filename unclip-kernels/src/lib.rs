//! The hot operations of unCLIP on a CPU.
//!
//! Everything here works on slices, channels last, and knows no tensor library. The one crate of the workspace with
//! `unsafe` code: kernels check their operands' sizes at a safe boundary, and each unsafe block says why it holds.
//!
//! A layer packs its weights once ([`Weights`], f32 or bf16), and computes with [`Conv`] or [`linear()`]. What stands in
//! front of a convolution belongs to its [`Input`]: a group norm's scale and shift, SiLU; what follows belongs to its
//! [`Epilogue`]: bias, activation, residual; neither passes through memory on its own. Activations are f32 or bf16
//! on either side ([`Element`]).
//!
//! For training, [`Conv::input_gradient`] and [`Conv::weight_gradient`] (for a linear layer: [`linear()`] with transposed
//! weights, and [`linear_weight_gradient`]) have the same precision: f32, or bf16 products with f32 sums. Biases'
//! gradients are sums over pixels, [`bias_gradient`] and [`image_bias_gradient`].
//!
//! | module | holds |
//! |---|---|
//! | [`activation`] | activations on their own |
//! | [`attention`] | attention with added keys and masks, and its gradients |
//! | [`cpu`] | which instructions the processor has, and which are used: a [`cpu::Path`] |
//! | [`norm`] | group and layer normalisation, and their gradients |
//! | [`parallel`] | splitting work over rayon's pool so that results do not depend on the number of threads |
//! | [`memory`] | memory for results, and what the allocator does with it when it is given back |
//! | [`picture`] | what moves whole pixels: resampling, maxima, joining channels |
//! | [`room`] | memory for results that later results take over |

pub mod activation;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
mod bias;
mod conv;
pub mod cpu;
mod element;
mod epilogue;
mod gemm;
mod lanes;
mod linear;
mod math;
pub mod memory;
mod narrow;
pub mod norm;
mod pack;
pub mod parallel;
pub mod picture;
mod reorder;
pub mod room;
mod scratch;
mod stage;
mod team;
#[cfg(test)]
mod testing;
mod transpose;
mod unpack;
#[cfg(target_arch = "x86_64")]
mod vector;

pub use bias::{bias_gradient, image_bias_gradient};
pub use conv::Conv;
pub use element::Element;
pub use epilogue::{Activation, Epilogue};
pub use linear::{linear, linear_weight_gradient};
pub use narrow::narrow;
pub use pack::{Format, Weights};
pub use stage::{Input, Resample, Size};
pub use unpack::Values;
