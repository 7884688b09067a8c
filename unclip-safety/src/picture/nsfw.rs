//! OpenNSFW: one score, from 0 to 1, of how unfit a picture is to be shown at work.
//!
//! Yahoo's residual network of 2016 (`open_nsfw`, BSD-2-Clause): fifty layers of half the usual width, batch
//! normalisation folded into the convolutions, softmax over two classes. Preprocessing follows the original: Pillow's
//! bilinear 256 × 256, the middle 224 × 224 through JPEG once, blue first, means taken off.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData, activation::softmax, assert_shape},
};
use half::f16;
use image::{RgbImage, imageops::crop_imm};
use safetensors::{Dtype, SafeTensors};
use unclip_core::{
    nn::{Conv2d, Conv2dConfig, Linear, LinearConfig},
    ops::{ConvInput, max_pool_3x3},
    resize::{Filter, resize_rgb8},
};

use super::{PictureError, jpeg};
use crate::{Category, PictureCheck, Signal};

type Result<T> = std::result::Result<T, PictureError>;

/// The name in verdicts and errors.
const NAME: &str = "open_nsfw";
/// Side that a picture is resized to.
const RESIZED: u32 = 256;
/// Side of its middle that the network sees.
const SIDE: u32 = 224;
/// What is taken off blue, green and red.
const MEANS: [f32; 3] = [104.0, 117.0, 123.0];
/// Blocks and widths of the four stages: blocks, channels inside a block, channels out of it.
const STAGES: [(usize, usize, usize); 4] =
    [(3, 32, 128), (4, 64, 256), (6, 128, 512), (3, 256, 1024)];

/// The OpenNSFW network.
///
/// ```no_run
/// use unclip_safety::picture::OpenNsfw;
///
/// let network = OpenNsfw::bundled(&unclip_core::device::device("cpu")?);
/// let picture = image::open("upload.png")?.into_rgb8();
/// println!("{:.2}", network.score(&picture)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct OpenNsfw {
    conv_in: Conv2d,
    stages: Vec<Stage>,
    head: Linear,
}

#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Bottleneck>,
}

/// A residual block: narrow, look around, widen.
#[derive(Module, Debug)]
struct Bottleneck {
    narrow: Conv2d,
    around: Conv2d,
    widen: Conv2d,
    /// Present in the first block of a stage, where widths differ.
    shortcut: Option<Conv2d>,
}

impl OpenNsfw {
    /// The network with the weights that come with this crate, in half precision; sums are 32-bit.
    #[expect(clippy::missing_panics_doc, reason = "tests read the bundled weights")]
    pub fn bundled(device: &Device) -> Self {
        Self::from_safetensors(unclip_safety_weights::OPEN_NSFW, device)
            .expect("the bundled weights are tested")
    }

    /// The network with weights from the bytes of a safetensors file, as `unclip-safety-weights/convert.py` writes it:
    /// floats of 32 or 16 bits.
    ///
    /// # Errors
    ///
    /// [`PictureError::Weights`] when the bytes are no such file, or a tensor is missing, of another shape, or not finite.
    pub fn from_safetensors(bytes: &[u8], device: &Device) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| weights(error.to_string()))?;
        let reader = Reader { file, device };
        let mut channels = 64;
        let mut stages = Vec::new();
        for (s, (count, inside, outside)) in STAGES.into_iter().enumerate() {
            let mut blocks = Vec::new();
            for b in 0..count {
                let stride = if s > 0 && b == 0 { 2 } else { 1 };
                let name = |part: &str| format!("stages.{s}.blocks.{b}.{part}");
                let conv = |part: &str, from, to, kernel, stride| {
                    let config = Conv2dConfig::new(from, to, kernel)
                        .with_stride(stride)
                        .with_padding(kernel / 2);
                    reader.conv(&name(part), &config)
                };
                blocks.push(Bottleneck {
                    narrow: conv("narrow", channels, inside, 1, stride)?,
                    around: conv("around", inside, inside, 3, 1)?,
                    widen: conv("widen", inside, outside, 1, 1)?,
                    shortcut: (b == 0)
                        .then(|| conv("shortcut", channels, outside, 1, stride))
                        .transpose()?,
                });
                channels = outside;
            }
            stages.push(Stage { blocks });
        }
        let config = Conv2dConfig::new(3, 64, 7).with_stride(2).with_padding(3);
        let mut head = LinearConfig::new(channels, 2).init(device);
        head.weight = Param::from_tensor(reader.tensor("head.weight", [2, channels])?).into();
        head.bias = Some(Param::from_tensor(reader.tensor("head.bias", [2])?));
        Ok(Self { conv_in: reader.conv("conv_in", &config)?, stages, head })
    }

    /// How unfit `picture` is, from 0 to 1. The original's authors call 0.8 and above a high probability, and below 0.2
    /// a low one.
    ///
    /// # Errors
    ///
    /// [`PictureError::Unreadable`] when the picture is empty, and [`PictureError::Device`] when the device fails.
    pub fn score(&self, picture: &RgbImage) -> Result<f32> {
        let [_, unfit] = self.scores(std::slice::from_ref(picture))?[0];
        Ok(unfit)
    }

    /// The probabilities of being fit and unfit, for each picture.
    ///
    /// # Errors
    ///
    /// As [`score`](Self::score).
    pub fn scores(&self, pictures: &[RgbImage]) -> Result<Vec<[f32; 2]>> {
        let mut values = Vec::with_capacity(pictures.len() * 3 * (SIDE * SIDE) as usize);
        for picture in pictures {
            values.extend(prepared(picture)?);
        }
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let shape = [pictures.len(), 3, SIDE as usize, SIDE as usize];
        let device = self.head.weight.lazy_device();
        let x = Tensor::from_data(TensorData::new(values, shape), &device);
        let failed = |reason: String| PictureError::Device { reason };
        let scores: Vec<f32> =
            self.forward(x).try_into_vec_as().map_err(|error| failed(error.to_string()))?;
        Ok(scores.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())
    }

    /// Applies the network.
    ///
    /// # Shapes
    ///
    /// - `pixels`: `[batch, 3, 224, 224]`: blue, green and red, 0 to 255, less their means
    /// - output: `[batch, 2]`, the probabilities of being fit and unfit
    ///
    /// # Panics
    ///
    /// When `pixels` has another shape.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        let [batch, _, _, _] = pixels.dims();
        assert_shape!(pixels, [batch, 3, SIDE as usize, SIDE as usize]);
        let mut x = max_pool_3x3(self.conv_in.apply(ConvInput::new(pixels).rectify()));
        for block in self.stages.iter().flat_map(|stage| &stage.blocks) {
            x = block.forward(x);
        }
        let x = x.flatten::<3>(2, 3).mean_dim(2).flatten::<2>(1, 2);
        softmax(self.head.forward(x), 1)
    }
}

impl PictureCheck for OpenNsfw {
    fn name(&self) -> &str {
        NAME
    }

    fn signals(&self, picture: &RgbImage) -> crate::Result<Vec<Signal>> {
        Ok(vec![Signal::new(Category::Sexual, self.score(picture)?, NAME)])
    }
}

impl Bottleneck {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self.narrow.apply(ConvInput::new(x.clone()).rectify());
        let h = self.around.apply(ConvInput::new(h).rectify());
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        };
        self.widen.apply(ConvInput::new(h).residual(x).rectify())
    }
}

/// The network's input for one picture, channel by channel.
fn prepared(picture: &RgbImage) -> Result<Vec<f32>> {
    let resized = resize_rgb8(picture, RESIZED, RESIZED, Filter::Bilinear)
        .map_err(|error| PictureError::Unreadable { reason: error.to_string() })?;
    let edge = (RESIZED - SIDE) / 2;
    let middle = jpeg::round_trip(&crop_imm(&resized, edge, edge, SIDE, SIDE).to_image());
    Ok(MEANS
        .into_iter()
        .zip([2, 1, 0])
        .flat_map(|(mean, channel)| {
            middle.pixels().map(move |pixel| f32::from(pixel.0[channel]) - mean).collect::<Vec<_>>()
        })
        .collect())
}

fn weights(reason: String) -> PictureError {
    PictureError::Weights { check: NAME, reason }
}

struct Reader<'a> {
    file: SafeTensors<'a>,
    device: &'a Device,
}

impl Reader<'_> {
    fn conv(&self, name: &str, config: &Conv2dConfig) -> Result<Conv2d> {
        let Conv2dConfig { channels_in, channels_out, kernel, .. } = *config;
        let mut conv = config.init(self.device);
        let shape = [channels_out, channels_in, kernel, kernel];
        conv.weight = Param::from_tensor(self.tensor(&format!("{name}.weight"), shape)?).into();
        conv.bias = Some(Param::from_tensor(self.tensor(&format!("{name}.bias"), [channels_out])?));
        Ok(conv)
    }

    fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>> {
        let values = self.values(name, &shape)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.file.tensor(name).map_err(|_| weights(format!("`{name}` is missing")))?;
        if tensor.shape() != shape {
            let found = tensor.shape();
            return Err(weights(format!("`{name}` is {found:?}, expected {shape:?}")));
        }
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => tensor
                .data()
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes each")))
                .collect(),
            Dtype::F16 => tensor
                .data()
                .chunks_exact(2)
                .map(|bytes| f16::from_le_bytes(bytes.try_into().expect("two bytes each")).to_f32())
                .collect(),
            other => return Err(weights(format!("`{name}` is {other:?}, expected F32 or F16"))),
        };
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(weights(format!("`{name}` holds {value}"))),
            None => Ok(values),
        }
    }
}
