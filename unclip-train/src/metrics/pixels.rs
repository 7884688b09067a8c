//! Pictures against pictures.

use image::RgbImage;
use unclip_core::Error as CoreError;

use crate::Result;

/// The peak signal-to-noise ratio of a picture against the true one, in decibels: `10 log₁₀(255² / mean squared error)`
/// over all channels. Infinite when they are equal.
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when their sizes differ or they are empty.
pub fn psnr(picture: &RgbImage, truth: &RgbImage) -> Result<f64> {
    if picture.dimensions() != truth.dimensions() || truth.as_raw().is_empty() {
        let [(w, h), (width, height)] = [picture.dimensions(), truth.dimensions()];
        let found = format_args!("{w} × {h} pixels");
        return Err(
            CoreError::invalid("picture", found, format!("{width} × {height}, not 0")).into()
        );
    }
    let squared = |(a, b): (&u8, &u8)| u64::from(a.abs_diff(*b)).pow(2);
    let sum: u64 = picture.as_raw().iter().zip(truth.as_raw()).map(squared).sum();
    let mean = sum as f64 / truth.as_raw().len() as f64;
    Ok(10.0 * (255.0 * 255.0 / mean).log10())
}

/// The mean of [`psnr`] over pairs of a picture and the true one. Equal pictures, whose ratio is infinite, count with
/// the ratio of one wrong grey level in one channel of one pixel.
///
/// # Errors
///
/// As [`psnr`]; also when there are no pairs.
pub fn mean_psnr<'a>(pairs: impl IntoIterator<Item = (&'a RgbImage, &'a RgbImage)>) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for (picture, truth) in pairs {
        let most = 10.0 * (255.0 * 255.0 * truth.as_raw().len() as f64).log10();
        sum += psnr(picture, truth)?.min(most);
        count += 1;
    }
    match count {
        0 => Err(CoreError::invalid("pairs", "none", "at least one").into()),
        count => Ok(sum / f64::from(count)),
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::metrics::reference::assert_near;

    #[test]
    fn the_ratio_is_that_of_scikit_image() {
        let truth = RgbImage::from_fn(9, 7, |x, y| {
            Rgb([20 * x, 30 * y, 10 * (x + y)].map(|v| u8::try_from(v % 256).expect("below 256")))
        });
        let picture = RgbImage::from_fn(9, 7, |x, y| {
            let Rgb(pixel) = *truth.get_pixel(x, y);
            Rgb(pixel.map(|v| v.wrapping_add(u8::try_from((x * y) % 5).expect("below 5"))))
        });
        assert_near(psnr(&picture, &truth).expect("equal sizes"), PSNR, 1e-6);
    }

    #[test]
    fn equal_pictures_are_at_infinity_and_do_not_spoil_a_mean() {
        let truth = RgbImage::from_pixel(4, 4, Rgb([10; 3]));
        let other = RgbImage::from_pixel(4, 4, Rgb([11; 3]));
        assert_eq!(psnr(&truth, &truth).expect("equal sizes"), f64::INFINITY);
        assert_near(psnr(&other, &truth).expect("equal sizes"), 48.130_803_6, 1e-6);
        let mean = mean_psnr([(&truth, &truth), (&other, &truth)]).expect("two pairs");
        assert!(mean.is_finite() && mean > 50.0, "{mean}");
        assert!(psnr(&RgbImage::new(3, 4), &truth).is_err(), "other sizes");
        assert!(psnr(&RgbImage::new(0, 0), &RgbImage::new(0, 0)).is_err(), "no pixels");
        assert!(mean_psnr([]).is_err(), "no pairs");
    }

    const PSNR: f64 = 42.075_871_937;
}
