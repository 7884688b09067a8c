//! The projections of image embedding and caption in front of the decoder; diffusers `UnCLIPTextProjModel`.

use burn::tensor::Tensor;
use unclip_core::checkpoint::WeightPrecision;
use unclip_decoder::TextProjection;
use unclip_testkit::device;

use crate::report::{bound, replay};

#[test]
fn embeddings_are_projected_as_recorded() {
    replay("text projection", |set, report| {
        let recorded = set.tensors("text_proj");
        let dir = set.model_dir().join("text_proj");
        let projection = TextProjection::from_dir(dir, None, WeightPrecision::F32, &device())
            .expect("the recorded projection loads");
        let image: Tensor<2> = recorded.tensor("in.image_embeddings", &device());
        let text: Tensor<2> = recorded.tensor("in.prompt_embeds", &device());
        let states: Tensor<3> = recorded.tensor("in.text_encoder_hidden_states", &device());
        let [rows, _] = image.dims();
        let doubled = Tensor::cat(vec![projection.null_embedding(rows), image.clone()], 0);
        let guided = projection.forward(doubled, text.clone(), states.clone());
        // Without guidance there are only the second half's captions.
        let plain =
            projection.forward(image, text.narrow(0, rows, rows), states.narrow(0, rows, rows));
        for (name, conditions) in [("guided", guided), ("plain", plain)] {
            let [context, time] = ["context", "time"].map(|part| format!("{name}_{part}"));
            let floor = |name: &str| Some(set.forward_floor("text_proj", name));
            let key = |name: &str| format!("out.{name}");
            let expected = (&recorded, &*key(&context));
            report.tensor(&context, &conditions.context, expected, floor(&context), bound::FORWARD);
            let expected = (&recorded, &*key(&time));
            report.tensor(&time, &conditions.time, expected, floor(&time), bound::FORWARD);
        }
    });
}
