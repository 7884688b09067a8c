//! What a caller gets.

use std::{fmt, io::Cursor, path::Path, time::Duration};

use image::{
    ImageEncoder, RgbImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder},
};
use serde::{Deserialize, Serialize};
use unclip_core::{Stage, checkpoint};
use unclip_safety::{
    Verdict,
    provenance::{Origin, write_origin},
};

use crate::{
    error::Result,
    metadata::{PictureMetadata, write_png},
};

/// The quality of saved JPEG files.
const JPEG_QUALITY: u8 = 92;
/// What files name as the program that made them.
const TOOL: &str = concat!("unclip ", env!("CARGO_PKG_VERSION"));

/// The pictures of one request, and how they came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// The pictures: those of the first caption (or the first given picture) first.
    pub images: Vec<GeneratedImage>,
    /// What the caller should know, such as a caption that was cut.
    pub warnings: Vec<Warning>,
    /// Where the time went.
    pub timings: Timings,
}

/// One picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeneratedImage {
    /// The picture; as base64 of a PNG in JSON.
    #[serde(with = "png_base64")]
    pub picture: RgbImage,
    /// The seed that makes this picture alone.
    pub seed: u64,
    /// Which caption, or which given picture, it belongs to.
    pub source: usize,
    /// The CLIP image embedding that it was painted from, not normalised.
    pub image_embedding: Vec<f32>,
    /// Its CLIP similarity to the caption, −1 to 1, where ranking was asked for.
    pub clip_similarity: Option<f32>,
    /// What the safety filter said of it.
    pub verdict: Verdict,
    /// What makes it again, as a saved PNG holds it.
    pub metadata: PictureMetadata,
}

impl GeneratedImage {
    /// Saves the picture, under a temporary name first: as JPEG where the name ends in `.jpg` or `.jpeg`, as lossless
    /// WebP where it ends in `.webp`, and else as PNG.
    ///
    /// Every file says in XMP that a trained model made it (IPTC `DigitalSourceType`). A PNG also holds the picture's
    /// [`metadata`](Self::metadata).
    ///
    /// # Errors
    ///
    /// When the file cannot be written or the picture not encoded; no partial file is left behind.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = match Format::of(path) {
            Format::Jpeg => self.to_jpeg(path)?,
            Format::WebP => self.to_webp(path)?,
            Format::Png => self.to_png(path)?,
        };
        Ok(checkpoint::write_atomic(path, &bytes)?)
    }

    /// The PNG that [`save`](Self::save) writes.
    ///
    /// # Errors
    ///
    /// When the picture cannot be encoded; `origin` names it in the error.
    pub fn to_png(&self, origin: impl AsRef<Path>) -> Result<Vec<u8>> {
        let png = write_png(&self.picture, &self.metadata, origin.as_ref())?;
        Ok(write_origin(&png, &Origin::trained(TOOL))?)
    }

    /// The JPEG that [`save`](Self::save) writes, of quality 92.
    ///
    /// # Errors
    ///
    /// As [`to_png`](Self::to_png).
    pub fn to_jpeg(&self, origin: impl AsRef<Path>) -> Result<Vec<u8>> {
        let jpeg = Format::Jpeg.encode(&self.picture, origin.as_ref())?;
        Ok(write_origin(&jpeg, &Origin::trained(TOOL))?)
    }

    /// The lossless WebP that [`save`](Self::save) writes.
    ///
    /// # Errors
    ///
    /// As [`to_png`](Self::to_png).
    pub fn to_webp(&self, origin: impl AsRef<Path>) -> Result<Vec<u8>> {
        let webp = Format::WebP.encode(&self.picture, origin.as_ref())?;
        Ok(write_origin(&webp, &Origin::trained(TOOL))?)
    }
}

/// A given picture, enlarged.
#[derive(Debug, Clone, PartialEq)]
pub struct EnlargedImage {
    /// The picture.
    pub picture: RgbImage,
    /// What the safety filter said of it, before and after.
    pub verdict: Verdict,
}

impl EnlargedImage {
    /// Saves the picture as [`GeneratedImage::save`] does, without metadata. The file says in XMP that a trained model made a
    /// part of it.
    ///
    /// # Errors
    ///
    /// As [`GeneratedImage::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let file = Format::of(path).encode(&self.picture, path)?;
        let labelled = write_origin(&file, &Origin::composite(TOOL))?;
        Ok(checkpoint::write_atomic(path, &labelled)?)
    }
}

/// A kind of file that pictures are saved as.
#[derive(Debug, Clone, Copy)]
enum Format {
    Png,
    Jpeg,
    WebP,
}

impl Format {
    /// The kind that a file's name asks for.
    fn of(path: &Path) -> Self {
        let extension = path.extension().map(|end| end.to_ascii_lowercase());
        match extension.as_deref().and_then(|end| end.to_str()) {
            Some("jpg" | "jpeg") => Self::Jpeg,
            Some("webp") => Self::WebP,
            _ => Self::Png,
        }
    }

    /// The bare picture as such a file, which `origin` names in errors.
    fn encode(self, picture: &RgbImage, origin: &Path) -> Result<Vec<u8>> {
        fn with(
            encoder: impl ImageEncoder,
            picture: &RgbImage,
            origin: &Path,
        ) -> unclip_core::Result<()> {
            let origin = origin.display().to_string();
            let failed = |source| unclip_core::Error::Picture { action: "encode", origin, source };
            picture.write_with_encoder(encoder).map_err(failed)
        }
        let mut bytes = Vec::new();
        match self {
            Self::Png => with(PngEncoder::new(&mut bytes), picture, origin),
            Self::Jpeg => {
                with(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY), picture, origin)
            }
            Self::WebP => with(WebPEncoder::new_lossless(&mut bytes), picture, origin),
        }?;
        Ok(bytes)
    }
}

/// What the caller should know about a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Warning {
    /// A caption was longer than the text encoder reads, and its end was cut off.
    CaptionTruncated {
        /// Which caption; `None` is the negative one.
        caption: Option<usize>,
        /// Tokens read.
        kept: usize,
        /// Tokens cut off.
        dropped: usize,
    },
    /// No stage gives the size asked for: the pictures were resampled with a Lanczos filter, which adds no detail.
    Resampled {
        /// The size of the last stage that ran.
        from: u32,
        /// The size asked for.
        to: u32,
    },
    /// Pictures of this size are too small for a mark that the pipeline puts on by default.
    Unmarked {
        /// The mark.
        mark: String,
        /// Width of the pictures.
        width: u32,
        /// Height of the pictures.
        height: u32,
    },
    /// The caption holds nothing: the picture shows whatever the model likes.
    EmptyCaption {
        /// Which caption.
        caption: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaptionTruncated { caption: Some(caption), kept, dropped } => {
                write!(f, "caption {caption} was cut to {kept} tokens, {dropped} were dropped")
            }
            Self::CaptionTruncated { caption: None, kept, dropped } => {
                write!(f, "the negative caption was cut to {kept} tokens, {dropped} were dropped")
            }
            Self::Resampled { from, to } => {
                write!(
                    f,
                    "no stage of this model gives {to} pixels: resampled from {from} with a Lanczos filter"
                )
            }
            Self::Unmarked { mark, width, height } => {
                write!(f, "pictures of {width} × {height} are too small for the {mark} mark")
            }
            Self::EmptyCaption { caption } => write!(f, "caption {caption} is empty"),
        }
    }
}

/// Where the time of a request went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Each stage that ran, in order; loading its weights included where they were not resident.
    pub stages: Vec<StageTiming>,
    /// The whole request.
    pub total: Duration,
}

/// The time of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTiming {
    /// The stage.
    pub stage: Stage,
    /// Reading weights.
    pub loading: Duration,
    /// Computing.
    pub computing: Duration,
    /// Denoising steps over all pictures.
    pub steps: usize,
}

impl Timings {
    /// Seconds that `stage` computed, 0 where it did not run.
    pub fn computing(&self, stage: Stage) -> f64 {
        self.stages
            .iter()
            .filter(|timing| timing.stage == stage)
            .map(|timing| timing.computing.as_secs_f64())
            .sum()
    }
}

/// A picture as base64 of its PNG.
mod png_base64 {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use image::ImageFormat;
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    use super::{Cursor, RgbImage};

    pub(super) fn serialize<S: Serializer>(
        picture: &RgbImage,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).map_err(ser::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(bytes.into_inner()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<RgbImage, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
        unclip_core::image::decode_rgb(&bytes, "the result").map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GenerateRequest;

    #[test]
    fn a_result_survives_json() {
        let generation = Generation {
            images: vec![GeneratedImage {
                picture: RgbImage::from_raw(2, 1, vec![0, 50, 100, 150, 200, 250])
                    .expect("two pixels"),
                seed: 9,
                source: 0,
                image_embedding: vec![0.5, -0.25],
                clip_similarity: Some(0.25),
                verdict: Verdict::allow(),
                metadata: PictureMetadata::generated(&GenerateRequest::new("a cat").seed(9), 0, 9),
            }],
            warnings: vec![Warning::Resampled { from: 256, to: 512 }],
            timings: Timings::default(),
        };
        let json = serde_json::to_string(&generation).expect("plain data");
        assert_eq!(serde_json::from_str::<Generation>(&json).expect("our own JSON"), generation);
    }
}
