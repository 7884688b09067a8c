//! How the small pictures of upsamplers are spoilt, so that they forgive what a decoder paints.
//!
//! Paper §2.1: Gaussian blur in front of the first upsampler (Saharia et al. 2021), and the more diverse degradation of
//! BSR (Zhang et al. 2021) in front of the second, in the light form that latent diffusion used: blur, resampling,
//! noise and JPEG in random order.

use image::{
    ExtendedColorType, ImageEncoder as _, RgbImage,
    codecs::jpeg::JpegEncoder,
    imageops::{self, FilterType},
};
use serde::{Deserialize, Serialize};
use unclip_core::{
    image::decode_rgb,
    resize::{Filter, resize_rgb8},
};

use crate::{Result, draws::Draws};

/// What may happen to a small picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DegradationConfig {
    /// The share of pictures that go through the chain of BSR instead of the plain reduction.
    #[serde(default)]
    pub bsr: f64,
    /// The share of the others that are blurred.
    #[serde(default = "half")]
    pub blur: f64,
    /// The largest deviation of the noise that is added at last, in `[-1, 1]`; each picture has its own up to it.
    #[serde(default = "twentieth")]
    pub noise: f64,
}

fn half() -> f64 {
    0.5
}

fn twentieth() -> f64 {
    0.05
}

/// The deviation of the plain blur, in small pixels.
const BLUR: f32 = 0.6;

impl DegradationConfig {
    /// The small picture that `large` is to be painted from, `factor` times smaller.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error`] when a picture cannot be resampled or recoded.
    pub fn apply(&self, large: &RgbImage, factor: u32, draws: &mut Draws) -> Result<RgbImage> {
        let (width, height) = (large.width() / factor, large.height() / factor);
        let mut small = if draws.chance(self.bsr) {
            bsr(large, width, height, draws)?
        } else {
            let small = resize_rgb8(large, width, height, Filter::Bicubic)?;
            if draws.chance(self.blur) { imageops::blur(&small, BLUR) } else { small }
        };
        let deviation = draws.between(0.0, self.noise.max(0.0));
        add_noise(&mut small, deviation, draws);
        Ok(small)
    }
}

/// Gaussian noise of a deviation in `[-1, 1]`, which is 127.5 grey levels.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
fn add_noise(picture: &mut RgbImage, deviation: f64, draws: &mut Draws) {
    if deviation == 0.0 {
        return;
    }
    for value in picture.iter_mut() {
        let noisy = f64::from(*value) + f64::from(draws.normal()) * deviation * 127.5;
        *value = noisy.round().clamp(0.0, 255.0) as u8;
    }
}

/// The light chain of BSR, which ends at `width` × `height`.
fn bsr(large: &RgbImage, width: u32, height: u32, draws: &mut Draws) -> Result<RgbImage> {
    let mut picture = large.clone();
    let mut steps = [0, 1, 2, 3];
    for i in (1..steps.len()).rev() {
        steps.swap(i, draws.below(i + 1));
    }
    for step in steps {
        match step {
            0 => {
                #[expect(clippy::cast_possible_truncation, reason = "a deviation in pixels")]
                let deviation = draws.between(0.1, 2.4) as f32;
                picture = imageops::blur(&picture, deviation);
            }
            1 => {
                let share = draws.unit();
                let (w, h) = (
                    between(width, picture.width(), share),
                    between(height, picture.height(), share),
                );
                picture = imageops::resize(&picture, w, h, filter(draws));
            }
            2 => {
                let deviation = draws.between(1.0, 2.0) / 127.5;
                add_noise(&mut picture, deviation, draws);
            }
            _ => {
                if draws.chance(0.9) {
                    picture = jpeg(&picture, draws)?;
                }
            }
        }
    }
    let small = imageops::resize(&picture, width, height, filter(draws));
    jpeg(&small, draws)
}

/// The length at a share of the way from one to another.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two lengths")]
fn between(from: u32, to: u32, share: f64) -> u32 {
    (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round().max(1.0) as u32
}

fn filter(draws: &mut Draws) -> FilterType {
    [FilterType::Triangle, FilterType::CatmullRom, FilterType::Lanczos3][draws.below(3)]
}

/// The picture after JPEG with a quality from 30 to 95.
fn jpeg(picture: &RgbImage, draws: &mut Draws) -> Result<RgbImage> {
    let quality = u8::try_from(30 + draws.below(66)).unwrap_or(95);
    let mut bytes = Vec::new();
    let origin = "a training picture";
    JpegEncoder::new_with_quality(&mut bytes, quality)
        .write_image(picture, picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|source| unclip_core::Error::Picture {
            action: "encode",
            origin: origin.to_owned(),
            source,
        })?;
    Ok(decode_rgb(&bytes, origin)?)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::draws::Purpose;

    fn picture() -> RgbImage {
        RgbImage::from_fn(32, 32, |x, y| {
            if (8..24).contains(&x) && (8..24).contains(&y) {
                Rgb([200, 30, 90])
            } else {
                Rgb([255; 3])
            }
        })
    }

    fn apply(config: DegradationConfig, index: u64) -> RgbImage {
        let mut draws = Draws::new(1, Purpose::Degradation, 0, index);
        config.apply(&picture(), 4, &mut draws).expect("a picture")
    }

    #[test]
    fn without_any_share_it_is_the_plain_reduction() {
        let config = DegradationConfig { bsr: 0.0, blur: 0.0, noise: 0.0 };
        let plain = resize_rgb8(&picture(), 8, 8, Filter::Bicubic).expect("resizes");
        assert_eq!(apply(config, 0), plain);
        let blurred = apply(DegradationConfig { blur: 1.0, ..config }, 0);
        assert_ne!(blurred, plain);
    }

    #[test]
    fn every_chain_ends_at_the_small_size_and_near_the_picture() {
        let config = DegradationConfig { bsr: 1.0, blur: 0.0, noise: 0.02 };
        for index in 0..20 {
            let small = apply(config, index);
            assert_eq!(small.dimensions(), (8, 8));
            let corner = small.get_pixel(0, 0).0;
            let middle = small.get_pixel(4, 4).0;
            assert!(corner[1] > 200, "the background stays bright: {corner:?}");
            assert!(middle[1] < 110, "the square stays dark: {middle:?}");
        }
        assert_eq!(apply(config, 3), apply(config, 3));
        assert_ne!(apply(config, 3), apply(config, 4));
    }
}
