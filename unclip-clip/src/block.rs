//! The transformer that both towers are made of.
//!
//! Pre-norm residual layers (Radford et al. 2019 for the text tower, Dosovitskiy et al. 2021 for the vision tower), under
//! the names of transformers `modeling_clip.py`, `CLIPEncoder`.

use burn::{
    module::Module,
    tensor::{DType, Device, FloatDType, Tensor},
};
use unclip_core::{
    nn::{Activation, LayerNorm, LayerNormConfig, Linear, LinearConfig, join_heads, split_heads},
    ops::{self, LinearInput},
};

/// The sizes that both towers have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerConfig {
    pub(crate) width: usize,
    pub(crate) mlp_width: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    pub(crate) epsilon: f64,
}

/// A stack of [`Layer`]s.
#[derive(Module, Debug)]
pub(crate) struct Transformer {
    layers: Vec<Layer>,
    /// The type of the activations between the layers, where it is not the input's.
    #[module(skip)]
    pub(crate) compute: Option<FloatDType>,
}

/// Attention and a two-layer perceptron, each behind a normalisation and around a residual.
#[derive(Module, Debug)]
pub(crate) struct Layer {
    self_attn: SelfAttention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

#[derive(Module, Debug)]
pub(crate) struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

#[derive(Module, Debug)]
pub(crate) struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl TransformerConfig {
    /// A normalisation of this transformer's width.
    pub(crate) fn norm(&self, device: &Device) -> LayerNorm {
        LayerNormConfig::new(self.width).with_epsilon(self.epsilon).init(device)
    }

    /// A stack with random weights on `device`. The number of heads divides the width.
    pub(crate) fn init(&self, device: &Device) -> Transformer {
        let square = || LinearConfig::new(self.width, self.width).init(device);
        let layer = |_| Layer {
            self_attn: SelfAttention {
                q_proj: square(),
                k_proj: square(),
                v_proj: square(),
                out_proj: square(),
                heads: self.heads,
            },
            layer_norm1: self.norm(device),
            mlp: Mlp {
                fc1: LinearConfig::new(self.width, self.mlp_width).init(device),
                fc2: LinearConfig::new(self.mlp_width, self.width).init(device),
                activation: self.activation,
            },
            layer_norm2: self.norm(device),
        };
        Transformer { layers: (0..self.layers).map(layer).collect(), compute: None }
    }
}

impl Transformer {
    /// Applies every layer. `states`, where wanted, takes the input and each layer's output.
    ///
    /// # Shapes
    ///
    /// - `x` and output: `[batch, tokens, width]`, of the same type
    /// - `bias`: `[batch, 1, tokens, tokens]`, added to the scores
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        bias: Option<&Tensor<4>>,
        mut states: Option<&mut Vec<Tensor<3>>>,
    ) -> Tensor<3> {
        let given = x.dtype();
        let mut x = x.cast(self.compute.map_or(given, DType::from));
        for layer in &self.layers {
            if let Some(states) = &mut states {
                states.push(x.clone());
            }
            x = layer.forward(x, bias);
        }
        if let Some(states) = states {
            states.push(x.clone());
        }
        x.cast(given)
    }
}

impl Layer {
    fn forward(&self, x: Tensor<3>, bias: Option<&Tensor<4>>) -> Tensor<3> {
        let x = self.self_attn.forward(self.layer_norm1.forward(x.clone()), x, bias);
        self.mlp.forward(self.layer_norm2.forward(x.clone()), x)
    }
}

impl SelfAttention {
    fn forward(&self, x: Tensor<3>, residual: Tensor<3>, bias: Option<&Tensor<4>>) -> Tensor<3> {
        let [_, _, width] = x.dims();
        let project = |layer: &Linear| split_heads(layer.forward(x.clone()), self.heads);
        let scale = ((width / self.heads) as f64).powf(-0.5);
        let attended = ops::attention(
            project(&self.q_proj),
            project(&self.k_proj),
            project(&self.v_proj),
            bias.cloned(),
            scale,
        );
        self.out_proj.apply(LinearInput::new(join_heads(attended)).residual(residual))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let inner = self.fc1.apply(LinearInput::new(x).activation(self.activation));
        self.fc2.apply(LinearInput::new(inner).residual(residual))
    }
}
