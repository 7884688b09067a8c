//! The request inside a saved picture.
//!
//! A PNG that this library saves holds an `iTXt` chunk under the keyword `unclip` with JSON that makes the picture
//! again: the request for this one picture, its seed filled in. Everything else about PNG is the `png` crate's.

use std::{fs, io::Cursor, path::Path};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::{
    GenerateRequest, VariationRequest,
    error::{Error, Result},
};

/// The keyword of the text chunk.
const KEYWORD: &str = "unclip";
/// The version of the JSON inside; a reader refuses versions it does not know.
const VERSION: u32 = 1;
/// The longest text that is read: a request without supplied tensors is far below.
const MAX_TEXT: usize = 1 << 20;
/// The largest file that is opened for its metadata.
const MAX_FILE: u64 = 1 << 30;

/// What makes a picture again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureMetadata {
    /// Version of this form.
    pub version: u32,
    /// The version of the library that made the picture.
    pub library: String,
    /// The request for this picture alone.
    pub request: Replay,
    /// Names of tensors that the caller supplied and that are not stored here; with any, the picture cannot be made
    /// again from this alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supplied: Vec<String>,
}

/// The kind of request that a picture came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Replay {
    /// From a caption.
    Generate(GenerateRequest),
    /// From a picture, which is not stored.
    Variation(VariationRequest),
}

impl PictureMetadata {
    /// The metadata of the picture with `seed`, made for caption number `source` of `request`.
    pub(crate) fn generated(request: &GenerateRequest, source: usize, seed: u64) -> Self {
        let mut alone = request.clone();
        alone.captions = request.captions.get(source).cloned().into_iter().collect();
        alone.images_per_caption = 1;
        alone.rank_images = false;
        alone.painting.seed = Some(seed);
        let supplied = names_of_supplied(&std::mem::take(&mut alone.painting.supplied));
        Self {
            version: VERSION,
            library: env!("CARGO_PKG_VERSION").into(),
            request: Replay::Generate(alone),
            supplied,
        }
    }

    /// The metadata of the variation with `seed`.
    pub(crate) fn varied(request: &VariationRequest, seed: u64) -> Self {
        let mut alone = request.clone();
        alone.images_per_picture = 1;
        alone.painting.seed = Some(seed);
        let supplied = names_of_supplied(&std::mem::take(&mut alone.painting.supplied));
        Self {
            version: VERSION,
            library: env!("CARGO_PKG_VERSION").into(),
            request: Replay::Variation(alone),
            supplied,
        }
    }

    /// Reads the metadata of a PNG that this library saved.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] when the file is no PNG, holds none, or holds a form that this version does not know.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let length = fs::metadata(path).map_err(unclip_core::Error::io("read", path))?.len();
        if length > MAX_FILE {
            return Err(damaged(
                path,
                format!("{length} bytes are more than a picture of this library has"),
            ));
        }
        Self::parse(&fs::read(path).map_err(unclip_core::Error::io("read", path))?, path)
    }

    /// Reads the metadata of a PNG in memory; `origin` names it in errors.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn parse(png: &[u8], origin: impl AsRef<Path>) -> Result<Self> {
        let origin = origin.as_ref();
        let limits = png::Limits { bytes: 64 << 20 };
        let reader = png::Decoder::new_with_limits(Cursor::new(png), limits)
            .read_info()
            .map_err(|error| damaged(origin, format!("not a readable PNG: {error}")))?;
        let mut chunks = reader.info().utf8_text.iter().filter(|chunk| chunk.keyword == KEYWORD);
        let (chunk, None) = (
            chunks.next().ok_or_else(|| {
                damaged(origin, "the picture holds no request of this library".into())
            })?,
            chunks.next(),
        ) else {
            return Err(damaged(origin, format!("more than one `{KEYWORD}` text chunk")));
        };
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MAX_TEXT).map_err(|error| {
            damaged(origin, format!("its `{KEYWORD}` text chunk cannot be read: {error}"))
        })?;
        let text = chunk.get_text().map_err(|error| {
            damaged(origin, format!("its `{KEYWORD}` text chunk cannot be read: {error}"))
        })?;
        if text.len() > MAX_TEXT {
            return Err(damaged(
                origin,
                format!("its `{KEYWORD}` text chunk has {} bytes", text.len()),
            ));
        }
        let metadata: Self = serde_json::from_str(&text).map_err(|error| {
            damaged(origin, format!("its `{KEYWORD}` text chunk is not a request: {error}"))
        })?;
        if metadata.version != VERSION {
            let found = metadata.version;
            return Err(damaged(
                origin,
                format!("metadata version {found} is unknown, expected {VERSION}"),
            ));
        }
        Ok(metadata)
    }
}

/// `picture` as a PNG that holds `metadata`.
pub(crate) fn write_png(
    picture: &RgbImage,
    metadata: &PictureMetadata,
    origin: &Path,
) -> Result<Vec<u8>> {
    let text =
        serde_json::to_string(metadata).map_err(|error| damaged(origin, error.to_string()))?;
    let mut bytes = Vec::new();
    let encoded = (|| {
        let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.add_itxt_chunk(KEYWORD.into(), text)?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(picture.as_raw())?;
        writer.finish()
    })();
    encoded.map_err(|error| damaged(origin, format!("cannot be encoded: {error}")))?;
    Ok(bytes)
}

fn names_of_supplied(supplied: &crate::Supplied) -> Vec<String> {
    [
        ("image_embeddings", supplied.image_embeddings.is_some()),
        ("prior_noise", supplied.prior_noise.is_some()),
        ("decoder_noise", supplied.decoder_noise.is_some()),
        ("upsample_noise", supplied.upsample_noise.is_some()),
        ("upsample_large_noise", supplied.upsample_large_noise.is_some()),
    ]
    .into_iter()
    .filter(|(_, given)| *given)
    .map(|(name, _)| name.to_owned())
    .collect()
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::Metadata { path: path.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_pixel(4, 3, image::Rgb([200, 10, 90]))
    }

    #[test]
    fn a_saved_picture_gives_its_request_back() {
        let request =
            GenerateRequest::of_captions(["a cat", "日本語 \u{1F438}"]).images(3).decoder_steps(9);
        let metadata = PictureMetadata::generated(&request, 1, 42);
        let png = write_png(&picture(), &metadata, Path::new("x.png")).expect("encodable");
        let read = PictureMetadata::parse(&png, "x.png").expect("our own picture");
        assert_eq!(read, metadata);
        let expected = GenerateRequest::new("日本語 \u{1F438}").seed(42).decoder_steps(9);
        assert_eq!(read.request, Replay::Generate(expected));
        let decoded = image::load_from_memory(&png).expect("any reader opens it").to_rgb8();
        assert_eq!(decoded, picture());
    }

    #[test]
    fn what_holds_no_request_says_so() {
        let mut plain = Cursor::new(Vec::new());
        picture().write_to(&mut plain, image::ImageFormat::Png).expect("encodable");
        let text = PictureMetadata::parse(&plain.into_inner(), "plain.png")
            .expect_err("no request")
            .to_string();
        assert!(text.contains("plain.png") && text.contains("no request"), "{text}");
        assert!(PictureMetadata::parse(b"not a picture", "x").is_err());
    }

    #[test]
    fn damage_anywhere_is_an_error_and_never_a_panic() {
        let metadata = PictureMetadata::generated(&GenerateRequest::new("a cat"), 0, 1);
        let png = write_png(&picture(), &metadata, Path::new("x.png")).expect("encodable");
        for cut in 0..png.len() {
            let _ = PictureMetadata::parse(&png[..cut], "cut.png");
        }
        for at in 0..png.len() {
            let mut broken = png.clone();
            broken[at] ^= 0x55;
            if let Ok(read) = PictureMetadata::parse(&broken, "broken.png") {
                assert_eq!(read, metadata, "byte {at} changed the request unnoticed");
            }
        }
    }

    #[test]
    fn an_unknown_version_is_refused_by_number() {
        let metadata = PictureMetadata {
            version: 7,
            ..PictureMetadata::generated(&GenerateRequest::new("a cat"), 0, 1)
        };
        let png = write_png(&picture(), &metadata, Path::new("x.png")).expect("encodable");
        let text =
            PictureMetadata::parse(&png, "x.png").expect_err("an unknown version").to_string();
        assert!(text.contains("version 7"), "{text}");
    }
}
