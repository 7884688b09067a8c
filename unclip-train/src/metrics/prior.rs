//! What a prior predicts.

use ndarray::ArrayView2;
use serde::Serialize;

use super::{Recall, recall, rows};
use crate::Result;

/// Mean cosines of predicted image embeddings, and how well they find their pictures.
///
/// After LAION's notes on training a prior: `to_image` should rise, `to_text` come near the data's own, `to_unrelated`
/// stay low.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PriorReport {
    /// To the picture's embedding.
    pub to_image: f64,
    /// To the caption's embedding.
    pub to_text: f64,
    /// Of the pictures' embeddings to their captions': what `to_text` would be of a perfect prior.
    pub data_to_text: f64,
    /// To the embeddings of the other captions.
    pub to_unrelated: f64,
    /// How often the picture's embedding is the first, among the first 5 and 10, of all pictures.
    #[serde(skip)]
    pub recall: Recall,
}

/// Compares `predicted` image embeddings with the true ones and with the captions' embeddings, row by row.
///
/// `is_right(i, j)` says whether picture `j` is a right answer to caption `i`; other captions are those of pictures that
/// are not.
///
/// # Shapes
///
/// - all: `[samples, width]`, of any length
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when shapes differ, a number is not finite, or there are no samples.
pub fn prior_report(
    predicted: ArrayView2<'_, f32>,
    images: ArrayView2<'_, f32>,
    texts: ArrayView2<'_, f32>,
    is_right: impl Fn(usize, usize) -> bool,
) -> Result<PriorReport> {
    rows::same_rows("predicted", predicted.nrows(), images.nrows())?;
    rows::same_rows("texts", texts.nrows(), images.nrows())?;
    let recall = recall(predicted, images, &is_right)?;
    let (p, i) = rows::pair(("predicted", predicted), ("images", images))?;
    let (t, _) = rows::pair(("texts", texts), ("images", images))?;
    let [p, i, t] = [p, i, t].map(rows::normalise);
    let samples = p.nrows() as f64;
    let mean = |a: &ndarray::Array2<f64>, b: &ndarray::Array2<f64>| (a * b).sum() / samples;
    let cosines = p.dot(&t.t());
    let others = cosines.indexed_iter().filter(|((row, other), _)| !is_right(*row, *other));
    let (sum, count) =
        others.fold((0.0, 0.0), |(sum, count), (_, cosine)| (sum + cosine, count + 1.0));
    Ok(PriorReport {
        to_image: mean(&p, &i),
        to_text: mean(&p, &t),
        data_to_text: mean(&i, &t),
        // Nothing is unrelated where all are right.
        to_unrelated: if count > 0.0 { sum / count } else { f64::NAN },
        recall,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::reference::{assert_near, waves};

    #[test]
    fn cosines_are_those_of_numpy() {
        let [predicted, images, texts] = [0.1, 0.0, 0.9].map(|shift| waves(12, 6, shift));
        let same = |a: usize, b: usize| a / 2 == b / 2;
        let report =
            prior_report(predicted.view(), images.view(), texts.view(), same).expect("valid");
        assert_near(report.to_image, 0.995_638_791, 1e-6);
        assert_near(report.to_text, 0.616_010_689, 1e-6);
        assert_near(report.data_to_text, 0.548_366_500, 1e-6);
        assert_near(report.to_unrelated, -0.019_555_537, 1e-6);
        assert_eq!(report.recall.at_1, 1.0);
    }

    #[test]
    fn a_perfect_prior_is_at_its_picture() {
        let rows = waves(5, 6, 0.0);
        let report = prior_report(rows.view(), rows.view(), rows.view(), |a, b| a == b);
        let report = report.expect("valid");
        assert_near(report.to_image, 1.0, 1e-12);
        assert!(report.to_unrelated < 0.9, "{report:?}");
        assert!(
            prior_report(rows.view(), waves(4, 6, 0.0).view(), rows.view(), |_, _| true).is_err()
        );
    }
}
