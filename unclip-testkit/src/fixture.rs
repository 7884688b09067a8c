//! Recorded runs of the reference.
//!
//! A set is a folder: a tiny model directory in `model/`, one safetensors file a component or run, and
//! `manifest.json` with the run arguments and the error floors. The layout is `tests/fixtures/make_fixtures.py`'s.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Int, Tensor, TensorData};
use ndarray::ArrayD;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The workspace's own `tests/fixtures`.
///
/// # Panics
///
/// Never in a checkout of the workspace.
pub fn fixtures_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a member crate has a parent")
        .join("tests/fixtures")
}

/// Every set under `tests/fixtures`, and under the folder that `UNCLIP_FIXTURES` names.
///
/// # Panics
///
/// When a folder cannot be read or no set is found: a replay of nothing must not pass.
pub fn fixture_sets() -> Vec<FixtureSet> {
    let extra = std::env::var_os("UNCLIP_FIXTURES").map(PathBuf::from);
    let mut sets = Vec::new();
    for root in std::iter::once(fixtures_root()).chain(extra) {
        let entries =
            fs::read_dir(&root).unwrap_or_else(|e| panic!("cannot list {}: {e}", root.display()));
        let mut folders: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        folders.sort();
        sets.extend(
            folders.into_iter().filter(|f| f.join("manifest.json").is_file()).map(FixtureSet::open),
        );
    }
    assert!(!sets.is_empty(), "no fixture set found");
    sets
}

/// One recorded set.
#[derive(Debug, Clone)]
pub struct FixtureSet {
    /// The folder.
    pub path: PathBuf,
    /// What `manifest.json` holds.
    pub manifest: Value,
}

impl FixtureSet {
    /// Reads the set in `path`.
    ///
    /// # Panics
    ///
    /// When its manifest cannot be read.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let text = fs::read_to_string(path.join("manifest.json")).expect("a set has a manifest");
        Self { manifest: serde_json::from_str(&text).expect("the manifest is JSON"), path }
    }

    /// The folder's name.
    ///
    /// # Panics
    ///
    /// When the path ends in no name.
    pub fn name(&self) -> String {
        self.path.file_name().expect("a set is a named folder").to_string_lossy().into_owned()
    }

    /// The model directory.
    pub fn model_dir(&self) -> PathBuf {
        self.path.join("model")
    }

    /// The recorded tensors of `<stem>.safetensors`.
    ///
    /// # Panics
    ///
    /// When the file is absent or damaged.
    pub fn tensors(&self, stem: &str) -> Recorded {
        Recorded::open(self.path.join(format!("{stem}.safetensors")))
    }

    /// The float32 error floor of an output of a single forward, as recorded.
    ///
    /// # Panics
    ///
    /// When the manifest has no such output.
    pub fn forward_floor(&self, component: &str, output: &str) -> f64 {
        self.manifest["forward"][component][output]["f32_error"]
            .as_f64()
            .expect("the manifest states the floor")
    }

    /// The float32 error floor of a tensor of a whole run, as recorded.
    ///
    /// # Panics
    ///
    /// When the manifest has no such tensor.
    pub fn run_floor(&self, run: &str, tensor: &str) -> f64 {
        self.manifest["runs"][run]["f32"][tensor]["f32_error"]
            .as_f64()
            .expect("the manifest states the floor")
    }
}

/// A recorded safetensors file, in memory.
#[derive(Debug, Clone)]
pub struct Recorded {
    path: PathBuf,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: BTreeMap<String, String>,
}

impl Recorded {
    /// Reads a file.
    ///
    /// # Panics
    ///
    /// When it is absent or damaged.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let bytes =
            fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).expect("a recorded file is valid");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a recorded file is valid");
        let tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
            .collect();
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Self { path, tensors, metadata }
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file's string metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Whether `name` was recorded.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn get(&self, name: &str) -> &(Dtype, Vec<usize>, Vec<u8>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.path.display()))
    }

    /// The shape of `name`.
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.get(name).1
    }

    /// The 32-bit floats of `name`, row-major.
    ///
    /// # Panics
    ///
    /// When it is absent or of another type.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        let (dtype, _, bytes) = self.get(name);
        assert_eq!(*dtype, Dtype::F32, "{name}");
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// The integers of `name` (ids, masks, timesteps), row-major.
    ///
    /// # Panics
    ///
    /// When it is absent or of another type.
    pub fn ints(&self, name: &str) -> Vec<i64> {
        let (dtype, _, bytes) = self.get(name);
        assert_eq!(*dtype, Dtype::I64, "{name}");
        bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")))
            .collect()
    }

    /// The bytes of `name` (pictures `[height, width, 3]`).
    ///
    /// # Panics
    ///
    /// When it is absent or of another type.
    pub fn bytes(&self, name: &str) -> &[u8] {
        let (dtype, _, bytes) = self.get(name);
        assert_eq!(*dtype, Dtype::U8, "{name}");
        bytes
    }

    /// `name` as an array of 32-bit floats.
    ///
    /// # Panics
    ///
    /// When it is absent or of another type.
    pub fn array(&self, name: &str) -> ArrayD<f32> {
        ArrayD::from_shape_vec(self.shape(name), self.floats(name))
            .expect("as many values as the shape says")
    }

    /// `prefix.0`, `prefix.1`, .. as far as they were recorded, such as the noise of a stage's steps.
    ///
    /// # Panics
    ///
    /// When one is of another type than 32-bit floats.
    pub fn sequence(&self, prefix: &str) -> Vec<ArrayD<f32>> {
        (0..)
            .map(|number| format!("{prefix}.{number}"))
            .take_while(|name| self.has(name))
            .map(|name| self.array(&name))
            .collect()
    }

    /// `name` as a float tensor on `device`.
    ///
    /// # Panics
    ///
    /// When it is absent or of another type or rank.
    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.floats(name), self.shape(name).to_vec()), device)
    }

    /// `name` as an integer tensor on `device`.
    ///
    /// # Panics
    ///
    /// When it is absent or of another type or rank.
    pub fn int_tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        Tensor::from_data(TensorData::new(self.ints(name), self.shape(name).to_vec()), device)
    }
}
