//! Writes a model directory again: with weights of another type, cut into shards, or as files of a variant.
//!
//! What comes out opens in diffusers as well (`tests/interop` checks that).

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use unclip::{Offload, Pipeline, WeightPrecision, core::checkpoint::SaveOptions};

/// Writes a model directory again, in another form.
#[derive(Debug, Parser)]
struct Arguments {
    /// The model directory to read.
    input: PathBuf,
    /// The folder to write; it must not exist yet, or be empty.
    output: PathBuf,
    /// The type of the weights; as they are by default.
    #[arg(long, value_enum)]
    weights: Option<Weights>,
    /// Read files of this variant, such as fp16.
    #[arg(long)]
    from_variant: Option<String>,
    /// Write files of this variant.
    #[arg(long)]
    to_variant: Option<String>,
    /// Cut weights into files of at most this many megabytes.
    #[arg(long, value_name = "MB")]
    shard: Option<u64>,
    /// Write it for `UnCLIPPipeline` of diffusers, in 32 bits, or say why that cannot paint with it.
    #[arg(long, conflicts_with_all = ["weights", "to_variant", "shard"])]
    diffusers: bool,
    /// Replace what the output folder holds, once the new model is whole.
    #[arg(long)]
    replace: bool,
    /// Take the image encoder from this model directory, so that one folder does captions and variations.
    #[arg(long)]
    image_encoder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Weights {
    F32,
    F16,
    Bf16,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut builder =
        Pipeline::builder().model_dir(&arguments.input).device("cpu")?.offload(Offload::OneStage);
    if let Some(variant) = &arguments.from_variant {
        builder = builder.variant(variant);
    }
    if let Some(dir) = &arguments.image_encoder {
        builder = builder.image_encoder_from(dir);
    }
    let pipeline =
        builder.build().with_context(|| format!("opening {}", arguments.input.display()))?;
    let options = SaveOptions {
        precision: match arguments.weights {
            None => WeightPrecision::Stored,
            Some(Weights::F32) => WeightPrecision::F32,
            Some(Weights::F16) => WeightPrecision::F16,
            Some(Weights::Bf16) => WeightPrecision::Bf16,
        },
        variant: arguments.to_variant.as_deref(),
        max_shard_bytes: arguments.shard.map(|megabytes| megabytes.saturating_mul(1_000_000)),
        ..SaveOptions::default()
    };
    let target = match arguments.replace {
        true => arguments.output.with_extension("new"),
        false => arguments.output.clone(),
    };
    let saved = match arguments.diffusers {
        true => pipeline.save_diffusers(&target),
        false => pipeline.save(&target, &options),
    };
    saved.with_context(|| format!("writing {}", target.display()))?;
    if arguments.replace {
        let before = arguments.output.with_extension("old");
        let replaces = arguments.output.exists();
        if replaces {
            std::fs::rename(&arguments.output, &before)?;
        }
        std::fs::rename(&target, &arguments.output)?;
        if replaces {
            std::fs::remove_dir_all(&before)?;
        }
    }
    println!("{}", arguments.output.display());
    Ok(())
}
