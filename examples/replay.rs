//! Paints a picture again from the request that is written inside it.
//!
//! Every PNG that this library saves holds the request that it answers, with its seed. The same model then gives the same
//! pixels on the same device; with another model, the same request.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use unclip::{PictureMetadata, Pipeline, Replay};

/// Paints a picture again from the request that is written inside it.
#[derive(Debug, Parser)]
struct Arguments {
    /// A PNG that this library saved.
    picture: PathBuf,
    /// A model directory in the layout that diffusers reads; by default the one that `generate` takes.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Where the picture goes.
    #[arg(long, short, default_value = "replayed.png")]
    output: PathBuf,
    /// The device: auto, cpu, cuda:0, wgpu, …
    #[arg(long, default_value = "auto")]
    device: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let metadata = PictureMetadata::read(&arguments.picture)
        .with_context(|| format!("reading {}", arguments.picture.display()))?;
    let Replay::Generate(request) = metadata.request else {
        anyhow::bail!("{} was not painted from a caption", arguments.picture.display());
    };
    let mut builder = Pipeline::builder().device(&arguments.device)?;
    if let Some(model) = &arguments.model {
        builder = builder.model_dir(model);
    }
    let pipeline = builder.build().context("opening the model")?;
    let result = pipeline.generate(request)?;
    let image = result.images.first().context("the request asks for no picture")?;
    image.save(&arguments.output)?;
    println!("{} (seed {})", arguments.output.display(), image.seed);
    Ok(())
}
