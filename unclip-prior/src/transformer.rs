//! The blocks of the prior's transformer.
//!
//! Vaswani et al. 2017 with the normalisation in front (Xiong et al. 2020); follows diffusers `models/attention.py`,
//! `BasicTransformerBlock`, without cross-attention. There is no `norm2`, which would have been the cross-attention's.

use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor},
};
use unclip_core::{
    nn::{Activation, LayerNorm, LayerNormConfig, Linear, LinearConfig, join_heads, split_heads},
    ops::{self, LinearInput},
};

/// How much wider the inner layer is than the block.
const INNER_FACTOR: usize = 4;

/// The sizes of a [`Block`].
#[derive(Config, Debug)]
pub(crate) struct BlockConfig {
    /// Width of a token.
    pub width: usize,
    /// Heads that the width falls into.
    pub n_heads: usize,
}

/// Self-attention, then two linear layers with a GELU between them; a residual around each.
#[derive(Module, Debug)]
pub(crate) struct Block {
    norm1: LayerNorm,
    attn1: SelfAttention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

#[derive(Module, Debug)]
struct SelfAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    #[module(skip)]
    n_heads: usize,
}

impl BlockConfig {
    /// A block with random weights on `device`.
    pub(crate) fn init(&self, device: &Device) -> Block {
        let width = self.width;
        let norm = || LayerNormConfig::new(width).init(device);
        let square = || LinearConfig::new(width, width).init(device);
        Block {
            norm1: norm(),
            attn1: SelfAttention {
                to_q: square(),
                to_k: square(),
                to_v: square(),
                to_out: square(),
                n_heads: self.n_heads,
            },
            norm3: norm(),
            ff_in: LinearConfig::new(width, INNER_FACTOR * width).init(device),
            ff_out: LinearConfig::new(INNER_FACTOR * width, width).init(device),
        }
    }
}

impl Block {
    /// Applies the block.
    ///
    /// # Shapes
    ///
    /// - `x` and output: `[batch, length, width]`
    /// - `bias`: added to the scores, `[batch, 1, length, length]`
    pub(crate) fn forward(&self, x: Tensor<3>, bias: Option<Tensor<4>>) -> Tensor<3> {
        let normal = self.norm1.forward(x.clone());
        let x = self.attn1.forward(normal, x, bias);
        let normal = LinearInput::new(self.norm3.forward(x.clone()));
        let inner = self.ff_in.apply(normal.activation(Activation::Gelu));
        self.ff_out.apply(LinearInput::new(inner).residual(x))
    }
}

impl SelfAttention {
    fn forward(&self, x: Tensor<3>, residual: Tensor<3>, bias: Option<Tensor<4>>) -> Tensor<3> {
        let head_width = x.dims()[2] / self.n_heads;
        let heads = |layer: &Linear| split_heads(layer.forward(x.clone()), self.n_heads);
        let attended = ops::attention(
            heads(&self.to_q),
            heads(&self.to_k),
            heads(&self.to_v),
            bias,
            (head_width as f64).powf(-0.5),
        );
        self.to_out.apply(LinearInput::new(join_heads(attended)).residual(residual))
    }
}
