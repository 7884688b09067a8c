//! Pictures as rows of pixels, and what many operations read.

use burn::tensor::Tensor;

/// The pixels of a picture, row by row, as tokens. Of a picture that lies channels-last in memory these are the same
/// values in the same order.
///
/// # Shapes
///
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, height · width, channels]`
pub fn to_tokens(x: Tensor<4>) -> Tensor<3> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::to_tokens(&x) {
        return out;
    }
    let [batch, channels, height, width] = x.dims();
    x.permute([0, 2, 3, 1]).reshape([batch, height * width, channels])
}

/// The inverse of [`to_tokens`].
///
/// # Shapes
///
/// - `x`: `[batch, height · width, channels]`
/// - output: `[batch, channels, height, width]`
///
/// # Panics
///
/// When there are not `height · width` tokens.
pub fn from_tokens(x: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [batch, tokens, channels] = x.dims();
    assert_eq!(tokens, height * width, "tokens for a picture of {height} × {width}");
    #[cfg(any(feature = "flex", test))]
    {
        let size = unclip_kernels::Size::new(batch, height, width);
        if let Some(out) = super::kernels::from_tokens(&x, size) {
            return out;
        }
    }
    x.reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
}

/// The tensor itself, for many operations of this module to read: the kernels add up the gradients that come back from
/// them, at once and in the order of memory.
pub fn shared<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::shared(&x) {
        return out;
    }
    x
}
