//! The layers: parameters under PyTorch's names, and one operation each.

use burn::{
    config::Config,
    module::{Module, Param},
    nn::Initializer,
    tensor::{Device, Int, Tensor},
};

use crate::ops::{self, Affine, ConvInput, Convolution, LinearInput, Weight};

/// PyTorch's default for linear layers and convolutions: uniform in `±1/√fan_in`.
fn uniform<const D: usize>(shape: [usize; D], fan_in: usize, device: &Device) -> Param<Tensor<D>> {
    let initializer =
        Initializer::KaimingUniform { gain: 1.0 / 3.0f64.sqrt(), fan_out_only: false };
    initializer.init_with(shape, Some(fan_in), None, device)
}

/// The sizes of a [`Linear`] layer.
#[derive(Config, Debug)]
pub struct LinearConfig {
    /// Width of the input.
    pub channels_in: usize,
    /// Width of the output.
    pub channels_out: usize,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
}

/// `y = x Wᵀ + b`, with the weight in PyTorch's layout.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[channels_out, channels_in]`.
    pub weight: Weight<2>,
    /// `[channels_out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl LinearConfig {
    /// A layer with random weights on `device`.
    pub fn init(&self, device: &Device) -> Linear {
        let Self { channels_in, channels_out, bias } = *self;
        Linear {
            weight: uniform([channels_out, channels_in], channels_in, device).into(),
            bias: bias.then(|| uniform([channels_out], channels_in, device)),
        }
    }
}

impl Linear {
    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - `x`: `[.., channels_in]`
    /// - output: `[.., channels_out]`
    ///
    /// # Panics
    ///
    /// When the last axis of `x` is not `channels_in`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.apply(LinearInput::new(x))
    }

    /// Applies the layer with what is done on the way out.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), and when the residual does not have the output's shape.
    pub fn apply<const D: usize>(&self, input: LinearInput<D>) -> Tensor<D> {
        ops::linear(input, &self.weight, self.bias.as_ref())
    }
}

/// The sizes of a [`Conv2d`] layer.
#[derive(Config, Debug)]
pub struct Conv2dConfig {
    /// Channels of the input.
    pub channels_in: usize,
    /// Channels of the output.
    pub channels_out: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Step between outputs.
    #[config(default = 1)]
    pub stride: usize,
    /// Zeros added on every side.
    #[config(default = 0)]
    pub padding: usize,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
}

/// Two-dimensional convolution.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[channels_out, channels_in, kernel, kernel]`.
    pub weight: Weight<4>,
    /// `[channels_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
}

impl Conv2dConfig {
    /// A layer with random weights on `device`.
    pub fn init(&self, device: &Device) -> Conv2d {
        let Self { channels_in, channels_out, kernel, stride, padding, bias } = *self;
        let fan_in = channels_in * kernel * kernel;
        Conv2d {
            weight: uniform([channels_out, channels_in, kernel, kernel], fan_in, device).into(),
            bias: bias.then(|| uniform([channels_out], fan_in, device)),
            stride,
            padding,
        }
    }
}

impl Conv2d {
    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - `x`: `[batch, channels_in, height, width]`
    /// - output: `[batch, channels_out, (height + 2·padding − kernel) / stride + 1, ..]`
    ///
    /// # Panics
    ///
    /// When `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.apply(ConvInput::new(x))
    }

    /// Applies the layer with what is done on the way in and out.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), and when what is added does not have the output's shape.
    pub fn apply(&self, input: ConvInput) -> Tensor<4> {
        let (stride, padding) = (self.stride, self.padding);
        let convolution =
            Convolution { weight: &self.weight, bias: self.bias.as_ref(), stride, padding };
        convolution.apply(input)
    }
}

/// The sizes of a [`LayerNorm`].
#[derive(Config, Debug)]
pub struct LayerNormConfig {
    /// Width of the normalised axis.
    pub width: usize,
    /// Added to the variance.
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

/// Layer normalisation over the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNormConfig {
    /// The identity scale and shift on `device`.
    pub fn init(&self, device: &Device) -> LayerNorm {
        LayerNorm {
            weight: Initializer::Ones.init([self.width], device),
            bias: Initializer::Zeros.init([self.width], device),
            epsilon: self.epsilon,
        }
    }
}

impl LayerNorm {
    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - `x` and output: `[.., width]`
    ///
    /// # Panics
    ///
    /// When the last axis of `x` is not `width`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// The sizes of a [`GroupNorm`].
#[derive(Config, Debug)]
pub struct GroupNormConfig {
    /// Groups that the channels fall into.
    pub groups: usize,
    /// Channels.
    pub channels: usize,
    /// Added to the variance.
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

/// Group normalisation of pictures.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    epsilon: f64,
}

impl GroupNormConfig {
    /// The identity scale and shift on `device`.
    ///
    /// # Panics
    ///
    /// When `groups` does not divide `channels`.
    pub fn init(&self, device: &Device) -> GroupNorm {
        let Self { groups, channels, epsilon } = *self;
        assert!(
            channels.is_multiple_of(groups),
            "{groups} groups do not divide {channels} channels"
        );
        GroupNorm {
            weight: Initializer::Ones.init([channels], device),
            bias: Initializer::Zeros.init([channels], device),
            groups,
            epsilon,
        }
    }
}

impl GroupNorm {
    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - `x` and output: `[batch, channels, height, width]`
    ///
    /// # Panics
    ///
    /// When `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let affine = self.affine(&x);
        ops::apply(x, &affine, false)
    }

    /// Applies the layer and then [`silu`](ops::silu).
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_silu(&self, x: Tensor<4>) -> Tensor<4> {
        let affine = self.affine(&x);
        ops::apply(x, &affine, true)
    }

    /// What the layer does to each channel of `x`, for whoever reads `x` next.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn affine(&self, x: &Tensor<4>) -> Affine {
        ops::group_norm_affine(x, self.groups, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// The sizes of an [`Embedding`] table.
#[derive(Config, Debug)]
pub struct EmbeddingConfig {
    /// Rows of the table.
    pub rows: usize,
    /// Width of a row.
    pub width: usize,
}

/// A table looked up by row.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, width]`.
    pub weight: Param<Tensor<2>>,
}

impl EmbeddingConfig {
    /// A table of unit Gaussians on `device`.
    pub fn init(&self, device: &Device) -> Embedding {
        let initializer = Initializer::Normal { mean: 0.0, std: 1.0 };
        Embedding { weight: initializer.init([self.rows, self.width], device) }
    }
}

impl Embedding {
    /// The rows that `ids` name, in 32 bits whatever the table's type.
    ///
    /// # Shapes
    ///
    /// - `ids`: `[batch, length]`, each below `rows`
    /// - output: `[batch, length, width]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.weight.val(), ids).cast(burn::tensor::FloatDType::F32)
    }
}
