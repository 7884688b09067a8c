//! The networks' gradients are PyTorch's.
//!
//! `tests/reference/record_gradients.py` runs each network of a recorded set and takes the gradients of the mean square
//! of its output; of each it keeps the norm and `Σ g_i cos(i)`.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, GradientCheckpointingStrategy, Tensor},
};
use serde_json::Value;
use unclip_clip::{TextEncoder, VisionEncoder};
use unclip_core::{
    checkpoint::{WeightPrecision, checkpoint_name},
    nn::{UNET_NAMES, UNet, UNetInput, mask_bias},
};
use unclip_decoder::DecoderConfig;
use unclip_prior::{PRIOR_NAMES, Prior, PriorStep};
use unclip_testkit::{FixtureSet, Recorded, device, fixture_sets};
use unclip_upsample::UpsamplerConfig;

fn recorded(part: &str) -> BTreeMap<String, (f64, f64)> {
    let text = include_str!("../reference/gradients.json");
    let all: Value = serde_json::from_str(text).expect("JSON");
    let number = |value: &Value| value.as_f64().expect("a number");
    let part = all[part].as_object().expect("gradients by name");
    part.iter().map(|(name, pair)| (name.clone(), (number(&pair[0]), number(&pair[1])))).collect()
}

/// Names of the gradients of a module, with both numbers of each.
struct Read<'a> {
    path: Vec<String>,
    names: &'a [(&'a str, &'a str)],
    gradients: GradientsParams,
    found: BTreeMap<String, (f64, f64)>,
}

impl ModuleVisitor for Read<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return };
        let values: Vec<f32> = gradient.into_data().try_to_vec().expect("floats");
        let norm = values.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let along = values.iter().enumerate().map(|(i, &g)| f64::from(g) * (i as f64).cos());
        let name = checkpoint_name(&self.path.join("."), self.names);
        self.found.insert(name, (norm, along.sum()));
    }
}

/// The gradients of the mean square of a module's output.
fn gradients<M: Module, const D: usize>(module: &M, output: Tensor<D>) -> GradientsParams {
    GradientsParams::from_grads(output.square().mean().backward(), module)
}

/// The same of a network that computes its blocks again where the device asks for that.
fn unet_gradients(unet: &UNet, input: UNetInput<'_>) -> GradientsParams {
    let strategy = unet.devices()[0].gradient_checkpointing_strategy();
    if strategy != Some(GradientCheckpointingStrategy::Balanced) {
        return gradients(unet, unet.forward(input));
    }
    let pass = unet.forward_checkpointed(input);
    let mut of_output = pass.output().square().mean().backward();
    let mut sum = GradientsAccumulator::new();
    let add = |found| sum.accumulate(unet, GradientsParams::from_grads(found, unet));
    pass.backward(&mut of_output, add);
    sum.grads()
}

fn check<M: Module>(part: &str, module: &M, gradients: GradientsParams, names: &[(&str, &str)]) {
    let found = BTreeMap::new();
    let mut read = Read { path: Vec::new(), names, gradients, found };
    module.visit(&mut read);
    let expected = recorded(part);
    let keys = |map: &BTreeMap<String, _>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&read.found), keys(&expected), "{part}");
    let largest = expected.values().map(|(norm, _)| *norm).fold(0.0, f64::max);
    for (name, (norm, along)) in &read.found {
        let bound = 1e-3 * expected[name].0 + 1e-6 * largest;
        let (a, b) = expected[name];
        assert!((norm - a).abs() < bound, "{part} {name}: norm {norm}, expected {a}");
        assert!((along - b).abs() < bound, "{part} {name}: along {along}, expected {b}");
    }
}

fn timesteps(recorded: &Recorded) -> Vec<f32> {
    recorded.ints("in.timestep").into_iter().map(|t| t as f32).collect()
}

fn mask(recorded: &Recorded) -> Vec<Vec<bool>> {
    let tokens = recorded.shape("in.attention_mask")[1];
    let kept: Vec<bool> =
        recorded.ints("in.attention_mask").into_iter().map(|bit| bit != 0).collect();
    kept.chunks(tokens).map(<[bool]>::to_vec).collect()
}

fn decoder(set: &FixtureSet, device: &Device) {
    let dir = set.model_dir().join("decoder");
    let config = DecoderConfig::open(&dir).expect("a configuration");
    let unet = config.load(&dir, None, WeightPrecision::F32, device).expect("it loads");
    let recorded = set.tensors("decoder");
    let timesteps = timesteps(&recorded);
    let input = UNetInput::new(recorded.tensor("in.sample", device), &timesteps)
        .class_embedding(recorded.tensor("in.class_labels", device))
        .context(recorded.tensor("in.encoder_hidden_states", device))
        .context_bias(mask_bias(&mask(&recorded), 0, device));
    check("decoder", &unet, unet_gradients(&unet, input), UNET_NAMES);
}

fn upsampler(set: &FixtureSet, device: &Device) {
    let dir = set.model_dir().join("super_res_first");
    let config = UpsamplerConfig::open(&dir).expect("a configuration");
    let unet = config.load(&dir, None, WeightPrecision::F32, device).expect("it loads");
    let recorded = set.tensors("super_res_first");
    let timesteps = timesteps(&recorded);
    let input = UNetInput::new(recorded.tensor("in.sample", device), &timesteps);
    check("super_res_first", &unet, unet_gradients(&unet, input), UNET_NAMES);
}

fn prior(set: &FixtureSet, device: &Device) {
    let dir = set.model_dir().join("prior");
    let prior = Prior::from_dir(dir, None, WeightPrecision::F32, device).expect("it loads");
    let recorded = set.tensors("prior");
    let timesteps = timesteps(&recorded);
    let noisy = recorded.tensor::<2>("in.hidden_states", device).unsqueeze_dim(1);
    let step = PriorStep::new(noisy, &timesteps, recorded.tensor("in.proj_embedding", device))
        .text_states(recorded.tensor("in.encoder_hidden_states", device))
        .attention_bias(prior.attention_bias(&mask(&recorded), device));
    check("prior", &prior, gradients(&prior, prior.forward(step)), PRIOR_NAMES);
}

fn clip(set: &FixtureSet, device: &Device) {
    let dir = |part: &str| set.model_dir().join(part);
    let precision = WeightPrecision::F32;
    let text = TextEncoder::from_dir(dir("text_encoder"), None, precision, device).expect("loads");
    let recorded = set.tensors("text_encoder");
    let tokens = recorded.shape("in.input_ids")[1];
    let ids: Vec<u32> = recorded
        .ints("in.input_ids")
        .into_iter()
        .map(|id| u32::try_from(id).expect("an id"))
        .collect();
    let rows: Vec<&[u32]> = ids.chunks(tokens).collect();
    check("text_encoder", &text, gradients(&text, text.forward(&rows).text_embeds), &[]);

    let vision =
        VisionEncoder::from_dir(dir("image_encoder"), None, precision, device).expect("loads");
    let recorded = set.tensors("image_encoder");
    let pixels = recorded.tensor("in.pixel_values", device);
    let embedded = vision.forward(pixels).image_embeds;
    check("image_encoder", &vision, gradients(&vision, embedded), &[]);
}

#[test]
fn gradients_are_pytorch_s_with_and_without_checkpointing() {
    let set = &fixture_sets()[0];
    let plain = device().autodiff();
    for device in [plain.clone(), plain.gradient_checkpointing()] {
        decoder(set, &device);
        upsampler(set, &device);
        prior(set, &device);
        clip(set, &device);
    }
}
