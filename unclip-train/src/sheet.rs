//! Sample sheets: pictures side by side, from noise that is the same each time.

use burn::tensor::{Device, Tensor, TensorData};
use image::{RgbImage, imageops};
use unclip_core::noise::NoiseSource;

use crate::draws::{Draws, Purpose};

/// The gap between pictures, in pixels.
const GAP: u32 = 2;

/// Noise that depends on the run's seed alone, so that sheets of different steps can be compared.
#[derive(Debug)]
pub(crate) struct DrawsNoise(Draws);

impl DrawsNoise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Draws::new(seed, Purpose::Sheet, 0, 0))
    }

    pub(crate) fn tensor(&mut self, shape: [usize; 4], device: &Device) -> Tensor<4> {
        let values = self.0.normals(shape.iter().product()).collect();
        Tensor::from_data(TensorData::new::<f32, _>(values, shape), device)
    }
}

impl NoiseSource for DrawsNoise {
    fn draw(&mut self, shape: &[usize]) -> unclip_core::Result<Vec<f32>> {
        Ok(self.0.normals(shape.iter().product()).collect())
    }
}

/// Rows of pictures on grey; each row is as high as its highest picture, and each column as wide as its widest.
pub(crate) fn grid(rows: &[Vec<RgbImage>]) -> RgbImage {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(RgbImage::width).max().unwrap_or(0)
    };
    let widths: Vec<u32> = (0..columns).map(widest).collect();
    let heights: Vec<u32> =
        rows.iter().map(|row| row.iter().map(RgbImage::height).max().unwrap_or(0)).collect();
    let total = |sides: &[u32]| sides.iter().map(|side| side + GAP).sum::<u32>() + GAP;
    let mut sheet = RgbImage::from_pixel(total(&widths), total(&heights), image::Rgb([128; 3]));
    let mut top = GAP;
    for (row, height) in rows.iter().zip(&heights) {
        let mut left = GAP;
        for (picture, width) in row.iter().zip(&widths) {
            imageops::replace(&mut sheet, picture, i64::from(left), i64::from(top));
            left += width + GAP;
        }
        top += height + GAP;
    }
    sheet
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn pictures_lie_in_their_places() {
        let picture = |side, value| RgbImage::from_pixel(side, side, Rgb([value; 3]));
        let sheet = grid(&[vec![picture(4, 0), picture(2, 10)], vec![picture(3, 200)]]);
        assert_eq!(sheet.dimensions(), (2 + 4 + 2 + 2 + 2, 2 + 4 + 2 + 3 + 2));
        for ((x, y), value) in [((2, 2), 0), ((8, 2), 10), ((2, 8), 200), ((0, 0), 128)] {
            assert_eq!(sheet.get_pixel(x, y), &Rgb([value; 3]), "{x} {y}");
        }
    }
}
