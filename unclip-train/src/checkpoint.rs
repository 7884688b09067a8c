//! The state of a run, written so that it is whole or not there.
//!
//! A checkpoint is a folder `step-0000000100` with the tensors (weights, their average, both moments) in one
//! safetensors file and everything else in `state.json`. It is written under another name and renamed at the end; only
//! then older ones are removed. So a run that is killed, or whose disk is full, keeps the checkpoints it had.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, TensorData};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use unclip_core::{
    Error as CoreError,
    checkpoint::{Weights, write_atomic, write_json_atomic},
};

use crate::{Error, Result, data::Cursor};

/// The version of the layout; another one is refused.
const VERSION: u32 = 1;
const STATE: &str = "state.json";
const TENSORS: &str = "tensors.safetensors";
const PREFIX: &str = "step-";

/// Everything of a run but its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) version: u32,
    /// Steps taken.
    pub(crate) step: u64,
    /// Samples seen.
    pub(crate) seen: u64,
    /// The next sample.
    pub(crate) cursor: Cursor,
    pub(crate) seed: u64,
    /// The stage, with the sizes of its networks.
    pub(crate) architecture: Value,
    /// What the stage was trained on top of, where it was: a digest of CLIP.
    pub(crate) foundation: Option<String>,
    /// The configuration that the run had.
    pub(crate) config: Value,
}

impl State {
    pub(crate) const fn version() -> u32 {
        VERSION
    }
}

/// The folder of a run's checkpoints.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    pub(crate) fn new(output: &Path, keep: usize) -> Self {
        Self { folder: output.join("checkpoints"), keep }
    }

    /// The newest checkpoint.
    pub(crate) fn latest(&self) -> Result<Option<PathBuf>> {
        Ok(self.all()?.pop())
    }

    /// All checkpoints, the oldest first.
    fn all(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(CoreError::io("read", &self.folder)(error).into()),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(CoreError::io("read", &self.folder))?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse::<u64>().ok());
            if let Some(number) = number {
                found.push((number, path));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Writes a checkpoint, and then removes the oldest ones beyond those that are kept.
    pub(crate) fn save(
        &self,
        state: &State,
        tensors: Vec<(String, TensorData)>,
    ) -> Result<PathBuf> {
        let path = self.folder.join(format!("{PREFIX}{:010}", state.step));
        fs::create_dir_all(&self.folder).map_err(CoreError::io("create", &self.folder))?;
        let pending = tempfile::Builder::new()
            .prefix(".writing-")
            .tempdir_in(&self.folder)
            .map_err(CoreError::io("create", &path))?;
        write_tensors(&pending.path().join(TENSORS), &tensors)?;
        write_json_atomic(pending.path().join(STATE), state)?;
        sync(&pending.path().join(TENSORS))?;
        sync(&pending.path().join(STATE))?;
        if path.exists() {
            fs::remove_dir_all(&path).map_err(CoreError::io("remove", &path))?;
        }
        let pending = pending.keep();
        if let Err(error) = fs::rename(&pending, &path) {
            let _ = fs::remove_dir_all(&pending);
            return Err(CoreError::io("write", path)(error).into());
        }
        let all = self.all()?;
        for old in &all[..all.len().saturating_sub(self.keep)] {
            fs::remove_dir_all(old).map_err(CoreError::io("remove", old))?;
        }
        Ok(path)
    }

    /// Removes what an interrupted save left behind.
    pub(crate) fn clean(&self) -> Result<()> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".writing-") {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(CoreError::io("remove", path))?;
            }
        }
        Ok(())
    }
}

/// Makes sure that the bytes of a file are on the disk before its folder gets its name.
fn sync(path: &Path) -> Result<()> {
    let file = fs::File::open(path).map_err(CoreError::io("read", path))?;
    Ok(file.sync_all().map_err(CoreError::io("write", path))?)
}

fn write_tensors(path: &Path, tensors: &[(String, TensorData)]) -> Result<()> {
    let damaged = |reason: String| Error::Checkpoint { path: path.to_owned(), reason };
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        if data.dtype() != DType::F32 {
            return Err(damaged(format!("`{name}` is held as {:?}, expected F32", data.dtype())));
        }
        let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
        views.push((name.as_str(), view.map_err(|error| damaged(error.to_string()))?));
    }
    let bytes = safetensors::serialize(views, None).map_err(|error| damaged(error.to_string()))?;
    Ok(write_atomic(path, &bytes)?)
}

/// A checkpoint that is being read.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) state: State,
    weights: Weights,
    /// How often each tensor was asked for.
    read: HashMap<String, usize>,
}

impl Opened {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let damaged = |reason: String| Error::Checkpoint { path: path.to_owned(), reason };
        let file = path.join(STATE);
        let text = fs::read(&file).map_err(CoreError::io("read", &file))?;
        let state: Value =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if state["version"] != VERSION {
            return Err(Error::OtherRun {
                path: path.to_owned(),
                field: "the layout version",
                found: state["version"].to_string(),
                expected: VERSION.to_string(),
            });
        }
        let state = serde_json::from_value(state).map_err(|error| damaged(error.to_string()))?;
        let weights = Weights::open_file(path.join(TENSORS))?;
        Ok(Self { path: path.to_owned(), state, weights, read: HashMap::new() })
    }

    /// Refuses a checkpoint of another run.
    pub(crate) fn check(
        &self,
        seed: u64,
        architecture: &Value,
        foundation: Option<&str>,
    ) -> Result<()> {
        let differs = |field, found: String, expected: String| {
            Err(Error::OtherRun { path: self.path.clone(), field, found, expected })
        };
        let State { seed: found_seed, architecture: found, foundation: below, .. } = &self.state;
        if found != architecture {
            return differs("the architecture", found.to_string(), architecture.to_string());
        }
        if *found_seed != seed {
            return differs("the seed", found_seed.to_string(), seed.to_string());
        }
        if below.as_deref() != foundation {
            let text = |digest: Option<&str>| digest.unwrap_or("none").to_owned();
            return differs("the CLIP", text(below.as_deref()), text(foundation));
        }
        Ok(())
    }

    /// The tensor called `name`, of this shape; none where there is none and that is allowed.
    pub(crate) fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        required: bool,
    ) -> Result<Option<TensorData>> {
        let damaged = |reason: String| Error::Checkpoint { path: self.path.clone(), reason };
        let Some(info) = self.weights.info(name) else {
            return if required { Err(damaged(format!("`{name}` is missing"))) } else { Ok(None) };
        };
        if info.shape != shape {
            let reason = format!("`{name}` is {:?}, expected {shape:?}", info.shape);
            return Err(damaged(reason));
        }
        *self.read.entry(name.to_owned()).or_default() += 1;
        Ok(Some(self.weights.read_float(name, DType::F32)?))
    }

    /// Refuses a checkpoint with tensors that nobody asked for.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.weights.names().find(|name| !self.read.contains_key(*name)) {
            None => Ok(()),
            Some(name) => Err(Error::Checkpoint {
                path: self.path.clone(),
                reason: format!("`{name}` belongs to no network of this run"),
            }),
        }
    }
}
