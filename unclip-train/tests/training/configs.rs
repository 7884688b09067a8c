//! The configurations that come with the library.

use std::{fs, path::Path};

use burn::module::Module;
use unclip_clip::{TextConfig, VisionConfig};
use unclip_core::checkpoint::ConfigReader;
use unclip_decoder::{DecoderConfig, TextProjectionConfig};
use unclip_prior::PriorConfig;
use unclip_testkit::device;
use unclip_train::{RunConfig, StageConfig, TokenizerConfig};
use unclip_upsample::UpsamplerConfig;

/// The default model in 16 bits is to stay below 32 MiB.
const MOST_PARAMETERS: usize = 16 << 20;
/// Tokens of a vocabulary that are no merges: 512 symbols of bytes and two markers.
const WITHOUT_MERGES: usize = 514;

/// The parameters of a stage as they are shipped.
fn parameters(stage: &StageConfig) -> usize {
    let device = device();
    let reader = |value: &serde_json::Value| {
        ConfigReader::from_bytes("config", value.to_string().as_bytes()).expect("JSON")
    };
    match stage {
        StageConfig::Clip(config) => {
            let TokenizerConfig::Learn { merges, .. } = config.tokenizer else {
                panic!("the default vocabulary is learned")
            };
            let mut text = config.text.clone();
            let size = merges + WITHOUT_MERGES;
            text["vocab_size"] = size.into();
            text["eos_token_id"] = (size - 1).into();
            let text = TextConfig::read(&mut reader(&text)).expect("a text tower");
            let vision = VisionConfig::read(&mut reader(&config.vision)).expect("a vision tower");
            text.init(&device).num_params() + vision.init(&device).num_params()
        }
        StageConfig::Prior(config) => {
            let text = config.network.to_string();
            let config = PriorConfig::from_bytes("config", text.as_bytes()).expect("a prior");
            config.init(&device).num_params()
        }
        StageConfig::Decoder(config) => {
            let text = config.network.to_string();
            let network = DecoderConfig::from_bytes("config", text.as_bytes()).expect("a decoder");
            let text = config.projection.to_string();
            let projection = TextProjectionConfig::from_bytes("config", text.as_bytes());
            network.init(&device).num_params()
                + network.init_mask_channels(&device).num_params()
                + projection.expect("projections").init(&device).num_params()
        }
        StageConfig::Upsampler(config) => {
            let text = config.network.to_string();
            let config = UpsamplerConfig::from_bytes("config", text.as_bytes());
            config.expect("an upsampler").init(&device).num_params()
        }
        other => panic!("a stage that is not counted: {other:?}"),
    }
}

#[test]
fn every_configuration_opens_and_the_model_stays_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let mut total = 0;
    let mut stages = 0;
    for entry in fs::read_dir(folder.join("configs")).expect("the configurations") {
        let path = entry.expect("an entry").path();
        let config = RunConfig::open(&path).unwrap_or_else(|error| panic!("{error}"));
        // What judges the model is no part of it.
        if config.model.ends_with("model") {
            let count = parameters(&config.stage);
            println!("{}: {count} parameters", path.display());
            total += count;
            stages += 1;
        }
    }
    assert_eq!(stages, 4);
    assert!(total <= MOST_PARAMETERS, "{total} parameters");
}
