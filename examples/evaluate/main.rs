//! Measures a model on the icons that `prepare_icons` makes.
//!
//! Prints a table and paints a sheet of pictures; the last line holds every number as `name=value`. What the model has no
//! part for is left out, and so is what nobody judges: R-precision and the CLIP score need a second CLIP that took no
//! part in training, since a model learns to please the one that it was trained with. It is looked for where
//! `configs/clip-judge.json` puts it.

mod clip;
mod decoder;
mod numbers;
mod pictures;
mod prior;
mod samples;
mod sheet;
mod upsamplers;

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use unclip::{
    Pipeline, Precision, WeightPrecision,
    burn::tensor::Device,
    clip::Clip,
    core::checkpoint::{Folder, ModelDir},
    keep_freed_memory,
};
use unclip_train::data::Portion;

use crate::{numbers::Numbers, samples::Data};

/// Measures a model.
#[derive(Debug, Parser)]
struct Arguments {
    /// The model directory; by default the model that the library carries.
    #[arg(long)]
    model: Option<PathBuf>,
    /// A CLIP that took no part in training: a folder with its towers, tokenizer and preprocessing; by default
    /// `runs/judge`, where it is there.
    #[arg(long)]
    judge: Option<PathBuf>,
    /// The folder that `prepare_icons` wrote.
    #[arg(long, default_value = "data/icons")]
    data: PathBuf,
    /// The sheet of pictures, a row a caption.
    #[arg(long, default_value = "evaluation.png")]
    sheet: PathBuf,
    /// Pictures in a row of the sheet.
    #[arg(long, default_value_t = 10)]
    columns: usize,
    /// Pictures to paint for each of the splits, and to take the decoder's losses on, at most.
    #[arg(long, default_value_t = 128)]
    pictures: usize,
    /// Held-out pictures that CLIP and the prior are to find, at most.
    #[arg(long, default_value_t = 500)]
    found: usize,
    /// Pairs that the prior's rival, a ridge regression, is fitted to, at most.
    #[arg(long, default_value_t = 4000)]
    fitted: usize,
    /// Pictures that each upsampler enlarges, at most.
    #[arg(long, default_value_t = 32)]
    enlarged: usize,
    /// Denoising steps of the prior, the decoder and the upsamplers.
    #[arg(long, num_args = 3, default_values_t = [25, 25, 7])]
    steps: Vec<usize>,
    /// Guidance of the prior and the decoder; by default what the model recommends, and 4 and 8 where it does not.
    #[arg(long, num_args = 2)]
    guidance: Option<Vec<f64>>,
    /// Embeddings that the prior draws for each picture; by default what the model recommends, and 1 where it does not.
    #[arg(long)]
    candidates: Option<usize>,
    /// Decides every random number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The device: auto, cpu, cuda:0, wgpu, …
    #[arg(long, default_value = "auto")]
    device: String,
    /// The type that the networks compute in: f32, bf16, or auto, bf16 where the processor multiplies it itself.
    #[arg(long, default_value = "auto")]
    precision: Precision,
}

/// Pictures that pass through a network at once.
const BATCH: usize = 16;

fn main() -> anyhow::Result<()> {
    keep_freed_memory();
    let arguments = Arguments::parse();
    let device = unclip::device(&arguments.device)?;
    let model =
        ModelDir::open(arguments.model.as_ref().map_or_else(unclip::default_model, Folder::from))?;
    let has = |part: &str| model.folder().join(part).exists();
    let data = Data::new(&arguments.data);
    data.check(&needed(has))?;
    let clip = open_clip(model.folder().clone(), &device)?;
    let judge = judge(&arguments).map(|dir| open_clip(dir.into(), &device)).transpose()?;
    let train = data.icons(Portion::Train, 64)?;
    let held_out = data.icons(Portion::HeldOut, 64)?;

    let mut numbers = Numbers::default();
    eprintln!("CLIP …");
    clip::measure(&clip, &held_out, arguments.found, &mut numbers)?;
    if has("decoder") {
        eprintln!("the decoder …");
        decoder::measure(&clip, model.folder(), &train, &held_out, &arguments, &mut numbers)?;
    }
    if has("decoder") && has("prior") {
        // Captions of the data are no requests, and nothing that is measured is handed out.
        let builder = Pipeline::builder().model_dir(model.folder()).on_device(device.clone());
        let builder = builder.precision(arguments.precision);
        let pipeline = builder.batch_limit(BATCH).without_safety().unmarked().build()?;
        eprintln!("the prior …");
        let unseen = data.icons(Portion::UnseenStyles, 64)?;
        // Things that training had none of, and things that it had in other styles.
        let splits = [("", &*held_out), ("_unseen", &*unseen)];
        prior::measure(&clip, &pipeline, &train, &splits, &arguments, &mut numbers)?;
        let splits = [("seen", &train), ("unseen", &unseen), ("held_out", &held_out)];
        for (split, samples) in splits {
            eprintln!("pictures: {split} …");
            let samples = samples::spread(samples, arguments.pictures);
            let made = pictures::paint(&pipeline, &samples, &arguments)?;
            pictures::spread_out(&clip, split, &samples, &made, &mut numbers)?;
            if let Some(judge) = &judge {
                pictures::judge(judge, split, &samples, &made, arguments.seed, &mut numbers)?;
            }
            if split == "seen" {
                pictures::remembered(&train, &held_out, &made, &mut numbers)?;
            }
        }
        eprintln!("the sheet …");
        sheet::paint(&pipeline, &arguments)?;
    }
    eprintln!("the upsamplers …");
    upsamplers::measure(model.folder(), &data, &arguments, &device, &mut numbers)?;
    numbers.print();
    Ok(())
}

/// The data that the measures of a model's parts read.
fn needed(has: impl Fn(&str) -> bool) -> Vec<(Portion, u32)> {
    let mut needed = vec![(Portion::Train, 64), (Portion::HeldOut, 64)];
    if has("decoder") && has("prior") {
        needed.push((Portion::UnseenStyles, 64));
    }
    for (part, size) in [("super_res_first", 256), ("super_res_large", 1024)] {
        if has(part) {
            needed.push((Portion::HeldOut, size));
        }
    }
    needed
}

/// The folder of the CLIP that judges, or word of how to make one.
fn judge(arguments: &Arguments) -> Option<PathBuf> {
    const PLACE: &str = "runs/judge";
    let place = PathBuf::from(PLACE);
    if arguments.judge.is_some() {
        return arguments.judge.clone();
    }
    if place.is_dir() {
        return Some(place);
    }
    eprintln!(
        "{PLACE} is not there, so R-precision and the CLIP score are left out; make it by\n  cargo run --release -p \
         unclip-train --example train -- --config configs/clip-judge.json"
    );
    None
}

fn open_clip(dir: Folder, device: &Device) -> anyhow::Result<Clip> {
    let path = dir.path().display().to_string();
    let opened = Clip::from_dir(dir, device, WeightPrecision::F32);
    opened.with_context(|| format!("opening the CLIP of {path}"))
}
