//! A log of one JSON object a line.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use unclip_core::{Error as CoreError, checkpoint::write_atomic};

use crate::Result;

/// A file with one JSON object a line, each of them with its `step`.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens or creates the log, and drops the lines of steps after `step`, as well as a last line that was cut off.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`].
    pub fn open(path: impl AsRef<Path>, step: u64) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(CoreError::io("read", path)(error).into()),
        };
        let kept: String = text.split_inclusive('\n').filter(|line| belongs(line, step)).collect();
        if kept.len() != text.len() || text.is_empty() {
            write_atomic(&path, kept.as_bytes())?;
        }
        let file =
            OpenOptions::new().append(true).open(&path).map_err(CoreError::io("write", &path))?;
        Ok(Self { path, file })
    }

    /// Appends a line.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`].
    pub fn write(&mut self, value: &Value) -> Result<()> {
        let line = format!("{value}\n");
        self.file.write_all(line.as_bytes()).map_err(CoreError::io("write", &self.path))?;
        Ok(())
    }
}

/// Whether a line is whole and of a step up to `step`.
fn belongs(line: &str, step: u64) -> bool {
    line.ends_with('\n')
        && serde_json::from_str::<Value>(line)
            .is_ok_and(|value| value["step"].as_u64().is_some_and(|found| found <= step))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_log_continues_after_its_step() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log.jsonl");
        let mut lines = Lines::open(&path, 0).expect("is created");
        for step in 1..=4 {
            lines.write(&json!({"step": step, "loss": 0.5})).expect("is written");
        }
        drop(lines);
        let mut cut = fs::read_to_string(&path).expect("is there");
        cut.push_str("{\"step\": 1, \"lo");
        fs::write(&path, cut).expect("is cut");
        let mut lines = Lines::open(&path, 2).expect("opens");
        lines.write(&json!({"step": 3, "loss": 0.25})).expect("is written");
        let text = fs::read_to_string(&path).expect("is there");
        let expected =
            "{\"loss\":0.5,\"step\":1}\n{\"loss\":0.5,\"step\":2}\n{\"loss\":0.25,\"step\":3}\n";
        assert_eq!(text, expected);
    }
}
