//! Both towers with what feeds them: captions and pictures compared.

use burn::tensor::{DType, Device, Tensor};
use image::RgbImage;
use serde_json::json;
use unclip_core::{
    Error as CoreError,
    checkpoint::{ConfigReader, Folder, TRANSFORMERS_STEM, WeightPrecision, Weights},
};

use crate::{
    Error, Preprocessor, Result, TextConfig, TextEncoder, Tokenizer, VisionConfig, VisionEncoder,
};

/// The factor on cosine similarities where a model does not state one: what CLIP's training caps it at, and what all
/// of OpenAI's models reached.
const LARGEST_SCALE: f64 = 100.0;
/// Captions, and pictures, that go through a tower at once: bounds the memory of long lists.
const BATCH: usize = 32;

/// A CLIP model: two towers into one space, with the tokenizer and the preprocessing that feed them.
#[derive(Debug)]
pub struct Clip {
    tokenizer: Tokenizer,
    preprocessor: Preprocessor,
    text: TextEncoder,
    vision: VisionEncoder,
    /// The factor on cosine similarities before the softmax.
    scale: f64,
}

impl Clip {
    /// Opens a CLIP model as transformers saves it, or the two towers of a unCLIP model directory.
    ///
    /// The former is one folder of a `CLIPModel` with its processor (`config.json`, `model.safetensors`,
    /// `preprocessor_config.json`, and a tokenizer as [`Tokenizer::from_dir`] reads it). The latter holds the folders
    /// `text_encoder`, `tokenizer`, `image_encoder` and `feature_extractor`.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when a file is absent or damaged, a configuration value is not implemented, or the weights do
    /// not fit; [`Error::Vocabulary`] from the tokenizer; [`Error::PartsDisagree`] as [`from_parts`](Self::from_parts).
    pub fn from_dir(
        dir: impl Into<Folder>,
        device: &Device,
        precision: WeightPrecision,
    ) -> Result<Self> {
        let dir = dir.into();
        if dir.has("config.json") {
            return Self::from_whole(&dir, device, precision);
        }
        let part = |name: &str| {
            let folder = dir.join(name);
            if folder.exists() {
                return Ok(folder);
            }
            Err(CoreError::MissingPart {
                dir: dir.path().to_owned(),
                part: name.to_owned(),
                expected: format!(
                    "the `config.json` of a CLIP model, or the folder `{name}` among those of both towers"
                ),
            })
        };
        let (text, vision) = (part("text_encoder")?, part("image_encoder")?);
        Self::from_parts(
            Tokenizer::from_dir(part("tokenizer")?)?,
            Preprocessor::from_dir(part("feature_extractor")?)?,
            TextEncoder::from_dir(text, None, precision, device)?,
            VisionEncoder::from_dir(vision, None, precision, device)?,
        )
    }

    fn from_whole(dir: &Folder, device: &Device, precision: WeightPrecision) -> Result<Self> {
        let mut config = ConfigReader::open_in(dir, "config.json")?;
        let (text, vision) = read_config(&mut config)?;
        config.finish();
        let weights = Weights::open(dir, TRANSFORMERS_STEM, None)?;
        let of_vision = ["vision_model.", "visual_projection.", "logit_scale"];
        let of_text = ["text_model.", "text_projection.", "logit_scale"];
        let tokenizer = Tokenizer::from_dir(dir)?;
        let mut clip = Self::from_parts(
            // A tokenizer without a length of its own has that of its text tower.
            tokenizer.with_max_length(text.max_length)?,
            Preprocessor::from_dir(dir)?,
            TextEncoder::load(&text, &weights, precision, &of_vision, device)?,
            VisionEncoder::load(&vision, &weights, precision, &of_text, device)?,
        )?;
        if weights.info("logit_scale").is_some() {
            clip.scale = read_scale(&weights)?;
        }
        Ok(clip)
    }

    /// Puts the parts together. The factor on similarities is CLIP's largest, 100.
    ///
    /// # Errors
    ///
    /// [`Error::PartsDisagree`] when the towers' embeddings differ in width, the tokenizer's captions are longer than
    /// the text tower's or its ids beyond that tower's table, or pictures leave the preprocessor in another size than
    /// the vision tower's.
    pub fn from_parts(
        tokenizer: Tokenizer,
        preprocessor: Preprocessor,
        text: TextEncoder,
        vision: VisionEncoder,
    ) -> Result<Self> {
        let disagree = |part, field, found, other, expected| {
            Err(Error::PartsDisagree { part, field, found, other, expected })
        };
        let (t, v) = (text.config(), vision.config());
        let (tower, pictures) = ("text encoder", "vision encoder");
        if t.embedding_width != v.embedding_width {
            let field = "embeddings of width";
            return disagree(tower, field, t.embedding_width, pictures, v.embedding_width);
        }
        if tokenizer.max_length() > t.max_length {
            let field = "captions of length";
            return disagree("tokenizer", field, tokenizer.max_length(), tower, t.max_length);
        }
        if tokenizer.vocabulary_size() > t.vocabulary_size {
            let (field, size) = ("a vocabulary of size", tokenizer.vocabulary_size());
            return disagree("tokenizer", field, size, tower, t.vocabulary_size);
        }
        if v.channels != 3 {
            return disagree(pictures, "channels", v.channels, "preprocessor", 3);
        }
        if let Some((height, width)) = preprocessor.output_size() {
            for side in [height, width] {
                if side != v.image_size {
                    let field = "pictures of side";
                    return disagree("preprocessor", field, side, pictures, v.image_size);
                }
            }
        }
        Ok(Self { tokenizer, preprocessor, text, vision, scale: LARGEST_SCALE })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The preprocessing of pictures.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The text tower.
    pub fn text(&self) -> &TextEncoder {
        &self.text
    }

    /// The vision tower.
    pub fn vision(&self) -> &VisionEncoder {
        &self.vision
    }

    /// The factor on cosine similarities before [`zero_shot`](Self::zero_shot)'s softmax.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Embeds captions, a few at a time.
    ///
    /// # Shapes
    ///
    /// - output: `[captions, embedding_width]`, not normalised
    ///
    /// # Errors
    ///
    /// [`Error::CaptionTooLong`] from the tokenizer; [`Error::Core`] when there are no captions.
    pub fn embed_texts<S: AsRef<str>>(&self, captions: &[S]) -> Result<Tensor<2>> {
        let embed = |captions: &[S]| {
            let encoded = self.tokenizer.encode_many(captions)?;
            Ok(self.text.forward(&encoded).text_embeds)
        };
        in_batches("captions", captions, embed)
    }

    /// Embeds pictures, a few at a time.
    ///
    /// # Shapes
    ///
    /// - output: `[pictures, embedding_width]`, not normalised
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when there are no pictures, or one is empty, absurdly thin, or leaves a preprocessor without a
    /// fixed size in another one than the vision tower's.
    pub fn embed_images(&self, pictures: &[RgbImage]) -> Result<Tensor<2>> {
        let device = self.vision.device();
        let side = self.vision.config().image_size;
        let embed = |pictures: &[RgbImage]| {
            let pixels = self.preprocessor.preprocess_many(pictures, &device)?;
            let [_, _, height, width] = pixels.dims();
            if [height, width] != [side, side] {
                let found = format_args!("{width} × {height} pixels after preprocessing");
                let expected = format!("{side} × {side}");
                return Err(CoreError::invalid("picture", found, expected).into());
            }
            Ok(self.vision.forward(pixels).image_embeds)
        };
        in_batches("pictures", pictures, embed)
    }

    /// How well labels describe a picture: a probability each, the best first (Radford et al. 2021, §3.1). Labels do
    /// best as captions, `a photo of a cat`.
    ///
    /// # Errors
    ///
    /// As [`embed_texts`](Self::embed_texts) and [`embed_images`](Self::embed_images); [`Error::Core`] when the device
    /// fails.
    pub fn zero_shot<S: AsRef<str>>(
        &self,
        picture: &RgbImage,
        labels: &[S],
    ) -> Result<Vec<(String, f32)>> {
        let picture = self.embed_images(std::slice::from_ref(picture))?;
        let logits = similarity(picture, self.embed_texts(labels)?) * self.scale;
        let probabilities = burn::tensor::activation::softmax(logits, 1);
        let values = probabilities.try_into_vec_as::<f32>().map_err(|error| {
            CoreError::Execution { action: "reading similarities", reason: error.to_string() }
        })?;
        let labels = labels.iter().map(|label| label.as_ref().to_owned());
        let mut ranked: Vec<(String, f32)> = labels.zip(values).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(ranked)
    }
}

/// Cosine similarity of every row of `a` with every row of `b`.
///
/// # Shapes
///
/// - `a`: `[n, width]`
/// - `b`: `[m, width]`
/// - output: `[n, m]`, in `[-1, 1]`
///
/// # Panics
///
/// When the widths differ.
pub fn similarity(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let unit = |x: Tensor<2>| {
        let norm = (x.clone() * x.clone()).sum_dim(1).sqrt();
        x / norm.clamp_min(f32::MIN_POSITIVE)
    };
    unit(a).matmul(unit(b).transpose())
}

/// Applies `embed` to a few items at a time.
fn in_batches<T>(
    field: &'static str,
    items: &[T],
    embed: impl Fn(&[T]) -> Result<Tensor<2>>,
) -> Result<Tensor<2>> {
    if items.is_empty() {
        return Err(CoreError::invalid(field, "an empty list", "one or more").into());
    }
    Ok(Tensor::cat(items.chunks(BATCH).map(embed).collect::<Result<Vec<_>>>()?, 0))
}

/// Both towers' sizes, from the configuration of a `CLIPModel`, whose embedding width is the whole model's whatever the
/// nested ones say.
fn read_config(config: &mut ConfigReader) -> Result<(TextConfig, VisionConfig)> {
    let vision = read_vision_config(config)?;
    let mut nested = section(config, "text_config")?;
    let text = TextConfig::read(&mut nested)?;
    nested.finish();
    Ok((TextConfig { embedding_width: vision.embedding_width, ..text }, vision))
}

/// The vision tower's sizes alone.
pub(crate) fn read_vision_config(config: &mut ConfigReader) -> Result<VisionConfig> {
    config.only("model_type", &[json!("clip")])?;
    config.ignore(&["logit_scale_init_value"]);
    let embedding_width = config.size_or("projection_dim", 512, 1..=16_384)?;
    let mut nested = section(config, "vision_config")?;
    let vision = VisionConfig::read(&mut nested)?;
    nested.finish();
    Ok(VisionConfig { embedding_width, ..vision })
}

/// The object under `name`. Files from before 2023 hold `<name>_dict` besides; as in transformers, that and the
/// defaults of what it leaves out count where it is present.
fn section(config: &mut ConfigReader, name: &str) -> Result<ConfigReader> {
    let current = config.nested(name)?;
    let legacy = config.nested(&format!("{name}_dict"))?;
    match legacy.or(current) {
        Some(section) => Ok(section),
        None => Ok(ConfigReader::from_bytes(config.path(), b"{}")?),
    }
}

/// The factor on similarities: the exponential of what is stored.
fn read_scale(weights: &Weights) -> Result<f64> {
    let refuse = |reason| CoreError::Safetensors { path: weights.path().to_owned(), reason };
    let stored = weights.read_float("logit_scale", DType::F32)?;
    let stored = stored.try_to_vec::<f32>().map_err(|error| refuse(error.to_string()))?;
    match stored[..] {
        [value] if (-20.0..=20.0).contains(&value) => Ok(f64::from(value).exp()),
        _ => {
            Err(refuse(format!("`logit_scale` is {stored:?}, expected one number from -20 to 20"))
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use serde_json::{Map, Value};
    use unclip_testkit::{assert_close, device, fixture_sets};

    use super::*;

    /// The header and the bytes of a safetensors file.
    fn parts(path: &Path) -> (Map<String, Value>, Vec<u8>) {
        let bytes = fs::read(path).expect("recorded weights");
        let (length, rest) = bytes.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        let (header, data) = rest.split_at(usize::try_from(length).expect("a small header"));
        (serde_json::from_slice(header).expect("a header"), data.to_vec())
    }

    /// A `CLIPModel` folder made of a recorded set's two towers, with the factor `scale`.
    fn whole(set: &Path, dir: &Path, scale: f32) {
        let model = set.join("model");
        let (mut header, mut data) = parts(&model.join("text_encoder/model.safetensors"));
        let (vision, vision_data) = parts(&model.join("image_encoder/model.safetensors"));
        for (name, mut entry) in vision {
            if let Some(offsets) = entry.get_mut("data_offsets") {
                for offset in offsets.as_array_mut().expect("two offsets") {
                    *offset = json!(offset.as_u64().expect("an offset") + data.len() as u64);
                }
                header.insert(name, entry);
            }
        }
        data.extend(vision_data);
        let end = data.len();
        let entry = json!({"dtype": "F32", "shape": [], "data_offsets": [end, end + 4]});
        header.insert("logit_scale".into(), entry);
        data.extend(scale.to_le_bytes());
        let header = Value::from(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length[..], header.as_bytes(), &data].concat();
        fs::write(dir.join("model.safetensors"), bytes).expect("written");

        let config = |part: &str| -> Value {
            let text = fs::read_to_string(model.join(part).join("config.json"));
            serde_json::from_str(&text.expect("a configuration")).expect("JSON")
        };
        let (text, vision) = (config("text_encoder"), config("image_encoder"));
        let config = json!({
            "model_type": "clip",
            "projection_dim": text["projection_dim"],
            "text_config": {"hidden_act": "gelu_new"},
            "text_config_dict": text,
            "vision_config": vision,
        });
        fs::write(dir.join("config.json"), config.to_string()).expect("written");
        for folder in ["tokenizer", "feature_extractor"] {
            for entry in fs::read_dir(model.join(folder)).expect("a folder") {
                let entry = entry.expect("an entry");
                fs::copy(entry.path(), dir.join(entry.file_name())).expect("copied");
            }
        }
    }

    fn open(dir: &Path) -> Clip {
        Clip::from_dir(dir, &device(), WeightPrecision::Stored).expect("a model")
    }

    fn picture(seed: u32) -> RgbImage {
        RgbImage::from_fn(30, 20, |x, y| {
            image::Rgb([x, y, x * y].map(|v| u8::try_from((v + seed) % 256).expect("a byte")))
        })
    }

    #[test]
    fn a_whole_model_and_its_two_towers_embed_alike() {
        for set in fixture_sets() {
            let dir = tempfile::tempdir().expect("a folder");
            whole(&set.path, dir.path(), 2.0);
            let (whole, towers) = (open(dir.path()), open(&set.model_dir()));
            assert!((whole.scale() - 2f64.exp()).abs() < 1e-9, "{}", whole.scale());
            assert_eq!(towers.scale(), LARGEST_SCALE);
            let captions = ["a photo of a cat", "hello! world"];
            let embed = |clip: &Clip| {
                let texts = clip.embed_texts(&captions).expect("captions");
                let pictures = clip.embed_images(&[picture(0), picture(77)]).expect("pictures");
                similarity(texts, pictures).try_into_vec_as::<f32>().expect("read")
            };
            assert_eq!(embed(&whole), embed(&towers));
        }
    }

    #[test]
    fn recorded_pictures_have_the_reference_embedding() {
        for set in fixture_sets() {
            let clip = open(&set.model_dir());
            let recorded = set.tensors("image_encoder");
            let pixels = recorded.tensor("in.pixel_values", &device());
            let output = clip.vision().forward(pixels);
            assert_close(&output.image_embeds, &recorded, "out.image_embeds", 1e-5);
        }
    }

    #[test]
    fn long_lists_are_embedded_as_short_ones() {
        let clip = open(&fixture_sets()[0].model_dir());
        let captions: Vec<String> = (0..BATCH + 3).map(|i| format!("photo {i}")).collect();
        let together = clip.embed_texts(&captions).expect("captions");
        assert_eq!(together.dims()[0], captions.len());
        let alone = clip.embed_texts(&captions[BATCH + 2..]).expect("one caption");
        let difference = (together.narrow(0, BATCH + 2, 1) - alone).abs().max();
        assert!(difference.into_scalar::<f32>() < 1e-5, "the last caption differs");
    }

    #[test]
    fn labels_come_back_best_first_and_sum_to_one() {
        let clip = open(&fixture_sets()[0].model_dir());
        let labels = ["a cat", "a dog", "a plane"];
        let ranked = clip.zero_shot(&picture(3), &labels).expect("labels");
        assert!(ranked.is_sorted_by(|a, b| a.1 >= b.1), "{ranked:?}");
        let sum: f32 = ranked.iter().map(|(_, probability)| probability).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        let similarities = similarity(
            clip.embed_images(&[picture(3)]).expect("a picture"),
            clip.embed_texts(&labels).expect("labels"),
        );
        let similarities = similarities.try_into_vec_as::<f32>().expect("read");
        let best = (0..3).max_by(|&a, &b| similarities[a].total_cmp(&similarities[b]));
        assert_eq!(ranked[0].0, labels[best.expect("three labels")]);
        assert!(clip.zero_shot::<&str>(&picture(3), &[]).is_err(), "no labels");
        assert!(clip.embed_images(&[]).is_err(), "no pictures");
    }

    #[test]
    fn cosine_similarity_forgets_lengths_and_survives_zeros() {
        let device = device();
        let a = Tensor::from_floats([[3.0, 0.0], [0.0, 0.0]], &device);
        let b = Tensor::from_floats([[0.5, 0.0], [0.0, 9.0], [1.0, 1.0]], &device);
        let values = similarity(a, b).try_into_vec_as::<f32>().expect("read");
        let expected = [1.0, 0.0, 0.5f32.sqrt(), 0.0, 0.0, 0.0];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }
    }

    #[test]
    fn parts_that_do_not_fit_name_both_sizes() {
        let set = &fixture_sets()[0];
        let parts = |length, side| {
            let clip = open(&set.model_dir());
            let Clip { tokenizer, text, vision, .. } = clip;
            let tokenizer = tokenizer.with_max_length(length).expect("room for two markers");
            Clip::from_parts(tokenizer, Preprocessor::clip(side), text, vision)
        };
        parts(77, 16).expect("the model's own sizes");
        let message = parts(78, 16).expect_err("longer than the tower's").to_string();
        assert!(message.contains("78") && message.contains("77"), "{message}");
        let message = parts(77, 17).expect_err("larger than the tower's").to_string();
        assert!(message.contains("17") && message.contains("16"), "{message}");
    }

    #[test]
    fn a_damaged_model_is_an_error_that_names_its_part() {
        let set = &fixture_sets()[0];
        let open = |dir: &Path| Clip::from_dir(dir, &device(), WeightPrecision::Stored);
        let edit = |change: fn(&Path, PathBuf), named: &str| {
            let dir = tempfile::tempdir().expect("a folder");
            whole(&set.path, dir.path(), 2.0);
            change(dir.path(), set.model_dir());
            let message = open(dir.path()).expect_err(named).to_string();
            assert!(message.contains(named), "{named:?} is not in {message:?}");
        };
        edit(|dir, _| fs::remove_file(dir.join("config.json")).expect("gone"), "text_encoder");
        edit(|dir, _| fs::remove_file(dir.join("merges.txt")).expect("gone"), "vocabulary");
        edit(|dir, _| fs::write(dir.join("config.json"), "[]").expect("written"), "config.json");
        edit(
            |dir, model| {
                let tower = model.join("text_encoder/model.safetensors");
                fs::copy(tower, dir.join("model.safetensors")).expect("copied");
            },
            "vision_model.post_layernorm.weight",
        );
        let dir = tempfile::tempdir().expect("a folder");
        whole(&set.path, dir.path(), f32::NAN);
        let message = open(dir.path()).expect_err("not a number").to_string();
        assert!(message.contains("logit_scale"), "{message}");
    }
}
