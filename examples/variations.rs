//! Paints variations of pictures: what they show is kept, the rest is drawn anew (paper §3.1).
//!
//! Needs a model with an image encoder, such as a download of `kakaobrain/karlo-v1-alpha-image-variations`.

use std::{ops::ControlFlow, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use unclip::{Pipeline, VariationRequest, core::image::load_rgb};

/// Paints variations of pictures.
#[derive(Debug, Parser)]
struct Arguments {
    /// The pictures: PNG, JPEG or WebP.
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// A model directory in the layout that diffusers reads.
    #[arg(long)]
    model: PathBuf,
    /// Take the image encoder from this model directory instead.
    #[arg(long)]
    image_encoder: Option<PathBuf>,
    /// The folder that the variations go to.
    #[arg(long, short, default_value = ".")]
    output: PathBuf,
    /// Variations of each picture.
    #[arg(long, short = 'n', default_value_t = 1)]
    images: usize,
    /// The same seed gives the same variations.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How closely the decoder keeps to the picture's embedding; by default what the model recommends, or 8.
    #[arg(long)]
    guidance: Option<f64>,
    /// The device: auto, cpu, cuda:0, wgpu, …
    #[arg(long, default_value = "auto")]
    device: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut builder = Pipeline::builder().model_dir(&arguments.model).device(&arguments.device)?;
    if let Some(dir) = &arguments.image_encoder {
        builder = builder.image_encoder_from(dir);
    }
    let pipeline =
        builder.build().with_context(|| format!("opening {}", arguments.model.display()))?;
    let pictures = arguments
        .pictures
        .iter()
        .map(load_rgb)
        .collect::<Result<Vec<_>, _>>()
        .context("reading the pictures")?;

    let mut request = VariationRequest::new().images(arguments.images).seed(arguments.seed);
    request.painting.decoder.guidance = arguments.guidance;
    let result = pipeline.variations_with(&pictures, &request, |progress| {
        eprint!("\r{} {}/{}   ", progress.stage, progress.step, progress.total);
        ControlFlow::Continue(())
    })?;
    eprintln!();
    for (k, image) in result.images.iter().enumerate() {
        let name =
            arguments.pictures[image.source].file_stem().unwrap_or_default().to_string_lossy();
        let path = arguments.output.join(format!("{name}-variation-{k}.png"));
        image.save(&path)?;
        println!("{}", path.display());
    }
    Ok(())
}
