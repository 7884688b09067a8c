//! CLIP's vision tower; transformers `CLIPVisionModelWithProjection`.

use unclip_clip::VisionEncoder;
use unclip_core::checkpoint::WeightPrecision;
use unclip_testkit::device;

use crate::report::{bound, replay};

#[test]
fn pictures_are_embedded_as_recorded() {
    replay("image encoder", |set, report| {
        let recorded = set.tensors("image_encoder");
        let dir = set.model_dir().join("image_encoder");
        let encoder = VisionEncoder::from_dir(dir, None, WeightPrecision::F32, &device())
            .expect("the recorded encoder loads");
        let output = encoder.forward_with_states(recorded.tensor("in.pixel_values", &device()));
        let floor = |name: &str| Some(set.forward_floor("image_encoder", name));
        for (name, embedding) in
            [("image_embeds", &output.image_embeds), ("pooled", &output.pooled)]
        {
            let key = format!("out.{name}");
            report.tensor(name, embedding, (&recorded, &key), floor(name), bound::FORWARD);
        }
        let states = output.hidden_states.iter().enumerate();
        let states = states.map(|(layer, state)| (format!("hidden_states.{layer}"), state));
        let last = ("last_hidden_state".to_owned(), &output.last_hidden_state);
        for (name, state) in states.chain([last]) {
            let key = format!("out.{name}");
            report.tensor(&name, state, (&recorded, &key), floor(&name), bound::FORWARD);
        }
    });
}
