//! What a picture looks like in a few bytes.

use image::RgbImage;
use sha2::{Digest, Sha256};
use unclip_core::resize::{Filter, resize_rgb8};

use super::Likeness;
use crate::Result;

/// The side of the small picture whose colours are compared.
const THUMBNAIL: u32 = 16;
/// Grey levels by which a pixel has to exceed its left neighbour for a bit of the hash: rounding is not a gradient.
const STEP: u32 = 2;

/// A picture's exact hash, its gradients and its colours.
///
/// The gradients are a difference hash: 8 × 8 bits that say whether the picture, at 9 × 8 pixels and in grey, grows
/// lighter to the right. It is blind to colour, so a red heart and a blue one are alike by it; a thumbnail tells them
/// apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    exact: [u8; 32],
    gradients: u64,
    thumbnail: Vec<u8>,
}

impl Fingerprint {
    /// The fingerprint of a picture.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when the picture is empty.
    pub fn of(picture: &RgbImage) -> Result<Self> {
        let small = resize_rgb8(picture, 9, 8, Filter::Bicubic)?;
        let grey = |x, y| {
            let [r, g, b] = small.get_pixel(x, y).0.map(u32::from);
            (299 * r + 587 * g + 114 * b) / 1000
        };
        let mut gradients = 0;
        for (y, x) in (0..8).flat_map(|y| (0..8).map(move |x| (y, x))) {
            gradients = gradients << 1 | u64::from(grey(x + 1, y) > grey(x, y) + STEP);
        }
        let thumbnail = resize_rgb8(picture, THUMBNAIL, THUMBNAIL, Filter::Bicubic)?.into_raw();
        let mut exact = Sha256::new();
        exact.update(picture.width().to_le_bytes());
        exact.update(picture.as_raw());
        Ok(Self { exact: exact.finalize().into(), gradients, thumbnail })
    }

    /// Whether both are of the same pixels.
    pub fn is_equal(&self, other: &Self) -> bool {
        self.exact == other.exact
    }

    /// Gradients that point another way, of 64.
    pub fn gradients_apart(&self, other: &Self) -> u32 {
        (self.gradients ^ other.gradients).count_ones()
    }

    /// The mean difference of the colours at 16 × 16 pixels, in grey levels of 255.
    pub fn colours_apart(&self, other: &Self) -> f64 {
        let apart = |(a, b): (&u8, &u8)| u64::from(a.abs_diff(*b));
        let sum: u64 = self.thumbnail.iter().zip(&other.thumbnail).map(apart).sum();
        sum as f64 / self.thumbnail.len() as f64
    }
}

/// Likeness by [`Fingerprint`]: equal pixels, or both gradients and colours close.
#[derive(Debug, Clone)]
pub struct Fingerprints {
    prints: Vec<Fingerprint>,
    gradients: u32,
    colours: f64,
}

impl Fingerprints {
    /// Pictures are alike whose gradients differ in at most `gradients` of 64 bits, and whose colours differ by at most
    /// `colours` grey levels on average.
    pub fn new(prints: Vec<Fingerprint>, gradients: u32, colours: f64) -> Self {
        Self { prints, gradients, colours }
    }
}

impl Likeness for Fingerprints {
    fn len(&self) -> usize {
        self.prints.len()
    }

    fn alike(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.prints[a], &self.prints[b]);
        a.is_equal(b)
            || a.gradients_apart(b) <= self.gradients && a.colours_apart(b) <= self.colours
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// A disc on white, `shift` pixels to the right.
    fn disc(side: u32, shift: i64, colour: [u8; 3]) -> RgbImage {
        let (middle, radius) = (i64::from(side) / 2, i64::from(side) / 3);
        RgbImage::from_fn(side, side, |x, y| {
            let (dx, dy) = (i64::from(x) - middle - shift, i64::from(y) - middle);
            Rgb(if dx * dx + dy * dy < radius * radius { colour } else { [255; 3] })
        })
    }

    #[test]
    fn a_picture_is_like_itself_at_another_size_and_unlike_another_colour_or_shape() {
        let of = |picture: &RgbImage| Fingerprint::of(picture).expect("not empty");
        let red = of(&disc(64, 0, [200, 0, 0]));
        let large = of(&disc(256, 0, [200, 0, 0]));
        assert!(!red.is_equal(&large), "other pixels");
        assert!(red.gradients_apart(&large) <= 1, "{}", red.gradients_apart(&large));
        assert!(red.colours_apart(&large) < 4.0, "{}", red.colours_apart(&large));
        let blue = of(&disc(64, 0, [0, 0, 200]));
        assert!(red.gradients_apart(&blue) <= 1, "blind to colour");
        assert!(red.colours_apart(&blue) > 30.0, "{}", red.colours_apart(&blue));
        let moved = of(&disc(64, 12, [200, 0, 0]));
        assert!(red.gradients_apart(&moved) > 6, "{}", red.gradients_apart(&moved));
    }

    #[test]
    fn rounding_is_no_gradient() {
        let flat = RgbImage::from_pixel(64, 64, Rgb([130; 3]));
        let noisy = RgbImage::from_fn(64, 64, |x, y| Rgb([130 + u8::from((x * y) % 3 == 0); 3]));
        let [flat, noisy] = [flat, noisy].map(|p| Fingerprint::of(&p).expect("not empty"));
        assert_eq!(flat.gradients_apart(&noisy), 0);
        assert!(Fingerprint::of(&RgbImage::new(0, 4)).is_err(), "an empty picture");
    }
}
