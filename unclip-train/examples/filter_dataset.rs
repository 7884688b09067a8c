//! Filters training data: drops what the checks refuse and what looks alike, weighs the rest, and says why.
//!
//! ```text
//! filter_dataset --folder pictures --out filtered --report report.jsonl --duplicates
//! filter_dataset --shards 'icons/{00000..00012}.tar' --out filtered --report report.jsonl --reweight style
//! ```

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use unclip_core::device::device;
use unclip_safety::{Guard, Policy, picture::OpenNsfw};
use unclip_train::{
    data::{DataConfig, FolderConfig, ShardWriter, ShardsConfig},
    hygiene::{Filter, Stratum},
};

/// Filters training data: drops what the checks refuse and what looks alike, weighs the rest, and says why.
#[derive(Debug, Parser)]
struct Arguments {
    /// A folder of pictures with captions.
    #[arg(long, required_unless_present = "shards", conflicts_with = "shards")]
    folder: Option<PathBuf>,
    /// WebDataset shards: an archive, a folder of archives, or names with a range.
    #[arg(long)]
    shards: Option<String>,
    /// A new folder for the shards of what is kept.
    #[arg(long)]
    out: PathBuf,
    /// One JSON object a sample: whether it was kept, and why.
    #[arg(long)]
    report: PathBuf,
    /// A policy file; the standard policy without one.
    #[arg(long)]
    policy_file: Option<PathBuf>,
    /// Drop pictures that look like one before them.
    #[arg(long)]
    duplicates: bool,
    /// Write samples as often as restores the share of each of these.
    #[arg(long, value_enum)]
    reweight: Option<By>,
    /// Samples of one archive.
    #[arg(long, default_value_t = 1000)]
    samples_per_shard: usize,
    /// Where the network that judges pictures runs.
    #[arg(long, default_value = "auto")]
    device: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Concept,
    Family,
    Style,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let data = match (arguments.folder, arguments.shards) {
        (Some(folder), _) => DataConfig::Folder(FolderConfig::new(folder)),
        (None, shards) => DataConfig::Shards(ShardsConfig::new(shards.context("no data")?)),
    };
    let policy = match &arguments.policy_file {
        Some(file) => Policy::read(file)?,
        None => Policy::standard(),
    };
    let guard = Guard::new(policy).pictures(OpenNsfw::bundled(&device(&arguments.device)?));
    let mut filter = Filter::new(guard);
    if arguments.duplicates {
        // The bounds that the icons were cleaned with.
        filter = filter.duplicates(2, 2.5);
    }
    if let Some(by) = arguments.reweight {
        filter = filter.reweight(match by {
            By::Concept => Stratum::Concept,
            By::Family => Stratum::Family,
            By::Style => Stratum::Style,
        });
    }
    let mut writer = ShardWriter::create(&arguments.out, arguments.samples_per_shard)?;
    // The report takes its name when it is whole.
    let beside = arguments.report.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut report =
        BufWriter::new(tempfile::NamedTempFile::new_in(beside.unwrap_or(".".as_ref()))?);
    let summary = filter.run(&data, &mut writer, &mut report)?;
    writer.finish()?;
    report.flush()?;
    report.into_inner()?.persist(&arguments.report)?;
    println!("{}", serde_json::to_string_pretty(&summary)?);
    Ok(())
}
