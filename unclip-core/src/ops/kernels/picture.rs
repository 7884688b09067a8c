//! What moves whole pixels.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{Float, Tensor},
};
use unclip_kernels::{Size, picture as kernels};

use super::{
    Memory, Picture, activations,
    conv::{scale_by, spread_means},
    path,
    record::{Operation, record},
    room, typed,
};

/// Mean over 2 × 2 windows.
pub(in crate::ops) fn avg_pool_2x2(x: &Tensor<4>) -> Option<Tensor<4>> {
    let operand = activations(x)?;
    let x = Picture::new(operand.tensor.clone());
    let small = Size::new(x.size.batch, x.size.height / 2, x.size.width / 2);
    let resampled = Resampled { small, large: x.size, channels: x.channels, halved: true };
    Some(
        record([Some(&operand)], resampled.halve(&x, operand.is_in_graph()).into_tensor(), || {
            resampled
        })
        .into(),
    )
}

/// Each pixel four times.
pub(in crate::ops) fn upsample_nearest_2x(x: &Tensor<4>) -> Option<Tensor<4>> {
    let operand = activations(x)?;
    let x = Picture::new(operand.tensor.clone());
    let large = Size::new(x.size.batch, 2 * x.size.height, 2 * x.size.width);
    let resampled = Resampled { small: x.size, large, channels: x.channels, halved: false };
    Some(
        record([Some(&operand)], resampled.double(&x, operand.is_in_graph()).into_tensor(), || {
            resampled
        })
        .into(),
    )
}

/// The largest value of each window of 3 × 3, stride 2. No gradients: the networks that have maxima are not trained here.
pub(in crate::ops) fn max_pool_3x3(x: &Tensor<4>) -> Option<Tensor<4>> {
    let operand = activations(x)?;
    if operand.is_in_graph() {
        return None;
    }
    let x = Picture::new(operand.tensor.clone());
    let [height, width] = [x.size.height, x.size.width].map(|side| kernels::windows(side, 3, 2));
    let small = Size::new(x.size.batch, height, width);
    let out = typed!(x.dtype(), E => {
        let mut out = room::<E>(small.pixels() * x.channels, false);
        kernels::max_pool::<E>(path(), x.values(), x.size, x.channels, (3, 2), &mut out);
        Picture::from_values(out, small, x.channels)
    });
    Some(Tensor::<4, Float>::from_primitive::<Flex>(out.into_tensor()))
}

/// A change of resolution.
#[derive(Debug, Clone, Copy)]
struct Resampled {
    small: Size,
    large: Size,
    channels: usize,
    halved: bool,
}

impl Resampled {
    /// From large to small.
    fn halve(self, x: &Picture, is_in_graph: bool) -> Picture {
        typed!(x.dtype(), E => {
            let mut out = room::<E>(self.small.pixels() * self.channels, is_in_graph);
            kernels::avg_pool_2x2::<E>(path(), x.values(), self.large, self.channels, &mut out);
            if !self.halved {
                // The gradient of a repeated value is a sum of four: four means.
                scale_by(&mut out, 4.0);
            }
            Picture::from_values(out, self.small, self.channels)
        })
    }

    /// From small to large.
    fn double(self, x: &Picture, is_in_graph: bool) -> Picture {
        typed!(x.dtype(), E => {
            let out = if self.halved {
                Memory::Own(spread_means(x.values(), self.small, self.large, self.channels))
            } else {
                let mut out = room::<E>(self.large.pixels() * self.channels, is_in_graph);
                kernels::upsample_nearest_2x(x.values(), self.small, self.channels, &mut out);
                out
            };
            Picture::from_values(out, self.large, self.channels)
        })
    }
}

impl Operation<1> for Resampled {
    fn backward(&self, gradient: FlexTensor, _wanted: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let gradient = Picture::new(gradient);
        let found =
            if self.halved { self.double(&gradient, true) } else { self.halve(&gradient, true) };
        [Some(found.into_tensor())]
    }
}

/// The channels of both, beside each other.
pub(in crate::ops) fn join_channels(left: &Tensor<4>, right: &Tensor<4>) -> Option<Tensor<4>> {
    if left.dtype() != right.dtype() {
        return None;
    }
    let operands = (activations(left)?, activations(right)?);
    let left = Picture::new(operands.0.tensor.clone());
    let right = Picture::new(operands.1.tensor.clone());
    assert_eq!(left.size, right.size, "pictures whose channels are joined");
    let channels = left.channels + right.channels;
    let is_in_graph = operands.0.is_in_graph() || operands.1.is_in_graph();
    let out = typed!(left.dtype(), E => {
        let mut out = room::<E>(left.size.pixels() * channels, is_in_graph);
        let (a, b) = (left.values::<E>(), right.values::<E>());
        kernels::join_channels(a, left.channels, b, right.channels, &mut out);
        Picture::from_values(out, left.size, channels)
    });
    let operands = [Some(&operands.0), Some(&operands.1)];
    Some(record(operands, out.into_tensor(), || Joined { left: left.channels }).into())
}

/// A joining of channels, so many of which come from the left.
#[derive(Debug, Clone, Copy)]
struct Joined {
    left: usize,
}

impl Operation<2> for Joined {
    fn backward(&self, gradient: FlexTensor, wanted: [bool; 2]) -> [Option<FlexTensor>; 2] {
        let channels = gradient.layout().shape()[1];
        let part = |start: usize, len: usize| {
            let layout = gradient.layout().narrow(1, start, len);
            Picture::new(gradient.clone().with_layout(layout)).into_tensor()
        };
        let [left, right] = wanted;
        [left.then(|| part(0, self.left)), right.then(|| part(self.left, channels - self.left))]
    }
}

/// `left + right`.
pub(in crate::ops) fn add(left: &Tensor<4>, right: &Tensor<4>) -> Option<Tensor<4>> {
    if left.dtype() != right.dtype() || left.dims() != right.dims() {
        return None;
    }
    let operands = (activations(left)?, activations(right)?);
    let left = Picture::new(operands.0.tensor.clone());
    let right = Picture::new(operands.1.tensor.clone());
    let is_in_graph = operands.0.is_in_graph() || operands.1.is_in_graph();
    let out = typed!(left.dtype(), E => {
        let mut out = room::<E>(left.values::<E>().len(), is_in_graph);
        kernels::add::<E>(path(), left.values(), right.values(), &mut out);
        Picture::from_values(out, left.size, left.channels)
    });
    Some(record([Some(&operands.0), Some(&operands.1)], out.into_tensor(), || Added).into())
}

/// A sum.
#[derive(Debug, Clone, Copy)]
struct Added;

impl Operation<2> for Added {
    fn backward(&self, gradient: FlexTensor, wanted: [bool; 2]) -> [Option<FlexTensor>; 2] {
        wanted.map(|wanted| wanted.then(|| gradient.clone()))
    }
}
