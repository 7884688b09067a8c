//! A prior in closed form: ridge regression from a caption's embedding to a picture's.
//!
//! The simplest prior there is, and the one that a diffusion prior has to beat: a linear map already draws what captions
//! name (Razzhigaev et al. 2023, Kandinsky, found their best FID with one).

use unclip_core::Error as CoreError;

use crate::Result;

/// `image ≈ W · text + b`, with the squares of `W` held small.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    /// `[image_width, text_width + 1]`, row by row; the last column is added.
    weights: Vec<f64>,
    text_width: usize,
    image_width: usize,
}

impl Ridge {
    /// Fits pairs of embeddings, row by row: `texts` of `text_width` values and `images` of `image_width`.
    ///
    /// `penalty` is in units of the mean square of a text embedding's values, so that it means the same at any scale.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when there are no pairs, their numbers differ or are not finite, or `penalty`
    /// is not positive.
    pub fn fit(
        texts: &[f32],
        text_width: usize,
        images: &[f32],
        image_width: usize,
        penalty: f64,
    ) -> Result<Self> {
        let pairs = texts.len().checked_div(text_width).unwrap_or(0);
        if pairs == 0 || texts.len() != pairs * text_width || images.len() != pairs * image_width {
            let found = format_args!("{} and {} values", texts.len(), images.len());
            let expected = format!("as many rows of {text_width} as of {image_width}");
            return Err(CoreError::invalid("texts and images", found, expected).into());
        }
        if !(penalty.is_finite() && penalty > 0.0) {
            return Err(CoreError::invalid("penalty", penalty, "a positive number").into());
        }
        if !texts.iter().chain(images).all(|value| value.is_finite()) {
            let expected = "finite values";
            return Err(CoreError::invalid("texts and images", "not numbers", expected).into());
        }
        let texts_mean = mean(texts, text_width);
        let images_mean = mean(images, image_width);
        // Gram matrix and moments of what is left without the means.
        let mut gram = vec![0.0; text_width * text_width];
        let mut moments = vec![0.0; text_width * image_width];
        for (text, image) in texts.chunks(text_width).zip(images.chunks(image_width)) {
            let text: Vec<f64> = centred(text, &texts_mean);
            let image: Vec<f64> = centred(image, &images_mean);
            for (i, &value) in text.iter().enumerate() {
                let row = &mut gram[i * text_width..][..text_width];
                row.iter_mut().zip(&text).for_each(|(sum, &other)| *sum += value * other);
                let row = &mut moments[i * image_width..][..image_width];
                row.iter_mut().zip(&image).for_each(|(sum, &other)| *sum += value * other);
            }
        }
        let trace: f64 = (0..text_width).map(|i| gram[i * text_width + i]).sum();
        let penalty = penalty * (trace / text_width as f64).max(f64::MIN_POSITIVE);
        for i in 0..text_width {
            gram[i * text_width + i] += penalty;
        }
        cholesky(&mut gram, text_width);
        solve(&gram, text_width, &mut moments, image_width);

        let mut weights = Vec::with_capacity(image_width * (text_width + 1));
        for (j, &mean) in images_mean.iter().enumerate() {
            let row = (0..text_width).map(|i| moments[i * image_width + j]);
            let shift: f64 = row.clone().zip(&texts_mean).map(|(w, x)| w * x).sum();
            weights.extend(row);
            weights.push(mean - shift);
        }
        Ok(Self { weights, text_width, image_width })
    }

    /// The embeddings of pictures for those of captions, row by row.
    ///
    /// # Panics
    ///
    /// When `texts` is not made of whole rows.
    #[expect(clippy::cast_possible_truncation, reason = "embeddings are 32 bits wide")]
    pub fn predict(&self, texts: &[f32]) -> Vec<f32> {
        assert!(texts.len().is_multiple_of(self.text_width), "rows of {} values", self.text_width);
        let mut images = Vec::with_capacity(texts.len() / self.text_width * self.image_width);
        for text in texts.chunks(self.text_width) {
            for row in self.weights.chunks(self.text_width + 1) {
                let sum: f64 = row.iter().zip(text).map(|(w, &x)| w * f64::from(x)).sum();
                images.push((sum + row[self.text_width]) as f32);
            }
        }
        images
    }
}

fn mean(rows: &[f32], width: usize) -> Vec<f64> {
    let mut sum = vec![0.0; width];
    for row in rows.chunks(width) {
        sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    let count = (rows.len() / width.max(1)) as f64;
    sum.into_iter().map(|sum| sum / count).collect()
}

fn centred(row: &[f32], mean: &[f64]) -> Vec<f64> {
    row.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean).collect()
}

/// Replaces the lower half of a symmetric positive matrix by its Cholesky factor.
pub(crate) fn cholesky(a: &mut [f64], n: usize) {
    for j in 0..n {
        for i in j..n {
            let dot: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let left = a[i * n + j] - dot;
            a[i * n + j] = if i == j { left.sqrt() } else { left / a[j * n + j] };
        }
    }
}

/// Solves `L Lᵀ x = b` for every column of `b`, in place.
pub(crate) fn solve(l: &[f64], n: usize, b: &mut [f64], columns: usize) {
    for j in 0..columns {
        for i in 0..n {
            let dot: f64 = (0..i).map(|k| l[i * n + k] * b[k * columns + j]).sum();
            b[i * columns + j] = (b[i * columns + j] - dot) / l[i * n + i];
        }
        for i in (0..n).rev() {
            let dot: f64 = (i + 1..n).map(|k| l[k * n + i] * b[k * columns + j]).sum();
            b[i * columns + j] = (b[i * columns + j] - dot) / l[i * n + i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::{Draws, Purpose};

    /// 200 captions of 3 values, and what `[[1, -2, 0.5], [0, 3, 1]] · x + [4, -1]` makes of them.
    fn pairs() -> (Vec<f32>, Vec<f32>) {
        let mut draws = Draws::new(0, Purpose::Noise, 0, 0);
        let texts: Vec<f32> = draws.normals(600).map(|x| x + 0.7).collect();
        let images = texts
            .chunks(3)
            .flat_map(|x| [x[0] - 2.0 * x[1] + 0.5 * x[2] + 4.0, 3.0 * x[1] + x[2] - 1.0]);
        let images = images.collect();
        (texts, images)
    }

    #[test]
    fn a_linear_map_is_found_again() {
        let (texts, images) = pairs();
        let ridge = Ridge::fit(&texts, 3, &images, 2, 1e-9).expect("pairs");
        let found = ridge.predict(&[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        for (found, expected) in found.iter().zip([3.5, 3.0, 4.0, -1.0]) {
            assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
        }
    }

    #[test]
    fn a_large_penalty_leaves_the_mean() {
        let (texts, images) = pairs();
        let ridge = Ridge::fit(&texts, 3, &images, 2, 1e9).expect("pairs");
        let means = mean(&images, 2);
        for (found, mean) in ridge.predict(&[5.0, -5.0, 2.0]).iter().zip(means) {
            assert!((f64::from(*found) - mean).abs() < 1e-3, "{found} is not {mean}");
        }
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        for (texts, images, penalty) in [
            (&[][..], &[][..], 1.0),
            (&[1.0, 2.0, 3.0], &[1.0], 1.0),
            (&[1.0, 2.0], &[1.0], 0.0),
            (&[f32::NAN, 2.0], &[1.0], 1.0),
        ] {
            assert!(Ridge::fit(texts, 2, images, 1, penalty).is_err(), "{texts:?}");
        }
    }
}
