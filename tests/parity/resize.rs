//! The antialiased bicubic resampling in front of the upsamplers; torch `F.interpolate(.., antialias=True)`.

use unclip_core::resize::resize_bicubic;
use unclip_testkit::device;

use crate::report::{bound, replay};

#[test]
fn tensors_are_resampled_as_torch_does() {
    replay("resize", |set, report| {
        let recorded = set.tensors("resize");
        for case in 0..recorded.names().filter(|name| name.starts_with("in.")).count() {
            let (given, expected) = (format!("in.{case}"), format!("out.{case}"));
            let &[_, _, height, width] = recorded.shape(&expected) else {
                panic!("pictures have four axes");
            };
            let resized = resize_bicubic(recorded.tensor(&given, &device()), height, width)
                .expect("the sizes are valid");
            report.tensor("out.*", &resized, (&recorded, &expected), None, bound::RESIZE);
        }
    });
}
