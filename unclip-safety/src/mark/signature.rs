//! The mark that everybody sees.

use image::{Rgb, RgbImage};

use crate::{MarkError, Watermark};

/// The name in results and logs.
const NAME: &str = "signature";
/// Squares of a signature.
const SQUARES: u32 = 5;
/// Squares along the shorter side of a picture.
const PER_SIDE: u32 = 64;
/// The root mean square by which the colour of a found square may differ; JPEG at quality 50 stays below.
const TOLERANCE: f32 = 30.0;

/// Our five colours, from left to right: slate, teal, sand, coral, violet.
const COLOURS: [Rgb<u8>; SQUARES as usize] = [
    Rgb([0x1B, 0x3A, 0x4B]),
    Rgb([0x1F, 0x9E, 0x89]),
    Rgb([0xD9, 0xB4, 0x5B]),
    Rgb([0xC4, 0x4E, 0x52]),
    Rgb([0x7A, 0x4F, 0xA3]),
];

/// The five colours of DALL·E 2, from left to right: yellow, turquoise, green, orange, blue.
///
/// Measured on eight pictures of 1024 × 1024 that OpenAI published: five opaque squares of 16 × 16 pixels without a gap,
/// flush with the lower right corner. They are here to be recognised. They are never stamped, since that would call a
/// picture OpenAI's.
pub const DALL_E_2_COLOURS: [Rgb<u8>; SQUARES as usize] = [
    Rgb([0xFF, 0xFF, 0x66]),
    Rgb([0x42, 0xFF, 0xFF]),
    Rgb([0x51, 0xDA, 0x4C]),
    Rgb([0xFF, 0x6E, 0x3C]),
    Rgb([0x3C, 0x46, 0xFF]),
];

/// Five squares in the lower right corner, each 1/64 of the picture's shorter side, in colours of our own.
///
/// The geometry is that of DALL·E 2; the colours are not.
///
/// ```
/// use unclip_safety::{Watermark, mark::Signature};
///
/// let mut picture = image::RgbImage::from_pixel(256, 256, image::Rgb([240, 240, 240]));
/// Signature::new().mark(&mut picture)?;
/// assert!(Signature::new().is_on(&picture));
/// # Ok::<(), unclip_safety::MarkError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Signature {
    colours: [Rgb<u8>; SQUARES as usize],
}

/// The colours asked for are another maker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these colours are the signature of DALL·E 2, which this library never stamps")]
pub struct ForeignColours;

impl Default for Signature {
    fn default() -> Self {
        Self::new()
    }
}

impl Signature {
    /// The signature of this library.
    pub fn new() -> Self {
        Self { colours: COLOURS }
    }

    /// A signature in five colours of the caller's, from left to right.
    ///
    /// # Errors
    ///
    /// When they would be taken for those of DALL·E 2.
    pub fn with_colours(colours: [Rgb<u8>; SQUARES as usize]) -> Result<Self, ForeignColours> {
        let near =
            |(a, b): (&Rgb<u8>, &Rgb<u8>)| distance(a.0.map(f32::from), b) <= 2.0 * TOLERANCE;
        if colours.iter().zip(&DALL_E_2_COLOURS).all(near) {
            return Err(ForeignColours);
        }
        Ok(Self { colours })
    }

    /// Whether `picture` bears this signature, at the size that it was put on or resized since.
    pub fn is_on(&self, picture: &RgbImage) -> bool {
        bears(picture, &self.colours)
    }
}

/// Whether `picture` bears the signature of DALL·E 2 in its lower right corner.
pub fn is_signed_by_dall_e_2(picture: &RgbImage) -> bool {
    bears(picture, &DALL_E_2_COLOURS)
}

impl Watermark for Signature {
    fn name(&self) -> &str {
        NAME
    }

    fn mark(&self, picture: &mut RgbImage) -> Result<(), MarkError> {
        let (width, height) = picture.dimensions();
        let side = square(width, height);
        if width < side * SQUARES || height == 0 {
            return Err(MarkError {
                watermark: NAME.into(),
                width,
                height,
                reason: format!("five squares need {} pixels across", side * SQUARES),
            });
        }
        let left = width - side * SQUARES;
        for y in height - side..height {
            for x in left..width {
                picture.put_pixel(x, y, self.colours[((x - left) / side) as usize]);
            }
        }
        Ok(())
    }
}

/// Pixels along a square.
fn square(width: u32, height: u32) -> u32 {
    ((width.min(height) + PER_SIDE / 2) / PER_SIDE).max(1)
}

fn bears(picture: &RgbImage, colours: &[Rgb<u8>; SQUARES as usize]) -> bool {
    let (width, height) = picture.dimensions();
    let side = square(width, height);
    // Resizing rounds a square's side, by less than a pixel.
    [side, side + 1, side.saturating_sub(1)].into_iter().any(|side| {
        if side == 0 || width < side * SQUARES || height < side {
            return false;
        }
        // The rim of a square mixes with its neighbours where a picture was resized or compressed.
        let rim = u32::from(side >= 3);
        let left = width - side * SQUARES;
        colours.iter().zip(0..).all(|(colour, k)| {
            let mut sum = [0.0; 3];
            for y in height - side + rim..height - rim {
                for x in left + k * side + rim..left + (k + 1) * side - rim {
                    let pixel = picture.get_pixel(x, y).0;
                    sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f32::from(value));
                }
            }
            let pixels = (side - 2 * rim).pow(2) as f32;
            distance(sum.map(|sum| sum / pixels), colour) <= TOLERANCE
        })
    })
}

/// The root mean square of the channels' differences.
fn distance(a: [f32; 3], b: &Rgb<u8>) -> f32 {
    let squares: f32 = a.iter().zip(b.0).map(|(a, b)| (a - f32::from(b)).powi(2)).sum();
    (squares / 3.0).sqrt()
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test pictures are made of low bits")]
mod tests {
    use image::imageops::{FilterType, resize};

    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x ^ y) as u8]))
    }

    fn signed(width: u32, height: u32) -> RgbImage {
        let mut picture = picture(width, height);
        Signature::new().mark(&mut picture).expect("large enough");
        picture
    }

    #[test]
    fn squares_are_a_64th_of_the_shorter_side_in_the_corner() {
        let signed = signed(1024, 1024);
        for (k, colour) in (0..).zip(COLOURS) {
            for (x, y) in [(944, 1008), (959, 1023)] {
                assert_eq!(*signed.get_pixel(x + 16 * k, y), colour);
            }
        }
        let untouched = picture(1024, 1024);
        for (x, y) in [(943, 1023), (1023, 1007), (0, 0)] {
            assert_eq!(signed.get_pixel(x, y), untouched.get_pixel(x, y));
        }
    }

    #[test]
    fn a_signature_is_found_at_every_size_and_after_resizing() {
        for (width, height) in [(5, 5), (64, 64), (256, 256), (300, 200), (1024, 1024)] {
            assert!(Signature::new().is_on(&signed(width, height)), "{width} × {height}");
            assert!(!Signature::new().is_on(&picture(width, height)), "{width} × {height}");
        }
        for side in [512, 768, 1000] {
            let resized = resize(&signed(1024, 1024), side, side, FilterType::Lanczos3);
            assert!(Signature::new().is_on(&resized), "{side}");
        }
    }

    #[test]
    fn the_signature_of_dall_e_2_is_recognised_and_refused() {
        let mut theirs = picture(1024, 1024);
        for y in 1008..1024 {
            for x in 944..1024 {
                theirs.put_pixel(x, y, DALL_E_2_COLOURS[((x - 944) / 16) as usize]);
            }
        }
        assert!(is_signed_by_dall_e_2(&theirs) && !Signature::new().is_on(&theirs));
        assert!(!is_signed_by_dall_e_2(&signed(1024, 1024)));
        assert_eq!(Signature::with_colours(DALL_E_2_COLOURS), Err(ForeignColours));
        assert_eq!(Signature::with_colours(COLOURS), Ok(Signature::new()));
    }

    #[test]
    fn a_picture_narrower_than_five_squares_is_an_error() {
        for (width, height) in [(4, 9), (0, 0)] {
            let error =
                Signature::new().mark(&mut RgbImage::new(width, height)).expect_err("narrow");
            assert_eq!((error.width, error.height), (width, height));
        }
    }
}
