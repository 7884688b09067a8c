//! Antialiased resampling of tensors and of 8-bit pictures.
//!
//! Both reduce by widening the kernel, so that every input counts, and both divide the weights at a border by their
//! sum, so that nothing is replicated. Tensors follow PyTorch's `interpolate(mode="bicubic", antialias=True)`; pictures
//! follow Pillow's `resize`, to the bit.

mod kernel;
mod picture;
mod tensor;

pub use kernel::Filter;
pub use picture::resize_rgb8;
pub use tensor::resize_bicubic;
