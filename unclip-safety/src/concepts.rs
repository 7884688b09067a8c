//! Nearness to unsafe phrases in the space of a CLIP model: of captions, of pictures, and of the two together.
//!
//! How near two embeddings lie says little by itself: each model has its own range, and captions lie nearer to phrases
//! than pictures do. Nearness is therefore counted in standard deviations over what harmless captions and pictures
//! have with the same model, and a side that has not been calibrated says nothing.

use std::collections::BTreeSet;

use crate::{
    Category, Embedded, Evidence, Signal,
    error::{Error, Result},
};

/// The phrases that the crate brings.
const BUILTIN: &str = include_str!("../data/concepts.txt");
/// The fewest harmless examples that a calibration takes.
const FEWEST: usize = 30;

/// Unsafe phrases as a CLIP model sees them, and how near harmless captions and pictures come to them.
///
/// The pair of a caption and a picture is judged by both at once, so that two halves which are harmless alone add up:
/// each side's deviations are summed and divided by √2.
///
/// ```
/// use unclip_safety::{Category, Concepts, Embedded};
///
/// // A toy model of two dimensions: the first is harm.
/// let embed = |_: &[&str]| Ok::<_, unclip_safety::Error>(vec![vec![1.0, 0.0]]);
/// let mut concepts = Concepts::embed(vec![(Category::Violence, "harm".into())], embed)?;
/// let harmless: Vec<Vec<f32>> = (0..100).map(|k| vec![k as f32 / 500.0, 1.0]).collect();
/// concepts.calibrate_captions(&harmless, 0.01)?;
/// assert!(concepts.signals(&Embedded::caption(&[0.1, 1.0])).is_empty());
/// let signals = concepts.signals(&Embedded::caption(&[1.0, 0.5]));
/// assert_eq!(signals[0].category, Category::Violence);
/// assert!(signals[0].score > 0.5);
/// # Ok::<(), unclip_safety::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Concepts {
    concepts: Vec<Concept>,
    captions: Option<Calibration>,
    pictures: Option<Calibration>,
}

#[derive(Debug, Clone)]
struct Concept {
    category: Category,
    phrase: String,
    /// Of length 1.
    embedding: Vec<f32>,
}

/// What harmless examples of one kind have: a mean and a deviation for each concept, and the deviations from which on an
/// example is taken for unsafe.
#[derive(Debug, Clone)]
struct Calibration {
    spread: Vec<(f32, f32)>,
    threshold: f32,
}

impl Concepts {
    /// The built-in phrases, as `embed` sees them: it takes phrases and gives one embedding each, of any length.
    ///
    /// # Errors
    ///
    /// What `embed` says, and [`Error::InvalidInput`] as [`embed`](Self::embed).
    #[expect(clippy::missing_panics_doc, reason = "the list is the crate's own")]
    pub fn builtin<E: From<Error>>(
        embed: impl FnMut(&[&str]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Self, E> {
        let phrases = BUILTIN.lines().filter_map(|line| line.split_once('\t'));
        let phrases = phrases.map(|(category, phrase)| {
            (category.parse().expect("the crate's own list is tested"), phrase.to_string())
        });
        Self::embed(phrases.collect(), embed)
    }

    /// Phrases of the caller's, as `embed` sees them.
    ///
    /// # Errors
    ///
    /// What `embed` says; [`Error::InvalidInput`] when it gives another number of embeddings than phrases, or embeddings
    /// that differ in width, are zero or not finite.
    pub fn embed<E: From<Error>>(
        phrases: Vec<(Category, String)>,
        mut embed: impl FnMut(&[&str]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Self, E> {
        let texts: Vec<&str> = phrases.iter().map(|(_, phrase)| phrase.as_str()).collect();
        let embeddings = embed(&texts)?;
        let invalid = |found: String, expected: &str| {
            let (field, expected) = ("embeddings", expected.to_string());
            E::from(Error::InvalidInput { field, found, expected })
        };
        if embeddings.len() != phrases.len() || phrases.is_empty() {
            let found = format!("{} for {} phrases", embeddings.len(), phrases.len());
            return Err(invalid(found, "one for each of at least one phrase"));
        }
        let width = embeddings[0].len();
        let mut concepts = Vec::with_capacity(phrases.len());
        for ((category, phrase), embedding) in phrases.into_iter().zip(embeddings) {
            if embedding.len() != width {
                let found = format!("one of width {} after one of {width}", embedding.len());
                return Err(invalid(found, "embeddings of one width"));
            }
            let embedding = unit(&embedding).ok_or_else(|| {
                invalid(format!("zero or not finite for \"{phrase}\""), "a finite direction")
            })?;
            concepts.push(Concept { category, phrase, embedding });
        }
        Ok(Self { concepts, captions: None, pictures: None })
    }

    /// Learns from harmless captions how near captions come to the phrases, such that at most `share` of them would be
    /// taken for unsafe.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when there are fewer than 30, when one is of another width, zero or not finite, or when
    /// `share` is outside 0 to 0.5.
    pub fn calibrate_captions(&mut self, harmless: &[Vec<f32>], share: f64) -> Result<()> {
        self.captions = Some(self.calibrate(harmless, share)?);
        Ok(())
    }

    /// As [`calibrate_captions`](Self::calibrate_captions), from embeddings of harmless pictures.
    ///
    /// # Errors
    ///
    /// As [`calibrate_captions`](Self::calibrate_captions).
    pub fn calibrate_pictures(&mut self, harmless: &[Vec<f32>], share: f64) -> Result<()> {
        self.pictures = Some(self.calibrate(harmless, share)?);
        Ok(())
    }

    /// The share of `unsafe_captions` that the calibrated check takes for unsafe: whether a model's text space tells
    /// harm apart well enough to be worth asking. `None` before captions are calibrated.
    pub fn recall(&self, unsafe_captions: &[Vec<f32>]) -> Option<f64> {
        self.captions.as_ref()?;
        let found = unsafe_captions.iter().filter(|embedding| {
            self.signals(&Embedded::caption(embedding)).iter().any(|signal| signal.score >= 0.5)
        });
        Some(found.count() as f64 / unsafe_captions.len().max(1) as f64)
    }

    /// What a caption, a picture or the pair scores: 0.5 at the calibrated threshold, 1 at twice of it; the highest
    /// signal of each category. Nothing for a side that is not calibrated; an embedding of another width, zero or not
    /// finite is taken for the worst.
    pub fn signals(&self, embedded: &Embedded<'_>) -> Vec<Signal> {
        let side = |embedding: Option<&[f32]>, calibration: &Option<Calibration>| {
            Some((embedding?, calibration.as_ref()?)).map(|(embedding, calibration)| {
                (self.deviations(embedding, calibration), calibration.threshold)
            })
        };
        let (check, deviations, threshold) = match (
            side(embedded.caption, &self.captions),
            side(embedded.picture, &self.pictures),
        ) {
            (None, None) => return Vec::new(),
            (Some((caption, threshold)), None) => ("concepts of the caption", caption, threshold),
            (None, Some((picture, threshold))) => ("concepts of the picture", picture, threshold),
            (Some((caption, of_caption)), Some((picture, of_picture))) => {
                let both = caption.zip(picture).map(|(caption, picture)| {
                    let sum = |(a, b): (&f32, &f32)| (a + b) / std::f32::consts::SQRT_2;
                    caption.iter().zip(&picture).map(sum).collect()
                });
                ("concepts of caption and picture", both, of_caption.max(of_picture))
            }
        };
        let Some(deviations): Option<Vec<f32>> = deviations else {
            // Whatever the policy has rules for, the embedding has not passed.
            let categories: BTreeSet<Category> =
                self.concepts.iter().map(|concept| concept.category).collect();
            let worst = |category| {
                let note = Evidence::Note("an embedding that is no direction".into());
                Signal::new(category, 1.0, check).evidence(note)
            };
            return categories.into_iter().map(worst).collect();
        };
        let mut signals: Vec<Signal> = Vec::new();
        for (concept, deviations) in self.concepts.iter().zip(deviations) {
            let score = (0.5 * deviations / threshold).clamp(0.0, 1.0);
            if score <= 0.25 {
                continue;
            }
            let signal = Signal::new(concept.category, score, check)
                .evidence(Evidence::Concept { phrase: concept.phrase.clone(), deviations });
            match signals.iter_mut().find(|other| other.category == concept.category) {
                Some(other) if other.score < score => *other = signal,
                Some(_) => {}
                None => signals.push(signal),
            }
        }
        signals
    }

    fn calibrate(&self, harmless: &[Vec<f32>], share: f64) -> Result<Calibration> {
        let invalid = |field, found: String, expected: &str| {
            Err(Error::InvalidInput { field, found, expected: expected.into() })
        };
        if harmless.len() < FEWEST {
            return invalid("harmless", harmless.len().to_string(), "at least 30 embeddings");
        }
        if !(0.0..=0.5).contains(&share) {
            return invalid("share", share.to_string(), "0 to 0.5");
        }
        let mut nearness = Vec::with_capacity(harmless.len());
        for (k, embedding) in harmless.iter().enumerate() {
            match self.nearness(embedding) {
                Some(near) => nearness.push(near),
                None => {
                    let found = format!("{} numbers in row {k}", embedding.len());
                    return invalid("harmless", found, "a finite direction of the phrases' width");
                }
            }
        }
        let count = nearness.len() as f32;
        let spread: Vec<(f32, f32)> = (0..self.concepts.len())
            .map(|concept| {
                let mean = nearness.iter().map(|near| near[concept]).sum::<f32>() / count;
                let square = |near: &Vec<f32>| (near[concept] - mean).powi(2);
                let variance = nearness.iter().map(square).sum::<f32>() / count;
                (mean, variance.sqrt().max(1e-6))
            })
            .collect();
        let mut calibration = Calibration { spread, threshold: 0.0 };
        let mut worst: Vec<f32> = nearness
            .iter()
            .map(|near| calibration.of(near).into_iter().fold(f32::NEG_INFINITY, f32::max))
            .collect();
        worst.sort_by(f32::total_cmp);
        let allowed =
            (1..worst.len()).take_while(|&k| k as f64 <= share * worst.len() as f64).count();
        // Just above the harmless example that must pass; no less than two deviations, where chance alone reaches.
        calibration.threshold = (worst[worst.len() - 1 - allowed] * 1.001).max(2.0);
        Ok(calibration)
    }

    fn deviations(&self, embedding: &[f32], calibration: &Calibration) -> Option<Vec<f32>> {
        Some(calibration.of(&self.nearness(embedding)?))
    }

    /// The cosine to each phrase.
    fn nearness(&self, embedding: &[f32]) -> Option<Vec<f32>> {
        let embedding = unit(embedding)?;
        if embedding.len() != self.concepts[0].embedding.len() {
            return None;
        }
        let cosine = |concept: &Concept| {
            concept.embedding.iter().zip(&embedding).map(|(a, b)| a * b).sum::<f32>()
        };
        Some(self.concepts.iter().map(cosine).collect())
    }
}

impl Calibration {
    /// The deviations above the mean.
    fn of(&self, nearness: &[f32]) -> Vec<f32> {
        nearness
            .iter()
            .zip(&self.spread)
            .map(|(near, (mean, spread))| (near - mean) / spread)
            .collect()
    }
}

/// `values` at length 1, unless they have no direction.
fn unit(values: &[f32]) -> Option<Vec<f32>> {
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return None;
    }
    Some(values.iter().map(|value| value / length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two concepts on the first two axes of four.
    fn concepts() -> Concepts {
        let phrases = vec![(Category::Violence, "a".into()), (Category::Sexual, "b".into())];
        Concepts::embed(phrases, |texts: &[&str]| {
            let axis = |text: &&str| match *text {
                "a" => vec![2.0, 0.0, 0.0, 0.0],
                _ => vec![0.0, 3.0, 0.0, 0.0],
            };
            Ok::<_, Error>(texts.iter().map(axis).collect())
        })
        .expect("two embeddings")
    }

    /// Harmless examples: a little of each concept.
    fn harmless() -> Vec<Vec<f32>> {
        let little = |k: usize| ((k * 37) % 101) as f32 / 1000.0;
        (0..200).map(|k| vec![little(k), little(k + 13), 1.0, little(k + 5)]).collect()
    }

    fn calibrated() -> Concepts {
        let mut concepts = concepts();
        concepts.calibrate_captions(&harmless(), 0.01).expect("200 examples");
        concepts.calibrate_pictures(&harmless(), 0.01).expect("200 examples");
        concepts
    }

    fn scores(embedded: &Embedded<'_>) -> Vec<(Category, f32)> {
        let signals = calibrated().signals(embedded);
        signals.into_iter().map(|signal| (signal.category, signal.score)).collect()
    }

    #[test]
    fn the_share_of_harmless_examples_refused_is_the_one_asked_for() {
        let concepts = calibrated();
        let refused = harmless()
            .iter()
            .filter(|embedding| {
                concepts.signals(&Embedded::caption(embedding)).iter().any(|s| s.score >= 0.5)
            })
            .count();
        assert!(refused <= 2, "{refused} of 200");
    }

    #[test]
    fn a_caption_near_a_phrase_scores_in_its_category() {
        let found = scores(&Embedded::caption(&[5.0, 0.0, 1.0, 0.0]));
        assert_eq!(found, [(Category::Violence, 1.0)]);
    }

    #[test]
    fn two_halves_that_pass_alone_may_fail_together() {
        let near = [0.1, 0.05, 1.0, 0.05];
        let alone = scores(&Embedded::caption(&near));
        assert!(alone.iter().all(|(_, score)| *score < 0.5), "{alone:?}");
        let together = scores(&Embedded::pair(&near, &near));
        assert!(together.iter().any(|(_, score)| *score >= 0.5), "{together:?}");
    }

    #[test]
    fn nothing_is_said_before_calibration() {
        assert!(concepts().signals(&Embedded::caption(&[5.0, 0.0, 1.0, 0.0])).is_empty());
        assert_eq!(concepts().recall(&harmless()), None);
        assert_eq!(
            calibrated().recall(&[vec![1.0, 0.0, 0.0, 0.0], vec![0.0, 0.0, 1.0, 0.0]]),
            Some(0.5)
        );
    }

    #[test]
    fn embeddings_without_direction_are_refused_or_reported() {
        for bad in [vec![0.0; 4], vec![f32::NAN; 4], vec![1.0; 3], Vec::new()] {
            let worst = [(Category::Violence, 1.0), (Category::Sexual, 1.0)];
            assert_eq!(scores(&Embedded::caption(&bad)), worst, "{bad:?}");
            let mut examples = harmless();
            examples[7] = bad;
            let error = concepts().calibrate_captions(&examples, 0.01).expect_err("row 7");
            assert!(error.to_string().contains("row 7"), "{error}");
        }
        assert!(concepts().calibrate_captions(&harmless()[..29], 0.01).is_err(), "too few");
        assert!(concepts().calibrate_captions(&harmless(), 0.9).is_err(), "too many refused");
    }

    #[test]
    fn the_built_in_phrases_cover_the_categories_that_pictures_show() {
        let mut count = 0;
        let embed = |texts: &[&str]| {
            count = texts.len();
            Ok::<_, Error>(vec![vec![1.0, 0.5]; texts.len()])
        };
        let concepts = Concepts::builtin(embed).expect("a list");
        for category in [Category::Hate, Category::Violence, Category::Sexual, Category::Minors] {
            assert!(
                concepts.concepts.iter().any(|concept| concept.category == category),
                "{category}"
            );
        }
        assert!(count >= 30, "{count} phrases");
    }
}
