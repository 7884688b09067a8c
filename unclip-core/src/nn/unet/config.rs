//! The sizes of the UNet, and whether they go together.

use crate::nn::{Activation, TimeShift};

/// The attention of a [`UNet`](crate::nn::UNet).
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// Width of a context token.
    pub context_width: usize,
    /// Width of a head, for each level of the way down.
    pub down_head_widths: Vec<usize>,
    /// Width of a head in the middle.
    pub mid_head_width: usize,
    /// Width of a head, for each level of the way up, the coarsest first.
    pub up_head_widths: Vec<usize>,
    /// Whether pixels see the context alone, for each level of the way down.
    pub only_context: Vec<bool>,
    /// Whether pixels see the context alone in the middle.
    pub mid_only_context: bool,
}

/// The sizes of a [`UNet`](crate::nn::UNet).
#[derive(Debug, Clone, PartialEq)]
pub struct UNetConfig {
    /// Channels of the input.
    pub channels_in: usize,
    /// Channels of the output.
    pub channels_out: usize,
    /// Channels of each level, the finest first.
    pub level_channels: Vec<usize>,
    /// Residual blocks of each level on the way down; the way up has one more.
    pub level_blocks: Vec<usize>,
    /// Which levels have attention on the way down.
    pub down_attention: Vec<bool>,
    /// Which levels have attention on the way up, the coarsest first.
    pub up_attention: Vec<bool>,
    /// Whether the middle has attention.
    pub mid_attention: bool,
    /// The attention's sizes; needed when any level or the middle has it.
    pub attention: Option<AttentionConfig>,
    /// Groups of every normalisation.
    pub groups: usize,
    /// Added to the variance in the normalisations outside attention.
    pub epsilon: f64,
    /// How the time embedding enters residual blocks.
    pub time_shift: TimeShift,
    /// Width of the time embedding.
    pub time_width: usize,
    /// The activation everywhere.
    pub activation: Activation,
    /// Whether the cosine half of the sinusoids comes first.
    pub cosine_first: bool,
    /// See [`Sinusoid::frequency_shift`](crate::nn::Sinusoid::frequency_shift).
    pub frequency_shift: f64,
    /// Whether the input is first mapped from `[0, 1]` to `[-1, 1]`.
    pub center_input: bool,
    /// An activation applied to the time embedding once more, after the class embedding was added.
    pub time_embedding_activation: Option<Activation>,
    /// An activation after the time embedding's second linear layer.
    pub time_post_activation: Option<Activation>,
    /// See [`ResBlockConfig::skip_time_activation`](crate::nn::ResBlockConfig::skip_time_activation).
    pub skip_time_activation: bool,
    /// See [`ResBlockConfig::output_scale`](crate::nn::ResBlockConfig::output_scale); outside the middle.
    pub output_scale: f64,
    /// See [`ResBlockConfig::output_scale`](crate::nn::ResBlockConfig::output_scale); in the middle.
    pub mid_output_scale: f64,
    /// Side of the first convolution's kernel.
    pub kernel_in: usize,
    /// Side of the last convolution's kernel.
    pub kernel_out: usize,
}

/// A value that keeps a [`UNetConfig`] from being built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The value's key in diffusers' configurations.
    pub key: &'static str,
    /// What would fit.
    pub expected: String,
}

/// More levels than any network in use; each halves the picture.
const MAX_LEVELS: usize = 8;
/// More residual blocks a level than any network in use.
const MAX_BLOCKS: usize = 32;
/// Wider than any layer in use.
const MAX_CHANNELS: usize = 1 << 15;
/// Larger than any kernel in use.
const MAX_KERNEL: usize = 15;

fn divides(divisor: usize, number: usize) -> bool {
    divisor > 0 && number.is_multiple_of(divisor)
}

impl UNetConfig {
    /// How much smaller the coarsest level is than the input; heights and widths must be multiples of it.
    pub fn reduction(&self) -> usize {
        1 << (self.level_channels.len().saturating_sub(1))
    }

    /// What keeps a network of these sizes from being built, if anything.
    ///
    /// The bounds are far above any network in use; they keep a configuration from a file from asking for the absurd.
    pub fn misfit(&self) -> Option<Misfit> {
        let levels = self.level_channels.len();
        let misfit = |key, expected| Some(Misfit { key, expected });
        if levels == 0 || levels > MAX_LEVELS {
            return misfit("block_out_channels", format!("1 to {MAX_LEVELS} levels"));
        }
        for (key, length) in [
            ("layers_per_block", self.level_blocks.len()),
            ("down_block_types", self.down_attention.len()),
            ("up_block_types", self.up_attention.len()),
        ] {
            if length != levels {
                return misfit(key, format!("{levels}, as many as `block_out_channels`"));
            }
        }
        if self.level_blocks.iter().any(|blocks| !(1..=MAX_BLOCKS).contains(blocks)) {
            return misfit("layers_per_block", format!("1 to {MAX_BLOCKS}"));
        }
        if self.level_channels.iter().any(|width| !(1..=MAX_CHANNELS).contains(width)) {
            return misfit("block_out_channels", format!("1 to {MAX_CHANNELS} each"));
        }
        for (key, width) in [
            ("in_channels", self.channels_in),
            ("out_channels", self.channels_out),
            ("time_embedding_dim", self.time_width),
        ] {
            if !(1..=MAX_CHANNELS).contains(&width) {
                return misfit(key, format!("1 to {MAX_CHANNELS}"));
            }
        }
        if let Some(channels) = self.level_channels.iter().find(|c| !divides(self.groups, **c)) {
            return misfit("norm_num_groups", format!("a divisor of {channels} channels"));
        }
        let half = self.level_channels[0] / 2;
        if self.frequency_shift < 0.0 || self.frequency_shift >= half as f64 {
            return misfit("freq_shift", format!("at least 0 and less than {half}"));
        }
        for (key, side) in
            [("conv_in_kernel", self.kernel_in), ("conv_out_kernel", self.kernel_out)]
        {
            // An even kernel would change the size of the picture.
            if side % 2 == 0 || side > MAX_KERNEL {
                return misfit(key, format!("an odd number up to {MAX_KERNEL}"));
            }
        }
        for (key, value, positive) in [
            ("norm_eps", self.epsilon, false),
            ("resnet_out_scale_factor", self.output_scale, true),
            ("mid_block_scale_factor", self.mid_output_scale, true),
        ] {
            if !value.is_finite() || value < 0.0 || (positive && value == 0.0) {
                return misfit(key, "a positive number".to_owned());
            }
        }
        self.attention_misfit(levels)
    }

    fn attention_misfit(&self, levels: usize) -> Option<Misfit> {
        let misfit = |key, expected| Some(Misfit { key, expected });
        let attends = self.mid_attention
            || self.down_attention.iter().chain(&self.up_attention).any(|&attention| attention);
        let Some(attention) = &self.attention else {
            return attends
                .then(|| Misfit { key: "cross_attention_dim", expected: "a size".to_owned() });
        };
        if !(1..=MAX_CHANNELS).contains(&attention.context_width) {
            return misfit("cross_attention_dim", format!("1 to {MAX_CHANNELS}"));
        }
        for length in [attention.down_head_widths.len(), attention.up_head_widths.len()] {
            if length != levels {
                return misfit("attention_head_dim", format!("a number, or {levels} of them"));
            }
        }
        if attention.only_context.len() != levels {
            return misfit("only_cross_attention", format!("true or false, or {levels} of them"));
        }
        let down = (0..levels)
            .filter(|&level| self.down_attention[level])
            .map(|level| (attention.down_head_widths[level], self.level_channels[level]));
        let up = (0..levels)
            .filter(|&step| self.up_attention[step])
            .map(|step| (attention.up_head_widths[step], self.level_channels[levels - 1 - step]));
        let mid = self
            .mid_attention
            .then_some((attention.mid_head_width, self.level_channels[levels - 1]));
        down.chain(up).chain(mid).find(|&(head, channels)| !divides(head, channels)).and_then(
            |(_, channels)| {
                misfit("attention_head_dim", format!("a divisor of {channels} channels"))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn small() -> UNetConfig {
        UNetConfig {
            channels_in: 3,
            channels_out: 6,
            level_channels: vec![4, 8],
            level_blocks: vec![1, 2],
            down_attention: vec![false, true],
            up_attention: vec![true, false],
            mid_attention: true,
            attention: Some(AttentionConfig {
                context_width: 5,
                down_head_widths: vec![3, 4],
                mid_head_width: 2,
                up_head_widths: vec![8, 3],
                only_context: vec![false, true],
                mid_only_context: false,
            }),
            groups: 2,
            epsilon: 1e-5,
            time_shift: TimeShift::ScaleShift,
            time_width: 16,
            activation: Activation::Silu,
            cosine_first: true,
            frequency_shift: 0.0,
            center_input: false,
            time_embedding_activation: None,
            time_post_activation: None,
            skip_time_activation: false,
            output_scale: 1.0,
            mid_output_scale: 1.0,
            kernel_in: 3,
            kernel_out: 3,
        }
    }

    #[test]
    fn sizes_that_go_together_are_built() {
        // A head width counts only where there is attention: 3 divides neither 4 nor 8.
        assert_eq!(small().misfit(), None);
        small().init(&Device::flex());
    }

    #[test]
    fn each_misfit_is_named_as_in_the_configuration() {
        type Change = fn(&mut UNetConfig);
        let cases: [(&str, Change); 14] = [
            ("block_out_channels", |c| c.level_channels.clear()),
            ("block_out_channels", |c| c.level_channels[1] = 1 << 40),
            ("layers_per_block", |c| c.level_blocks[0] = 0),
            ("layers_per_block", |c| c.level_blocks.push(1)),
            ("up_block_types", |c| c.up_attention.push(true)),
            ("norm_num_groups", |c| c.groups = 0),
            ("norm_num_groups", |c| c.groups = 8),
            ("freq_shift", |c| c.frequency_shift = 2.0),
            ("conv_out_kernel", |c| c.kernel_out = 2),
            ("resnet_out_scale_factor", |c| c.output_scale = 0.0),
            ("norm_eps", |c| c.epsilon = f64::NAN),
            ("time_embedding_dim", |c| c.time_width = 0),
            ("cross_attention_dim", |c| c.attention = None),
            ("attention_head_dim", |c| {
                c.attention.as_mut().expect("there is attention").up_head_widths[0] = 3;
            }),
        ];
        for (key, change) in cases {
            let mut config = small();
            change(&mut config);
            assert_eq!(config.misfit().expect(key).key, key);
        }
    }
}
