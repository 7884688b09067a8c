//! A picture of any size to CLIP's pixels; transformers `CLIPImageProcessor`.
//!
//! It has two implementations, which differ by a grey level here and there: torchvision's, which the recorded runs used
//! and we follow, and Pillow's, which every version before the fifth used.

use image::RgbImage;
use unclip_clip::Preprocessor;
use unclip_testkit::device;

use crate::report::{bound, replay};

/// A grey level, over the smallest of CLIP's standard deviations.
const GREY_LEVEL: f64 = 1.01 / 255.0 / 0.261;

#[test]
fn pictures_become_the_recorded_pixels() {
    replay("image processor", |set, report| {
        let recorded = set.tensors("image_processor");
        let processor = Preprocessor::from_dir(set.model_dir().join("feature_extractor"))
            .expect("the recorded configuration loads");
        for case in 0..recorded.names().filter(|name| name.starts_with("in.")).count() {
            let given = format!("in.{case}.u8");
            let &[height, width, _] = recorded.shape(&given) else {
                panic!("pictures have three axes");
            };
            let side = |side: usize| u32::try_from(side).expect("a small picture");
            let bytes = recorded.bytes(&given).to_vec();
            let picture =
                RgbImage::from_raw(side(width), side(height), bytes).expect("three bytes a pixel");
            let pixels = processor.preprocess(&picture, &device()).expect("a valid picture");
            for (backend, bound) in [("torchvision", bound::FORWARD), ("pil", GREY_LEVEL)] {
                let expected = format!("out.{case}.{backend}");
                report.tensor(backend, &pixels, (&recorded, &expected), None, bound);
            }
        }
    });
}
