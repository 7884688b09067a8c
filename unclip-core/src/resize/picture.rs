//! Resampling of 8-bit pictures with Pillow's arithmetic.
//!
//! Pillow (`Resample.c`) resamples rows first, then columns, rounding to 8 bits after each, with weights in fixed point
//! of 22 fractional bits. A pass that would change no size is left out.

use ::image::RgbImage;

use super::{Filter, kernel};
use crate::{
    Error, Result,
    image::{MAX_PIXELS, MAX_SIDE},
};

/// Fractional bits of a weight: 32, less 8 for the value and 2 for what weights above 1 and their sums need.
const PRECISION: u32 = 32 - 8 - 2;

/// Resamples a picture to `width` × `height`, equal to Pillow's `Image.resize`.
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
        let windows = fixed(columns, width, filter);
        RgbImage::from_raw(width, rows, resample_rows(picture.as_raw(), columns, &windows))
    };
    let wide = wide.as_ref().unwrap_or(picture);
    let sized = if height == rows {
        None
    } else {
        let windows = fixed(rows, height, filter);
        RgbImage::from_raw(width, height, resample_columns(wide.as_raw(), width, &windows))
    };
    Ok(sized.unwrap_or_else(|| wide.clone()))
}

/// A window with its weights in fixed point.
struct FixedWindow {
    first: usize,
    weights: Vec<i32>,
}

#[expect(clippy::cast_possible_truncation, reason = "weights are below 2 before they are scaled")]
fn fixed(input: u32, output: u32, filter: Filter) -> Vec<FixedWindow> {
    kernel::windows(input as usize, output as usize, filter)
        .into_iter()
        .map(|window| FixedWindow {
            first: window.first,
            // Half away from zero.
            weights: window
                .weights
                .into_iter()
                .map(|weight| (weight * f64::from(1u32 << PRECISION)).round() as i32)
                .collect(),
        })
        .collect()
}

/// A sum of weighted values as 8 bits; it starts from [`HALF`].
fn rounded(sum: i32) -> u8 {
    u8::try_from((sum >> PRECISION).clamp(0, 255)).unwrap_or(u8::MAX)
}

/// One half in fixed point.
const HALF: i32 = 1 << (PRECISION - 1);

/// Resamples every row of `columns` pixels.
fn resample_rows(pixels: &[u8], columns: u32, windows: &[FixedWindow]) -> Vec<u8> {
    let mut resampled = Vec::with_capacity(pixels.len() / columns as usize * windows.len());
    for row in pixels.chunks_exact(3 * columns as usize) {
        for FixedWindow { first, weights } in windows {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[3 * first..].chunks_exact(3).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            resampled.extend(sums.map(rounded));
        }
    }
    resampled
}

/// Resamples every column of a picture of `columns` columns.
fn resample_columns(pixels: &[u8], columns: u32, windows: &[FixedWindow]) -> Vec<u8> {
    let length = 3 * columns as usize;
    let mut resampled = Vec::with_capacity(length * windows.len());
    let mut sums = vec![HALF; length];
    for FixedWindow { first, weights } in windows {
        sums.fill(HALF);
        for (row, weight) in pixels[first * length..].chunks_exact(length).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        resampled.extend(sums.iter().copied().map(rounded));
    }
    resampled
}

#[cfg(test)]
mod tests {
    use ::image::{Rgb, imageops};
    use proptest::prelude::*;
    use unclip_testkit::fixture_sets;

    use super::*;

    const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
    const DEVIATION: [f32; 3] = [0.268_629_55, 0.261_302_6, 0.275_777_1];

    /// CLIP's preparation: shorter side to `side`, centre crop, normalise.
    fn prepare(picture: &RgbImage, side: u32) -> RgbImage {
        let (width, height) = picture.dimensions();
        let (width, height) = if width <= height {
            (side, side * height / width)
        } else {
            (side * width / height, side)
        };
        let sized = resize_rgb8(picture, width, height, Filter::Bicubic).expect("valid sizes");
        let (left, top) = ((width - side) / 2, (height - side) / 2);
        imageops::crop_imm(&sized, left, top, side, side).to_image()
    }

    #[test]
    fn the_recorded_pictures_of_pillow_are_reproduced() {
        for set in fixture_sets() {
            let recorded = set.tensors("image_processor");
            let (mut differing, mut total, mut grey_levels) = (0, 0, 0f32);
            for case in 0..5 {
                let name = format!("in.{case}.u8");
                let [height, width, 3] = *recorded.shape(&name) else { panic!("{name} is RGB") };
                let [width, height] = [width, height].map(|n| u32::try_from(n).expect("small"));
                let bytes = recorded.bytes(&name).to_vec();
                let picture = RgbImage::from_raw(width, height, bytes).expect("consistent");
                let [.., side, _] = *recorded.shape(&format!("out.{case}.pil")) else {
                    panic!("out.{case}.pil is a batch of pictures")
                };
                let prepared = prepare(&picture, u32::try_from(side).expect("small"));
                let planes = |normalised: fn(u8, usize) -> f32| -> Vec<f32> {
                    (0..3)
                        .flat_map(|c| prepared.pixels().map(move |pixel| normalised(pixel[c], c)))
                        .collect()
                };
                let found = planes(|v, c| (f32::from(v) / 255.0 - MEAN[c]) / DEVIATION[c]);
                let pillow = recorded.floats(&format!("out.{case}.pil"));
                let error = unclip_testkit::compare(&found, &pillow).max_abs;
                // A grey level is 0.0142 here.
                assert!(error < 1e-6, "{} case {case}: {error}", set.name());
                let torchvision = recorded.floats(&format!("out.{case}.torchvision"));
                for (index, (a, b)) in found.iter().zip(torchvision).enumerate() {
                    let levels = (a - b).abs() * 255.0 * DEVIATION[index / (side * side)];
                    grey_levels = grey_levels.max(levels);
                    differing += usize::from(levels > 0.5);
                    total += 1;
                }
            }
            println!(
                "{}: torchvision differs in {differing} of {total} values, by {grey_levels:.3} grey levels at most",
                set.name()
            );
            assert!(grey_levels < 1.001 && differing * 50 < total, "torchvision is close");
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
            let sized = resize_rgb8(&picture, target.0, target.1, filter).expect("valid sizes");
            prop_assert_eq!(sized.dimensions(), target);
            prop_assert!(sized.pixels().all(|pixel| pixel.0 == colour));
        }
    }
}
