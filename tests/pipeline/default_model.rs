//! The model that the library carries.

use unclip::{Offload, Pipeline};

use crate::{pipeline, quick};

#[test]
fn a_pipeline_needs_no_path() {
    let builder = Pipeline::builder().on_device(unclip_testkit::device());
    let carried = builder.offload(Offload::OneStage).without_safety().unmarked();
    let carried = carried.build().expect("a whole model");
    assert!(carried.can_generate() && carried.can_vary(), "every part is there");
    let smallest = carried.sizes()[0];
    let result = carried.generate(quick("a red apple, flat").size(smallest)).expect("a picture");
    assert_eq!(result.images[0].picture.dimensions(), (smallest, smallest));
}

#[test]
fn a_given_directory_takes_its_place() {
    let carried = Pipeline::builder().on_device(unclip_testkit::device()).build();
    assert_ne!(carried.expect("a whole model").sizes(), pipeline().sizes());
}
