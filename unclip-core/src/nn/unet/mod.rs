//! The UNet of the decoder and of the upsamplers.
//!
//! Paper §2.1 takes the ADM architecture (Dhariwal & Nichol 2021); the layout and the names follow diffusers
//! `UNet2DConditionModel` with `SimpleCrossAttn` blocks and `UNet2DModel` with `Resnet` blocks, of which Karlo's
//! networks are instances. One module serves both: levels may have attention or not, and so may the middle.

#[cfg(feature = "autodiff")]
mod checkpointed;
mod config;
mod context;

use burn::{
    module::Module,
    tensor::{DType, Device, FloatDType, Tensor},
};

#[cfg(feature = "autodiff")]
pub use checkpointed::Checkpointed;
pub use config::{AttentionConfig, Misfit, UNetConfig};
pub use context::ContextCache;

use super::{
    Activation, AddedKvAttention, AddedKvAttentionConfig, ContextKeysValues, Conv2d, Conv2dConfig,
    GroupNorm, GroupNormConfig, ResBlock, ResBlockConfig, Resample, TimestepEmbedding,
    TimestepEmbeddingConfig, sinusoidal, timestep::Sinusoid,
};
use crate::{
    device::among_workers,
    ops::{self, ConvInput},
};

/// What a [`UNet`] denoises, and under which conditions.
#[derive(Debug, Clone)]
pub struct UNetInput<'a> {
    noisy: Tensor<4>,
    timesteps: &'a [f32],
    class_embedding: Option<Tensor<2>>,
    context: Option<Tensor<3>>,
    context_cache: Option<ContextCache>,
    context_bias: Option<Tensor<2>>,
    first_features: Option<Tensor<4>>,
}

impl<'a> UNetInput<'a> {
    /// Noisy pictures `[batch, channels_in, height, width]` with one training timestep each.
    pub fn new(noisy: Tensor<4>, timesteps: &'a [f32]) -> Self {
        Self {
            noisy,
            timesteps,
            class_embedding: None,
            context: None,
            context_cache: None,
            context_bias: None,
            first_features: None,
        }
    }

    /// A vector `[batch, time_width]` added to the time embedding.
    #[must_use]
    pub fn class_embedding(mut self, class_embedding: Tensor<2>) -> Self {
        self.class_embedding = Some(class_embedding);
        self
    }

    /// Added to what the first convolution makes of the pictures, `[batch, level_channels[0], height, width]`: the
    /// first convolution of further input channels, whose weights are kept elsewhere.
    #[must_use]
    pub fn first_features(mut self, features: Tensor<4>) -> Self {
        self.first_features = Some(features);
        self
    }

    /// Tokens `[batch, tokens, context_width]` that attention sees beside the pixels.
    #[must_use]
    pub fn context(mut self, context: Tensor<3>) -> Self {
        self.context = Some(context);
        self
    }

    /// What the network has made of a context, in its place: the same for all steps of a run.
    #[must_use]
    pub fn context_cache(mut self, cache: ContextCache) -> Self {
        self.context_cache = Some(cache);
        self
    }

    /// What is added to the scores of each context token, `[batch, tokens]`: 0, or −10000 for a masked one.
    #[must_use]
    pub fn context_bias(mut self, context_bias: Tensor<2>) -> Self {
        self.context_bias = Some(context_bias);
        self
    }
}

/// A level of the way down.
#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResBlock>,
    attentions: Vec<AddedKvAttention>,
    downsamplers: Vec<ResBlock>,
}

/// The middle: two residual blocks, with attention between them in the decoder.
#[derive(Module, Debug)]
struct MidBlock {
    resnets: Vec<ResBlock>,
    attentions: Vec<AddedKvAttention>,
}

/// A level of the way up.
#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResBlock>,
    attentions: Vec<AddedKvAttention>,
    upsamplers: Vec<ResBlock>,
}

/// A network from a noisy picture to a prediction of the same size.
#[derive(Module, Debug)]
pub struct UNet {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    sinusoid: Sinusoid,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    center_input: bool,
    #[module(skip)]
    time_embedding_activation: Option<Activation>,
    #[module(skip)]
    time_post_activation: Option<Activation>,
    /// The type of the activations; the input's where there is none.
    #[module(skip)]
    compute: Option<FloatDType>,
}

/// Checkpoint names that differ from the paths of [`UNet`]'s module tree: `(field, checkpoint)`.
pub const UNET_NAMES: &[(&str, &str)] = &[("to_out", "to_out.0")];

impl UNetConfig {
    /// A network with random weights on `device`.
    ///
    /// # Panics
    ///
    /// When the lists are of different lengths or empty, a group or head width does not divide its channels, or
    /// attention is asked for without its sizes: when there is a [`misfit`](Self::misfit).
    pub fn init(&self, device: &Device) -> UNet {
        let levels = self.level_channels.len();
        assert!(levels > 0, "a UNet needs at least one level");
        for (name, length) in [
            ("level_blocks", self.level_blocks.len()),
            ("down_attention", self.down_attention.len()),
            ("up_attention", self.up_attention.len()),
        ] {
            assert_eq!(length, levels, "`{name}` must have one entry a level");
        }
        let finest = self.level_channels[0];
        let coarsest = self.level_channels[levels - 1];
        let last = levels - 1;

        let down_blocks = (0..levels)
            .map(|level| {
                let channels = self.level_channels[level];
                let before = self.level_channels[level.saturating_sub(1)];
                let blocks = self.level_blocks[level];
                DownBlock {
                    resnets: (0..blocks)
                        .map(|i| {
                            self.res_block(if i == 0 { before } else { channels }, channels, None)
                                .init(device)
                        })
                        .collect(),
                    attentions: (0..if self.down_attention[level] { blocks } else { 0 })
                        .map(|_| {
                            self.attention(
                                channels,
                                |a| (a.down_head_widths[level], a.only_context[level]),
                                device,
                            )
                        })
                        .collect(),
                    downsamplers: (level < last)
                        .then(|| {
                            self.res_block(channels, channels, Some(Resample::Down)).init(device)
                        })
                        .into_iter()
                        .collect(),
                }
            })
            .collect();

        let mid = ResBlockConfig {
            output_scale: self.mid_output_scale,
            ..self.res_block(coarsest, coarsest, None)
        };
        let mid_block = MidBlock {
            resnets: (0..2).map(|_| mid.init(device)).collect(),
            attentions: self
                .mid_attention
                .then(|| {
                    self.attention(coarsest, |a| (a.mid_head_width, a.mid_only_context), device)
                })
                .into_iter()
                .collect(),
        };

        let up_blocks = (0..levels)
            .map(|step| {
                let level = last - step;
                let channels = self.level_channels[level];
                let before = if step == 0 { coarsest } else { self.level_channels[level + 1] };
                let finer = self.level_channels[level.saturating_sub(1)];
                let blocks = self.level_blocks[level] + 1;
                UpBlock {
                    resnets: (0..blocks)
                        .map(|i| {
                            let own = if i == 0 { before } else { channels };
                            let skip = if i + 1 == blocks { finer } else { channels };
                            self.res_block(own + skip, channels, None).init(device)
                        })
                        .collect(),
                    attentions: (0..if self.up_attention[step] { blocks } else { 0 })
                        .map(|_| {
                            self.attention(
                                channels,
                                |a| (a.up_head_widths[step], a.only_context[level]),
                                device,
                            )
                        })
                        .collect(),
                    upsamplers: (step < last)
                        .then(|| {
                            self.res_block(channels, channels, Some(Resample::Up)).init(device)
                        })
                        .into_iter()
                        .collect(),
                }
            })
            .collect();

        UNet {
            conv_in: Conv2dConfig::new(self.channels_in, finest, self.kernel_in)
                .with_padding((self.kernel_in - 1) / 2)
                .init(device),
            time_embedding: TimestepEmbeddingConfig::new(finest, self.time_width, self.time_width)
                .init(self.activation, device),
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNormConfig::new(self.groups, finest)
                .with_epsilon(self.epsilon)
                .init(device),
            conv_out: Conv2dConfig::new(finest, self.channels_out, self.kernel_out)
                .with_padding((self.kernel_out - 1) / 2)
                .init(device),
            sinusoid: Sinusoid {
                width: finest,
                cosine_first: self.cosine_first,
                frequency_shift: self.frequency_shift,
            },
            activation: self.activation,
            center_input: self.center_input,
            time_embedding_activation: self.time_embedding_activation,
            time_post_activation: self.time_post_activation,
            compute: None,
        }
    }

    fn res_block(
        &self,
        channels_in: usize,
        channels_out: usize,
        resample: Option<Resample>,
    ) -> ResBlockConfig {
        ResBlockConfig {
            channels_in,
            channels_out,
            time_width: self.time_width,
            groups: self.groups,
            epsilon: self.epsilon,
            time_shift: self.time_shift,
            resample,
            activation: self.activation,
            skip_time_activation: self.skip_time_activation,
            output_scale: self.output_scale,
        }
    }

    fn attention(
        &self,
        channels: usize,
        sizes: impl Fn(&AttentionConfig) -> (usize, bool),
        device: &Device,
    ) -> AddedKvAttention {
        let attention = self.attention.as_ref();
        assert!(
            attention.is_some(),
            "a level has attention, but the configuration gives no sizes for it"
        );
        let (context_width, (head_width, only_context)) =
            attention.map(|a| (a.context_width, sizes(a))).unwrap_or_default();
        AddedKvAttentionConfig::new(channels, head_width, context_width, self.groups)
            .with_only_context(only_context)
            .init(device)
    }
}

impl UNet {
    /// Sets the type of the activations between the layers; by default they have the input's.
    ///
    /// In `bf16` products are taken of 16-bit factors. Sums, norms, softmax and what becomes of the timestep stay in 32
    /// bits, and so does the output.
    #[must_use]
    pub fn compute_in(mut self, dtype: FloatDType) -> Self {
        self.compute = Some(dtype);
        self
    }

    /// Applies the network.
    ///
    /// # Shapes
    ///
    /// - `input`: as [`UNetInput`] says; heights and widths are multiples of [`UNetConfig::reduction`]
    /// - output: `[batch, channels_out, height, width]`, of the input's type
    ///
    /// # Panics
    ///
    /// When an axis differs from those shapes, or a network with attention gets no context.
    pub fn forward(&self, input: UNetInput<'_>) -> Tensor<4> {
        let device = input.noisy.device();
        among_workers(&device, || self.pass(input))
    }

    fn pass(&self, input: UNetInput<'_>) -> Tensor<4> {
        let (mut h, conditions) = self.begin(input);
        let mut skips = vec![h.clone()];
        for unit in self.units() {
            let skip = unit.takes_skip().then(|| {
                skips.pop().expect("every block of the way up has its counterpart on the way down")
            });
            h = self.apply(unit, h, skip, &conditions);
            if unit.leaves_skip() {
                skips.push(h.clone());
            }
        }
        h
    }

    /// The features that the first unit is applied to, and what all of them are told.
    fn begin(&self, input: UNetInput<'_>) -> (Tensor<4>, Conditions) {
        let UNetInput {
            noisy,
            timesteps,
            class_embedding,
            context,
            context_cache,
            context_bias,
            first_features,
        } = input;
        let [batch, _, _, _] = noisy.dims();
        assert_eq!(timesteps.len(), batch, "one timestep a picture");
        let device = noisy.device();
        let given = noisy.dtype();
        let dtype = self.compute.map_or(given, DType::from);
        // Every attention reads it.
        let context = context.map(|context| ops::shared(context.cast(dtype)));

        let mut time = self.time_embedding.forward(sinusoidal(timesteps, self.sinusoid, &device));
        if let Some(activation) = self.time_post_activation {
            time = activation.forward(time);
        }
        if let Some(class_embedding) = class_embedding {
            time = time + class_embedding;
        }
        if let Some(activation) = self.time_embedding_activation {
            time = activation.forward(time);
        }

        let time = time.cast(dtype);

        let noisy = if self.center_input { noisy * 2.0 - 1.0 } else { noisy };
        let mut h = self.conv_in.forward(noisy.cast(dtype));
        if let Some(features) = first_features {
            h = ops::add(h, features.cast(dtype));
        }
        (h, Conditions { time, context, context_cache, context_bias, given })
    }

    /// What the network consists of after its first convolution, in order.
    fn units(&self) -> Vec<Unit> {
        let mut units = Vec::new();
        for (level, block) in self.down_blocks.iter().enumerate() {
            units.extend((0..block.resnets.len()).map(|i| Unit::Down(level, i)));
            units.extend((0..block.downsamplers.len()).map(|i| Unit::Reduce(level, i)));
        }
        units.extend((0..self.mid_block.resnets.len()).map(Unit::Middle));
        for (level, block) in self.up_blocks.iter().enumerate() {
            units.extend((0..block.resnets.len()).map(|i| Unit::Up(level, i)));
            units.extend((0..block.upsamplers.len()).map(|i| Unit::Enlarge(level, i)));
        }
        units.push(Unit::Out);
        units
    }

    /// Applies a unit to features, and to those that were kept for it on the way down.
    fn apply(
        &self,
        unit: Unit,
        h: Tensor<4>,
        skip: Option<Tensor<4>>,
        conditions: &Conditions,
    ) -> Tensor<4> {
        let Conditions { time, context, context_cache, context_bias, given } = conditions;
        let attend = |attention: Option<&AddedKvAttention>,
                      cached: Option<&ContextKeysValues>,
                      h: Tensor<4>| {
            let Some(attention) = attention else { return h };
            let shown = match (cached, context) {
                (Some(cached), _) => cached.clone(),
                (None, Some(context)) => attention.context_keys_values(context.clone()),
                (None, None) => panic!("this network has attention and needs a context"),
            };
            attention.forward_cached(h, shown, context_bias.clone())
        };
        let cache = context_cache.as_ref();
        match unit {
            Unit::Down(level, i) => {
                let block = &self.down_blocks[level];
                let h = block.resnets[i].forward(h, time.clone());
                attend(block.attentions.get(i), cache.and_then(|cache| cache.down(level, i)), h)
            }
            Unit::Reduce(level, i) => {
                self.down_blocks[level].downsamplers[i].forward(h, time.clone())
            }
            Unit::Middle(i) => {
                let h = self.mid_block.resnets[i].forward(h, time.clone());
                // The one attention of the middle is between its two blocks.
                let attention = self.mid_block.attentions.first().filter(|_| i == 0);
                attend(attention, cache.and_then(ContextCache::middle), h)
            }
            Unit::Up(level, i) => {
                let block = &self.up_blocks[level];
                let h = match skip {
                    Some(skip) => ops::join_channels(h, skip),
                    None => h,
                };
                let h = block.resnets[i].forward(h, time.clone());
                attend(block.attentions.get(i), cache.and_then(|cache| cache.up(level, i)), h)
            }
            Unit::Enlarge(level, i) => self.up_blocks[level].upsamplers[i].forward(h, time.clone()),
            Unit::Out => {
                let input = match self.activation {
                    Activation::Silu => {
                        let affine = self.conv_norm_out.affine(&h);
                        ConvInput::new(h).affine(affine).silu()
                    }
                    other => ConvInput::new(other.forward(self.conv_norm_out.forward(h))),
                };
                self.conv_out.apply(input).cast(*given)
            }
        }
    }
}

/// What every unit of a network is told.
#[derive(Debug, Clone)]
struct Conditions {
    time: Tensor<2>,
    context: Option<Tensor<3>>,
    context_cache: Option<ContextCache>,
    context_bias: Option<Tensor<2>>,
    /// The type of the input, which the output has too.
    given: DType,
}

/// A part of a network: its level, or step of the way up, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// A residual block of the way down, with the attention after it.
    Down(usize, usize),
    /// The block that halves the sides.
    Reduce(usize, usize),
    /// A block of the middle.
    Middle(usize),
    /// A residual block of the way up, with the attention after it.
    Up(usize, usize),
    /// The block that doubles the sides.
    Enlarge(usize, usize),
    /// The last normalisation and convolution.
    Out,
}

impl Unit {
    /// Whether its features are kept for the way up.
    fn leaves_skip(self) -> bool {
        matches!(self, Self::Down(..) | Self::Reduce(..))
    }

    /// Whether it is given the last features that were kept.
    fn takes_skip(self) -> bool {
        matches!(self, Self::Up(..))
    }
}
