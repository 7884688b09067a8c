//! Writes a model directory with random weights, of any configuration: full-size models can be timed, and tools tried,
//! without a download.
//!
//! `karlo` and `karlo-variations` are the published sizes; any other word is a folder with a `config.json` a part, as in
//! a model directory without its weights.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use unclip::{
    SamplerConfig, WeightPrecision,
    core::checkpoint::{ModelIndex, SaveOptions, write_json_atomic},
    decoder::Decoder,
};

mod configurations;

use configurations::Configurations;

/// Writes a model directory with random weights.
#[derive(Debug, Parser)]
struct Arguments {
    /// `karlo`, `karlo-variations`, or a model directory whose configurations to take.
    model: PathBuf,
    /// The folder to write.
    output: PathBuf,
    /// The type of the weights.
    #[arg(long, value_enum, default_value = "f32")]
    weights: Weights,
    /// The seed of the weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Weights {
    F32,
    F16,
    Bf16,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let configurations = match arguments.model.to_str() {
        Some("karlo") => Configurations::karlo(false)?,
        Some("karlo-variations") => Configurations::karlo(true)?,
        _ => Configurations::read(&arguments.model)?,
    };
    let precision = match arguments.weights {
        Weights::F32 => WeightPrecision::F32,
        Weights::F16 => WeightPrecision::F16,
        Weights::Bf16 => WeightPrecision::Bf16,
    };
    let options = SaveOptions { precision, ..SaveOptions::default() };
    let device = unclip::device("cpu")?;
    device.seed(arguments.seed);
    let dir = &arguments.output;

    let Configurations { text, tokenizer, image, prior, projection, decoder, upsampler } =
        configurations;
    let class = if prior.is_some() { "UnCLIPPipeline" } else { "UnCLIPImageVariationPipeline" };
    let mut index = ModelIndex::new(class)
        .part("text_encoder", "transformers", "CLIPTextModelWithProjection")
        .part("tokenizer", "transformers", "CLIPTokenizer")
        .part("text_proj", "unclip", "UnCLIPTextProjModel")
        .part("decoder", "diffusers", "UNet2DConditionModel")
        .part("decoder_scheduler", "diffusers", "UnCLIPScheduler")
        .part("super_res_first", "diffusers", "UNet2DModel")
        .part("super_res_last", "diffusers", "UNet2DModel")
        .part("super_res_scheduler", "diffusers", "UnCLIPScheduler");
    tokenizer.write_dir(dir.join("tokenizer"))?;
    text.init(&device).save_dir(dir.join("text_encoder"), &options)?;
    Decoder::from_parts(projection.init(&device), decoder.init(&device), decoder)?.save_dirs(
        dir.join("text_proj"),
        dir.join("decoder"),
        &options,
    )?;
    for name in ["super_res_first", "super_res_last"] {
        upsampler.save_dir(&upsampler.init(&device), dir.join(name), &options)?;
    }
    scheduler(dir, "decoder_scheduler", &SamplerConfig::karlo_decoder())?;
    scheduler(dir, "super_res_scheduler", &SamplerConfig::karlo_super_res())?;
    if let Some(prior) = prior {
        prior.init(&device).save_dir(dir.join("prior"), &options)?;
        scheduler(dir, "prior_scheduler", &SamplerConfig::karlo_prior())?;
        index = index.part("prior", "diffusers", "PriorTransformer").part(
            "prior_scheduler",
            "diffusers",
            "UnCLIPScheduler",
        );
    }
    if let Some((image, preprocessor)) = image {
        image.init(&device).save_dir(dir.join("image_encoder"), &options)?;
        preprocessor.write_dir(dir.join("feature_extractor"))?;
        index = index.part("image_encoder", "transformers", "CLIPVisionModelWithProjection").part(
            "feature_extractor",
            "transformers",
            "CLIPImageProcessor",
        );
    }
    index.save(dir)?;
    println!("{}", dir.display());
    Ok(())
}

fn scheduler(dir: &Path, name: &str, config: &SamplerConfig) -> anyhow::Result<()> {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(write_json_atomic(folder.join("scheduler_config.json"), &config.to_json())?)
}
