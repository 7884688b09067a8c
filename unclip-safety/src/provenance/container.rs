//! One door for the three kinds of file.

use std::fmt;

use super::{Origin, ProvenanceError, jpeg, png, webp};

/// A kind of file that holds a picture and an XMP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Container {
    /// Portable network graphics: the packet is an `iTXt` chunk.
    Png,
    /// JPEG: the packet is an `APP1` segment.
    Jpeg,
    /// WebP: the packet is an `XMP ` chunk of the extended form.
    WebP,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        })
    }
}

impl Container {
    /// The kind of file that `bytes` start as.
    ///
    /// # Errors
    ///
    /// [`ProvenanceError::UnknownFormat`] for any other.
    pub fn of(bytes: &[u8]) -> Result<Self, ProvenanceError> {
        if bytes.starts_with(png::START) {
            Ok(Self::Png)
        } else if bytes.starts_with(jpeg::START) {
            Ok(Self::Jpeg)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Ok(Self::WebP)
        } else {
            Err(ProvenanceError::UnknownFormat)
        }
    }

    pub(super) fn damaged(self, offset: usize, reason: impl Into<String>) -> ProvenanceError {
        ProvenanceError::Damaged { container: self, offset, reason: reason.into() }
    }
}

/// What the XMP packet of a PNG, JPEG or WebP file says of its origin; nothing when there is no packet.
///
/// # Errors
///
/// When the file is of another kind, its structure or its packet is damaged, or it holds two packets.
pub fn read_origin(file: &[u8]) -> Result<Option<Origin>, ProvenanceError> {
    let packet = match Container::of(file)? {
        Container::Png => png::packet(file)?,
        Container::Jpeg => jpeg::packet(file)?,
        Container::WebP => webp::packet(file)?,
    };
    packet.map(Origin::parse).transpose()
}

/// The file with a packet that says `origin`, in the place of any that it had. Pixels stay as they are.
///
/// # Errors
///
/// When the file is of another kind or damaged, or the packet too long for it.
pub fn write_origin(file: &[u8], origin: &Origin) -> Result<Vec<u8>, ProvenanceError> {
    let packet = origin.packet();
    match Container::of(file)? {
        Container::Png => png::with_packet(file, &packet),
        Container::Jpeg => jpeg::with_packet(file, &packet),
        Container::WebP => webp::with_packet(file, &packet),
    }
}

/// Whether the file holds a C2PA manifest store, which says more about its origin than XMP does. Nothing of it is read or
/// verified here.
///
/// # Errors
///
/// When the file is of another kind, or its structure is damaged.
pub fn carries_manifest(file: &[u8]) -> Result<bool, ProvenanceError> {
    match Container::of(file)? {
        Container::Png => png::carries_manifest(file),
        Container::Jpeg => jpeg::carries_manifest(file),
        Container::WebP => webp::carries_manifest(file),
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test pictures are made of low bits")]
mod tests {
    use std::io::Cursor;

    use image::{ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage, RgbaImage};

    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_fn(17, 9, |x, y| Rgb([x as u8 * 9, y as u8 * 20, 77]))
    }

    fn files() -> Vec<Vec<u8>> {
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP]
            .into_iter()
            .map(|format| {
                let mut bytes = Cursor::new(Vec::new());
                picture().write_to(&mut bytes, format).expect("encodable");
                bytes.into_inner()
            })
            .collect()
    }

    fn pixels(file: &[u8]) -> Vec<u8> {
        image::load_from_memory(file).expect("still a picture").into_rgb8().into_raw()
    }

    #[test]
    fn an_origin_comes_back_from_every_kind_of_file_and_pixels_stay() {
        for file in files() {
            assert_eq!(read_origin(&file), Ok(None));
            let origin = Origin::trained("a <tool> & \"more\"");
            let written = write_origin(&file, &origin).expect("a sound file");
            assert_eq!(read_origin(&written), Ok(Some(origin)));
            assert_eq!(pixels(&written), pixels(&file));
        }
    }

    #[test]
    fn a_second_origin_takes_the_place_of_the_first() {
        for file in files() {
            let once = write_origin(&file, &Origin::trained("first")).expect("sound");
            let twice = write_origin(&once, &Origin::trained("second")).expect("sound");
            let only = write_origin(&file, &Origin::trained("second")).expect("sound");
            assert_eq!(twice, only);
        }
    }

    #[test]
    fn transparency_of_webp_survives() {
        let transparent = RgbaImage::from_pixel(5, 4, image::Rgba([1, 2, 3, 40]));
        let mut file = Vec::new();
        image::codecs::webp::WebPEncoder::new_lossless(&mut file)
            .write_image(&transparent, 5, 4, ExtendedColorType::Rgba8)
            .expect("encodable");
        let written = write_origin(&file, &Origin::trained("x")).expect("sound");
        let read = image::load_from_memory(&written).expect("a picture").into_rgba8();
        assert_eq!(read, transparent);
    }

    #[test]
    fn damage_anywhere_is_an_error_and_never_a_panic() {
        for file in files() {
            let sound = write_origin(&file, &Origin::trained("x")).expect("sound");
            for cut in 0..sound.len() {
                let _ = read_origin(&sound[..cut]);
                let _ = write_origin(&sound[..cut], &Origin::trained("y"));
                let _ = carries_manifest(&sound[..cut]);
            }
            for at in 0..sound.len() {
                for change in [0x55, 0xFF] {
                    let mut broken = sound.clone();
                    broken[at] ^= change;
                    let _ = read_origin(&broken);
                    let _ = write_origin(&broken, &Origin::trained("y"));
                    let _ = carries_manifest(&broken);
                }
            }
        }
        assert_eq!(read_origin(b"GIF89a"), Err(ProvenanceError::UnknownFormat));
        assert_eq!(read_origin(b""), Err(ProvenanceError::UnknownFormat));
    }

    #[test]
    fn files_of_our_own_carry_no_manifest() {
        for file in files() {
            assert_eq!(carries_manifest(&file), Ok(false));
        }
    }
}
