//! Which part of a picture is shown, and as what.

use image::{RgbImage, imageops};
use unclip_core::resize::{Filter, resize_rgb8};

use crate::{Result, draws::Draws};

/// A square part of `picture`, whose side is at least `smallest` of the picture's shorter one, as `side` × `side`
/// pixels.
pub(crate) fn square(
    picture: &RgbImage,
    side: u32,
    smallest: f64,
    draws: &mut Draws,
) -> Result<RgbImage> {
    let (width, height) = picture.dimensions();
    let shorter = f64::from(width.min(height));
    let share = draws.between(smallest.clamp(0.01, 1.0), 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within a side")]
    let cut = ((shorter * share).round() as u32).clamp(1, width.min(height));
    let (left, top) = (place(width - cut, draws), place(height - cut, draws));
    if (cut, cut) == (width, height) && cut == side {
        return Ok(picture.clone());
    }
    let part = imageops::crop_imm(picture, left, top, cut, cut).to_image();
    Ok(resize_rgb8(&part, side, side, Filter::Bicubic)?)
}

/// A number from 0 to `room`.
pub(crate) fn place(room: u32, draws: &mut Draws) -> u32 {
    u32::try_from(draws.below(room as usize + 1)).unwrap_or(room)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::draws::Purpose;

    #[test]
    fn a_whole_picture_of_the_right_size_is_itself() {
        let picture =
            RgbImage::from_fn(8, 8, |x, y| Rgb([x, y, 7].map(|v| u8::try_from(v).expect("small"))));
        let mut draws = Draws::new(0, Purpose::View, 0, 0);
        assert_eq!(square(&picture, 8, 1.0, &mut draws).expect("a picture"), picture);
    }

    #[test]
    fn parts_lie_inside_and_have_the_size_asked_for() {
        let picture = RgbImage::from_pixel(20, 12, Rgb([9, 90, 200]));
        for index in 0..50 {
            let mut draws = Draws::new(0, Purpose::View, 0, index);
            let view = square(&picture, 8, 0.5, &mut draws).expect("a picture");
            assert_eq!(view.dimensions(), (8, 8));
            assert!(view.pixels().all(|pixel| *pixel == Rgb([9, 90, 200])));
        }
    }
}
