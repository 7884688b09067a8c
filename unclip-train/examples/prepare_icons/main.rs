//! Makes the data of the default model: icons with captions, in shards.
//!
//! Reads the packages that `tools/fetch_icons` unpacks, joins every icon with the names and keywords of its character,
//! drops near-duplicates, caps families that look alike, splits by concept, and renders:
//!
//! - `64/{train,held_out,unseen_styles,unseen_pairs}`: whole icons on white and on plain colours, and pairs of icons;
//! - `64/common`: those of `64/train` that show a common thing in one of the four main styles, on white and on two colours
//!   each, for what is to learn them more than the rest;
//! - `256/{train,held_out}`: whole icons;
//! - `1024/{train,held_out}`: crops of 256 pixels out of renderings at 1024;
//! - `captions.txt`: every caption of the training split;
//! - `tokenizer`: a vocabulary learned from those;
//! - `sources.json`: packages, versions, licences and counts.
//!
//! The same packages and seed make the same files.

mod captions;
mod draw;
mod icons;
mod names;
mod packages;
mod samples;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use unclip_clip::Tokenizer;
use unclip_core::checkpoint::{write_atomic, write_json_atomic};
use unclip_train::data::ShardWriter;

use crate::{
    icons::Icons,
    packages::Packages,
    samples::{Part, Plan},
};

/// Makes shards of captioned icons.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder into which `tools/fetch_icons` unpacked the packages.
    #[arg(long, default_value = "data/packages")]
    packages: PathBuf,
    /// The folder that is written; the parts to be made must not be there.
    #[arg(long, default_value = "data/icons")]
    output: PathBuf,
    /// The sizes to make: 64, 256, 1024.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256, 1024])]
    sizes: Vec<u32>,
    /// Decides the splits, the backgrounds and the pairs.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// The share of concepts that are held out.
    #[arg(long, default_value_t = 0.06)]
    held_out: f64,
    /// Icons that a family, such as clock faces, may have in a style.
    #[arg(long, default_value_t = 3)]
    family: usize,
    /// Merges that the vocabulary has at most, beside 512 bytes and two markers.
    #[arg(long, default_value_t = 3500)]
    merges: usize,
    /// Tokens of a caption, both markers included.
    #[arg(long, default_value_t = 32)]
    caption_tokens: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let output = arguments.output.as_path();
    let packages = Packages::open(&arguments.packages)?;
    let names = names::read(&packages)?;
    let icons = Icons::read(&packages, &names, &arguments)?;
    println!("{}", icons.summary());
    let plan = Plan::new(&icons, &arguments);
    for &size in &arguments.sizes {
        let parts = plan.parts(size).with_context(|| format!("there is no size {size}"))?;
        for (portion, parts) in parts {
            render(&icons, &parts, &portion.folder(output, size))?;
        }
    }
    let captions: BTreeSet<String> = plan.training_captions(&icons).collect();
    let captions: Vec<String> = captions.into_iter().collect();
    write_atomic(output.join("captions.txt"), (captions.join("\n") + "\n").as_bytes())?;
    let tokenizer = Tokenizer::learn(&captions, arguments.merges, "<|endoftext|>")?
        .with_max_length(arguments.caption_tokens)?;
    tokenizer.write_dir(output.join("tokenizer"))?;
    println!("{} captions, {} tokens", captions.len(), tokenizer.vocabulary_size());
    let sources =
        json!({ "packages": packages.sources(), "icons": icons.counts(), "seed": arguments.seed });
    write_json_atomic(output.join("sources.json"), &sources)?;
    Ok(())
}

/// Samples in an archive.
const PER_SHARD: usize = 2000;

fn render(icons: &Icons, parts: &[Part], dir: &Path) -> anyhow::Result<()> {
    if dir.exists() {
        bail!("{} is there already; remove it to make it anew", dir.display());
    }
    let bar = ProgressBar::new(parts.len() as u64)
        .with_style(ProgressStyle::with_template("{prefix:>24} {bar:32} {pos}/{len}, {eta} left")?);
    bar.set_prefix(
        dir.iter()
            .rev()
            .take(2)
            .map(|part| part.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" of "),
    );
    let mut writer = ShardWriter::create(dir, PER_SHARD)?;
    for part in parts {
        writer.write(&part.sample(icons)?)?;
        bar.inc(1);
    }
    let summary = writer.finish()?;
    bar.finish();
    println!("{}: {} samples in {} shards", dir.display(), summary.samples, summary.shards);
    Ok(())
}
