//! The residual block of the decoder and the upsamplers.
//!
//! Dhariwal & Nichol 2021, §3 (`AdaGN`) and Nichol & Dhariwal 2021; follows diffusers `models/resnet.py`,
//! `ResnetBlock2D`. A block that resamples does so in front of its first convolution, on both branches.

use burn::{
    module::Module,
    tensor::{Device, Tensor, assert_shape},
};
use serde::{Deserialize, Serialize};

use super::{Activation, Conv2d, Conv2dConfig, GroupNorm, GroupNormConfig, Linear, LinearConfig};
use crate::ops::{self, Affine, ConvInput, Resample};

/// How the time embedding enters a block, under diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeShift {
    /// `norm2(h) · (1 + scale) + shift` (`scale_shift`; the decoder).
    ScaleShift,
    /// `norm2(h + shift)` (`default`; the upsamplers).
    #[serde(rename = "default")]
    Add,
}

/// The sizes of a [`ResBlock`].
#[derive(Debug, Clone, PartialEq)]
pub struct ResBlockConfig {
    /// Channels of the input.
    pub channels_in: usize,
    /// Channels of the output.
    pub channels_out: usize,
    /// Width of the time embedding.
    pub time_width: usize,
    /// Groups of both normalisations.
    pub groups: usize,
    /// Added to the variance in both normalisations.
    pub epsilon: f64,
    /// How the time embedding enters.
    pub time_shift: TimeShift,
    /// The change of resolution, if any.
    pub resample: Option<Resample>,
    /// The activation after each normalisation and in front of the time projection.
    pub activation: Activation,
    /// Whether the time embedding is projected without the activation in front.
    pub skip_time_activation: bool,
    /// What the sum of both branches is divided by.
    pub output_scale: f64,
}

/// Residual block conditioned on a time embedding.
#[derive(Module, Debug)]
pub struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// Present when the channel counts differ.
    conv_shortcut: Option<Conv2d>,
    #[module(skip)]
    time_shift: TimeShift,
    #[module(skip)]
    resample: Option<Resample>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    skip_time_activation: bool,
    #[module(skip)]
    output_scale: f64,
}

impl ResBlockConfig {
    /// A block with random weights on `device`.
    ///
    /// # Panics
    ///
    /// When `groups` does not divide both channel counts.
    pub fn init(&self, device: &Device) -> ResBlock {
        let Self { channels_in, channels_out, groups, epsilon, .. } = *self;
        let time_channels = match self.time_shift {
            TimeShift::ScaleShift => 2 * channels_out,
            TimeShift::Add => channels_out,
        };
        let conv = |channels_in| {
            Conv2dConfig::new(channels_in, channels_out, 3).with_padding(1).init(device)
        };
        ResBlock {
            norm1: GroupNormConfig::new(groups, channels_in).with_epsilon(epsilon).init(device),
            conv1: conv(channels_in),
            time_emb_proj: LinearConfig::new(self.time_width, time_channels).init(device),
            norm2: GroupNormConfig::new(groups, channels_out).with_epsilon(epsilon).init(device),
            conv2: conv(channels_out),
            conv_shortcut: (channels_in != channels_out)
                .then(|| Conv2dConfig::new(channels_in, channels_out, 1).init(device)),
            time_shift: self.time_shift,
            resample: self.resample,
            activation: self.activation,
            skip_time_activation: self.skip_time_activation,
            output_scale: self.output_scale,
        }
    }
}

impl ResBlock {
    /// Applies the block.
    ///
    /// # Shapes
    ///
    /// - `x`: `[batch, channels_in, height, width]`
    /// - `time`: `[batch, time_width]`
    /// - output: `[batch, channels_out, height, width]`, halved or doubled in a block that resamples
    ///
    /// # Panics
    ///
    /// When an axis differs from the shapes above.
    pub fn forward(&self, x: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let [batch, _, _, _] = x.dims();
        assert_shape!(time, [batch, _]);
        let time = if self.skip_time_activation { time } else { self.activation.forward(time) };
        let time: Tensor<2> = self.time_emb_proj.forward(time);
        let input = self.normalised(x.clone(), self.norm1.affine(&x)).resample(self.resample);
        let h = match self.time_shift {
            TimeShift::ScaleShift => {
                let h = self.conv1.apply(input);
                let channels = h.dims()[1];
                let scale = time.clone().narrow(1, 0, channels);
                let shift = time.narrow(1, channels, channels);
                let affine = self.norm2.affine(&h).then(scale, shift);
                self.normalised(h, affine)
            }
            TimeShift::Add => {
                let h = self.conv1.apply(input.add_each(time));
                let affine = self.norm2.affine(&h);
                self.normalised(h, affine)
            }
        };
        let x = match self.resample {
            Some(resample) => ops::resample(x, resample),
            None => x,
        };
        let x = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        };
        let sum = self.conv2.apply(h.residual(x));
        if self.output_scale == 1.0 { sum } else { sum / self.output_scale }
    }

    /// A convolution's input, normalised and activated.
    fn normalised(&self, x: Tensor<4>, affine: Affine) -> ConvInput {
        match self.activation {
            Activation::Silu => ConvInput::new(x).affine(affine).silu(),
            other => ConvInput::new(other.forward(ops::apply(x, &affine, false))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(resample: Option<Resample>) -> ResBlockConfig {
        ResBlockConfig {
            channels_in: 8,
            channels_out: 4,
            time_width: 6,
            groups: 2,
            epsilon: 1e-5,
            time_shift: TimeShift::ScaleShift,
            resample,
            activation: Activation::Silu,
            skip_time_activation: false,
            output_scale: 1.0,
        }
    }

    #[test]
    fn resampling_changes_both_axes_and_nothing_else() {
        let device = Device::flex();
        for (resample, expected) in [
            (None, [2, 4, 6, 10]),
            (Some(Resample::Down), [2, 4, 3, 5]),
            (Some(Resample::Up), [2, 4, 12, 20]),
        ] {
            let block = config(resample).init(&device);
            let out =
                block.forward(Tensor::ones([2, 8, 6, 10], &device), Tensor::zeros([2, 6], &device));
            assert_eq!(out.dims(), expected, "{resample:?}");
        }
    }

    #[test]
    fn the_output_scale_divides() {
        let device = Device::flex();
        let mut block = config(None).init(&device);
        let run = |block: &ResBlock| {
            block
                .forward(Tensor::ones([1, 8, 4, 4], &device), Tensor::ones([1, 6], &device))
                .into_data()
                .try_to_vec::<f32>()
                .expect("32-bit floats")
        };
        let plain = run(&block);
        block.output_scale = 2.0;
        let halved = run(&block);
        assert!(plain.iter().zip(&halved).all(|(a, b)| a / 2.0 == *b), "{plain:?} {halved:?}");
    }
}
