//! Pictures: reading them with limits, and to and from tensors.

use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, Seek},
    path::Path,
};

use ::image::{
    DynamicImage, ImageError, ImageReader, Limits, Rgb, RgbImage, Rgba,
    error::{LimitError, LimitErrorKind},
};
use burn::tensor::{Device, Tensor, TensorData};
use ndarray::Array4;

use crate::{Error, Result};

/// The longest side of a picture, in pixels.
pub const MAX_SIDE: u32 = 16_384;

/// The most pixels that a picture may have on the way to another size.
pub(crate) const MAX_PIXELS: u64 = (MAX_SIDE as u64).pow(2);

/// The most memory that a decoder may ask for: 1 GiB.
const MAX_DECODED: u64 = 1 << 30;

/// Reads a PNG, JPEG or WebP file as 8-bit RGB.
///
/// As with Pillow's `convert("RGB")`, grey is repeated, transparency is dropped and not blended, and the orientation
/// that a camera noted in EXIF is not applied.
///
/// # Errors
///
/// [`Error::Io`] when the file cannot be opened, [`Error::Picture`] when it is no picture, is damaged, empty, wider or
/// higher than [`MAX_SIDE`], or would take more than 1 GiB.
pub fn load_rgb(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::io("read", path))?;
    Ok(decode(BufReader::new(file), &path.display().to_string())?.into_rgb8())
}

/// Decodes the bytes of a PNG, JPEG or WebP file as [`load_rgb`] does; `origin` says in errors where they came from.
///
/// # Errors
///
/// [`Error::Picture`] when they are no picture, damaged, empty, wider or higher than [`MAX_SIDE`], or would take more
/// than 1 GiB.
pub fn decode_rgb(bytes: &[u8], origin: &str) -> Result<RgbImage> {
    Ok(decode(Cursor::new(bytes), origin)?.into_rgb8())
}

/// Decodes the bytes of a PNG, JPEG or WebP file as [`decode_rgb`] does, but lays what is transparent on `background`.
///
/// # Errors
///
/// As [`decode_rgb`].
pub fn decode_rgb_over(bytes: &[u8], origin: &str, background: Rgb<u8>) -> Result<RgbImage> {
    let picture = decode(Cursor::new(bytes), origin)?;
    if !picture.color().has_alpha() {
        return Ok(picture.into_rgb8());
    }
    let picture = picture.into_rgba8();
    Ok(RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let Rgba([.., alpha]) = *picture.get_pixel(x, y);
        let mix = |channel: usize| {
            let [front, back, alpha] =
                [picture.get_pixel(x, y).0[channel], background.0[channel], alpha].map(u32::from);
            let mixed = (front * alpha + back * (255 - alpha) + 127) / 255;
            u8::try_from(mixed).unwrap_or(u8::MAX)
        };
        Rgb([0, 1, 2].map(mix))
    }))
}

fn decode(reader: impl BufRead + Seek, origin: &str) -> Result<DynamicImage> {
    let failed = |source| Error::Picture { action: "decode", origin: origin.to_owned(), source };
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    let mut reader = ImageReader::new(reader)
        .with_guessed_format()
        .map_err(|source| failed(ImageError::IoError(source)))?;
    reader.limits(limits);
    let picture = reader.decode().map_err(failed)?;
    if picture.width() == 0 || picture.height() == 0 {
        let empty = LimitError::from_kind(LimitErrorKind::DimensionError);
        return Err(failed(ImageError::Limits(empty)));
    }
    Ok(picture)
}

/// Pictures as a batch of tensors.
///
/// # Shapes
///
/// - output: `[pictures, 3, height, width]`, in `[-1, 1]`
///
/// # Errors
///
/// [`Error::InvalidInput`] when there is no picture, or they differ in size or are empty.
pub fn to_tensor(pictures: &[RgbImage], device: &Device) -> Result<Tensor<4>> {
    let Some(first) = pictures.first() else {
        return Err(Error::invalid("pictures", "empty", "at least one picture"));
    };
    let (width, height) = first.dimensions();
    if first.is_empty() {
        let found = format_args!("{width} × {height} pixels");
        return Err(Error::invalid("pictures", found, "at least one pixel"));
    }
    let mut values = Vec::with_capacity(pictures.len() * first.len());
    for picture in pictures {
        if picture.dimensions() != (width, height) {
            let (other_width, other_height) = picture.dimensions();
            let found = format_args!("{other_width} × {other_height} pixels");
            let expected = format!("{width} × {height}, as the first picture");
            return Err(Error::invalid("pictures", found, expected));
        }
        for channel in 0..3 {
            values.extend(
                picture.pixels().map(|pixel| f32::from(pixel[channel]) / 255.0 * 2.0 - 1.0),
            );
        }
    }
    let shape = [pictures.len(), 3, height as usize, width as usize];
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}

/// A batch of tensors as pictures: `round(255 · clamp(x / 2 + 1/2, 0, 1))`, halves to even. What is not a number
/// becomes black.
///
/// # Shapes
///
/// - `x`: `[pictures, 3, height, width]`, in `[-1, 1]`
///
/// # Errors
///
/// [`Error::InvalidInput`] when `x` has not three channels or is wider or higher than [`MAX_SIDE`], and
/// [`Error::Execution`] when the device fails.
pub fn to_images(x: Tensor<4>) -> Result<Vec<RgbImage>> {
    let array = to_array(x)?;
    let (_, channels, height, width) = array.dim();
    if channels != 3 {
        return Err(Error::invalid("picture", format_args!("{channels} channels"), "3"));
    }
    let side = |size: usize| u32::try_from(size).ok().filter(|&size| size <= MAX_SIDE);
    let (Some(columns), Some(rows)) = (side(width), side(height)) else {
        let found = format_args!("{width} × {height} pixels");
        return Err(Error::invalid("picture", found, format!("sides of at most {MAX_SIDE}")));
    };
    let picture = |planes: ndarray::ArrayView3<'_, f32>| {
        let mut picture = RgbImage::new(columns, rows);
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            for (channel, value) in pixel.0.iter_mut().enumerate() {
                *value = grey_level(planes[(channel, y as usize, x as usize)]);
            }
        }
        picture
    };
    Ok(array.outer_iter().map(picture).collect())
}

/// `value` of `[-1, 1]` as 8 bits.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped to 0 to 255 before, and casting turns what is not a number into 0"
)]
fn grey_level(value: f32) -> u8 {
    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

/// The values of a tensor on the host.
///
/// # Shapes
///
/// - `x` and the array: equal, `[batch, channels, height, width]`
///
/// # Errors
///
/// [`Error::Execution`] when the device fails.
pub fn to_array(x: Tensor<4>) -> Result<Array4<f32>> {
    let shape = x.dims();
    let failed = |reason: String| Error::Execution { action: "reading a tensor", reason };
    let values = x.try_into_vec_as::<f32>().map_err(|error| failed(error.to_string()))?;
    Array4::from_shape_vec(shape, values).map_err(|error| failed(error.to_string()))
}

/// An array of the host as a tensor on `device`.
///
/// # Shapes
///
/// - `array` and the output: equal, `[batch, channels, height, width]`
pub fn from_array(array: &Array4<f32>, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = array.iter().copied().collect();
    Tensor::from_data(TensorData::new(values, array.shape().to_vec()), device)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ::image::{ImageFormat, RgbaImage};
    use unclip_testkit::device;

    use super::*;

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).expect("encodable");
        bytes.into_inner()
    }

    fn pixel(value: f32) -> u8 {
        let x = Tensor::<4>::full([1, 3, 1, 1], value, &device());
        to_images(x).expect("a picture")[0].get_pixel(0, 0).0[0]
    }

    #[test]
    fn every_grey_level_survives_the_way_through_a_tensor() {
        let picture = RgbImage::from_fn(16, 16, |x, y| {
            let level = u8::try_from(16 * y + x).expect("256 levels");
            Rgb([level, 255 - level, level / 2])
        });
        let other = RgbImage::from_pixel(16, 16, Rgb([1, 2, 3]));
        let x = to_tensor(&[picture.clone(), other.clone()], &device()).expect("equal sizes");
        assert_eq!(x.dims(), [2, 3, 16, 16]);
        let range: Vec<f32> = x.clone().try_to_vec_as().expect("floats");
        assert_eq!(range.iter().copied().fold(f32::NAN, f32::min), -1.0);
        assert_eq!(range.iter().copied().fold(f32::NAN, f32::max), 1.0);
        assert_eq!(to_images(x).expect("three channels"), [picture, other]);
    }

    #[test]
    fn values_are_clamped_and_halves_go_to_even() {
        assert_eq!([-9.0, -1.0, 1.0, 9.0].map(pixel), [0, 0, 255, 255]);
        // 127.5 and, with 1/1020 more or less on either side, what is nearest.
        assert_eq!([0.0, -0.002, 0.002].map(pixel), [128, 127, 128]);
        assert_eq!([f32::NEG_INFINITY, f32::INFINITY, f32::NAN].map(pixel), [0, 255, 0]);
    }

    #[test]
    fn recorded_pictures_are_rounded_as_recorded() {
        for set in unclip_testkit::fixture_sets() {
            let recorded = set.tensors("e2e_t2i_default");
            let [batch, height, width, 3] = *recorded.shape("out.image") else {
                panic!("pictures are recorded with channels last")
            };
            let pictures = Tensor::<4>::from_data(
                TensorData::new(recorded.floats("out.image"), [batch, height, width, 3]),
                &device(),
            );
            let x = pictures.permute([0, 3, 1, 2]) * 2.0 - 1.0;
            let rounded = to_images(x).expect("three channels");
            let bytes: Vec<u8> = rounded.into_iter().flat_map(RgbImage::into_raw).collect();
            assert_eq!(bytes, recorded.bytes("out.image_u8"), "{}", set.name());
        }
    }

    #[test]
    fn arrays_go_both_ways() {
        let array =
            Array4::from_shape_fn((1, 2, 3, 4), |(_, c, y, x)| (100 * c + 10 * y + x) as f32);
        let x = from_array(&array, &device());
        assert_eq!(to_array(x).expect("readable"), array);
        let turned = array.clone().permuted_axes([0, 1, 3, 2]);
        assert_eq!(to_array(from_array(&turned, &device())).expect("readable"), turned);
    }

    #[test]
    fn batches_that_make_no_tensor_are_refused() {
        let pictures = [RgbImage::new(2, 2), RgbImage::new(2, 3)];
        for pictures in [&pictures[..0], &pictures, &[RgbImage::new(0, 4)]] {
            let error = to_tensor(pictures, &device()).expect_err("no batch");
            assert!(matches!(error, Error::InvalidInput { field: "pictures", .. }), "{error}");
        }
        let error = to_images(Tensor::zeros([1, 4, 2, 2], &device())).expect_err("four channels");
        assert_eq!(error.to_string(), "`picture` is 4 channels, expected 3");
    }

    #[test]
    fn transparency_is_dropped_and_grey_repeated() {
        let transparent = RgbaImage::from_pixel(2, 1, Rgba([200, 100, 50, 0]));
        let picture = decode_rgb(&encoded(transparent, ImageFormat::Png), "a test").expect("PNG");
        assert_eq!(picture.get_pixel(1, 0), &Rgb([200, 100, 50]));
        let grey = ::image::GrayImage::from_pixel(1, 1, ::image::Luma([9]));
        let picture = decode_rgb(&encoded(grey, ImageFormat::Png), "a test").expect("PNG");
        assert_eq!(picture.get_pixel(0, 0), &Rgb([9, 9, 9]));
    }

    #[test]
    fn transparency_is_laid_on_a_background_where_one_is_given() {
        let mut picture = RgbaImage::from_pixel(3, 1, Rgba([200, 100, 50, 0]));
        picture.put_pixel(1, 0, Rgba([200, 100, 50, 255]));
        picture.put_pixel(2, 0, Rgba([200, 100, 0, 51]));
        let bytes = encoded(picture, ImageFormat::Png);
        let picture = decode_rgb_over(&bytes, "a test", Rgb([255, 0, 255])).expect("PNG");
        let expected = [Rgb([255, 0, 255]), Rgb([200, 100, 50]), Rgb([244, 20, 204])];
        assert!(picture.pixels().eq(&expected), "{picture:?}");
        let opaque = encoded(RgbImage::from_pixel(1, 1, Rgb([1, 2, 3])), ImageFormat::Png);
        let picture = decode_rgb_over(&opaque, "a test", Rgb([255; 3])).expect("PNG");
        assert_eq!(picture.get_pixel(0, 0), &Rgb([1, 2, 3]));
    }

    #[test]
    fn damaged_pictures_are_errors_that_name_their_origin() {
        let png = encoded(RgbImage::new(8, 8), ImageFormat::Png);
        let mut claims_millions = png.clone();
        claims_millions[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let mut zero_sized = png.clone();
        zero_sized[16..20].copy_from_slice(&[0; 4]);
        for bytes in
            [&[][..], b"not a picture", &png[..png.len() / 2], &claims_millions, &zero_sized]
        {
            let error = decode_rgb(bytes, "upload 3").expect_err("damaged");
            assert!(matches!(error, Error::Picture { .. }), "{error}");
            assert_eq!(error.to_string(), "cannot decode the picture upload 3");
        }
    }

    #[test]
    fn files_are_read_and_their_errors_name_them() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let picture = RgbImage::from_pixel(3, 2, Rgb([9, 8, 7]));
        file.write_all(&encoded(picture.clone(), ImageFormat::Png)).expect("writable");
        assert_eq!(load_rgb(file.path()).expect("a PNG file"), picture);
        let error = load_rgb("no/such/picture.png").expect_err("absent");
        assert_eq!(error.to_string(), "cannot read no/such/picture.png");
        assert!(load_rgb(std::env::temp_dir()).is_err(), "a folder is no picture");
    }

    #[test]
    fn a_picture_may_be_as_wide_as_the_limit_and_no_wider() {
        for (width, fits) in [(MAX_SIDE, true), (MAX_SIDE + 1, false)] {
            let bytes = encoded(RgbImage::new(width, 1), ImageFormat::Png);
            assert_eq!(decode_rgb(&bytes, "a test").is_ok(), fits, "{width} pixels");
        }
    }
}
