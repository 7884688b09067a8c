//! Trains a stage, as a configuration describes it; interrupted by Ctrl-C or killed, `--resume` continues it.
//!
//! `cargo run --release -p unclip-train --example train -- --config configs/clip.json`

use std::{ops::ControlFlow, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Parser;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use unclip_core::device::{device, keep_freed_memory};
use unclip_train::{RunConfig, StepReport, Trainer};

/// Trains a stage of unCLIP.
#[derive(Debug, Parser)]
struct Arguments {
    /// The configuration, a JSON file.
    #[arg(long)]
    config: PathBuf,
    /// Continue after the newest checkpoint.
    #[arg(long)]
    resume: bool,
    /// Stop after this many steps of the run, with a checkpoint.
    #[arg(long)]
    until: Option<u64>,
    /// Where to compute; several devices, with commas between them, share every batch.
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    device: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    keep_freed_memory();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let config = RunConfig::open(&arguments.config)?;
    let steps = config.training.steps;
    let output = config.output.clone();
    let names = arguments.device.iter();
    let devices = names.map(|name| device(name)).collect::<Result<Vec<_>, _>>()?;
    let mut trainer = if arguments.resume {
        Trainer::resume_on(config, &devices)
    } else {
        Trainer::start_on(config, &devices)
    }
    .with_context(|| format!("setting up {}", arguments.config.display()))?;
    println!(
        "{} parameters, step {} of {steps}, into {}",
        trainer.parameters(),
        trainer.step_count(),
        output.display()
    );
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?;
    let bar = ProgressBar::new(steps).with_style(style).with_position(trainer.step_count());
    let mut smooth = None;
    let mut last = String::new();
    let mut skipped = 0;
    trainer.run(|report| {
        let loss = smooth.map_or(report.loss, |before: f64| 0.95 * before + 0.05 * report.loss);
        smooth = Some(loss);
        skipped = report.skipped;
        bar.set_position(report.step);
        last = message(report, loss);
        bar.set_message(last.clone());
        if let Some(path) = &report.checkpoint {
            // The bar is hidden where nobody watches; this line is for log files.
            println!("{}: {last}", path.display());
        }
        match arguments.until {
            Some(until) if report.step >= until => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })?;
    bar.finish();
    println!("step {}: {last}", trainer.step_count());
    if skipped > 0 {
        println!("{skipped} samples were skipped; the warnings above name them and say why");
    }
    Ok(())
}

fn message(report: &StepReport, loss: f64) -> String {
    let numbers: Vec<String> =
        report.numbers.iter().map(|(name, value)| format!(", {name} {value:.3}")).collect();
    format!(
        "loss {loss:.4}, gradients {:.2}{}, {:.2} s a step, {} left",
        report.norm,
        numbers.concat(),
        report.duration.as_secs_f64(),
        HumanDuration(Duration::from_secs(report.left.as_secs()))
    )
}
