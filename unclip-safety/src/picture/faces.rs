//! SeetaFace's detector.

use std::fmt;

use image::{RgbImage, imageops};
use rustface::{ImageData, Model};

use super::{FaceDetector, PictureError};
use crate::Region;

/// SeetaFace's frontal detector, 1.2 MB, BSD-2-Clause, © 2016 VIPL, Institute of Computing Technology, CAS.
static WEIGHTS: &[u8] = include_bytes!("../../weights/seeta_fd_frontal_v1.0.bin");

/// The longest side that is searched; larger pictures are reduced first.
const SEARCHED_SIDE: u32 = 640;
/// The least side of a face that is found, in searched pixels.
const LEAST_FACE: u32 = 20;
/// The detector's own score from which on it counts; its authors' choice.
const LEAST_SCORE: f64 = 2.0;

/// SeetaFace's detector of frontal faces, through the crate rustface.
///
/// It finds faces that look at the camera, from 20 pixels on. On drawings it is easily mistaken: of 150 icons it took 6 to
/// 44 for faces, by style. It is therefore asked about given pictures, and not about finished ones.
pub struct FrontalFaces {
    model: Model,
}

impl fmt::Debug for FrontalFaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontalFaces").finish_non_exhaustive()
    }
}

impl FrontalFaces {
    /// The detector with the weights that come with this crate.
    #[expect(clippy::missing_panics_doc, reason = "tests read the bundled weights")]
    pub fn bundled() -> Self {
        let model = rustface::read_model(WEIGHTS).expect("the bundled weights are tested");
        Self { model }
    }
}

impl FaceDetector for FrontalFaces {
    fn name(&self) -> &str {
        "seetaface"
    }

    fn faces(&self, picture: &RgbImage) -> Result<Vec<(Region, f32)>, PictureError> {
        let (width, height) = picture.dimensions();
        let factor = f64::from(width.max(height).max(SEARCHED_SIDE)) / f64::from(SEARCHED_SIDE);
        let part = |side: u32| within(f64::from(side) / factor, side);
        let (searched_width, searched_height) = (part(width), part(height));
        if searched_width.min(searched_height) < LEAST_FACE {
            return Ok(Vec::new());
        }
        let mut grey = imageops::grayscale(picture);
        if factor > 1.0 {
            grey = imageops::thumbnail(&grey, searched_width, searched_height);
        }
        // A detector keeps scratch memory, so each call makes its own from the shared model.
        let mut detector = rustface::create_detector_with_model(self.model.clone());
        detector.set_min_face_size(LEAST_FACE);
        detector.set_score_thresh(LEAST_SCORE);
        detector.set_pyramid_scale_factor(0.8);
        detector.set_slide_window_step(4, 4);
        let found = detector.detect(&ImageData::new(&grey, searched_width, searched_height));
        Ok(found
            .iter()
            .map(|face| {
                let bounds = face.bbox();
                let along = |start: i32, length: u32, side: u32| {
                    let first = within(f64::from(start) * factor, side);
                    let end = within((f64::from(start) + f64::from(length)) * factor, side);
                    (first, end - first)
                };
                let (x, width) = along(bounds.x(), bounds.width(), width);
                let (y, height) = along(bounds.y(), bounds.height(), height);
                (Region { x, y, width, height }, sureness(face.score()))
            })
            .filter(|(face, _)| face.width > 0 && face.height > 0)
            .collect())
    }
}

/// A place along a side, in whole pixels.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is held within the side"
)]
fn within(at: f64, side: u32) -> u32 {
    at.round().clamp(0.0, f64::from(side)) as u32
}

/// The detector's open-ended score as one below 1: a third at the least score that counts, nine tenths at 36.
#[expect(clippy::cast_possible_truncation, reason = "the quotient is between 0 and 1")]
fn sureness(score: f64) -> f32 {
    (score / (score + 2.0 * LEAST_SCORE)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_stay_between_0_and_1() {
        assert!((sureness(LEAST_SCORE) - 1.0 / 3.0).abs() < 1e-6);
        assert!(sureness(36.0) > 0.89 && sureness(1e9) <= 1.0);
    }
}
