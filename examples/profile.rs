//! Measures one request: seconds a stage and a step, and the peak of memory, as one line of JSON.
//!
//! With `random_model` full-size models can be measured without a download:
//!
//! ```text
//! cargo run --release --example random_model -- karlo /tmp/karlo
//! cargo run --release --example profile -- --model /tmp/karlo --one-stage
//! ```

use std::{
    io::{BufRead as _, Write as _},
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use serde_json::json;
use unclip::{GenerateRequest, Offload, Pipeline, Precision, Stage, WeightPrecision};

/// Measures one request.
#[derive(Debug, Parser)]
struct Arguments {
    /// A model directory in the layout that diffusers reads.
    #[arg(long)]
    model: PathBuf,
    /// The device: auto, cpu, cuda:0, wgpu, …
    #[arg(long, default_value = "auto")]
    device: String,
    /// Files of this variant, such as fp16.
    #[arg(long)]
    variant: Option<String>,
    /// The type that weights are held in; as the files hold them by default.
    #[arg(long, value_enum)]
    weights: Option<Weights>,
    /// The type that the networks compute in: f32, bf16 or auto.
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Keep one stage in memory at a time.
    #[arg(long)]
    one_stage: bool,
    /// Denoising steps of the prior, the decoder and the upsampler.
    #[arg(long, num_args = 3, default_values_t = [25, 25, 7])]
    steps: Vec<usize>,
    /// Width and height; by default the largest that the model's own stages give.
    #[arg(long)]
    size: Option<u32>,
    /// Save the picture here as well.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Name the stage of every finished step in a line and wait for a line of input, so that something else can be measured
    /// in turn; what is waited counts nowhere.
    #[arg(long)]
    in_turn: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Weights {
    F32,
    F16,
    Bf16,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let mut builder = Pipeline::builder()
        .model_dir(&arguments.model)
        .device(&arguments.device)?
        .precision(arguments.precision);
    if let Some(variant) = &arguments.variant {
        builder = builder.variant(variant);
    }
    if let Some(weights) = arguments.weights {
        builder = builder.weights(match weights {
            Weights::F32 => WeightPrecision::F32,
            Weights::F16 => WeightPrecision::F16,
            Weights::Bf16 => WeightPrecision::Bf16,
        });
    }
    if arguments.one_stage {
        builder = builder.offload(Offload::OneStage);
    }
    let pipeline =
        builder.build().with_context(|| format!("opening {}", arguments.model.display()))?;
    let opened = start.elapsed().as_secs_f64();

    let mut request =
        GenerateRequest::new("a high-resolution photograph of a big red frog on a green leaf.")
            .seed(0)
            .prior_steps(arguments.steps[0])
            .decoder_steps(arguments.steps[1])
            .upsample_steps(arguments.steps[2]);
    request.painting.size = arguments.size;
    let mut waits = Waits::default();
    let result = pipeline.generate_with(request, |progress| {
        if arguments.in_turn && waits.after(progress.stage).is_err() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    if let Some(output) = &arguments.output {
        result.images[0].save(output)?;
    }
    let stages: serde_json::Map<_, _> = result
        .timings
        .stages
        .iter()
        .filter(|timing| timing.stage != Stage::Finish)
        .map(|timing| {
            let waited = waits.of(Some(timing.stage));
            let seconds = timing.computing.saturating_sub(waited).as_secs_f64();
            let mut entry =
                json!({ "seconds": seconds, "loading_seconds": timing.loading.as_secs_f64() });
            if timing.steps > 0 {
                entry["steps"] = json!(timing.steps);
                entry["seconds_per_step"] = json!(seconds / timing.steps as f64);
            }
            (timing.stage.to_string(), entry)
        })
        .collect();
    let report = json!({
        "opening_seconds": opened,
        "stages": stages,
        "total_seconds": result.timings.total.saturating_sub(waits.of(None)).as_secs_f64(),
        "pixels": result.images[0].picture.width(),
        "peak_gib": peak_memory(),
    });
    println!("{report}");
    Ok(())
}

/// How long was waited for somebody else, and in which stage.
#[derive(Debug, Default)]
struct Waits(Vec<(Stage, Duration)>);

impl Waits {
    fn after(&mut self, stage: Stage) -> std::io::Result<()> {
        let start = Instant::now();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{stage}")?;
        out.flush()?;
        std::io::stdin().lock().read_line(&mut String::new())?;
        self.0.push((stage, start.elapsed()));
        Ok(())
    }

    /// In one stage, or in all.
    fn of(&self, stage: Option<Stage>) -> Duration {
        let waits = self.0.iter().filter(|(waited, _)| stage.is_none_or(|stage| stage == *waited));
        waits.map(|(_, duration)| *duration).sum()
    }
}

/// The process's peak of resident memory in GiB, where the system tells (Linux).
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes / f64::from(1 << 20))
}
