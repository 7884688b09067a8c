//! What moves whole pixels.

use burn::tensor::Tensor;
use unclip_kernels::{Size, picture as kernels};

use super::{Picture, path, picture, typed};

/// Mean over 2 × 2 windows.
pub(in crate::ops) fn avg_pool_2x2(x: &Tensor<4>) -> Option<Tensor<4>> {
    let x = Picture::new(x)?;
    let Size { batch, height, width } = x.size;
    let small = Size::new(batch, height / 2, width / 2);
    Some(typed!(x.dtype(), E => {
        let mut out = bytemuck::zeroed_vec::<E>(small.pixels() * x.channels);
        kernels::avg_pool_2x2::<E>(path(), x.values(), x.size, x.channels, &mut out);
        picture(out, small, x.channels)
    }))
}

/// Each pixel four times.
pub(in crate::ops) fn upsample_nearest_2x(x: &Tensor<4>) -> Option<Tensor<4>> {
    let x = Picture::new(x)?;
    let Size { batch, height, width } = x.size;
    let large = Size::new(batch, 2 * height, 2 * width);
    Some(typed!(x.dtype(), E => {
        let mut out = bytemuck::zeroed_vec::<E>(large.pixels() * x.channels);
        kernels::upsample_nearest_2x::<E>(x.values(), x.size, x.channels, &mut out);
        picture(out, large, x.channels)
    }))
}

/// The channels of both, beside each other.
pub(in crate::ops) fn join_channels(left: &Tensor<4>, right: &Tensor<4>) -> Option<Tensor<4>> {
    if left.dtype() != right.dtype() {
        return None;
    }
    let (left, right) = (Picture::new(left)?, Picture::new(right)?);
    assert_eq!(left.size, right.size, "pictures whose channels are joined");
    let channels = left.channels + right.channels;
    Some(typed!(left.dtype(), E => {
        let mut out = bytemuck::zeroed_vec::<E>(left.size.pixels() * channels);
        let (a, b) = (left.values::<E>(), right.values::<E>());
        kernels::join_channels(a, left.channels, b, right.channels, &mut out);
        picture(out, left.size, channels)
    }))
}

/// `left + right`.
pub(in crate::ops) fn add(left: &Tensor<4>, right: &Tensor<4>) -> Option<Tensor<4>> {
    if left.dtype() != right.dtype() || left.dims() != right.dims() {
        return None;
    }
    let (left, right) = (Picture::new(left)?, Picture::new(right)?);
    Some(typed!(left.dtype(), E => {
        let mut out = bytemuck::zeroed_vec::<E>(left.values::<E>().len());
        kernels::add::<E>(path(), left.values(), right.values(), &mut out);
        picture(out, left.size, left.channels)
    }))
}
