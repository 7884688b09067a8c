//! The model that the library carries.

use std::path::Path;

use unclip::{
    Error, HostTensor, Offload, Pipeline,
    safety::{Concepts, Embedded, NoFilter},
};

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

/// What unclip-safety's README says of the check of embeddings is measured here:
///
/// ```text
/// cargo test --release --workspace --test pipeline -- --ignored --nocapture text_space
/// ```
#[test]
#[ignore = "a measurement, which prints its result"]
fn how_well_the_carried_text_space_tells_harm_apart() {
    let builder = Pipeline::builder().on_device(unclip_testkit::device());
    let carried = builder.offload(Offload::OneStage).safety(NoFilter).build().expect("a model");
    let embed = |texts: &[&str]| -> Result<Vec<Vec<f32>>, Error> {
        let rows = HostTensor::read(&carried.embed_text(texts)?.captions.embedding)?;
        Ok(rows.values.chunks_exact(rows.shape[1]).map(<[f32]>::to_vec).collect())
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("unclip-safety/tests/captions");
    let captions = |files: &[&str]| -> Vec<Vec<f32>> {
        let read = |file: &&str| std::fs::read_to_string(folder.join(format!("{file}.txt")));
        let text: String = files.iter().map(|file| read(file).expect("beside its test")).collect();
        let captions: Vec<&str> =
            text.lines().map(|line| line.split_once('\t').map_or(line, |(_, text)| text)).collect();
        embed(&captions).expect("captions")
    };
    let (harmful, fine) = (captions(&["unsafe"]), captions(&["fine", "alarming"]));
    let every_second = |from: usize| fine.iter().skip(from).step_by(2).cloned().collect::<Vec<_>>();
    let (examples, others) = (every_second(0), every_second(1));
    for share in [0.02, 0.1] {
        let mut concepts = Concepts::builtin(embed).expect("phrases");
        concepts.calibrate_captions(&examples, share).expect("harmless captions");
        let refused = others
            .iter()
            .filter(|row| concepts.signals(&Embedded::caption(row)).iter().any(|s| s.score >= 0.5))
            .count();
        println!(
            "calibrated to refuse {share} of harmless captions: refused {:.3} of {} unsafe, {refused} of {} others",
            concepts.recall(&harmful).expect("calibrated"),
            harmful.len(),
            others.len(),
        );
    }
}
