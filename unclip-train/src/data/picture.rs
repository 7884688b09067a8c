//! Pictures of a data set: on white, and square where a side is asked for.

use std::num::NonZeroU32;

use image::{Rgb, RgbImage, imageops};
use unclip_core::{
    image::decode_rgb_over,
    resize::{Filter, resize_rgb8},
};

use super::Fault;

/// What lies behind transparent pictures.
const PAPER: Rgb<u8> = Rgb([255; 3]);

/// Decodes a picture, and cuts and resizes it to `side` where one is given.
pub(super) fn read(bytes: &[u8], side: Option<NonZeroU32>) -> Result<RgbImage, Fault> {
    let failed = |error: unclip_core::Error| {
        let source = std::error::Error::source(&error);
        Fault::Picture(source.map_or_else(|| error.to_string(), ToString::to_string))
    };
    let picture = decode_rgb_over(bytes, "of a sample", PAPER).map_err(failed)?;
    match side {
        Some(side) => square(&picture, side.get()).map_err(failed),
        None => Ok(picture),
    }
}

/// The central square of a picture, resized to `side`.
fn square(picture: &RgbImage, side: u32) -> unclip_core::Result<RgbImage> {
    let (width, height) = picture.dimensions();
    if (width, height) == (side, side) {
        return Ok(picture.clone());
    }
    let short = width.min(height);
    let (left, top) = ((width - short) / 2, (height - short) / 2);
    let cut = imageops::crop_imm(picture, left, top, short, short).to_image();
    resize_rgb8(&cut, side, side, Filter::Bicubic)
}
