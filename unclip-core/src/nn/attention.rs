//! Attention over pixels and a caption at once.
//!
//! GLIDE (Nichol et al. 2021) gives image tokens extra keys and values projected from the text; follows diffusers
//! `models/attention_processor.py`, `AttnAddedKVProcessor`. The context comes first in the sequence of keys.

use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor, assert_shape},
};

use super::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use crate::ops::{self, LinearInput};

/// `[batch, length, heads · width]` to `[batch, heads, length, width]`.
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, channels] = x.dims();
    x.reshape([batch, length, heads, channels / heads]).swap_dims(1, 2)
}

/// `[batch, heads, length, width]` to `[batch, length, heads · width]`.
pub fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, length, heads * width])
}

/// The sizes of an [`AddedKvAttention`].
#[derive(Config, Debug)]
pub struct AddedKvAttentionConfig {
    /// Channels of the picture.
    pub channels: usize,
    /// Width of one head; the channels hold `channels / head_width` heads.
    pub head_width: usize,
    /// Width of a context token.
    pub context_width: usize,
    /// Groups of the normalisation.
    pub groups: usize,
    /// Whether pixels see the context alone, and no other pixel.
    #[config(default = false)]
    pub only_context: bool,
}

/// Attention whose keys and values are a context's, followed by the picture's own.
#[derive(Module, Debug)]
pub struct AddedKvAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    /// Absent when pixels see the context alone.
    to_k: Option<Linear>,
    /// Absent when pixels see the context alone.
    to_v: Option<Linear>,
    add_k_proj: Linear,
    add_v_proj: Linear,
    to_out: Linear,
    #[module(skip)]
    heads: usize,
}

impl AddedKvAttentionConfig {
    /// A block with random weights on `device`.
    ///
    /// # Panics
    ///
    /// When `head_width` or `groups` does not divide `channels`.
    pub fn init(&self, device: &Device) -> AddedKvAttention {
        let Self { channels, head_width, context_width, groups, only_context } = *self;
        assert!(
            channels.is_multiple_of(head_width),
            "heads of {head_width} channels do not divide {channels} channels"
        );
        let own = || LinearConfig::new(channels, channels).init(device);
        let added = || LinearConfig::new(context_width, channels).init(device);
        AddedKvAttention {
            // This epsilon is the reference's own constant; the network's `norm_eps` does not reach it.
            group_norm: GroupNormConfig::new(groups, channels).with_epsilon(1e-5).init(device),
            to_q: own(),
            to_k: (!only_context).then(own),
            to_v: (!only_context).then(own),
            add_k_proj: added(),
            add_v_proj: added(),
            to_out: own(),
            heads: channels / head_width,
        }
    }
}

/// A context's keys and values in one block, each `[batch, tokens, channels]`.
#[derive(Debug, Clone)]
pub struct ContextKeysValues {
    key: Tensor<3>,
    value: Tensor<3>,
}

impl AddedKvAttention {
    /// Applies the block, residual included.
    ///
    /// # Shapes
    ///
    /// - `x`: `[batch, channels, height, width]`
    /// - `context`: `[batch, tokens, context_width]`
    /// - `context_bias`: `[batch, tokens]`, added to the scores of each token: 0, or a large negative number for a
    ///   masked one
    /// - output: `[batch, channels, height, width]`
    ///
    /// # Panics
    ///
    /// When an axis differs from the shapes above.
    pub fn forward(
        &self,
        x: Tensor<4>,
        context: Tensor<3>,
        context_bias: Option<Tensor<2>>,
    ) -> Tensor<4> {
        self.forward_cached(x, self.context_keys_values(context), context_bias)
    }

    /// What the block makes of a context `[batch, tokens, context_width]`, whatever the picture.
    pub fn context_keys_values(&self, context: Tensor<3>) -> ContextKeysValues {
        ContextKeysValues {
            key: self.add_k_proj.forward(context.clone()),
            value: self.add_v_proj.forward(context),
        }
    }

    /// [`forward`](Self::forward) with a context whose keys and values are there already.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_cached(
        &self,
        x: Tensor<4>,
        context: ContextKeysValues,
        context_bias: Option<Tensor<2>>,
    ) -> Tensor<4> {
        let ContextKeysValues { mut key, mut value } = context;
        let [batch, channels, height, width] = x.dims();
        assert_shape!(key, [batch, _, _]);
        let pixels = height * width;
        let tokens = key.dims()[1];
        let u = ops::to_tokens(self.group_norm.forward(x.clone()));
        let query = self.to_q.forward(u.clone());
        let mut own_keys = 0;
        if let (Some(to_k), Some(to_v)) = (&self.to_k, &self.to_v) {
            key = Tensor::cat(vec![key, to_k.forward(u.clone())], 1);
            value = Tensor::cat(vec![value, to_v.forward(u)], 1);
            own_keys = pixels;
        }
        let bias = context_bias.map(|bias| {
            let device = bias.device();
            let own = Tensor::zeros([batch, own_keys], (&device, bias.dtype()));
            let row = if own_keys == 0 { bias } else { Tensor::cat(vec![bias, own], 1) };
            row.reshape([batch, 1, 1, tokens + own_keys])
        });
        let scale = ((channels / self.heads) as f64).powf(-0.5);
        let attended = ops::attention(
            split_heads(query, self.heads),
            split_heads(key, self.heads),
            split_heads(value, self.heads),
            bias,
            scale,
        );
        let out =
            self.to_out.apply(LinearInput::new(join_heads(attended)).residual(ops::to_tokens(x)));
        ops::from_tokens(out, [height, width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_token_changes_nothing() {
        let device = Device::flex();
        let block = AddedKvAttentionConfig::new(8, 4, 6, 2).init(&device);
        let x = Tensor::random([1, 8, 3, 5], burn::tensor::Distribution::Default, &device);
        let context = Tensor::random([1, 3, 6], burn::tensor::Distribution::Default, &device);
        let other = Tensor::cat(
            vec![context.clone().narrow(1, 0, 2), context.clone().narrow(1, 2, 1) + 5.0],
            1,
        );
        let bias = Tensor::from_floats([[0.0, 0.0, -10000.0]], &device);
        let run = |context, bias| {
            block.forward(x.clone(), context, bias).into_data().try_to_vec::<f32>().expect("floats")
        };
        assert_eq!(run(context.clone(), Some(bias.clone())), run(other.clone(), Some(bias)));
        assert_ne!(run(context, None), run(other, None));
    }
}
