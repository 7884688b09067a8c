//! What a file says about its origin, for machines: the IPTC property `DigitalSourceType` in XMP.
//!
//! ```
//! use unclip_safety::provenance::{Origin, read_origin, write_origin};
//!
//! let picture = image::RgbImage::new(8, 8);
//! let mut png = std::io::Cursor::new(Vec::new());
//! picture.write_to(&mut png, image::ImageFormat::Png)?;
//! let labelled = write_origin(png.get_ref(), &Origin::trained("my program 1.0"))?;
//! let origin = read_origin(&labelled)?.expect("just written");
//! assert!(origin.is_generated());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod container;
mod jpeg;
#[cfg(feature = "c2pa")]
mod manifest;
mod png;
mod webp;
mod xmp;

pub use container::{Container, carries_manifest, read_origin, write_origin};
#[cfg(feature = "c2pa")]
pub use manifest::{Algorithm, Manifest, ManifestError, ManifestSigner, Standing, read_manifest};
pub use xmp::{COMPOSITE, Origin, TRAINED};

/// A file's origin could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvenanceError {
    /// The bytes are no PNG, JPEG or WebP file.
    #[error("the file is neither PNG, JPEG nor WebP")]
    UnknownFormat,
    /// The file's structure is damaged.
    #[error("damaged {container} file at byte {offset}: {reason}")]
    Damaged {
        /// The kind of file.
        container: Container,
        /// Where.
        offset: usize,
        /// What was found, and what expected.
        reason: String,
    },
    /// The XMP packet is not what the standard allows, or too large.
    #[error("the file's XMP packet cannot be read: {reason}")]
    Xmp {
        /// What is wrong.
        reason: String,
    },
}
