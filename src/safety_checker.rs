//! The safety checker of Stable Diffusion (CompVis, 2022): CLIP sees a picture, and concepts that must not be near have
//! thresholds. Follows diffusers `pipelines/stable_diffusion/safety_checker.py`.

use burn::tensor::{DType, Device};
use image::RgbImage;
use unclip_clip::{Preprocessor, VisionConfig, VisionEncoder};
use unclip_core::checkpoint::{
    Folder, LoadOptions, TRANSFORMERS_STEM, WeightPrecision, Weights, load,
};
use unclip_safety::{Category, Evidence, PictureCheck, Signal, picture::PictureError};

use crate::{HostTensor, error::Result};

/// The name in verdicts.
const NAME: &str = "compvis";
/// By how much every later threshold falls once a picture comes near a concept that asks for special care.
const CARE: f64 = 0.01;
/// What the file holds beside the encoder.
const CONCEPTS: [&str; 4] = [
    "concept_embeds",
    "concept_embeds_weights",
    "special_care_embeds",
    "special_care_embeds_weights",
];

/// A check of pictures with the weights of `CompVis/stable-diffusion-safety-checker`, which do not come with this library.
///
/// Each picture that the original would blank scores 0.8 or more, where the standard policy withholds; each other one less
/// than 0.5. The category is `sexual`.
///
/// ```no_run
/// use unclip::{Pipeline, SafetyChecker, device, safety::{Guard, Policy}};
///
/// let checker = SafetyChecker::from_dir("stable-diffusion/safety_checker", None, &device("auto")?)?;
/// let guard = Guard::new(Policy::standard()).pictures(checker);
/// let pipeline = Pipeline::builder().model_dir("karlo-v1-alpha").safety(guard).build()?;
/// # Ok::<(), unclip::Error>(())
/// ```
#[derive(Debug)]
pub struct SafetyChecker {
    encoder: VisionEncoder,
    preprocessor: Preprocessor,
    special: Vec<Concept>,
    concepts: Vec<Concept>,
}

/// A direction in CLIP's space, and the cosine from which on a picture is too near to it.
#[derive(Debug)]
struct Concept {
    unit: Vec<f64>,
    threshold: f64,
}

/// How far beyond its threshold a picture is, for each concept: cosine less threshold, in thousandths as the original
/// rounds it. Above 0 is too near.
#[derive(Debug, Clone, PartialEq)]
pub struct ConceptMargins {
    /// The concepts that only make the others stricter.
    pub special: Vec<f64>,
    /// The concepts that a picture is blanked for.
    pub concepts: Vec<f64>,
}

impl ConceptMargins {
    /// Whether the original would blank the picture.
    pub fn is_flagged(&self) -> bool {
        self.concepts.iter().any(|margin| *margin > 0.0)
    }
}

impl SafetyChecker {
    /// Opens the folder `safety_checker` of a Stable Diffusion model: `config.json` and `model.safetensors`, and
    /// `preprocessor_config.json` where it has one; CLIP's own preprocessing otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Clip`](crate::Error::Clip) and [`Error::Core`](crate::Error::Core) when a file is absent or damaged, or the
    /// weights do not fit the configuration.
    pub fn from_dir(
        dir: impl Into<Folder>,
        variant: Option<&str>,
        device: &Device,
    ) -> Result<Self> {
        let dir = dir.into();
        let config = VisionConfig::open_whole(&dir)?;
        let preprocessor = match dir.has("preprocessor_config.json") {
            true => Preprocessor::from_dir(&dir)?,
            false => Preprocessor::clip(config.image_size),
        };
        let weights = Weights::open(dir, TRANSFORMERS_STEM, variant)?;
        // The published files are from before transformers 5 took a level out of the tower's names.
        let older = [("vision_model", "vision_model.vision_model")];
        let is_older = weights.names().any(|name| name.starts_with("vision_model.vision_model."));
        let ignore = [&["position_ids"][..], &CONCEPTS].concat();
        let options = LoadOptions {
            names: if is_older { &older } else { &[] },
            ignore: &ignore,
            precision: WeightPrecision::Stored,
            ..LoadOptions::default()
        };
        let encoder = load(config.init(device), &weights, &options)?;
        let width = config.embedding_width;
        let [concepts, thresholds, special, special_thresholds] = CONCEPTS;
        Ok(Self {
            encoder,
            preprocessor,
            special: read_concepts(&weights, special, special_thresholds, width)?,
            concepts: read_concepts(&weights, concepts, thresholds, width)?,
        })
    }

    /// How near `picture` comes to each concept.
    ///
    /// # Errors
    ///
    /// [`Error::Core`](crate::Error::Core) when the picture is empty or the device fails.
    pub fn margins(&self, picture: &RgbImage) -> Result<ConceptMargins> {
        let pixels = self.preprocessor.preprocess(picture, &self.encoder.device())?;
        let seen = HostTensor::read(&self.encoder.forward(pixels).image_embeds)?.values;
        let seen = unit(&seen);
        let mut care = 0.0;
        let margin = |concept: &Concept, care: f64| {
            let cosine: f64 = concept.unit.iter().zip(&seen).map(|(a, b)| a * b).sum();
            ((cosine - concept.threshold + care) * 1000.0).round() / 1000.0
        };
        let mut special = Vec::with_capacity(self.special.len());
        for concept in &self.special {
            let margin = margin(concept, care);
            if margin > 0.0 {
                care = CARE;
            }
            special.push(margin);
        }
        let concepts = self.concepts.iter().map(|concept| margin(concept, care)).collect();
        Ok(ConceptMargins { special, concepts })
    }
}

impl PictureCheck for SafetyChecker {
    fn name(&self) -> &str {
        NAME
    }

    fn signals(&self, picture: &RgbImage) -> unclip_safety::Result<Vec<Signal>> {
        let margins = self
            .margins(picture)
            .map_err(|error| PictureError::Unreadable { reason: error.to_string() })?;
        let nearest = margins.concepts.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let Some((concept, &margin)) = nearest else { return Ok(Vec::new()) };
        let note = Evidence::Note(format!("concept {concept}, {margin:+.3} from its threshold"));
        Ok(vec![Signal::new(Category::Sexual, score(margin), NAME).evidence(note)])
    }
}

/// The largest margin as a score: from 0.8 on where the original blanks a picture, and below 0.5 where it does not.
#[expect(clippy::cast_possible_truncation, reason = "a score has 32 bits")]
fn score(margin: f64) -> f32 {
    let score = if margin > 0.0 { 0.8 + 2.0 * margin } else { 0.49 + 5.0 * margin };
    score.clamp(0.0, 1.0) as f32
}

fn unit(row: &[f32]) -> Vec<f64> {
    let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(1e-12);
    row.iter().map(|value| f64::from(*value) / norm).collect()
}

/// The directions `[concepts, width]` under one name, and the thresholds `[concepts]` under another.
fn read_concepts(
    weights: &Weights,
    directions: &str,
    thresholds: &str,
    width: usize,
) -> Result<Vec<Concept>> {
    let read = |name: &str, shape: &dyn Fn(&[usize]) -> bool, expected: &str| {
        let refuse = |reason: String| unclip_core::Error::Safetensors {
            path: weights.path().to_owned(),
            reason,
        };
        let data = weights.read_float(name, DType::F32)?;
        let found = weights.info(name).map_or(&[][..], |info| &info.shape);
        if !shape(found) {
            return Err(refuse(format!("`{name}` is {found:?}, expected {expected}")));
        }
        let values: Vec<f32> = data.try_to_vec().map_err(|error| refuse(error.to_string()))?;
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(refuse(format!("`{name}` holds {value}"))),
            None => Ok(values),
        }
    };
    let is_table = |shape: &[usize]| matches!(shape, [count, w] if *count > 0 && *w == width);
    let rows = read(directions, &is_table, &format!("[1.., {width}]"))?;
    let count = rows.len() / width;
    let is_column = |shape: &[usize]| shape == [count];
    let thresholds = read(thresholds, &is_column, &format!("[{count}]"))?;
    let concept = |(row, threshold): (&[f32], f32)| Concept {
        unit: unit(row),
        threshold: f64::from(threshold),
    };
    Ok(rows.chunks_exact(width).zip(thresholds).map(concept).collect())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use unclip_testkit::{device, fixtures_root};

    use super::*;

    /// What the original said of a picture.
    #[derive(serde::Deserialize)]
    struct Said {
        picture: String,
        special: Vec<f64>,
        concepts: Vec<f64>,
        flagged: bool,
    }

    fn recorded() -> (PathBuf, Vec<Said>) {
        let folder = fixtures_root().join("safety_checker");
        let said = fs::read_to_string(folder.join("said.json")).expect("recorded");
        (folder, serde_json::from_str(&said).expect("recorded"))
    }

    #[test]
    fn margins_and_answers_are_those_of_diffusers() {
        let (folder, said) = recorded();
        let checker = SafetyChecker::from_dir(&*folder, None, &device()).expect("recorded");
        assert!(said.iter().any(|said| said.flagged) && said.iter().any(|said| !said.flagged));
        assert!(said.iter().any(|said| said.special.iter().any(|margin| *margin > 0.0)));
        for said in said {
            let picture = image::open(folder.join(&said.picture)).expect("recorded").into_rgb8();
            let margins = checker.margins(&picture).expect("a picture");
            let pairs = margins.special.iter().chain(&margins.concepts);
            for (ours, theirs) in pairs.zip(said.special.iter().chain(&said.concepts)) {
                // Both are rounded to thousandths, which may fall to either side.
                assert!((ours - theirs).abs() < 0.0015, "{}: {ours} {theirs}", said.picture);
            }
            assert_eq!(margins.is_flagged(), said.flagged, "{}", said.picture);
            let signals = checker.signals(&picture).expect("a picture");
            assert_eq!(signals[0].score >= 0.8, said.flagged, "{}", said.picture);
            assert!(said.flagged || signals[0].score < 0.5, "{}", said.picture);
        }
    }

    #[test]
    fn names_of_either_age_are_read() {
        let (folder, said) = recorded();
        let newer = tempfile::tempdir().expect("a temporary folder");
        for name in ["config.json", "preprocessor_config.json"] {
            fs::copy(folder.join(name), newer.path().join(name)).expect("recorded");
        }
        let bytes = fs::read(folder.join("model.safetensors")).expect("recorded");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("recorded");
        let renamed = file.iter().map(|(name, view)| {
            (name.replace("vision_model.vision_model.", "vision_model."), view)
        });
        safetensors::serialize_to_file(renamed, None, &newer.path().join("model.safetensors"))
            .expect("writable");
        let picture = image::open(folder.join(&said[0].picture)).expect("recorded").into_rgb8();
        let [a, b] = [&*folder, newer.path()].map(|folder| {
            let checker = SafetyChecker::from_dir(folder, None, &device()).expect("recorded");
            checker.margins(&picture).expect("a picture")
        });
        assert_eq!(a, b);
    }

    #[test]
    fn files_without_concepts_and_empty_pictures_are_errors() {
        let (folder, _) = recorded();
        let checker = SafetyChecker::from_dir(&*folder, None, &device()).expect("recorded");
        assert!(checker.margins(&RgbImage::new(0, 3)).is_err(), "an empty picture");
        let tower = fixtures_root().join("seed0/model/image_encoder");
        assert!(SafetyChecker::from_dir(&*tower, None, &device()).is_err(), "no safety checker");
    }
}
