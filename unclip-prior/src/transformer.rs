//! The blocks of the prior's transformer.
//!
//! Vaswani et al. 2017 with the normalisation in front (Xiong et al. 2020); follows diffusers `models/attention.py`,
//! `BasicTransformerBlock`, without cross-attention. There is no `norm2`, which would have been the cross-attention's.

use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor, s},
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
    /// Applies the block, and gives the keys and values of its tokens.
    ///
    /// # Shapes
    ///
    /// - `x` and output: `[batch, length, width]`
    /// - `bias`: added to the scores, `[batch, 1, length, length]`
    pub(crate) fn forward(&self, x: Tensor<3>, bias: Option<Tensor<4>>) -> (Tensor<3>, KeysValues) {
        let normal = self.norm1.forward(x.clone());
        let own = self.attn1.keys_values(&normal);
        (self.apply(x, normal, own.clone(), bias), own)
    }

    /// Applies the block to the last of the tokens in `cache`, whose keys and values are written there.
    ///
    /// # Shapes
    ///
    /// - `x` and output: `[batch, later, width]`
    /// - `bias`: added to the scores, `[batch, 1, later, length]`
    pub(crate) fn forward_behind(
        &self,
        cache: &mut KeysValues,
        x: Tensor<3>,
        bias: Option<Tensor<4>>,
    ) -> Tensor<3> {
        let normal = self.norm1.forward(x.clone());
        cache.set_last(self.attn1.keys_values(&normal));
        self.apply(x, normal, cache.clone(), bias)
    }

    /// The keys and values of tokens `[batch, length, width]`, which is all that later tokens see of them here.
    pub(crate) fn keys_values(&self, x: Tensor<3>) -> KeysValues {
        self.attn1.keys_values(&self.norm1.forward(x))
    }

    /// Applies the block to `x`, normalised already, among tokens of these keys and values.
    fn apply(
        &self,
        x: Tensor<3>,
        normal: Tensor<3>,
        seen: KeysValues,
        bias: Option<Tensor<4>>,
    ) -> Tensor<3> {
        let x = self.attn1.forward(normal, seen, x, bias);
        let normal = LinearInput::new(self.norm3.forward(x.clone()));
        let inner = self.ff_in.apply(normal.activation(Activation::Gelu));
        self.ff_out.apply(LinearInput::new(inner).residual(x))
    }
}

impl SelfAttention {
    fn keys_values(&self, x: &Tensor<3>) -> KeysValues {
        KeysValues { keys: self.to_k.forward(x.clone()), values: self.to_v.forward(x.clone()) }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        seen: KeysValues,
        residual: Tensor<3>,
        bias: Option<Tensor<4>>,
    ) -> Tensor<3> {
        let head_width = x.dims()[2] / self.n_heads;
        let heads = |x| split_heads(x, self.n_heads);
        let attended = ops::attention(
            heads(self.to_q.forward(x)),
            heads(seen.keys),
            heads(seen.values),
            bias,
            (head_width as f64).powf(-0.5),
        );
        self.to_out.apply(LinearInput::new(join_heads(attended)).residual(residual))
    }
}

/// What a block's attention sees of tokens, each `[batch, tokens, width]`.
#[derive(Debug, Clone)]
pub(crate) struct KeysValues {
    keys: Tensor<3>,
    values: Tensor<3>,
}

impl KeysValues {
    /// For a batch of the rows at `rows`, with room for `later` tokens behind those that are there.
    pub(crate) fn with_room(self, rows: &[usize], later: usize) -> Self {
        let enlarge = |x: Tensor<3>| {
            let [_, _, width] = x.dims();
            let room = Tensor::zeros([1, later, width], (&x.device(), x.dtype()));
            let row =
                |row: &usize| Tensor::cat(vec![x.clone().narrow(0, *row, 1), room.clone()], 1);
            Tensor::cat(rows.iter().map(row).collect(), 0)
        };
        Self { keys: enlarge(self.keys), values: enlarge(self.values) }
    }

    /// Writes the last tokens, in place where the device can.
    fn set_last(&mut self, last: Self) {
        let set = |x: &mut Tensor<3>, last: Tensor<3>| {
            let ([_, tokens, _], [_, later, _]) = (x.dims(), last.dims());
            x.inplace(|x| x.slice_assign(s![.., tokens - later..tokens, ..], last));
        };
        set(&mut self.keys, last.keys);
        set(&mut self.values, last.values);
    }
}
