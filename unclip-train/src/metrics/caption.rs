//! Whether pictures show what their captions say.

use ndarray::ArrayView2;
use rand::seq::index;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use unclip_core::Error as CoreError;

use super::rows;
use crate::Result;

/// The mean cosine of pictures with their own captions, times 100 (Hessel et al. 2021, without its factor 2.5 and its
/// floor at 0).
///
/// # Shapes
///
/// - `images`, `captions`: `[pictures, width]`, of any length, by a CLIP that took no part in training
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when shapes differ, a number is not finite, or there are no rows.
pub fn clip_score(images: ArrayView2<'_, f32>, captions: ArrayView2<'_, f32>) -> Result<f64> {
    rows::same_rows("captions", captions.nrows(), images.nrows())?;
    let (images, captions) = rows::pair(("images", images), ("captions", captions))?;
    let [images, captions] = [images, captions].map(rows::normalise);
    Ok(100.0 * (&images * &captions).sum() / images.nrows() as f64)
}

/// R-precision (Xu et al. 2018, AttnGAN): the share of pictures whose own caption is closest to them among `candidates`
/// captions, the others drawn at random from those that are wrong.
///
/// A wrong caption that is as close as the right one beats it.
///
/// # Shapes
///
/// - `images`, `captions`: `[pictures, width]`, of any length, row by row; `is_right(i, j)` says whether caption `j`
///   describes picture `i` too
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when shapes differ, a number is not finite, there are no rows, `candidates` is
/// below 2, or a picture has fewer wrong captions than that takes.
pub fn r_precision(
    images: ArrayView2<'_, f32>,
    captions: ArrayView2<'_, f32>,
    candidates: usize,
    seed: u64,
    is_right: impl Fn(usize, usize) -> bool,
) -> Result<f64> {
    rows::same_rows("captions", captions.nrows(), images.nrows())?;
    if candidates < 2 {
        return Err(CoreError::invalid("candidates", candidates, "2 or more").into());
    }
    let (images, captions) = rows::pair(("images", images), ("captions", captions))?;
    let cosines = rows::normalise(images).dot(&rows::normalise(captions).t());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut hits = 0;
    for (row, cosines) in cosines.outer_iter().enumerate() {
        let wrong: Vec<f64> = (cosines.iter().enumerate())
            .filter(|(other, _)| *other != row && !is_right(row, *other))
            .map(|(_, cosine)| *cosine)
            .collect();
        if wrong.len() < candidates - 1 {
            let found = format_args!("picture {row} has {} wrong ones", wrong.len());
            let expected = format!("at least {}", candidates - 1);
            return Err(CoreError::invalid("captions", found, expected).into());
        }
        let drawn = index::sample(&mut rng, wrong.len(), candidates - 1);
        hits += usize::from(drawn.into_iter().all(|other| wrong[other] < cosines[row]));
    }
    Ok(hits as f64 / cosines.nrows() as f64)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::metrics::reference::{assert_near, waves};

    #[test]
    fn the_score_is_that_of_numpy() {
        let (images, captions) = (waves(30, 8, 0.0), waves(30, 8, 0.4));
        assert_near(clip_score(images.view(), captions.view()).expect("valid"), SCORE, 1e-5);
    }

    #[test]
    fn precision_is_chance_without_a_relation_and_one_with_the_right_captions() {
        let images = waves(1000, 8, 0.0);
        let precision = |captions: &Array2<f32>, candidates| {
            r_precision(images.view(), captions.view(), candidates, 5, |a, b| a == b)
                .expect("valid")
        };
        assert_eq!(precision(&images, 100), 1.0);
        let mut rolled = images.clone();
        for (row, mut other) in rolled.outer_iter_mut().enumerate() {
            other.assign(&images.row((row * 7 + 300) % 1000));
        }
        let chance = precision(&rolled, 10);
        // Four standard errors around one in ten.
        assert!((chance - 0.1).abs() < 0.04, "{chance}");
        assert_eq!(precision(&Array2::ones((1000, 8)), 2), 0.0, "ties do not help");
    }

    #[test]
    fn other_right_captions_are_no_candidates() {
        let images = waves(6, 8, 0.0);
        let mut captions = images.clone();
        let first = captions.row(0).to_owned();
        captions.row_mut(1).assign(&first);
        let same = |a: usize, b: usize| a.max(b) <= 1 || a == b;
        let all = r_precision(images.view(), captions.view(), 5, 0, same).expect("enough");
        assert_near(all, 5.0 / 6.0, 1e-12);
        let error = r_precision(images.view(), captions.view(), 6, 0, same).expect_err("too few");
        assert!(error.to_string().contains("picture 0 has 4 wrong ones"), "{error}");
    }

    const SCORE: f64 = 91.856_556_7;
}
