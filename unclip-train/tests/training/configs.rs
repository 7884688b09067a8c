//! The configurations that come with the library.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::module::Module;
use image::{Rgb, RgbImage};
use unclip_clip::{TextConfig, VisionConfig};
use unclip_core::checkpoint::ConfigReader;
use unclip_decoder::{DecoderConfig, TextProjectionConfig};
use unclip_prior::PriorConfig;
use unclip_testkit::device;
use unclip_train::{
    RunConfig, StageConfig, TokenizerConfig,
    data::{Content, DataConfig, Portion, Sample, ShardPath, ShardWriter},
};
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

/// Every configuration with the file that it stands in.
fn configs() -> Vec<(PathBuf, RunConfig)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let entries = fs::read_dir(folder.join("configs")).expect("the configurations");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let open = |path: &Path| RunConfig::open(path).unwrap_or_else(|error| panic!("{error}"));
    paths.map(|path| (path.clone(), open(&path))).collect()
}

#[test]
fn every_configuration_opens_and_the_model_stays_small() {
    let mut total = 0;
    let mut stages = 0;
    for (path, config) in configs() {
        // What judges the model is no part of it, and a stage that goes on was counted where it began.
        let goes_on = config.initial.is_some_and(|initial| initial == config.model);
        if config.model.ends_with("model") && !goes_on {
            let count = parameters(&config.stage);
            println!("{}: {count} parameters", path.display());
            total += count;
            stages += 1;
        }
    }
    assert_eq!(stages, 4);
    assert!(total <= MOST_PARAMETERS, "{total} parameters");
}

#[test]
fn the_data_lie_where_the_configurations_look_for_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // As `prepare_icons` writes them.
    for size in [64, 256, 1024] {
        for portion in [Portion::Train, Portion::Common, Portion::HeldOut] {
            let dir = portion.folder(folder.path().join("data/icons"), size);
            let mut writer = ShardWriter::create(dir, 1).expect("a new folder");
            let side = size.min(256);
            let sample = Sample {
                key: format!("{}-{size}", portion.name()),
                content: Content::Picture(RgbImage::from_pixel(side, side, Rgb([9; 3]))),
                captions: vec!["a red apple".to_owned()],
                concept: None,
                family: None,
                style: None,
            };
            writer.write(&sample).expect("is written");
            writer.finish().expect("is written");
        }
    }
    for (path, config) in configs() {
        let DataConfig::Shards(mut shards) = config.data else { panic!("{}", path.display()) };
        for data in &mut shards.paths {
            *data = ShardPath::Once(folder.path().join(data.path()).display().to_string());
        }
        let mut source = DataConfig::Shards(shards).open_once().expect("there are samples");
        let mut keys = Vec::new();
        while let Some(sample) = source.next().expect("readable") {
            keys.push(sample.key);
        }
        keys.sort();
        let expected: &[&str] = match config.stage {
            StageConfig::Upsampler(_) if config.initial.is_some() => &["train-1024"],
            StageConfig::Upsampler(_) => &["train-1024", "train-256"],
            StageConfig::Decoder(_) => &["common-64", "train-64"],
            _ => &["train-64"],
        };
        assert_eq!(keys, expected, "{}", path.display());
    }
}
