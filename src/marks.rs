//! The marks that every finished picture gets.

use std::sync::Arc;

use image::RgbImage;
use unclip_safety::{
    Watermark,
    mark::{InvisibleMark, Payload, Signature},
};

use crate::{Warning, error::Result};

/// The payload of pictures by default.
const PAYLOAD: Payload = Payload(*b"unclip");

/// A pipeline's marks, in the order in which they are put on.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    pub(crate) invisible: Option<InvisibleMark>,
    /// The caller's own.
    pub(crate) own: Vec<Arc<dyn Watermark>>,
    /// Last, so that its colours stay exact.
    pub(crate) signature: Option<Signature>,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            invisible: Some(InvisibleMark::new(PAYLOAD)),
            own: Vec::new(),
            signature: Some(Signature::new()),
        }
    }
}

impl Marks {
    /// Says in the log which marks are switched off.
    pub(crate) fn warn_of_missing(&self) {
        for (name, is_off) in
            [("invisible mark", self.invisible.is_none()), ("signature", self.signature.is_none())]
        {
            if is_off {
                tracing::warn!("pictures of this pipeline go out without the {name}");
            }
        }
    }

    /// Puts all marks on; says so where the picture is too small for the invisible one.
    pub(crate) fn put_on(&self, picture: &mut RgbImage) -> Result<Option<Warning>> {
        let (width, height) = picture.dimensions();
        let mut warning = None;
        if let Some(mark) = &self.invisible {
            if width.min(height) < InvisibleMark::MIN_SIDE {
                warning = Some(Warning::Unmarked { mark: mark.name().into(), width, height });
            } else {
                mark.mark(picture)?;
            }
        }
        for mark in &self.own {
            mark.mark(picture)?;
        }
        if let Some(signature) = &self.signature {
            signature.mark(picture)?;
        }
        Ok(warning)
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use unclip_safety::mark::{Detection, Detector};

    use super::*;

    #[test]
    fn a_picture_bears_both_marks_by_default() {
        let mut picture = RgbImage::from_pixel(128, 128, Rgb([120, 90, 40]));
        assert_eq!(Marks::default().put_on(&mut picture).expect("large enough"), None);
        assert!(Signature::new().is_on(&picture));
        let Detection::Found(reading) = Detector::new().detect(&picture) else {
            panic!("the invisible mark")
        };
        assert_eq!(reading.payload, PAYLOAD);
    }

    #[test]
    fn a_small_picture_bears_the_signature_and_a_warning() {
        let mut picture = RgbImage::from_pixel(32, 32, Rgb([120, 90, 40]));
        let warning = Marks::default().put_on(&mut picture).expect("a signature fits");
        assert!(matches!(warning, Some(Warning::Unmarked { width: 32, height: 32, .. })));
        assert!(Signature::new().is_on(&picture));
    }
}
