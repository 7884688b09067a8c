//! Resampling of 8-bit pictures with Pillow's arithmetic, or torchvision's.
//!
//! Both resample rows first, then columns, rounding to 8 bits after each, and leave out a pass that would change no
//! size. They differ in the fixed-point weights, see [`Arithmetic`].

use ::image::RgbImage;
use serde::{Deserialize, Serialize};

use super::{Filter, kernel};
use crate::{
    Error, Result,
    image::{MAX_PIXELS, MAX_SIDE},
};

/// Whose fixed-point weights [`resize_rgb8_with`] uses. Results differ by one grey level in about 0.5 % of the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// Pillow's: 22 fractional bits. transformers prepared CLIP's pictures so up to its version 4. (Pillow 13 takes
    /// columns first where the height shrinks much more than the width; this follows the versions before.)
    #[default]
    Pillow,
    /// PyTorch's, which torchvision uses: as many fractional bits, up to 22, as leave the largest weight of the pass
    /// within 16 bits. transformers prepares CLIP's pictures so since its version 5.
    Torch,
}

/// Resamples a picture to `width` × `height`, equal to Pillow's `Image.resize` (up to Pillow 12, or with sides in proportion).
///
/// # Errors
///
/// [`Error::InvalidInput`] when the picture is empty, or a size is 0 or above [`MAX_SIDE`].
///
/// ```
/// # use image::{Rgb, RgbImage};
/// # use unclip_core::resize::{Filter, resize_rgb8};
/// let picture = RgbImage::from_pixel(640, 480, Rgb([10, 20, 30]));
/// let small = resize_rgb8(&picture, 64, 48, Filter::Lanczos3)?;
/// assert_eq!(small.dimensions(), (64, 48));
/// assert_eq!(small.get_pixel(63, 47), &Rgb([10, 20, 30]));
/// # Ok::<(), unclip_core::Error>(())
/// ```
pub fn resize_rgb8(
    picture: &RgbImage,
    width: u32,
    height: u32,
    filter: Filter,
) -> Result<RgbImage> {
    resize_rgb8_with(picture, width, height, filter, Arithmetic::Pillow)
}

/// [`resize_rgb8`] with a choice of arithmetic.
///
/// # Errors
///
/// As [`resize_rgb8`].
pub fn resize_rgb8_with(
    picture: &RgbImage,
    width: u32,
    height: u32,
    filter: Filter,
    arithmetic: Arithmetic,
) -> Result<RgbImage> {
    let (columns, rows) = picture.dimensions();
    if columns == 0 || rows == 0 {
        let found = format_args!("{columns} × {rows} pixels");
        return Err(Error::invalid("picture", found, "at least one pixel"));
    }
    for (field, size) in [("width", width), ("height", height)] {
        if !(1..=MAX_SIDE).contains(&size) {
            return Err(Error::invalid(field, size, format!("1 to {MAX_SIDE}")));
        }
    }
    if u64::from(width) * u64::from(rows) > MAX_PIXELS {
        let found = format_args!("{columns} × {rows} pixels");
        return Err(Error::invalid("picture", found, format!("at most {MAX_SIDE} rows")));
    }
    let wide = if width == columns {
        None
    } else {
        let pass = Pass::new(columns, width, filter, arithmetic);
        RgbImage::from_raw(width, rows, pass.over_rows(picture.as_raw(), columns))
    };
    let wide = wide.as_ref().unwrap_or(picture);
    let sized = if height == rows {
        None
    } else {
        let pass = Pass::new(rows, height, filter, arithmetic);
        RgbImage::from_raw(width, height, pass.over_columns(wide.as_raw(), width))
    };
    Ok(sized.unwrap_or_else(|| wide.clone()))
}

/// One axis to be resampled.
struct Pass {
    windows: Vec<FixedWindow>,
    /// Fractional bits of the weights.
    precision: u32,
}

/// A window with its weights in fixed point.
struct FixedWindow {
    first: usize,
    weights: Vec<i32>,
}

/// The most fractional bits of a weight: 32, less 8 for the value and 2 for what weights above 1 and their sums need.
const MAX_PRECISION: u32 = 32 - 8 - 2;

impl Pass {
    fn new(input: u32, output: u32, filter: Filter, arithmetic: Arithmetic) -> Self {
        let windows = kernel::windows(input as usize, output as usize, filter);
        let precision = match arithmetic {
            Arithmetic::Pillow => MAX_PRECISION,
            Arithmetic::Torch => {
                let largest =
                    windows.iter().flat_map(|window| &window.weights).fold(0f64, |a, &b| a.max(b));
                let fits = |bits: &u32| (0.5 + largest * scale(*bits)).floor() < 32_768.0;
                (1..=MAX_PRECISION).take_while(fits).last().unwrap_or(0)
            }
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "weights are below 2 before they are scaled"
        )]
        let fixed = |weight: f64| (weight * scale(precision)).round() as i32;
        let windows = windows
            .into_iter()
            .map(|window| FixedWindow {
                first: window.first,
                weights: window.weights.into_iter().map(fixed).collect(),
            })
            .collect();
        Self { windows, precision }
    }

    /// One half, which every sum starts from.
    fn half(&self) -> i32 {
        1 << self.precision >> 1
    }

    /// A sum of weighted values as 8 bits.
    fn rounded(&self, sum: i32) -> u8 {
        u8::try_from((sum >> self.precision).clamp(0, 255)).unwrap_or(u8::MAX)
    }

    /// Resamples every row of `columns` pixels.
    fn over_rows(&self, pixels: &[u8], columns: u32) -> Vec<u8> {
        let rows = pixels.chunks_exact(3 * columns as usize);
        let mut resampled = Vec::with_capacity(3 * rows.len() * self.windows.len());
        for row in rows {
            for FixedWindow { first, weights } in &self.windows {
                let mut sums = [self.half(); 3];
                for (pixel, weight) in row[3 * first..].chunks_exact(3).zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(value) * weight;
                    }
                }
                resampled.extend(sums.map(|sum| self.rounded(sum)));
            }
        }
        resampled
    }

    /// Resamples every column of a picture that has `columns` of them.
    fn over_columns(&self, pixels: &[u8], columns: u32) -> Vec<u8> {
        let length = 3 * columns as usize;
        let mut resampled = Vec::with_capacity(length * self.windows.len());
        let mut sums = vec![0; length];
        for FixedWindow { first, weights } in &self.windows {
            sums.fill(self.half());
            for (row, weight) in pixels[first * length..].chunks_exact(length).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            resampled.extend(sums.iter().map(|&sum| self.rounded(sum)));
        }
        resampled
    }
}

/// What a weight of 1 is with so many fractional bits.
fn scale(bits: u32) -> f64 {
    f64::from(1u32 << bits)
}

#[cfg(test)]
mod tests {
    use ::image::{Rgb, imageops};
    use proptest::prelude::*;
    use unclip_testkit::{Recorded, fixture_sets, fixtures_root};

    use super::*;

    const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
    const DEVIATION: [f32; 3] = [0.268_629_55, 0.261_302_6, 0.275_777_1];

    /// CLIP's preparation: shorter side to `side`, centre crop, normalise; planes one after the other.
    fn prepare(picture: &RgbImage, side: u32, arithmetic: Arithmetic) -> Vec<f32> {
        let (width, height) = picture.dimensions();
        let (width, height) = if width <= height {
            (side, side * height / width)
        } else {
            (side * width / height, side)
        };
        let sized = resize_rgb8_with(picture, width, height, Filter::Bicubic, arithmetic)
            .expect("valid sizes");
        let (left, top) = ((width - side) / 2, (height - side) / 2);
        let cut = imageops::crop_imm(&sized, left, top, side, side).to_image();
        (0..3)
            .flat_map(|c| cut.pixels().map(move |pixel| (c, f32::from(pixel[c]) / 255.0)))
            .map(|(c, value)| (value - MEAN[c]) / DEVIATION[c])
            .collect()
    }

    #[test]
    fn recorded_pictures_of_pillow_and_torchvision_are_reproduced() {
        for set in fixture_sets() {
            let recorded = set.tensors("image_processor");
            for case in 0..5 {
                let name = format!("in.{case}.u8");
                let [height, width, 3] = *recorded.shape(&name) else { panic!("{name} is RGB") };
                let [width, height] = [width, height].map(|n| u32::try_from(n).expect("small"));
                let bytes = recorded.bytes(&name).to_vec();
                let picture = RgbImage::from_raw(width, height, bytes).expect("consistent");
                for (arithmetic, back_end) in
                    [(Arithmetic::Pillow, "pil"), (Arithmetic::Torch, "torchvision")]
                {
                    let name = format!("out.{case}.{back_end}");
                    let [.., side, _] = *recorded.shape(&name) else {
                        panic!("{name} is a batch of pictures")
                    };
                    let side = u32::try_from(side).expect("small");
                    let prepared = prepare(&picture, side, arithmetic);
                    let error = unclip_testkit::compare(&prepared, &recorded.floats(&name)).max_abs;
                    // A grey level is 0.0142 here.
                    assert!(error < 1e-6, "{} {name}: {error}", set.name());
                }
            }
        }
    }

    #[test]
    fn noise_is_resized_as_recorded_by_both_kernels_and_both_ways() {
        let recorded = Recorded::open(fixtures_root().join("resize_u8.safetensors"));
        let size = |name: &str| {
            let [height, width, 3] = *recorded.shape(name) else { panic!("{name} is RGB") };
            [width, height].map(|n| u32::try_from(n).expect("small"))
        };
        for case in 0..4 {
            let name = format!("in.{case}");
            let [width, height] = size(&name);
            let bytes = recorded.bytes(&name).to_vec();
            let picture = RgbImage::from_raw(width, height, bytes).expect("consistent");
            for (wide, high) in [(31, 26), (6, 5), (width, 11), (13, height)] {
                for (back_end, filter, arithmetic) in [
                    ("pillow.bicubic", Filter::Bicubic, Arithmetic::Pillow),
                    ("pillow.lanczos3", Filter::Lanczos3, Arithmetic::Pillow),
                    ("torch.bicubic", Filter::Bicubic, Arithmetic::Torch),
                ] {
                    let name = format!("{back_end}.{case}.{wide}x{high}");
                    let sized = resize_rgb8_with(&picture, wide, high, filter, arithmetic)
                        .expect("valid sizes");
                    assert_eq!(sized.as_raw(), recorded.bytes(&name), "{name}");
                }
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        let picture = RgbImage::new(4, 4);
        for (picture, width, height, field) in [
            (&picture, 0, 4, "`width`"),
            (&picture, 4, 0, "`height`"),
            (&picture, u32::MAX, 4, "`width`"),
            (&picture, 4, MAX_SIDE + 1, "`height`"),
            (&RgbImage::new(0, 7), 4, 4, "`picture`"),
            (&RgbImage::new(1, 20_000), MAX_SIDE, 4, "`picture`"),
        ] {
            let error = resize_rgb8(picture, width, height, Filter::Bicubic)
                .expect_err("an impossible size")
                .to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_row_becomes_a_column_when_everything_is_turned() {
        let row = RgbImage::from_fn(9, 1, |x, _| {
            let x = u8::try_from(x).expect("nine pixels");
            Rgb([30 * x, 255 - 20 * x, 7])
        });
        let column = imageops::rotate90(&row);
        let wide = resize_rgb8(&row, 31, 1, Filter::Lanczos3).expect("valid");
        let tall = resize_rgb8(&column, 1, 31, Filter::Lanczos3).expect("valid");
        assert_eq!(imageops::rotate90(&wide), tall);
    }

    proptest! {
        #[test]
        fn a_constant_stays_constant(
            size in (1u32..40, 1u32..40),
            target in (1u32..60, 1u32..60),
            colour in any::<[u8; 3]>(),
            lanczos in any::<bool>(),
        ) {
            let filter = if lanczos { Filter::Lanczos3 } else { Filter::Bicubic };
            let picture = RgbImage::from_pixel(size.0, size.1, Rgb(colour));
            for arithmetic in [Arithmetic::Pillow, Arithmetic::Torch] {
                let sized = resize_rgb8_with(&picture, target.0, target.1, filter, arithmetic)
                    .expect("valid sizes");
                prop_assert_eq!(sized.dimensions(), target);
                prop_assert!(sized.pixels().all(|pixel| pixel.0 == colour));
            }
        }
    }
}
