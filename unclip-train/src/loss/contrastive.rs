//! Captions and pictures that belong together are to be near, all others apart.
//!
//! The sigmoid loss judges every pair of the batch alone (Zhai et al. 2023, SigLIP); the softmax loss asks each picture
//! for its caption among all of the batch, and each caption for its picture (Radford et al. 2021, CLIP). Several
//! pictures may have one caption: each of those pairs belongs together.

use burn::tensor::{Device, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

/// The largest logarithm of the factor on similarities, as CLIP clips it: a factor of 100.
const LARGEST_LOG_SCALE: f64 = 4.605_170_185_988_092;

/// How a batch of pairs is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contrastive {
    /// Every pair alone.
    #[default]
    Sigmoid,
    /// Each against all others.
    Softmax,
}

impl Contrastive {
    /// What the logarithm of the factor on similarities and the number added to them start from: SigLIP's and CLIP's.
    pub fn start(self) -> (f32, f32) {
        match self {
            Self::Sigmoid => (10f32.ln(), -10.0),
            Self::Softmax => ((1.0f32 / 0.07).ln(), 0.0),
        }
    }

    /// The loss of a batch, a mean over its pairs.
    ///
    /// # Shapes
    ///
    /// - `images`, `texts`: `[pairs, width]`, not normalised; row `i` of one belongs to row `i` of the other
    /// - `log_scale`, `bias`: one number; the softmax loss does not read `bias`
    /// - `positives`: `[pairs, pairs]`, as [`positives`] makes them
    /// - output: one number
    ///
    /// # Panics
    ///
    /// When an axis differs from the shapes above.
    pub fn loss(
        self,
        images: Tensor<2>,
        texts: Tensor<2>,
        log_scale: Tensor<1>,
        bias: Tensor<1>,
        positives: Tensor<2>,
    ) -> Tensor<1> {
        let pairs = images.dims()[0] as f64;
        let scale = log_scale.clamp_max(LARGEST_LOG_SCALE).exp().unsqueeze::<2>();
        let logits = unit(images).matmul(unit(texts).transpose()) * scale;
        match self {
            Self::Sigmoid => {
                let signs = positives * 2.0 - 1.0;
                let logits = (logits + bias.unsqueeze::<2>()) * signs;
                activation::log_sigmoid(logits).sum() / -pairs
            }
            Self::Softmax => {
                let towards = |logits: Tensor<2>, positives: Tensor<2>| {
                    let targets = positives.clone() / positives.sum_dim(1);
                    (activation::log_softmax(logits, 1) * targets).sum() / -pairs
                };
                let images = towards(logits.clone(), positives.clone());
                let texts = towards(logits.transpose(), positives.transpose());
                (images + texts) / 2.0
            }
        }
    }
}

/// Which pairs of a batch belong together: 1 for those of a sample and for those with the same caption, 0 otherwise.
///
/// # Shapes
///
/// - output: `[captions, captions]`
pub fn positives<S: AsRef<str>>(captions: &[S], device: &Device) -> Tensor<2> {
    let count = captions.len();
    let values: Vec<f32> = captions
        .iter()
        .flat_map(|a| captions.iter().map(move |b| f32::from(a.as_ref() == b.as_ref())))
        .collect();
    Tensor::from_data(TensorData::new(values, [count, count]), device)
}

/// Rows of length 1.
fn unit(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().square().sum_dim(1).sqrt();
    x / length.clamp_min(1e-12)
}

#[cfg(test)]
mod tests {
    use unclip_testkit::device;

    use super::*;

    fn loss(kind: Contrastive, captions: &[&str]) -> f32 {
        let device = device();
        let rows = [[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]];
        let images = Tensor::from_floats(rows, &device);
        let texts = Tensor::from_floats([[2.0, 1.0], [-1.0, 1.0], [0.5, 0.5]], &device);
        let number = |value: f32| Tensor::<1>::from_floats([value], &device);
        let positives = positives(captions, &device);
        kind.loss(images, texts, number(2f32.ln()), number(-0.5), positives).into_scalar()
    }

    /// Recorded from PyTorch: `-logsigmoid(signs · (2 · cos − 0.5)).sum() / 3`, and `cross_entropy` over rows and columns
    /// of `2 · cos` with targets of probabilities.
    #[test]
    fn the_losses_are_pytorch_s() {
        for (kind, captions, expected) in [
            (Contrastive::Sigmoid, ["a", "b", "c"], 2.141_353),
            (Contrastive::Sigmoid, ["a", "b", "a"], 1.370_826),
            (Contrastive::Softmax, ["a", "b", "c"], 0.691_726),
            (Contrastive::Softmax, ["a", "b", "a"], 0.771_271),
        ] {
            let found = loss(kind, &captions);
            assert!((found - expected).abs() < 1e-5, "{kind:?} {captions:?}: {found}");
        }
    }

    #[test]
    fn the_factor_is_at_most_a_hundred() {
        let device = device();
        let rows = || Tensor::from_floats([[1.0, 0.0], [0.0, 1.0]], &device);
        let number = |value: f32| Tensor::<1>::from_floats([value], &device);
        let run = |log_scale| {
            let positives = positives(&["a", "b"], &device);
            let (images, texts) = (rows(), rows().flip([0]));
            let loss =
                Contrastive::Softmax.loss(images, texts, number(log_scale), number(0.0), positives);
            loss.into_scalar::<f32>()
        };
        assert_eq!(run(50.0), run(100f32.ln()));
    }
}
