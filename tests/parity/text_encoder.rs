//! CLIP's text tower; transformers `CLIPTextModelWithProjection`.

use unclip_clip::TextEncoder;
use unclip_core::checkpoint::WeightPrecision;
use unclip_testkit::device;

use crate::report::{bound, replay};

#[test]
fn captions_are_embedded_as_recorded() {
    replay("text encoder", |set, report| {
        let recorded = set.tensors("text_encoder");
        let dir = set.model_dir().join("text_encoder");
        let encoder = TextEncoder::from_dir(dir, None, WeightPrecision::F32, &device())
            .expect("the recorded encoder loads");
        let columns = recorded.shape("in.input_ids")[1];
        let ids: Vec<u32> = recorded
            .ints("in.input_ids")
            .into_iter()
            .map(|id| u32::try_from(id).expect("an id"))
            .collect();
        let captions: Vec<&[u32]> = ids.chunks_exact(columns).collect();
        let output = encoder.forward_with_states(&captions);
        let floor = |name: &str| Some(set.forward_floor("text_encoder", name));
        report.tensor(
            "text_embeds",
            &output.text_embeds,
            (&recorded, "out.text_embeds"),
            floor("text_embeds"),
            bound::FORWARD,
        );
        let states = output.hidden_states.iter().enumerate();
        let states = states.map(|(layer, state)| (format!("hidden_states.{layer}"), state));
        let last = ("last_hidden_state".to_owned(), &output.last_hidden_state);
        for (name, state) in states.chain([last]) {
            let key = format!("out.{name}");
            report.tensor(&name, state, (&recorded, &key), floor(&name), bound::FORWARD);
        }
    });
}
