//! Paints pictures of captions.
//!
//! Without `--model` it takes the model that the library carries, which knows small icons: `a red apple, flat`. With a
//! directory in the layout that diffusers reads, such
//! as a download of `kakaobrain/karlo-v1-alpha`, it paints what the caption says.

use std::{ops::ControlFlow, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use unclip::{GenerateRequest, NoiseStream, Offload, Pipeline, Precision, keep_freed_memory};

/// Paints pictures of captions.
#[derive(Debug, Parser)]
struct Arguments {
    /// What the pictures show.
    #[arg(required = true)]
    captions: Vec<String>,
    /// A model directory in the layout that diffusers reads; by default the one that the library carries.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Where the pictures go: one name, numbered when there are several.
    #[arg(long, short, default_value = "picture.png")]
    output: PathBuf,
    /// What the pictures should not show.
    #[arg(long)]
    negative: Option<String>,
    /// Pictures for each caption.
    #[arg(long, short = 'n', default_value_t = 1)]
    images: usize,
    /// The same seed gives the same pictures.
    #[arg(long)]
    seed: Option<u64>,
    /// Draw noise as PyTorch does, for the pictures that diffusers gives for the seed.
    #[arg(long)]
    torch_noise: bool,
    /// Width and height; by default the largest that the model's own stages give.
    #[arg(long)]
    size: Option<u32>,
    /// Denoising steps of the prior, the decoder and the upsampler.
    #[arg(long, num_args = 3, default_values_t = [25, 25, 7])]
    steps: Vec<usize>,
    /// Guidance of the prior and the decoder; by default what the model recommends, and 4 and 8 where it does not.
    #[arg(long, num_args = 2)]
    guidance: Option<Vec<f64>>,
    /// Embeddings that the prior draws for each picture; the one nearest to the caption is painted. By
    /// default what the model recommends, and 1 where it does not.
    #[arg(long)]
    candidates: Option<usize>,
    /// The device: auto, cpu, cuda:0, wgpu, …
    #[arg(long, default_value = "auto")]
    device: String,
    /// The type that the networks compute in: f32, bf16, or auto, bf16 where the processor multiplies it itself.
    #[arg(long, default_value = "auto")]
    precision: Precision,
    /// Files of this variant, such as fp16.
    #[arg(long)]
    variant: Option<String>,
    /// Leave out the invisible mark and the signature.
    #[arg(long)]
    unmarked: bool,
    /// Keep one stage in memory at a time.
    #[arg(long)]
    one_stage: bool,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let arguments = Arguments::parse();
    if arguments.model.is_none() {
        // The model that comes with the library is small.
        keep_freed_memory();
    }
    let mut builder = Pipeline::builder().device(&arguments.device)?.precision(arguments.precision);
    if let Some(model) = &arguments.model {
        builder = builder.model_dir(model);
    }
    if let Some(variant) = &arguments.variant {
        builder = builder.variant(variant);
    }
    if arguments.unmarked {
        builder = builder.unmarked();
    }
    if arguments.one_stage {
        builder = builder.offload(Offload::OneStage);
    }
    let pipeline = builder.build().context("opening the model")?;

    let bar = ProgressBar::new(0)
        .with_style(ProgressStyle::with_template("{msg:10} {wide_bar} {pos}/{len} {eta}")?);
    let result = pipeline.generate_with(request(&arguments), |progress| {
        bar.set_message(progress.stage.to_string());
        bar.set_length(progress.total as u64);
        bar.set_position(progress.step as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();

    for warning in &result.warnings {
        eprintln!("note: {warning}");
    }
    for (k, image) in result.images.iter().enumerate() {
        let stem = arguments.output.file_stem().unwrap_or_default().to_string_lossy();
        let path = match result.images.len() {
            1 => arguments.output.clone(),
            _ => arguments.output.with_file_name(format!("{stem}-{k}.png")),
        };
        image.save(&path)?;
        println!("{} ({} pixels, seed {})", path.display(), image.picture.width(), image.seed);
    }
    println!("{:.1} s", result.timings.total.as_secs_f64());
    Ok(())
}

fn request(arguments: &Arguments) -> GenerateRequest {
    let mut request = GenerateRequest::of_captions(&arguments.captions)
        .images(arguments.images)
        .prior_steps(arguments.steps[0])
        .decoder_steps(arguments.steps[1])
        .upsample_steps(arguments.steps[2]);
    if let Some(candidates) = arguments.candidates {
        request = request.prior_candidates(candidates);
    }
    if let Some(guidance) = &arguments.guidance {
        request = request.prior_guidance(guidance[0]).decoder_guidance(guidance[1]);
    }
    request.negative_caption.clone_from(&arguments.negative);
    request.painting.seed = arguments.seed;
    request.painting.size = arguments.size;
    request.painting.noise =
        if arguments.torch_noise { NoiseStream::Torch } else { NoiseStream::Counter };
    request
}
