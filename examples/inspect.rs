//! Shows what a file holds: the tensors of a checkpoint, the parts of a model directory, or the request inside a picture
//! that this library saved.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use unclip::{
    PictureMetadata,
    core::checkpoint::{DIFFUSERS_STEM, ModelDir, TRANSFORMERS_STEM, Weights},
};

/// Shows what checkpoints, model directories and pictures hold.
#[derive(Debug, Parser)]
struct Arguments {
    /// A `.safetensors` file, its `.index.json`, a model directory, or a PNG.
    path: PathBuf,
    /// Look at files of this variant, such as fp16.
    #[arg(long)]
    variant: Option<String>,
    /// List every tensor.
    #[arg(long, short)]
    tensors: bool,
}

fn main() -> anyhow::Result<()> {
    let Arguments { path, variant, tensors } = Arguments::parse();
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match extension.as_str() {
        "png" => println!("{}", serde_json::to_string_pretty(&PictureMetadata::read(&path)?)?),
        "safetensors" => show(&Weights::open_file(&path)?, tensors),
        "json" => show(&Weights::open_index(&path)?, tensors),
        _ => show_directory(&path, variant.as_deref(), tensors)
            .with_context(|| format!("{} as a model directory", path.display()))?,
    }
    Ok(())
}

fn show_directory(path: &Path, variant: Option<&str>, tensors: bool) -> anyhow::Result<()> {
    let model = ModelDir::open(path)?;
    println!("{}", model.index().class_name);
    for (name, part) in model.parts() {
        println!("\n{name}: {} {}", part.library, part.class);
        let dir = model.dir(name)?;
        for stem in [DIFFUSERS_STEM, TRANSFORMERS_STEM] {
            if Weights::find(&dir, stem, variant).is_some() {
                show(&Weights::open(&dir, stem, variant)?, tensors);
            }
        }
    }
    Ok(())
}

fn show(weights: &Weights, tensors: bool) {
    for file in weights.files() {
        println!("  {}", file.display());
    }
    for (key, value) in weights.metadata() {
        println!("  {key}: {value}");
    }
    for line in weights.summary().to_string().lines() {
        println!("  {line}");
    }
    if tensors {
        for (name, info) in weights.tensors() {
            println!("    {name} {} {:?}", info.dtype, info.shape);
        }
    }
}
