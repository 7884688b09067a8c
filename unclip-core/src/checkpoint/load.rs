//! From a checkpoint into a Burn module, strictly.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, FloatDType, Tensor},
};

use super::{Weights, convert::is_float};
use crate::{Error, Result, ShapeMismatch, TypeMismatch, WeightsMismatch};

/// The type that weights are held in after loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightPrecision {
    /// As in the file: `f32`, `f16` or `bf16`; `f64` becomes `f32`, and so does a type that the device lacks.
    #[default]
    Stored,
    /// 32 bits.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    Bf16,
}

/// How a checkpoint and a module fit together.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions<'a> {
    /// Renames from the module's path to the checkpoint's, in whole dotted segments; see [`checkpoint_name`].
    pub names: &'a [(&'a str, &'a str)],
    /// Tensors of the checkpoint that the module may lack: a name's last segments (`position_ids`), or, ending in a
    /// dot, its first ones (`vision_model.`).
    pub ignore: &'a [&'a str],
    /// The segments under which the checkpoint holds the module (`prior`); tensors elsewhere are not looked at.
    pub prefix: Option<&'a str>,
    /// The type to hold the weights in.
    pub precision: WeightPrecision,
}

/// A parameter's name in the checkpoint, from its path in the module.
///
/// From left to right, the first rename whose left side stands at a segment is applied there, and what it wrote is not
/// looked at again.
///
/// ```
/// # use unclip_core::checkpoint::checkpoint_name;
/// let names = [("to_out", "to_out.0"), ("ff.proj_in", "ff.net.0.proj")];
/// assert_eq!(checkpoint_name("blocks.3.to_out.weight", &names), "blocks.3.to_out.0.weight");
/// assert_eq!(checkpoint_name("blocks.3.ff.proj_in.bias", &names), "blocks.3.ff.net.0.proj.bias");
/// assert_eq!(checkpoint_name("into_out.weight", &names), "into_out.weight");
/// ```
pub fn checkpoint_name(path: &str, names: &[(&str, &str)]) -> String {
    let mut rest = Some(path);
    let mut segments: Vec<&str> = Vec::new();
    while let Some(here) = rest {
        let renamed = names.iter().find_map(|&(from, to)| {
            let after = here.strip_prefix(from)?;
            match after.strip_prefix('.') {
                Some(after) => Some((to, Some(after))),
                None => after.is_empty().then_some((to, None)),
            }
        });
        let (segment, after) = renamed.unwrap_or_else(|| match here.split_once('.') {
            Some((segment, after)) => (segment, Some(after)),
            None => (here, None),
        });
        // A rename to nothing leaves a segment out.
        if !segment.is_empty() {
            segments.push(segment);
        }
        rest = after;
    }
    segments.join(".")
}

/// Every float parameter of `module`: its name in the checkpoint and its shape, in the module's order. Initialises
/// none of them.
pub fn shapes<M: Module>(module: &M, names: &[(&str, &str)]) -> Vec<(String, Vec<usize>)> {
    let mut visitor = Shapes { path: Vec::new(), names, found: Vec::new(), device: None };
    module.visit(&mut visitor);
    visitor.found
}

/// Loads `weights` into `module`: all of the one into all of the other.
///
/// The names and shapes are compared first, from the headers. Then each tensor is read, converted if need be, and
/// moved to the device of the parameter that it becomes; the parameter's random value is never computed. In host
/// memory there is, above the loaded weights, at most one tensor.
///
/// Integer and boolean parameters, which no network here has, are left as they are.
///
/// # Errors
///
/// [`Error::Weights`] listing every tensor that is missing, unexpected, or of another shape or kind;
/// [`Error::Safetensors`] and [`Error::Io`] when the files change or fail meanwhile; [`Error::InvalidInput`] when the
/// device lacks the precision asked for; [`Error::Execution`] when it runs out of memory and says so.
pub fn load<M: Module>(module: M, weights: &Weights, options: &LoadOptions<'_>) -> Result<M> {
    let mut visitor =
        Shapes { path: Vec::new(), names: options.names, found: Vec::new(), device: None };
    module.visit(&mut visitor);
    let wanted: BTreeMap<String, Vec<usize>> = visitor
        .found
        .into_iter()
        .map(|(name, shape)| (prefixed(name, options.prefix), shape))
        .collect();
    let report = compare(&wanted, weights, options);
    if !report.is_empty() {
        return Err(report.into());
    }
    let Some(device) = visitor.device else { return Ok(module) };
    let precision = Precision::on(&device, options.precision)?;
    let largest = wanted.keys().filter_map(|name| weights.info(name)).map(|info| info.bytes).max();

    let mut loader = Loader {
        path: Vec::new(),
        weights,
        options,
        precision,
        unsynced: 0,
        limit: largest.unwrap_or(0),
        error: None,
    };
    let module = module.map(&mut loader);
    match loader.error {
        Some(error) => Err(error),
        None => {
            device.sync().map_err(failed)?;
            Ok(module)
        }
    }
}

fn prefixed(name: String, prefix: Option<&str>) -> String {
    match prefix {
        Some(prefix) => format!("{prefix}.{name}"),
        None => name,
    }
}

/// Everything that does not fit, from names, shapes and types alone.
fn compare(
    wanted: &BTreeMap<String, Vec<usize>>,
    weights: &Weights,
    options: &LoadOptions<'_>,
) -> WeightsMismatch {
    let mut report =
        WeightsMismatch { path: weights.path().to_owned(), ..WeightsMismatch::default() };
    for (name, shape) in wanted {
        match weights.info(name) {
            None => report.missing.push(name.clone()),
            Some(info) if !is_float(info.dtype) => report
                .mistyped
                .push(TypeMismatch { name: name.clone(), found: info.dtype.to_string() }),
            Some(info) if info.shape != *shape => report.mismatched.push(ShapeMismatch {
                name: name.clone(),
                expected: shape.clone(),
                found: info.shape.clone(),
            }),
            Some(_) => {}
        }
    }
    let foreign = |name: &str| {
        options.prefix.is_some_and(|prefix| {
            !name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
        })
    };
    report.unexpected = weights
        .names()
        .filter(|name| !wanted.contains_key(*name) && !foreign(name))
        .filter(|name| !options.ignore.iter().any(|pattern| matches(name, pattern)))
        .map(str::to_owned)
        .collect();
    report
}

fn matches(name: &str, pattern: &str) -> bool {
    if pattern.ends_with('.') {
        name.starts_with(pattern)
    } else {
        name.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

/// What each type in the file becomes on a device.
#[derive(Debug, Clone, Copy)]
struct Precision {
    f16: DType,
    bf16: DType,
    wide: DType,
}

impl Precision {
    fn on(device: &Device, precision: WeightPrecision) -> Result<Self> {
        let has = |dtype: FloatDType| device.supports_dtype(dtype);
        let all = |dtype: FloatDType, name: &'static str| {
            if has(dtype) {
                let dtype = DType::from(dtype);
                Ok(Self { f16: dtype, bf16: dtype, wide: dtype })
            } else {
                let expected = format!("a type that {device:?} has, such as f32");
                Err(Error::invalid("precision", name, expected))
            }
        };
        let kept = |dtype: FloatDType| {
            if has(dtype) { DType::from(dtype) } else { DType::F32 }
        };
        match precision {
            WeightPrecision::Stored => Ok(Self {
                f16: kept(FloatDType::F16),
                bf16: kept(FloatDType::BF16),
                wide: DType::F32,
            }),
            WeightPrecision::F32 => all(FloatDType::F32, "f32"),
            WeightPrecision::F16 => all(FloatDType::F16, "f16"),
            WeightPrecision::Bf16 => all(FloatDType::BF16, "bf16"),
        }
    }

    fn of(self, dtype: super::Dtype) -> DType {
        match dtype {
            super::Dtype::F16 => self.f16,
            super::Dtype::BF16 => self.bf16,
            _ => self.wide,
        }
    }
}

fn failed(error: burn::tensor::ExecutionError) -> Error {
    Error::Execution { action: "loading weights", reason: error.to_string() }
}

/// Collects names and shapes.
struct Shapes<'a> {
    path: Vec<String>,
    names: &'a [(&'a str, &'a str)],
    found: Vec<(String, Vec<usize>)>,
    device: Option<Device>,
}

impl ModuleVisitor for Shapes<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = checkpoint_name(&self.path.join("."), self.names);
        self.found.push((name, param.lazy_shape().to_vec()));
        self.device.get_or_insert_with(|| param.lazy_device());
    }
}

/// Fills parameters, until the first error.
struct Loader<'a> {
    path: Vec<String>,
    weights: &'a Weights,
    options: &'a LoadOptions<'a>,
    precision: Precision,
    /// Bytes handed to the device since it was last waited for.
    unsynced: u64,
    /// How many such bytes may be under way.
    limit: u64,
    error: Option<Error>,
}

impl Loader<'_> {
    fn tensor<const D: usize>(&mut self, device: &Device) -> Result<Tensor<D>> {
        let name = checkpoint_name(&self.path.join("."), self.options.names);
        let name = prefixed(name, self.options.prefix);
        let Some(info) = self.weights.info(&name) else {
            // The comparison has found it; a module that changes between two visits is beyond help.
            return Err(Error::Weights(Box::new(WeightsMismatch {
                path: self.weights.path().to_owned(),
                missing: vec![name],
                ..WeightsMismatch::default()
            })));
        };
        let dtype = self.precision.of(info.dtype);
        let data = self.weights.read_float(&name, dtype)?;
        self.unsynced += info.bytes;
        let tensor = device.memory_persistent_allocations(data, |data| {
            Tensor::<D>::from_data(data, (device, dtype))
        });
        // An upload keeps its host copy until the device has taken it.
        if self.unsynced >= self.limit {
            device.sync().map_err(failed)?;
            self.unsynced = 0;
        }
        Ok(tensor)
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match self.tensor(&param.lazy_device()) {
            Ok(tensor) => {
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use burn::{
        module::ParamId,
        tensor::{Shape, TensorData},
    };
    use safetensors::{Dtype, serialize_to_file, tensor::TensorView};

    use super::*;
    use crate::nn::{Linear, LinearConfig};

    #[derive(Module, Debug)]
    struct Block {
        norm: Linear,
        layers: Vec<Linear>,
        skip: Option<Linear>,
    }

    /// A parameter that must never be initialised.
    fn unborn<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
        Param::uninitialized(
            ParamId::new(),
            |_: &Device, _| panic!("a parameter was initialised"),
            device.clone(),
            true,
            Shape::from(shape),
        )
    }

    fn layer(channels_in: usize, channels_out: usize, device: &Device) -> Linear {
        Linear {
            weight: unborn([channels_out, channels_in], device).into(),
            bias: Some(unborn([channels_out], device)),
        }
    }

    fn block() -> Block {
        let device = Device::flex();
        Block {
            norm: layer(2, 3, &device),
            layers: vec![layer(3, 3, &device), layer(3, 1, &device)],
            skip: None,
        }
    }

    const NAMES: &[(&str, &str)] = &[("norm", "norm.0"), ("layers", "net")];

    /// A file with these tensors; every element of the n-th is n.
    fn file(tensors: &[(&str, Dtype, &[usize])]) -> (tempfile::TempDir, Weights) {
        let data: Vec<Vec<u8>> = tensors
            .iter()
            .enumerate()
            .map(|(n, (_, dtype, shape))| {
                let n = n as f32;
                let one = match dtype {
                    Dtype::F16 => burn::tensor::f16::from_f32(n).to_le_bytes().to_vec(),
                    Dtype::BF16 => burn::tensor::bf16::from_f32(n).to_le_bytes().to_vec(),
                    Dtype::F64 => f64::from(n).to_le_bytes().to_vec(),
                    Dtype::I64 => vec![0; 8],
                    _ => n.to_le_bytes().to_vec(),
                };
                one.repeat(shape.iter().product())
            })
            .collect();
        let views = tensors.iter().zip(&data).map(|((name, dtype, shape), data)| {
            (*name, TensorView::new(*dtype, shape.to_vec(), data).expect("a valid tensor"))
        });
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("model.safetensors");
        serialize_to_file(views, None::<HashMap<String, String>>, &path).expect("is written");
        let weights = Weights::open_file(path).expect("opens");
        (dir, weights)
    }

    const WHOLE: &[(&str, Dtype, &[usize])] = &[
        ("norm.0.weight", Dtype::F32, &[3, 2]),
        ("norm.0.bias", Dtype::F16, &[3]),
        ("net.0.weight", Dtype::BF16, &[3, 3]),
        ("net.0.bias", Dtype::F64, &[3]),
        ("net.1.weight", Dtype::F32, &[1, 3]),
        ("net.1.bias", Dtype::F32, &[1]),
    ];

    fn first(tensor: &Tensor<1>) -> (DType, f32) {
        let data = tensor.to_data();
        (data.dtype(), data.try_to_vec_as::<f32>().expect("floats")[0])
    }

    #[test]
    fn a_whole_checkpoint_loads_without_initialising_anything() {
        let (_dir, weights) = file(WHOLE);
        let options = LoadOptions { names: NAMES, ..LoadOptions::default() };
        let block = load(block(), &weights, &options).expect("fits");
        let bias = |layer: &Linear| first(&layer.bias.as_ref().expect("has one").val());
        assert_eq!(bias(&block.norm), (DType::F16, 1.0));
        assert_eq!(bias(&block.layers[0]), (DType::F32, 3.0));
        assert_eq!(block.layers[0].weight.val().dtype(), DType::BF16);
        let weight = block.layers[1].weight.val().to_data();
        weight.assert_eq(&TensorData::from([[4.0f32, 4.0, 4.0]]), true);
    }

    #[test]
    fn weights_are_held_in_the_precision_asked_for() {
        let (_dir, weights) = file(WHOLE);
        for (precision, dtype) in [
            (WeightPrecision::F32, DType::F32),
            (WeightPrecision::F16, DType::F16),
            (WeightPrecision::Bf16, DType::BF16),
        ] {
            let options = LoadOptions { names: NAMES, precision, ..LoadOptions::default() };
            let block = load(block(), &weights, &options).expect("fits");
            for (n, layer) in [&block.norm, &block.layers[0], &block.layers[1]].iter().enumerate() {
                assert_eq!(layer.weight.val().dtype(), dtype);
                let (kept, value) = first(&layer.bias.as_ref().expect("has one").val());
                assert_eq!((kept, value), (dtype, 2.0 * n as f32 + 1.0));
            }
        }
    }

    #[test]
    fn everything_that_does_not_fit_is_listed_before_anything_is_read() {
        let (_dir, weights) = file(&[
            ("norm.0.weight", Dtype::F32, &[2, 3]),
            ("norm.0.bias", Dtype::I64, &[3]),
            ("net.0.weight", Dtype::F32, &[3, 3]),
            ("net.0.bias", Dtype::F32, &[3]),
            ("net.1.weight", Dtype::F32, &[1, 3]),
            ("other.position_ids", Dtype::I64, &[1]),
            ("vision.patch", Dtype::F32, &[1]),
            ("visions", Dtype::F32, &[1]),
        ]);
        let options = LoadOptions {
            names: NAMES,
            ignore: &["position_ids", "vision."],
            ..LoadOptions::default()
        };
        let error = load(block(), &weights, &options).expect_err("does not fit");
        let Error::Weights(report) = error else { panic!("another error: {error}") };
        assert_eq!(report.missing, ["net.1.bias"]);
        assert_eq!(report.unexpected, ["visions"]);
        assert_eq!(report.mistyped[0].name, "norm.0.bias");
        let shape = &report.mismatched[0];
        assert_eq!((shape.expected.as_slice(), shape.found.as_slice()), (&[3, 2][..], &[2, 3][..]));
    }

    #[test]
    fn a_prefix_selects_one_network_of_several() {
        let prefixed: Vec<(String, Dtype, &[usize])> = WHOLE
            .iter()
            .map(|(name, dtype, shape)| (format!("text.{name}"), *dtype, *shape))
            .collect();
        let mut tensors: Vec<_> =
            prefixed.iter().map(|(name, dtype, shape)| (name.as_str(), *dtype, *shape)).collect();
        tensors.push(("vision.weight", Dtype::F32, &[1]));
        tensors.push(("textual", Dtype::F32, &[1]));
        let (_dir, weights) = file(&tensors);
        let options = LoadOptions { names: NAMES, prefix: Some("text"), ..LoadOptions::default() };
        load(block(), &weights, &options).expect("the rest belongs to others");
    }

    #[test]
    fn names_and_shapes_cost_no_initialisation() {
        let found = shapes(&block(), NAMES);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), WHOLE.len());
        for (name, _, shape) in WHOLE {
            assert!(found.contains(&((*name).to_owned(), shape.to_vec())), "{name} is not listed");
        }
    }

    #[test]
    fn a_loaded_parameter_keeps_its_training_state() {
        let (_dir, weights) = file(WHOLE);
        let options = LoadOptions { names: NAMES, ..LoadOptions::default() };
        let frozen = load(block().no_grad(), &weights, &options).expect("fits");
        assert!(!frozen.norm.weight.val().is_require_grad(), "no gradients were asked for");
        // Layers of this crate are lazy themselves, so the same holds for every network.
        let fresh = LinearConfig::new(2, 3).init(&Device::flex());
        assert!(!fresh.weight.is_initialized(), "a layer was initialised while it was built");
    }
}
