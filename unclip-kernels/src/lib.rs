//! The hot operations of unCLIP on a CPU.
//!
//! Everything here works on slices, channels last, and knows no tensor library. The one crate of the workspace with
//! `unsafe` code: kernels check their operands' sizes at a safe boundary, and each unsafe block says why it holds.
//!
//! | module | holds |
//! |---|---|
//! | [`cpu`] | which instructions the processor has, and which are used: a [`cpu::Path`] |
//! | [`parallel`] | splitting work over rayon's pool so that results do not depend on the number of threads |

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod cpu;
pub mod parallel;
