//! Training CLIP: both towers from nothing, with a vocabulary of their own.
//!
//! Radford et al. 2021 and Zhai et al. 2023. A batch larger than memory is embedded part by part without autodiff; the
//! loss of the whole gives each embedding its gradient, and each part is run again to take it further (Gao et al. 2021,
//! GradCache). So the parts' size changes no gradient, though every pair of the batch meets in the loss.

use std::{fs, ops::Range, path::Path};

use burn::{
    module::{Initializer, Module, Param},
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, FloatDType, Tensor},
};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unclip_clip::{
    Encoding, Preprocessor, TextConfig, TextEncoder, Tokenizer, VisionConfig, VisionEncoder,
    similarity,
};
use unclip_core::{
    Error as CoreError,
    checkpoint::{ConfigReader, SaveOptions, WeightPrecision},
};

use super::{Batch, Gradients, Replica, Task, agree, layer, on, on_each, read, sum};
use crate::{
    Result,
    caption::choose,
    config::{RunConfig, are_shares, none_is_unknown},
    draws::Purpose,
    loss::contrastive::{Contrastive, positives},
    parameters::{Fill, initialise},
    view::square,
};

/// How CLIP is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipTaskConfig {
    /// The text tower, with the keys of transformers' `CLIPTextModelWithProjection`. The size of the vocabulary and the
    /// markers' ids are the tokenizer's.
    pub text: Value,
    /// The vision tower, with the keys of transformers' `CLIPVisionModelWithProjection`.
    pub vision: Value,
    /// The vocabulary.
    pub tokenizer: TokenizerConfig,
    /// How pairs are judged.
    #[serde(default)]
    pub loss: Contrastive,
    /// The smallest part of a picture that is shown, as a share of its side.
    #[serde(default = "one")]
    pub crop: f64,
    /// How often a word of a caption is left out.
    #[serde(default)]
    pub word_dropout: f64,
}

/// Where the vocabulary comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerConfig {
    /// From a folder, as [`Tokenizer::from_dir`] reads it.
    Open(std::path::PathBuf),
    /// From the captions of the data.
    Learn {
        /// Merges beyond the 512 symbols of bytes.
        merges: usize,
        /// Samples whose captions are read.
        samples: usize,
    },
}

/// Where errors say that the towers' configurations stand.
const TEXT: &str = "stage.clip.text";
const VISION: &str = "stage.clip.vision";

fn one() -> f64 {
    1.0
}

/// Both towers, and what turns their similarities into the loss.
#[derive(Module, Debug)]
pub struct ClipModel {
    text: TextEncoder,
    vision: VisionEncoder,
    /// The logarithm of the factor on similarities.
    log_scale: Param<Tensor<1>>,
    /// Added to the similarities.
    bias: Param<Tensor<1>>,
}

pub(crate) struct ClipTask {
    config: ClipTaskConfig,
    text: TextConfig,
    vision: VisionConfig,
    tokenizer: Tokenizer,
    preprocessor: Preprocessor,
}

/// Pairs as the towers take them.
struct Pairs {
    captions: Vec<String>,
    encoded: Vec<Encoding>,
    views: Vec<RgbImage>,
}

impl ClipTaskConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        self.text_config(&self.text)?;
        self.vision_config()?;
        are_shares(&[("clip.crop", self.crop), ("clip.word_dropout", self.word_dropout)])
    }

    fn text_config(&self, text: &Value) -> Result<TextConfig> {
        let mut reader = ConfigReader::from_bytes(TEXT, &bytes(text))?;
        let text = TextConfig::read(&mut reader)?;
        none_is_unknown(TEXT, &reader.finish())?;
        Ok(text)
    }

    fn vision_config(&self) -> Result<VisionConfig> {
        let mut reader = ConfigReader::from_bytes(VISION, &bytes(&self.vision))?;
        let vision = VisionConfig::read(&mut reader)?;
        none_is_unknown(VISION, &reader.finish())?;
        Ok(vision)
    }
}

impl ClipTask {
    pub(crate) fn open(config: &ClipTaskConfig, run: &RunConfig) -> Result<Self> {
        let vision = config.vision_config()?;
        // A vocabulary that a run has learned, or taken along with the weights that it starts from, stays with it.
        let folder = run.output.join("tokenizer");
        let tokenizer = match (&run.initial, &config.tokenizer) {
            (None, TokenizerConfig::Open(path)) => Tokenizer::from_dir(path)?,
            _ if folder.is_dir() => Tokenizer::from_dir(&folder)?,
            (Some(initial), _) => {
                let tokenizer = Tokenizer::from_dir(initial.join("tokenizer"))?;
                keep(&tokenizer, &folder)?;
                tokenizer
            }
            (None, TokenizerConfig::Learn { merges, samples }) => {
                let captions = captions(run, *samples)?;
                let tokenizer = Tokenizer::learn(captions, *merges, "<|endoftext|>")?;
                keep(&tokenizer, &folder)?;
                tokenizer
            }
        };
        let mut text = config.text.clone();
        text["vocab_size"] = json!(tokenizer.vocabulary_size());
        text["bos_token_id"] = json!(tokenizer.bos_id());
        text["eos_token_id"] = json!(tokenizer.eos_id());
        text["pad_token_id"] = json!(tokenizer.pad_id());
        let text = config.text_config(&text)?;
        if text.embedding_width != vision.embedding_width {
            let found = text.embedding_width;
            let expected = format!("the vision tower's {}", vision.embedding_width);
            return Err(CoreError::invalid("text.projection_dim", found, expected).into());
        }
        Ok(Self {
            config: config.clone(),
            preprocessor: Preprocessor::clip(vision.image_size),
            tokenizer: tokenizer.with_max_length(text.max_length)?,
            text,
            vision,
        })
    }

    fn pairs(&self, batch: &Batch<'_>) -> Result<Pairs> {
        let side = u32::try_from(self.vision.image_size).unwrap_or(u32::MAX);
        let mut captions = Vec::with_capacity(batch.samples.len());
        let mut views = Vec::with_capacity(batch.samples.len());
        let draws = batch.draws(Purpose::Caption).into_iter().zip(batch.draws(Purpose::View));
        for (sample, (mut caption, mut view)) in batch.samples.iter().zip(draws) {
            let text = choose(&sample.captions, self.config.word_dropout, &mut caption);
            captions.push(text.to_lowercase());
            views.push(square(sample.picture()?, side, self.config.crop, &mut view)?);
        }
        let mut encoded = self.tokenizer.encode_many(&captions)?;
        // What follows the longest caption's end is seen by no token that counts.
        let kept = encoded.iter().map(|e| e.mask.iter().filter(|&&kept| kept).count()).max();
        for encoding in &mut encoded {
            encoding.ids.truncate(kept.unwrap_or(2).max(2));
        }
        Ok(Pairs { captions, encoded, views })
    }

    /// Both embeddings of some pairs.
    fn embed(
        &self,
        model: &ClipModel,
        pairs: &Pairs,
        rows: Range<usize>,
    ) -> Result<[Tensor<2>; 2]> {
        let device = model.vision.device();
        let pixels = self.preprocessor.preprocess_many(&pairs.views[rows.clone()], &device)?;
        Ok([
            model.vision.forward(pixels).image_embeds,
            model.text.forward(&pairs.encoded[rows]).text_embeds,
        ])
    }

    fn loss(&self, model: &ClipModel, [images, texts]: [Tensor<2>; 2], pairs: &Pairs) -> Tensor<1> {
        let positives = positives(&pairs.captions, &images.device());
        let (scale, bias) = (model.log_scale.val(), model.bias.val());
        self.config.loss.loss(images, texts, scale, bias, positives)
    }

    /// What has the gradients of some embeddings as its own: these take the loss's gradient on into the towers.
    fn further(
        &self,
        model: &ClipModel,
        pairs: &Pairs,
        rows: Range<usize>,
        of_embeddings: &[Option<Tensor<2>>; 2],
    ) -> Result<Option<Tensor<1>>> {
        let device = model.vision.device();
        let embedded = self.embed(model, pairs, rows.clone())?;
        let terms = embedded.into_iter().zip(of_embeddings).filter_map(|(embedded, gradient)| {
            let gradient = gradient.clone()?.narrow(0, rows.start, rows.len());
            Some((embedded * on(&device, gradient.to_device(&device.clone().inner()))).sum())
        });
        Ok(terms.reduce(|sum, term| sum + term))
    }

    /// Numbers for the log, from the embeddings of a batch.
    fn numbers(
        &self,
        model: &ClipModel,
        [images, texts]: [Tensor<2>; 2],
        pairs: &Pairs,
    ) -> Result<Vec<(&'static str, f64)>> {
        let cosines = similarity(images.inner(), texts.inner());
        let count = pairs.captions.len();
        let best: Vec<i64> = cosines.argmax(1).try_into_vec_as().map_err(|error| {
            let reason = error.to_string();
            CoreError::Execution { action: "reading similarities", reason }
        })?;
        let right = best.iter().enumerate().filter(|&(row, &found)| {
            usize::try_from(found).is_ok_and(|found| pairs.captions[found] == pairs.captions[row])
        });
        let scale = libm::exp(read(model.log_scale.val().inner())?);
        Ok(vec![("caption_recall", right.count() as f64 / count as f64), ("scale", scale)])
    }
}

impl Task for ClipTask {
    type Model = ClipModel;

    fn architecture(&self) -> Value {
        json!({"stage": "clip", "text": self.text.to_json(), "vision": self.vision.to_json()})
    }

    fn init(&self, seed: u64, _fresh: bool, device: &Device) -> Result<ClipModel> {
        let (scale, bias) = self.config.loss.start();
        let number = |value: f32| {
            Initializer::Constant { value: f64::from(value) }.init::<1, _>([1], device)
        };
        let model = ClipModel {
            text: self.text.init(device),
            vision: self.vision.init(device),
            log_scale: number(scale),
            bias: number(bias),
        };
        Ok(initialise(model, seed, |name, shape| match name {
            "log_scale" => Fill::Constant(scale),
            "bias" => Fill::Constant(bias),
            _ if name.starts_with("text.") => tower(name, shape, self.text.width, self.text.layers),
            _ => tower(name, shape, self.vision.width, self.vision.layers),
        }))
    }

    /// What turns similarities into the loss is no part of a model directory, and starts anew.
    fn load(&self, initial: &Path, device: &Device) -> Result<ClipModel> {
        let (folder, precision) = (initial.join("text_encoder"), WeightPrecision::F32);
        let text = TextEncoder::from_dir(&*folder, None, precision, device)?;
        agree(&folder, &text.config().to_json(), &self.text.to_json())?;
        let folder = initial.join("image_encoder");
        let vision = VisionEncoder::from_dir(&*folder, None, precision, device)?;
        agree(&folder, &vision.config().to_json(), &self.vision.to_json())?;
        Ok(ClipModel { text, vision, ..self.init(0, true, device)? })
    }

    fn compute_in(model: ClipModel, dtype: FloatDType) -> ClipModel {
        let ClipModel { text, vision, .. } = model;
        ClipModel { text: text.compute_in(dtype), vision: vision.compute_in(dtype), ..model }
    }

    fn gradients(replicas: &[Replica<'_, Self>], batch: &Batch<'_>) -> Result<Gradients> {
        let Replica { task, model } = &replicas[0];
        let pairs = task.pairs(batch)?;
        let count = batch.samples.len();
        if replicas.len() == 1 && batch.part >= count {
            let both = task.embed(model, &pairs, 0..count)?;
            let numbers = task.numbers(model, both.clone(), &pairs)?;
            let loss = task.loss(model, both, &pairs);
            let value = read(loss.clone())?;
            let params = GradientsParams::from_grads(loss.backward(), model);
            return Ok(Gradients { params, loss: value, numbers });
        }
        let ranges: Vec<Vec<Range<usize>>> =
            batch.shares(replicas.len()).into_iter().map(|share| share.ranges()).collect();
        let device = model.vision.device();
        let embedded = on_each(replicas, ranges.clone(), |replica, ranges| {
            let plain = replica.model.valid();
            ranges.into_iter().map(|rows| replica.task.embed(&plain, &pairs, rows)).collect()
        })?;
        let mut all: [Vec<Tensor<2>>; 2] = [Vec::new(), Vec::new()];
        for [image, text] in embedded.into_iter().flat_map(Vec::into_iter) {
            all[0].push(image.to_device(&device.clone().inner()));
            all[1].push(text.to_device(&device.clone().inner()));
        }
        let both = all.map(|parts| on(&device, Tensor::cat(parts, 0)).require_grad());
        let numbers = task.numbers(model, both.clone(), &pairs)?;
        let loss = task.loss(model, both.clone(), &pairs);
        let value = read(loss.clone())?;
        let mut gradients = loss.backward();
        let mut params = vec![GradientsParams::from_module(&mut gradients, model)];
        let of_embeddings = both.map(|leaf| leaf.grad_remove(&mut gradients));
        params.extend(on_each(replicas, ranges, |Replica { task, model }, ranges| {
            let mut accumulator = GradientsAccumulator::<ClipModel>::new();
            for range in ranges {
                let sum = task.further(model, &pairs, range, &of_embeddings)?;
                if let Some(sum) = sum {
                    accumulator
                        .accumulate(model, GradientsParams::from_grads(sum.backward(), model));
                }
            }
            Ok(accumulator.grads())
        })?);
        Ok(Gradients { params: sum(model, params), loss: value, numbers })
    }

    fn export(&self, average: &ClipModel, model: &Path) -> Result<()> {
        let options = SaveOptions::default();
        self.tokenizer.write_dir(model.join("tokenizer"))?;
        self.preprocessor.write_dir(model.join("feature_extractor"))?;
        average.text.save_dir(model.join("text_encoder"), &options)?;
        average.vision.save_dir(model.join("image_encoder"), &options)?;
        Ok(())
    }
}

/// CLIP's own starting weights (openai/CLIP `model.py`, `initialize_parameters`).
fn tower(name: &str, shape: &[usize], width: usize, layers: usize) -> Fill {
    let width = width as f64;
    let residual = width.powf(-0.5) * (2.0 * layers as f64).powf(-0.5);
    match layer(name) {
        (_, "bias") => Fill::Constant(0.0),
        ("token_embedding", _) => Fill::Normal(0.02),
        ("position_embedding", _) if name.starts_with("text.") => Fill::Normal(0.01),
        ("position_embedding", _) | (_, "class_embedding") => Fill::Normal(width.powf(-0.5)),
        ("patch_embedding", _) => Fill::fan_in(shape[1..].iter().product()),
        ("q_proj" | "k_proj" | "v_proj", _) => Fill::Normal(width.powf(-0.5)),
        ("out_proj" | "fc2", _) => Fill::Normal(residual),
        ("fc1", _) => Fill::Normal((2.0 * width).powf(-0.5)),
        ("text_projection" | "visual_projection", _) => Fill::Normal(width.powf(-0.5)),
        _ => Fill::Constant(1.0),
    }
}

/// Writes a vocabulary that a run has to find again, whole or not at all.
fn keep(tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    let pending = folder.with_file_name(".writing-tokenizer");
    if pending.is_dir() {
        // A run was killed while it wrote.
        fs::remove_dir_all(&pending).map_err(CoreError::io("remove", &pending))?;
    }
    tokenizer.write_dir(&pending)?;
    Ok(fs::rename(&pending, folder).map_err(CoreError::io("write", folder))?)
}

/// The captions of the data's first samples.
fn captions(run: &RunConfig, samples: usize) -> Result<Vec<String>> {
    let mut source = run.data.open_once()?;
    let mut captions = Vec::new();
    for _ in 0..samples {
        match source.next()? {
            Some(sample) => captions.extend(sample.captions),
            None => break,
        }
    }
    Ok(captions)
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
