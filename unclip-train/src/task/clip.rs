//! Training CLIP: both towers from nothing, with a vocabulary of their own.
//!
//! Radford et al. 2021 and Zhai et al. 2023. A batch larger than memory is embedded part by part without autodiff; the
//! loss of the whole gives each embedding its gradient, and each part is run again to take it further (Gao et al. 2021,
//! GradCache). So the parts' size changes no gradient, though every pair of the batch meets in the loss.

use std::path::Path;

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
    checkpoint::{ConfigReader, SaveOptions},
};

use super::{Batch, Gradients, Task, layer, on, read};
use crate::{
    Result,
    caption::choose,
    config::RunConfig,
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

impl ClipTask {
    pub(crate) fn open(config: &ClipTaskConfig, run: &RunConfig) -> Result<Self> {
        let mut reader = ConfigReader::from_bytes("stage.clip.vision", &bytes(&config.vision))?;
        let vision = VisionConfig::read(&mut reader)?;
        reader.finish();
        // A vocabulary that a run has learned stays with it.
        let folder = run.output.join("tokenizer");
        let tokenizer = match &config.tokenizer {
            TokenizerConfig::Open(path) => Tokenizer::from_dir(path)?,
            TokenizerConfig::Learn { .. } if folder.is_dir() => Tokenizer::from_dir(&folder)?,
            TokenizerConfig::Learn { merges, samples } => {
                let captions = captions(run, *samples)?;
                let tokenizer = Tokenizer::learn(captions, *merges, "<|endoftext|>")?;
                tokenizer.write_dir(&folder)?;
                tokenizer
            }
        };
        let mut text = config.text.clone();
        text["vocab_size"] = json!(tokenizer.vocabulary_size());
        text["bos_token_id"] = json!(tokenizer.bos_id());
        text["eos_token_id"] = json!(tokenizer.eos_id());
        text["pad_token_id"] = json!(tokenizer.pad_id());
        let mut reader = ConfigReader::from_bytes("stage.clip.text", &bytes(&text))?;
        let text = TextConfig::read(&mut reader)?;
        reader.finish();
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
        rows: std::ops::Range<usize>,
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

    fn compute_in(model: ClipModel, dtype: FloatDType) -> ClipModel {
        let ClipModel { text, vision, .. } = model;
        ClipModel { text: text.compute_in(dtype), vision: vision.compute_in(dtype), ..model }
    }

    fn gradients(&self, model: &ClipModel, batch: &Batch<'_>) -> Result<Gradients> {
        let pairs = self.pairs(batch)?;
        let count = batch.samples.len();
        if batch.part >= count {
            let both = self.embed(model, &pairs, 0..count)?;
            let numbers = self.numbers(model, both.clone(), &pairs)?;
            let loss = self.loss(model, both, &pairs);
            let value = read(loss.clone())?;
            let params = GradientsParams::from_grads(loss.backward(), model);
            return Ok(Gradients { params, loss: value, numbers });
        }
        let ranges: Vec<_> =
            (0..count).step_by(batch.part).map(|i| i..count.min(i + batch.part)).collect();
        let plain = model.valid();
        let mut all: [Vec<Tensor<2>>; 2] = [Vec::new(), Vec::new()];
        for range in &ranges {
            let [image, text] = self.embed(&plain, &pairs, range.clone())?;
            all[0].push(image);
            all[1].push(text);
        }
        let device = model.vision.device();
        let both = all.map(|parts| on(&device, Tensor::cat(parts, 0)).require_grad());
        let numbers = self.numbers(model, both.clone(), &pairs)?;
        let loss = self.loss(model, both.clone(), &pairs);
        let value = read(loss.clone())?;
        let mut gradients = loss.backward();
        let mut accumulator = GradientsAccumulator::<ClipModel>::new();
        accumulator.accumulate(model, GradientsParams::from_module(&mut gradients, model));
        let of_embeddings = both.map(|leaf| leaf.grad_remove(&mut gradients));
        for range in ranges {
            let embedded = self.embed(model, &pairs, range.clone())?;
            let mut sum: Option<Tensor<1>> = None;
            for (embedded, gradient) in embedded.into_iter().zip(&of_embeddings) {
                let Some(gradient) = gradient else { continue };
                let rows = gradient.clone().narrow(0, range.start, range.len());
                let term = (embedded * on(&device, rows)).sum();
                sum = Some(match sum {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
            if let Some(sum) = sum {
                let params = GradientsParams::from_grads(sum.backward(), model);
                accumulator.accumulate(model, params);
            }
        }
        Ok(Gradients { params: accumulator.grads(), loss: value, numbers })
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
