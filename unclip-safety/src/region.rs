//! A part of a picture.

use std::fmt;

use image::{GenericImageView, RgbImage, imageops};
use serde::{Deserialize, Serialize};

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Columns to the left of it.
    pub x: u32,
    /// Rows above it.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Region {
    /// Blurs what lies in the region beyond recognition; what lies outside the picture is ignored.
    pub fn blur(self, picture: &mut RgbImage) {
        let (x, y) = (self.x.min(picture.width()), self.y.min(picture.height()));
        let width = self.width.min(picture.width() - x);
        let height = self.height.min(picture.height() - y);
        if width == 0 || height == 0 {
            return;
        }
        let part = picture.view(x, y, width, height).to_image();
        // A quarter of the side leaves the skin's colour and no feature of a face.
        let blurred = imageops::fast_blur(&part, width.max(height) as f32 / 4.0);
        imageops::replace(picture, &blurred, i64::from(x), i64::from(y));
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {} at ({}, {})", self.width, self.height, self.x, self.y)
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn stripes() -> RgbImage {
        RgbImage::from_fn(16, 12, |x, _| Rgb([if x % 2 == 0 { 0 } else { 255 }; 3]))
    }

    #[test]
    fn only_the_region_is_blurred() {
        let mut picture = stripes();
        Region { x: 4, y: 2, width: 8, height: 8 }.blur(&mut picture);
        for (x, y, pixel) in picture.enumerate_pixels() {
            let inside = (4..12).contains(&x) && (2..10).contains(&y);
            let before = stripes().get_pixel(x, y).0[0];
            if inside {
                assert!((64..192).contains(&pixel.0[0]), "({x}, {y}) is {}", pixel.0[0]);
            } else {
                assert_eq!(pixel.0[0], before, "({x}, {y})");
            }
        }
    }

    #[test]
    fn a_region_beyond_the_picture_is_cut_or_ignored() {
        let mut picture = stripes();
        Region { x: 90, y: 90, width: u32::MAX, height: u32::MAX }.blur(&mut picture);
        Region { x: 3, y: 3, width: 0, height: 5 }.blur(&mut picture);
        assert_eq!(picture, stripes());
        Region { x: 0, y: 0, width: u32::MAX, height: u32::MAX }.blur(&mut picture);
        assert_ne!(picture, stripes());
    }
}
