//! Antialiased resampling of tensors and of 8-bit pictures.
//!
//! Both reduce by widening the kernel, so that every input counts, and both divide the weights at a border by their
//! sum, so that nothing is replicated. Tensors follow PyTorch's `interpolate(mode="bicubic", antialias=True)`; pictures
//! follow Pillow's `resize` or torchvision's, to the bit.

mod kernel;
mod picture;
mod tensor;

pub use kernel::Filter;
pub use picture::{Arithmetic, resize_rgb8, resize_rgb8_with};
pub use tensor::resize_bicubic;
