//! A folder of drawn shapes, and small configurations of every stage.

use std::{
    fs,
    path::{Path, PathBuf},
};

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use unclip_train::RunConfig;

/// The stages in the order in which they build on each other.
pub(crate) const STAGES: [&str; 4] = ["clip", "prior", "decoder", "upsampler"];

/// A folder with pictures, which runs write into; it vanishes with this.
pub(crate) struct Setup {
    pub(crate) folder: tempfile::TempDir,
}

impl Setup {
    /// 24 pictures.
    pub(crate) fn new() -> Self {
        Self::of(24)
    }

    /// Pictures of coloured shapes on white, 32 pixels wide, with two captions each.
    pub(crate) fn of(count: u16) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pictures = folder.path().join("pictures");
        fs::create_dir(&pictures).expect("is created");
        let colours = [("red", [220, 40, 40]), ("green", [40, 180, 60]), ("blue", [40, 70, 220])];
        for number in 0..count {
            let (colour, value) = colours[usize::from(number % 3)];
            let round = number % 2 == 0;
            let shape = if round { "circle" } else { "square" };
            let radius = 6.0 + f32::from(number / 6 % 4) * 2.0;
            // The first 24 lie in the middle, all others a little beside it.
            let group = number / 24;
            let (left, up) = (f32::from(group % 3) * 2.0, f32::from(group / 3) * 2.0);
            let picture = RgbImage::from_fn(32, 32, |x, y| {
                let (x, y) = (x as f32 - 15.5 + left, y as f32 - 15.5 + up);
                let inside =
                    if round { x.hypot(y) < radius } else { x.abs().max(y.abs()) < radius };
                Rgb(if inside { value } else { [255; 3] })
            });
            let path = pictures.join(format!("{number:03}.png"));
            picture.save(&path).expect("is written");
            let captions = format!("a {colour} {shape}\n{colour} {shape}, flat\n");
            fs::write(path.with_extension("txt"), captions).expect("is written");
        }
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run of `stage` over `steps` steps, in a folder of its own.
    pub(crate) fn config(&self, stage: &str, output: &str, steps: u64) -> Value {
        json!({
            "seed": 5,
            "output": self.path(output),
            "model": self.path("model"),
            "data": {"kind": "folder", "path": self.path("pictures")},
            "stage": {stage: stage_config(stage)},
            "training": {
                "steps": steps,
                "batch": 8,
                "rate": {"peak": 3e-3, "warm_up": 3},
                "optimizer": {"weight_decay": 0.01, "clip_norm": 1.0},
                "ema": {"half_life": 40.0},
                "checkpoint_every": 3,
                "keep": 2
            }
        })
    }

    /// Trains the stages before `stage` for a few steps, so that it has what it builds on.
    pub(crate) fn foundation(&self, stage: &str) {
        if matches!(stage, "prior" | "decoder") && !self.path("model").is_dir() {
            train(&self.config("clip", "run-foundation", 3));
        }
    }
}

pub(crate) fn read(config: &Value) -> RunConfig {
    RunConfig::from_bytes("run.json", config.to_string().as_bytes()).expect("a configuration")
}

/// Trains to the end and returns the loss of every step.
pub(crate) fn train(config: &Value) -> Vec<f64> {
    let mut trainer =
        unclip_train::Trainer::start(read(config), &unclip_testkit::device()).expect("it starts");
    let mut losses = Vec::new();
    trainer
        .run(|report| {
            losses.push(report.loss);
            std::ops::ControlFlow::Continue(())
        })
        .expect("it trains");
    losses
}

/// The newest checkpoint of a run.
pub(crate) fn checkpoint(output: &Path) -> PathBuf {
    let entries = fs::read_dir(output.join("checkpoints")).expect("there are checkpoints");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.pop().expect("at least one")
}

fn stage_config(stage: &str) -> Value {
    let diffusion =
        json!({"prediction": "sample", "weighting": {"min_snr": {"gamma": 5.0, "floor": 0.5}}});
    let (residual_down, residual_up) = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D");
    match stage {
        "clip" => {
            let tower = json!({
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 2, "projection_dim": 32, "hidden_act": "gelu"
            });
            let (mut text, mut vision) = (tower.clone(), tower);
            text["max_position_embeddings"] = json!(12);
            vision["image_size"] = json!(16);
            vision["patch_size"] = json!(8);
            json!({
                "text": text, "vision": vision, "crop": 0.8, "word_dropout": 0.1,
                "tokenizer": {"learn": {"merges": 40, "samples": 24}}
            })
        }
        "prior" => json!({
            "network": {
                "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
                "embedding_dim": 32, "num_embeddings": 12, "additional_embeddings": 4
            },
            "diffusion": {"prediction": "sample", "weighting": "simple"},
            "statistics": 24
        }),
        "decoder" => json!({
            "network": {
                "sample_size": 16, "in_channels": 3, "out_channels": 6,
                "down_block_types": [residual_down, "SimpleCrossAttnDownBlock2D"],
                "up_block_types": ["SimpleCrossAttnUpBlock2D", residual_up],
                "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
                "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
                "cross_attention_dim": 16, "attention_head_dim": 8, "time_embedding_dim": 32,
                "class_embed_type": "identity", "resnet_time_scale_shift": "scale_shift"
            },
            "projection": {
                "clip_extra_context_tokens": 2, "clip_embeddings_dim": 32, "time_embed_dim": 32,
                "cross_attention_dim": 16
            },
            "diffusion": diffusion,
            "embedding_noise": {"share": 0.5, "largest": 0.2},
            "sheet_steps": 3
        }),
        "upsampler" => json!({
            "network": {
                "sample_size": 32, "in_channels": 6, "out_channels": 3,
                "down_block_types": [residual_down, residual_down],
                "up_block_types": [residual_up, residual_up],
                "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
                "add_attention": false, "time_embedding_dim": 32
            },
            "diffusion": diffusion,
            "crop": 16,
            "degradation": {"bsr": 0.3},
            "parts": ["super_res", "super_res_large"],
            "sheet_steps": 3
        }),
        other => panic!("no stage is called {other}"),
    }
}
