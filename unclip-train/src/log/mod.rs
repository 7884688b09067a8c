//! What a run writes about itself: one JSON object a line, and TensorBoard's events.

mod events;
mod lines;

use std::path::Path;

use image::RgbImage;
use serde_json::{Map, Value};

use crate::Result;

pub use events::Events;
pub use lines::Lines;

/// Both logs of a run.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Lines,
    events: Events,
}

impl Log {
    /// Continues the logs in `output` after `step`: what an interrupted run wrote beyond it is forgotten.
    pub(crate) fn open(output: &Path, step: u64) -> Result<Self> {
        Ok(Self {
            lines: Lines::open(output.join("log.jsonl"), step)?,
            events: Events::create(output, step)?,
        })
    }

    /// Writes the numbers of a step.
    pub(crate) fn step(&mut self, step: u64, numbers: &[(&str, f64)]) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), Value::from(step));
        for &(name, value) in numbers {
            line.insert(name.into(), Value::from(value));
            self.events.scalar(step, name, value)?;
        }
        self.lines.write(&Value::Object(line))?;
        self.events.flush()
    }

    /// Writes a picture of a step, for TensorBoard alone.
    pub(crate) fn picture(&mut self, step: u64, name: &str, picture: &RgbImage) -> Result<()> {
        self.events.picture(step, name, picture)?;
        self.events.flush()
    }
}
