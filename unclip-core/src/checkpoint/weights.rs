//! The tensors of one component, in one safetensors file or in shards.
//!
//! Tensors are read one at a time, by all threads together, from their place in the file into the memory that becomes the
//! tensor, so loading holds the weights and no second copy of any of them. The files are deliberately not memory-mapped: a
//! mapping would count each page twice until it is dropped, a file cut short while it is mapped ends the process with a
//! signal where a read returns an error, and it needs `unsafe`.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use burn::tensor::{DType, TensorData};

pub use super::header::{Header, TensorInfo};
use super::{
    config::ConfigReader,
    convert::{self, burn_type, is_float},
    folder::{Folder, Opened},
    header::LENGTH,
    is_plain_name,
};
use crate::{Error, Result};

#[doc(no_inline)]
pub use safetensors::tensor::Dtype;

/// How diffusers names the weights of a network.
pub const DIFFUSERS_STEM: &str = "diffusion_pytorch_model";
/// How transformers names the weights of a network.
pub const TRANSFORMERS_STEM: &str = "model";

/// The largest index of shards that is read.
const MAX_INDEX: u64 = 64 << 20;
/// More shards than any model has, and fewer than the files that a process may open.
pub(super) const MAX_SHARDS: usize = 512;

/// The weights of one component: an open file, or several.
///
/// Opening reads and checks the headers alone.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    files: Vec<Source>,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Disk(Disk),
    Embedded(&'static [u8]),
}

/// A file that several threads read at once, each where it likes.
#[derive(Debug)]
struct Disk {
    file: File,
    /// Held by whoever moves the file's one position, where a read cannot name its own.
    #[cfg(not(unix))]
    position: std::sync::Mutex<()>,
}

impl Disk {
    fn new(file: File) -> Self {
        Self {
            file,
            #[cfg(not(unix))]
            position: std::sync::Mutex::default(),
        }
    }

    #[cfg(unix)]
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
    }

    #[cfg(not(unix))]
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Seek as _, SeekFrom};
        // A panic elsewhere cannot have broken a file, whose position is set anew here.
        let _held = self.position.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(buffer))
    }
}

impl Weights {
    /// Opens the weights called `stem` in `dir`: [`DIFFUSERS_STEM`] or [`TRANSFORMERS_STEM`], in the given variant
    /// (`fp16`: the files `<stem>.fp16.safetensors`).
    ///
    /// One file is looked for first, then the index of a sharded set, under the names that diffusers and transformers
    /// have written so far.
    ///
    /// # Errors
    ///
    /// [`Error::MissingPart`] when there is neither, naming what is there instead when that is another variant or
    /// weights in Python's pickle format; [`Error::Safetensors`] when a file is damaged; [`Error::Io`].
    pub fn open(dir: impl Into<Folder>, stem: &str, variant: Option<&str>) -> Result<Self> {
        let dir = dir.into();
        match Self::find(&dir, stem, variant) {
            Some(name) if name.ends_with(".json") => Self::index_in(&dir, name.as_ref()),
            Some(name) => Self::file_in(&dir, name.as_ref()),
            None => Err(missing(&dir, stem, variant)),
        }
    }

    /// The name of the file that [`open`](Self::open) would read: weights, or an index ending in `.json`.
    pub fn find(dir: impl Into<Folder>, stem: &str, variant: Option<&str>) -> Option<String> {
        let dir = dir.into();
        candidates(stem, variant).into_iter().find(|name| dir.has(name))
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read; [`Error::Safetensors`] when it is damaged.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::file_in(&Folder::from(""), path.as_ref())
    }

    fn file_in(dir: &Folder, name: &Path) -> Result<Self> {
        let (source, header) = Source::open(dir, name)?;
        let Header { tensors, metadata } = header;
        Ok(Self { path: dir.path().join(name), files: vec![source], tensors, metadata })
    }

    /// Opens a sharded set by its index.
    ///
    /// # Errors
    ///
    /// As [`open_file`](Self::open_file) for every shard, and [`Error::Safetensors`] or [`Error::Config`] when the
    /// index disagrees with them or names a file outside its folder.
    pub fn open_index(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let dir = path.parent().unwrap_or(Path::new(""));
        Self::index_in(&Folder::from(dir), path.file_name().unwrap_or_default().as_ref())
    }

    fn index_in(dir: &Folder, name: &Path) -> Result<Self> {
        let path = dir.path().join(name);
        let refuse = |reason| Err(Error::Safetensors { path: path.clone(), reason });
        let mut index = ConfigReader::from_bytes(&path, &dir.read(name, MAX_INDEX)?)?;
        let map: BTreeMap<String, String> = index.required("weight_map")?;

        let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
        for name in map.values() {
            if !is_plain_name(name) {
                return refuse(format!("the shard {name:?} is not a file beside the index"));
            }
            let next = shards.len();
            shards.entry(name).or_insert(next);
        }
        if shards.len() > MAX_SHARDS {
            return refuse(format!("{} shards, where {MAX_SHARDS} are allowed", shards.len()));
        }

        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        let mut names: Vec<(&str, usize)> = shards.iter().map(|(&k, &v)| (k, v)).collect();
        names.sort_by_key(|&(_, number)| number);
        for (shard, number) in names {
            let (source, header) = Source::open(dir, shard.as_ref())?;
            files.push(source);
            metadata.extend(header.metadata);
            for (name, info) in header.tensors {
                if map.get(&name).map(String::as_str) != Some(shard) {
                    return refuse(format!("{shard} holds `{name}`, which the index does not say"));
                }
                tensors.insert(name, TensorInfo { file: number, ..info });
            }
        }
        if let Some((name, shard)) = map.iter().find(|(name, _)| !tensors.contains_key(*name)) {
            return refuse(format!("`{name}` is not in {shard}, where the index says it is"));
        }
        Ok(Self { path, files, tensors, metadata })
    }

    /// The file, or the index of a sharded set.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The safetensors files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|source| source.path.as_path())
    }

    /// The tensors by name, in order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the header says of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The free strings of the headers.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The size of all tensors, in the types of the file.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|info| info.bytes).sum()
    }

    /// Reads a tensor in the type that the file has.
    ///
    /// # Errors
    ///
    /// [`Error::Safetensors`] when there is no such tensor, its type is none of Burn's, or it does not fit into memory;
    /// [`Error::Io`] when the file cannot be read any more.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        match burn_type(self.locate(name)?.0.dtype) {
            Some(dtype) => self.read_as(name, dtype),
            // Refused there, by its own name.
            None => self.read_as(name, DType::F32),
        }
    }

    /// Reads a floating-point tensor as `dtype`, one of [`DType::F32`], [`DType::F16`] and [`DType::BF16`].
    ///
    /// A conversion goes through small buffers, one a thread: never is the tensor held twice.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and [`Error::Safetensors`] when the tensor holds anything but floating-point numbers.
    pub fn read_float(&self, name: &str, dtype: DType) -> Result<TensorData> {
        let (info, source) = self.locate(name)?;
        if is_float(info.dtype) {
            self.read_as(name, dtype)
        } else {
            Err(source.error(format!("`{name}` is {}, expected floats", info.dtype)))
        }
    }

    fn read_as(&self, name: &str, dtype: DType) -> Result<TensorData> {
        let (info, source) = self.locate(name)?;
        convert::read(
            info,
            dtype,
            |offset, buffer| source.fill(name, info.offset + offset, buffer),
            |reason| source.error(format!("`{name}` {reason}")),
        )
    }

    fn locate(&self, name: &str) -> Result<(&TensorInfo, &Source)> {
        match self.tensors.get(name) {
            Some(info) => Ok((info, &self.files[info.file])),
            None => Err(Error::Safetensors {
                path: self.path.clone(),
                reason: format!("it has no tensor `{name}`"),
            }),
        }
    }
}

impl Source {
    fn open(dir: &Folder, name: &Path) -> Result<(Self, Header)> {
        let path = dir.path().join(name);
        let (bytes, length) = match dir.open(name)? {
            Opened::Disk(file) => {
                let length = file.metadata().map_err(Error::io("read", &path))?.len();
                (Bytes::Disk(Disk::new(file)), length)
            }
            Opened::Embedded(bytes) => (Bytes::Embedded(bytes), bytes.len() as u64),
        };
        let damaged = |reason| Error::Safetensors { path: path.clone(), reason };
        if length < LENGTH {
            return Err(damaged(format!("it has {length} bytes, too few for a header")));
        }
        let source = Self { path: path.clone(), bytes };
        let mut start = [0; size_of::<u64>()];
        source.fill("the header's length", 0, &mut start)?;
        let header = Header::length(start, length).map_err(damaged)?;
        // Not longer than the file, nor than the format allows.
        let mut json = vec![0; usize::try_from(header).unwrap_or_default()];
        source.fill("the header", LENGTH, &mut json)?;
        let header = Header::parse(&json, length).map_err(damaged)?;
        Ok((source, header))
    }

    /// Fills `buffer` from the byte `offset` on. Errors call it `what`.
    fn fill(&self, what: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let read = match &self.bytes {
            Bytes::Disk(file) => file.read_exact_at(buffer, offset),
            Bytes::Embedded(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                (&bytes[from..]).read_exact(buffer)
            }
        };
        match read {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(self.error(format!("it was cut short while it was read, within `{what}`")))
            }
            other => other.map_err(Error::io("read", &self.path)),
        }
    }

    fn error(&self, reason: String) -> Error {
        Error::Safetensors { path: self.path.clone(), reason }
    }
}

/// The names under which weights may be stored, the likeliest first.
pub(super) fn candidates(stem: &str, variant: Option<&str>) -> Vec<String> {
    match variant {
        None => {
            vec![format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")]
        }
        Some(variant) => vec![
            format!("{stem}.{variant}.safetensors"),
            format!("{stem}.safetensors.index.{variant}.json"),
            // As diffusers wrote it until version 0.31.
            format!("{stem}.safetensors.{variant}.index.json"),
            format!("{stem}.{variant}.safetensors.index.json"),
        ],
    }
}

/// The error for weights that are not there, with what is there instead.
fn missing(dir: &Folder, stem: &str, variant: Option<&str>) -> Error {
    let mut expected = candidates(stem, variant)[..2].join(" or ");
    let others = dir.names();
    let weights: Vec<&str> =
        others.iter().map(String::as_str).filter(|name| name.ends_with(".safetensors")).collect();
    if !weights.is_empty() {
        expected = format!("{expected}; there is {}", weights.join(", "));
    } else if let Some(pickle) =
        others.iter().find(|name| name.ends_with(".bin") || name.ends_with(".ckpt"))
    {
        expected = format!(
            "{expected}; there is {pickle}, in Python's pickle format, which can run code and is \
             not read: convert it with `save_pretrained(.., safe_serialization=True)`"
        );
    }
    Error::MissingPart { dir: dir.path().to_owned(), part: "its weights".to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs};

    use safetensors::{serialize, tensor::TensorView};
    use serde_json::json;
    use unclip_testkit::{Recorded, fixture_sets};

    use super::*;

    fn bytes(tensors: &[(&str, Dtype, Vec<u8>)]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, dtype, data)| {
            let shape = vec![data.len() * 8 / dtype.bitsize()];
            (*name, TensorView::new(*dtype, shape, data).expect("a valid tensor"))
        });
        serialize(views, None::<HashMap<String, String>>).expect("is serialised")
    }

    fn one(name: &str, value: f32) -> Vec<u8> {
        bytes(&[(name, Dtype::F32, value.to_le_bytes().to_vec())])
    }

    fn refused(result: Result<Weights>) -> String {
        result.expect_err("the weights are refused").to_string()
    }

    #[test]
    fn recorded_weights_read_as_the_reference_reader_reads_them() {
        for set in fixture_sets() {
            let dir = set.model_dir().join("decoder");
            let weights = Weights::open(&dir, DIFFUSERS_STEM, None).expect("opens");
            let recorded = Recorded::open(dir.join("diffusion_pytorch_model.safetensors"));
            assert!(weights.names().eq(recorded.names()), "the names differ");
            assert_eq!(weights.metadata()["format"], "pt");
            for name in recorded.names() {
                let data = weights.read(name).expect("reads");
                assert_eq!(data.shape().as_slice(), recorded.shape(name));
                let floats = recorded.floats(name);
                assert_eq!(data.try_to_vec::<f32>().expect("floats"), floats, "{name}");
                let half = weights.read_float(name, DType::F16).expect("converts");
                let half = half.try_to_vec::<burn::tensor::f16>().expect("halves");
                assert!(
                    half.iter().zip(&floats).all(|(h, f)| *h == burn::tensor::f16::from_f32(*f)),
                    "{name} is rounded differently"
                );
            }
            let summary = weights.summary();
            assert_eq!(summary.total().bytes, weights.bytes());
            assert_eq!(summary.types["F32"].tensors, recorded.names().count());
        }
    }

    #[test]
    fn every_type_of_burn_reads_and_others_are_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        let tensors = [
            ("i64", Dtype::I64, (-2i64).to_le_bytes().to_vec()),
            ("u8", Dtype::U8, vec![7, 8]),
            ("bool", Dtype::BOOL, vec![1, 0]),
            ("f8", Dtype::F8_E4M3, vec![1]),
        ];
        fs::write(&path, bytes(&tensors)).expect("is written");
        let weights = Weights::open_file(&path).expect("opens");
        let i64 = weights.read("i64").expect("reads");
        assert_eq!(i64.try_to_vec::<i64>().expect("integers"), [-2]);
        assert_eq!(weights.read("u8").expect("reads").try_to_vec::<u8>().expect("bytes"), [7, 8]);
        let flags = weights.read("bool").expect("reads");
        assert_eq!(flags.iter::<bool>().collect::<Vec<_>>(), [true, false]);
        let error = weights.read("f8").expect_err("Burn has no such type").to_string();
        assert!(error.contains("`f8` is F8_E4M3"), "{error}");
        weights.read("absent").expect_err("no such tensor");
        weights.read_float("i64", DType::F32).expect_err("not floats");
    }

    #[test]
    fn a_variant_is_found_under_every_name_in_use_and_never_guessed() {
        for name in ["m.fp16.safetensors", "m.safetensors"] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            fs::write(dir.path().join(name), one("a", 1.0)).expect("is written");
            let variant = name.contains("fp16").then_some("fp16");
            Weights::open(dir.path(), "m", variant).expect("opens");
            let other = if variant.is_some() { None } else { Some("fp16") };
            let text = refused(Weights::open(dir.path(), "m", other));
            assert!(text.contains(&format!("there is {name}")), "{text}");
        }
        for index in [
            "m.safetensors.index.fp16.json",
            "m.safetensors.fp16.index.json",
            "m.fp16.safetensors.index.json",
        ] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            fs::write(dir.path().join("s1"), one("a", 1.0)).expect("is written");
            let map = json!({"weight_map": {"a": "s1"}}).to_string();
            fs::write(dir.path().join(index), map).expect("is written");
            Weights::open(dir.path(), "m", Some("fp16")).expect(index);
        }
    }

    #[test]
    fn pickled_weights_are_refused_with_the_way_out() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("pytorch_model.bin"), b"PK").expect("is written");
        let text = refused(Weights::open(dir.path(), TRANSFORMERS_STEM, None));
        assert!(text.contains("pytorch_model.bin") && text.contains("convert it"), "{text}");
        let text = refused(Weights::open(dir.path().join("absent"), TRANSFORMERS_STEM, None));
        assert!(text.contains("model.safetensors or model.safetensors.index.json"), "{text}");
    }

    #[test]
    fn shards_read_as_one_checkpoint_and_every_disagreement_is_found() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("s1"), one("a", 1.0)).expect("is written");
        fs::write(dir.path().join("s2"), one("b", 2.0)).expect("is written");
        let path = dir.path().join("m.safetensors.index.json");
        let open = |map: serde_json::Value| {
            fs::write(&path, json!({"weight_map": map}).to_string()).expect("is written");
            Weights::open(dir.path(), "m", None)
        };
        let weights = open(json!({"b": "s2", "a": "s1"})).expect("opens");
        assert_eq!(weights.files().count(), 2);
        for (name, value) in [("a", 1.0), ("b", 2.0)] {
            assert_eq!(
                weights.read(name).expect("reads").try_to_vec::<f32>().expect("floats"),
                [value]
            );
        }
        assert!(refused(open(json!({"a": "s1", "b": "s1"}))).contains("`b` is not in s1"));
        assert!(refused(open(json!({"b": "s1"}))).contains("s1 holds `a`"));
        assert!(refused(open(json!({"a": "../s1"}))).contains("not a file beside the index"));
        assert!(refused(open(json!({"a": "s3"}))).contains("cannot read"));
        assert!(refused(open(json!({"a": 1}))).contains("`weight_map`"));
        let many: serde_json::Map<_, _> =
            (0..600).map(|i| (format!("t{i}"), json!(format!("s{i}")))).collect();
        assert!(refused(open(many.into())).contains("600 shards"));
    }

    #[test]
    fn damaged_files_are_refused_whatever_is_cut_or_changed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        let whole = one("a", 1.0);
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("is written");
            refused(Weights::open_file(&path));
        }
        for place in 0..8 {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x81;
            fs::write(&path, &bytes).expect("is written");
            refused(Weights::open_file(&path));
        }
        refused(Weights::open_file(dir.path()));
    }

    #[test]
    fn a_file_cut_short_after_it_was_opened_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        fs::write(&path, one("a", 1.0)).expect("is written");
        let weights = Weights::open_file(&path).expect("opens");
        let file = fs::OpenOptions::new().write(true).open(&path).expect("opens for writing");
        file.set_len(weights.info("a").expect("is there").offset + 1).expect("is cut");
        let error = weights.read("a").expect_err("cut short").to_string();
        assert!(error.contains("within `a`"), "{error}");
    }
}
