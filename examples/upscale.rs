//! Enlarges pictures with a model's upsamplers alone.
//!
//! The upsamplers were trained on the decoder's small pictures, so each picture is fitted to that size first: this shows
//! what the stage adds, and is no general enlarger of photographs.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use unclip::{Painting, Pipeline, StageSettings, core::image::load_rgb};

/// Enlarges pictures with a model's upsamplers.
#[derive(Debug, Parser)]
struct Arguments {
    /// The pictures: PNG, JPEG or WebP.
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// A model directory in the layout that diffusers reads.
    #[arg(long)]
    model: PathBuf,
    /// The folder that the results go to.
    #[arg(long, short, default_value = ".")]
    output: PathBuf,
    /// Width and height; by default the largest that the model's own stages give.
    #[arg(long)]
    size: Option<u32>,
    /// Denoising steps.
    #[arg(long, default_value_t = 7)]
    steps: usize,
    /// The same seed gives the same details.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The device: auto, cpu, cuda:0, wgpu, …
    #[arg(long, default_value = "auto")]
    device: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let pipeline = Pipeline::builder()
        .model_dir(&arguments.model)
        .device(&arguments.device)?
        .build()
        .with_context(|| format!("opening {}", arguments.model.display()))?;
    let pictures = arguments
        .pictures
        .iter()
        .map(load_rgb)
        .collect::<Result<Vec<_>, _>>()
        .context("reading the pictures")?;
    let painting = Painting {
        seed: Some(arguments.seed),
        size: arguments.size,
        upsample: StageSettings { steps: Some(arguments.steps), ..StageSettings::default() },
        ..Painting::default()
    };
    for (image, path) in pipeline.upscale(&pictures, &painting)?.iter().zip(&arguments.pictures) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let output = arguments.output.join(format!("{name}-{}.png", image.picture.width()));
        image.save(&output).with_context(|| format!("writing {}", output.display()))?;
        println!("{}", output.display());
    }
    Ok(())
}
