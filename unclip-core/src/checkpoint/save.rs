//! From a Burn module into safetensors, tensor by tensor.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Tensor},
};
use safetensors::tensor::{Dtype, Metadata, TensorInfo as Entry};
use serde_json::json;

use super::{
    WeightPrecision,
    atomic::{Pending, write_json_atomic},
    checkpoint_name, is_plain_name,
    weights::MAX_SHARDS,
};
use crate::{Error, Result};

/// How a module is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions<'a> {
    /// Renames from the module's path to the checkpoint's; see [`checkpoint_name`].
    pub names: &'a [(&'a str, &'a str)],
    /// The type to write; [`WeightPrecision::Stored`] is the type that each parameter is held in.
    pub precision: WeightPrecision,
    /// The variant in the file names, such as `fp16`.
    pub variant: Option<&'a str>,
    /// The size in bytes that a file should not exceed; a set of shards with an index is written where it would. A
    /// single larger tensor still makes a file of its own.
    pub max_shard_bytes: Option<u64>,
}

/// Writes the float parameters of `module` as `<stem>.safetensors` into `dir`, or as shards with an index.
///
/// The names, the metadata (`format: pt`) and the order in the file are those of the Python tools. One parameter at a
/// time is copied from the device. The files get their names once all of them are complete, and replace what an
/// earlier save with the same stem and variant left there. Returns the path of the file, or of the index.
///
/// A parameter that was never initialised is initialised by this.
///
/// # Errors
///
/// [`Error::InvalidInput`] when stem or variant is not part of a file name; [`Error::Io`], without leaving a partial
/// file; [`Error::Execution`] when a parameter cannot be read from its device; [`Error::Safetensors`] when two
/// parameters share a name, or one holds numbers that the format does not know.
pub fn save<M: Module>(
    module: &M,
    dir: impl AsRef<Path>,
    stem: &str,
    options: &SaveOptions<'_>,
) -> Result<PathBuf> {
    let base = match options.variant {
        Some(variant) => format!("{stem}.{variant}"),
        None => stem.to_owned(),
    };
    if !is_plain_name(&base) {
        return Err(Error::invalid("stem and variant", &base, "a part of a file name"));
    }
    let mut plan = Plan { path: Vec::new(), options, entries: Vec::new(), refused: None };
    module.visit(&mut plan);
    let dir = dir.as_ref();
    let refuse = |reason| Error::Safetensors { path: dir.join(&base), reason };
    if let Some(reason) = plan.refused {
        return Err(refuse(reason));
    }
    let mut entries = plan.entries;
    let mut names = BTreeSet::new();
    if let Some((name, _)) = entries.iter().find(|(name, _)| !names.insert(name.as_str())) {
        return Err(refuse(format!("two parameters are called `{name}`")));
    }
    // The reference implementation puts wide types first, which keeps every tensor aligned, and then sorts by name.
    entries.sort_by(|(a, x), (b, y)| y.dtype.cmp(&x.dtype).then_with(|| a.cmp(b)));
    let shards = split(entries, options.max_shard_bytes.unwrap_or(u64::MAX));

    let count = shards.len();
    if count > MAX_SHARDS {
        let found = options.max_shard_bytes.unwrap_or(u64::MAX);
        let expected = format!("a size that needs at most {MAX_SHARDS} files, not {count}");
        return Err(Error::invalid("max_shard_bytes", found, expected));
    }
    let mut files = Vec::new();
    let mut places = BTreeMap::new();
    let mut weight_map = BTreeMap::new();
    let mut total = 0u64;
    for (number, shard) in shards.into_iter().enumerate() {
        let name = match count {
            1 => format!("{base}.safetensors"),
            _ => format!("{base}-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let file = Pending::create(&dir.join(&name))?;
        for (tensor, entry) in &shard {
            weight_map.insert(tensor.clone(), name.clone());
            total += (entry.data_offsets.1 - entry.data_offsets.0) as u64;
        }
        let (file, start) = begin(file, &shard)?;
        for (tensor, entry) in shard {
            places.insert(tensor, Place { file: number, start, entry });
        }
        files.push(file);
    }

    let mut writer = Writer { path: Vec::new(), names: options.names, files, places, error: None };
    module.visit(&mut writer);
    if let Some(error) = writer.error {
        return Err(error);
    }
    let written: Vec<PathBuf> = writer.files.iter().map(|file| file.path().to_owned()).collect();
    let index = match options.variant {
        Some(variant) => dir.join(format!("{stem}.safetensors.index.{variant}.json")),
        None => dir.join(format!("{stem}.safetensors.index.json")),
    };
    let published = writer.files.into_iter().try_for_each(Pending::publish).and_then(|()| {
        if count == 1 {
            return Ok(());
        }
        let content = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        write_json_atomic(&index, &content)
    });
    if let Err(error) = published {
        // Some of a set is worse than none of it.
        for path in &written {
            let _ = fs::remove_file(path);
        }
        return Err(error);
    }
    remove_stale(dir, &base, &written, (count == 1).then_some(&index))?;
    Ok(if count == 1 { dir.join(format!("{base}.safetensors")) } else { index })
}

/// Fills shards in order, each up to `limit` bytes; there is at least one. The offsets come out per shard.
fn split(entries: Vec<(String, Entry)>, limit: u64) -> Vec<Vec<(String, Entry)>> {
    let mut shards = vec![Vec::new()];
    let mut used = 0usize;
    for (name, mut entry) in entries {
        let size = entry.data_offsets.1;
        let mut shard = shards.pop().unwrap_or_default();
        if !shard.is_empty() && used as u64 + size as u64 > limit {
            shards.push(shard);
            shard = Vec::new();
            used = 0;
        }
        entry.data_offsets = (used, used + size);
        used += size;
        shard.push((name, entry));
        shards.push(shard);
    }
    shards
}

/// Writes a header, and returns where the data begin.
fn begin(mut file: Pending, shard: &[(String, Entry)]) -> Result<(Pending, u64)> {
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = file.path().to_owned();
    let header = Metadata::new(Some(format.into_iter().collect()), shard.to_vec())
        .map_err(|e| Error::Safetensors { path: path.clone(), reason: e.to_string() })?;
    let mut json =
        serde_json::to_vec(&header).map_err(|source| Error::Json { path: path.clone(), source })?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let length = json.len() as u64;
    let write = |file: &mut Pending| {
        file.file.write_all(&length.to_le_bytes())?;
        file.file.write_all(&json)?;
        file.file.as_file().set_len(8 + length + header.data_len() as u64)
    };
    write(&mut file).map_err(Error::io("write", path))?;
    Ok((file, 8 + length))
}

/// Removes the files of an earlier save that the new ones supersede, so that no reader mixes the two.
fn remove_stale(
    dir: &Path,
    base: &str,
    written: &[PathBuf],
    index: Option<&PathBuf>,
) -> Result<()> {
    let is_shard = |name: &str| {
        let numbers = name.strip_prefix(base)?.strip_prefix('-')?.strip_suffix(".safetensors")?;
        let (number, count) = numbers.split_once("-of-")?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        (digits(number) && digits(count)).then_some(())
    };
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let superseded = name == format!("{base}.safetensors")
            || is_shard(name).is_some()
            || index.is_some_and(|index| path == *index);
        if superseded && !written.contains(&path) {
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
        }
    }
    Ok(())
}

/// Collects what will be written; the end offset of an entry is its size for now.
struct Plan<'a> {
    path: Vec<String>,
    options: &'a SaveOptions<'a>,
    entries: Vec<(String, Entry)>,
    refused: Option<String>,
}

impl ModuleVisitor for Plan<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = checkpoint_name(&self.path.join("."), self.options.names);
        let dtype = match self.options.precision {
            WeightPrecision::F32 => Dtype::F32,
            WeightPrecision::F16 => Dtype::F16,
            WeightPrecision::Bf16 => Dtype::BF16,
            WeightPrecision::Stored => match param.val().dtype() {
                DType::F64 => Dtype::F64,
                DType::F32 | DType::Flex32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                other => {
                    self.refused = Some(format!("`{name}` is held as {other:?}"));
                    return;
                }
            },
        };
        let shape = param.lazy_shape().to_vec();
        let size = shape.iter().product::<usize>() * (dtype.bitsize() / 8);
        self.entries.push((name, Entry { dtype, shape, data_offsets: (0, size) }));
    }
}

/// Where a tensor goes.
struct Place {
    file: usize,
    /// Where the data of that file begin.
    start: u64,
    entry: Entry,
}

/// Writes each parameter to its place, until the first error.
struct Writer<'a> {
    path: Vec<String>,
    names: &'a [(&'a str, &'a str)],
    files: Vec<Pending>,
    places: BTreeMap<String, Place>,
    error: Option<Error>,
}

impl Writer<'_> {
    fn write<const D: usize>(&mut self, tensor: Tensor<D>) -> Result<()> {
        let name = checkpoint_name(&self.path.join("."), self.names);
        let failed = |reason: String| Error::Execution { action: "reading weights", reason };
        let place = self
            .places
            .get(&name)
            .ok_or_else(|| failed(format!("`{name}` appeared while it was being written")))?;
        let file = &mut self.files[place.file];
        let (dtype, width) = match place.entry.dtype {
            Dtype::F64 => (DType::F64, 8),
            Dtype::F16 => (DType::F16, 2),
            Dtype::BF16 => (DType::BF16, 2),
            _ => (DType::F32, 4),
        };
        let data = tensor
            .try_into_data()
            .map_err(|e| failed(e.to_string()))?
            .try_cast(dtype)
            .map_err(|e| failed(e.to_string()))?;
        let (begin, end) = place.entry.data_offsets;
        let bytes = data.as_bytes();
        if bytes.len() != end - begin {
            return Err(failed(format!(
                "`{name}` has {} bytes, expected {}",
                bytes.len(),
                end - begin
            )));
        }
        let path = file.path().to_owned();
        let write = |file: &mut Pending| {
            file.file.seek(SeekFrom::Start(place.start + begin as u64))?;
            if cfg!(target_endian = "big") {
                let mut bytes = bytes.to_vec();
                bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
                file.file.write_all(&bytes)
            } else {
                file.file.write_all(bytes)
            }
        };
        write(file).map_err(Error::io("write", path))
    }
}

impl ModuleVisitor for Writer<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.error.is_none()
            && let Err(error) = self.write(param.val())
        {
            self.error = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use unclip_testkit::fixture_sets;

    use super::*;
    use crate::{
        checkpoint::{DIFFUSERS_STEM, LoadOptions, Weights, load, shapes},
        nn::{
            Conv2d, Conv2dConfig, GroupNorm, GroupNormConfig, LayerNorm, LayerNormConfig, Linear,
            LinearConfig,
        },
    };

    /// The text projection of the recorded sets, by its parameters alone.
    #[derive(Module, Debug)]
    struct TextProj {
        learned_classifier_free_guidance_embeddings: Param<Tensor<1>>,
        embedding_proj: Linear,
        clip_image_embeddings_project_to_time_embeddings: Linear,
        extra_context_tokens: Linear,
        encoder_hidden_states_proj: Linear,
        text_encoder_hidden_states_norm: LayerNorm,
    }

    const TEXT_PROJ_NAMES: &[(&str, &str)] =
        &[("extra_context_tokens", "clip_extra_context_tokens_proj")];

    #[derive(Module, Debug)]
    struct Net {
        conv: Conv2d,
        norm: GroupNorm,
        layers: Vec<Linear>,
        skip: Option<Conv2d>,
    }

    fn net() -> Net {
        let device = Device::flex();
        Net {
            conv: Conv2dConfig::new(3, 8, 3).init(&device),
            norm: GroupNormConfig::new(2, 8).init(&device),
            layers: (0..3).map(|_| LinearConfig::new(8, 8).init(&device)).collect(),
            skip: None,
        }
    }

    const NAMES: &[(&str, &str)] = &[("layers", "net.layers")];

    fn values(net: &Net) -> Vec<f32> {
        struct Values(Vec<f32>);
        impl ModuleVisitor for Values {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.extend(param.val().to_data().try_to_vec_as::<f32>().expect("floats"));
            }
        }
        let mut found = Values(Vec::new());
        net.visit(&mut found);
        found.0
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("the folder is there")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_recorded_file_is_reproduced_to_the_byte() {
        for set in fixture_sets() {
            let from = set.model_dir().join("text_proj");
            let weights = Weights::open(&from, DIFFUSERS_STEM, None).expect("opens");
            let shape = |name: &str| weights.info(name).expect("is there").shape.clone();
            let device = Device::flex();
            let linear = |name: &str| {
                let shape = shape(&format!("{name}.weight"));
                LinearConfig::new(shape[1], shape[0]).init(&device)
            };
            let width = shape("learned_classifier_free_guidance_embeddings")[0];
            let context = shape("text_encoder_hidden_states_norm.weight")[0];
            let network =
                TextProj {
                    learned_classifier_free_guidance_embeddings: Param::from_tensor(
                        Tensor::random([width], Distribution::Default, &device),
                    ),
                    embedding_proj: linear("embedding_proj"),
                    clip_image_embeddings_project_to_time_embeddings: linear(
                        "clip_image_embeddings_project_to_time_embeddings",
                    ),
                    extra_context_tokens: linear("clip_extra_context_tokens_proj"),
                    encoder_hidden_states_proj: linear("encoder_hidden_states_proj"),
                    text_encoder_hidden_states_norm: LayerNormConfig::new(context).init(&device),
                };
            let options = LoadOptions { names: TEXT_PROJ_NAMES, ..LoadOptions::default() };
            let network = load(network, &weights, &options).expect("fits");

            let dir = tempfile::tempdir().expect("a temporary folder");
            let options = SaveOptions { names: TEXT_PROJ_NAMES, ..SaveOptions::default() };
            let path = save(&network, dir.path(), DIFFUSERS_STEM, &options).expect("is written");
            let ours = fs::read(path).expect("is there");
            let theirs =
                fs::read(from.join("diffusion_pytorch_model.safetensors")).expect("is there");
            assert!(ours == theirs, "{} differs from what Python wrote", set.name());
        }
    }

    #[test]
    fn what_is_saved_loads_whole_and_in_shards() {
        let original = net();
        for (limit, count) in [(None, 1), (Some(700), 4), (Some(0), 10)] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let options =
                SaveOptions { names: NAMES, max_shard_bytes: limit, ..SaveOptions::default() };
            let path = save(&original, dir.path(), "model", &options).expect("is written");
            let weights = Weights::open(dir.path(), "model", None).expect("opens");
            assert_eq!(weights.path(), path);
            assert_eq!(weights.files().count(), count, "with a limit of {limit:?}");
            assert_eq!(files(dir.path()).len(), if count == 1 { 1 } else { count + 1 });
            assert_eq!(weights.names().count(), shapes(&original, NAMES).len());
            let options = LoadOptions { names: NAMES, ..LoadOptions::default() };
            let loaded = load(net(), &weights, &options).expect("fits");
            assert_eq!(values(&loaded), values(&original));
        }
    }

    #[test]
    fn half_precision_rounds_once_and_has_its_own_name() {
        let original = net();
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (precision, variant, dtype) in [
            (WeightPrecision::F16, "fp16", Dtype::F16),
            (WeightPrecision::Bf16, "bf16", Dtype::BF16),
        ] {
            let options = SaveOptions {
                names: NAMES,
                precision,
                variant: Some(variant),
                max_shard_bytes: Some(500),
            };
            save(&original, dir.path(), "model", &options).expect("is written");
            let weights = Weights::open(dir.path(), "model", Some(variant)).expect("opens");
            assert!(weights.tensors().all(|(_, info)| info.dtype == dtype), "another type");
            let options = LoadOptions {
                names: NAMES,
                precision: WeightPrecision::F32,
                ..LoadOptions::default()
            };
            let loaded = load(net(), &weights, &options).expect("fits");
            let round = |v: f32| match precision {
                WeightPrecision::F16 => burn::tensor::f16::from_f32(v).to_f32(),
                _ => burn::tensor::bf16::from_f32(v).to_f32(),
            };
            let expected: Vec<f32> = values(&original).into_iter().map(round).collect();
            assert_eq!(values(&loaded), expected);
        }
    }

    #[test]
    fn a_later_save_replaces_an_earlier_one_and_spares_other_variants() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |variant, max_shard_bytes| {
            let options = SaveOptions { variant, max_shard_bytes, ..SaveOptions::default() };
            save(&net(), dir.path(), "model", &options).expect("is written");
        };
        write(Some("fp16"), Some(700));
        let variant = files(dir.path());
        write(None, None);
        write(None, Some(700));
        let both = files(dir.path());
        assert_eq!(both.len(), 2 * variant.len(), "{both:?}");
        assert!(!both.contains(&"model.safetensors".to_owned()), "the single file is stale");
        assert!(both.contains(&"model.safetensors.index.fp16.json".to_owned()), "{both:?}");
        assert!(both.contains(&"model.fp16-00001-of-00004.safetensors".to_owned()), "{both:?}");
        write(None, None);
        assert_eq!(files(dir.path()).len(), variant.len() + 1);
    }

    #[test]
    fn a_failed_save_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("model-00002-of-00004.safetensors")).expect("is created");
        let options = SaveOptions { max_shard_bytes: Some(700), ..SaveOptions::default() };
        save(&net(), dir.path(), "model", &options).expect_err("a folder is in the way");
        assert_eq!(files(dir.path()), ["model-00002-of-00004.safetensors"]);

        let clash = SaveOptions { names: &[("weight", "same"), ("bias", "same")], ..options };
        let clash = SaveOptions { max_shard_bytes: None, ..clash };
        save(&net(), dir.path(), "other", &clash).expect_err("two parameters of one name");
        save(&net(), dir.path(), "../x", &options).expect_err("leads out of the folder");
        assert_eq!(files(dir.path()), ["model-00002-of-00004.safetensors"]);
    }
}
