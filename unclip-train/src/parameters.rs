//! A module's parameters by name: filling them, copying them out, and tensors kept beside them.

use std::fmt;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{Tensor, TensorData, container::TensorContainer},
};

use crate::{
    Result,
    draws::{Draws, Purpose},
};

/// Where a parameter's value comes from, by name and shape.
pub(crate) type Find<'a> = dyn FnMut(&str, &[usize]) -> Result<Option<TensorData>> + 'a;

/// One tensor for each of some parameters, without autodiff.
#[derive(Default)]
pub(crate) struct Beside {
    tensors: TensorContainer<ParamId>,
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Beside({} tensors)", self.tensors.len())
    }
}

impl Beside {
    pub(crate) fn get<const D: usize>(&self, id: ParamId) -> Option<Tensor<D>> {
        self.tensors.get::<Tensor<D>>(&id)
    }

    pub(crate) fn take<const D: usize>(&mut self, id: ParamId) -> Option<Tensor<D>> {
        self.tensors.remove::<Tensor<D>>(&id)
    }

    pub(crate) fn put<const D: usize>(&mut self, id: ParamId, tensor: Tensor<D>) {
        self.tensors.register(id, tensor);
    }
}

/// What a parameter starts from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fill {
    /// As it is.
    Keep,
    /// One value everywhere.
    Constant(f32),
    /// Gaussian with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform from `-bound` to `bound`.
    Uniform(f64),
}

impl Fill {
    /// PyTorch's default for linear layers, convolutions and their biases: uniform in `±1/√fan_in`.
    pub(crate) fn fan_in(fan_in: usize) -> Self {
        Self::Uniform((fan_in.max(1) as f64).powf(-0.5))
    }
}

/// Gives every float parameter of `module` its starting value. The values of one parameter depend on `seed` and its
/// name alone, so they are the same on every device.
///
/// `rule` is asked with the parameter's dotted path and shape.
pub(crate) fn initialise<M: Module>(
    module: M,
    seed: u64,
    rule: impl Fn(&str, &[usize]) -> Fill,
) -> M {
    module.map(&mut Filler { path: Vec::new(), seed, rule })
}

struct Filler<F> {
    path: Vec<String>,
    seed: u64,
    rule: F,
}

impl<F: Fn(&str, &[usize]) -> Fill> ModuleMapper for Filler<F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    #[expect(clippy::cast_possible_truncation, reason = "weights are 32 bits wide")]
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let shape = param.lazy_shape().to_vec();
        let count = shape.iter().product();
        let mut draws = Draws::new(self.seed, Purpose::Weights, number(&name), 0);
        let values: Vec<f32> = match (self.rule)(&name, &shape) {
            Fill::Keep => return param,
            Fill::Constant(value) => vec![value; count],
            Fill::Normal(deviation) => {
                let deviation = deviation as f32;
                draws.normals(count).map(|value| value * deviation).collect()
            }
            Fill::Uniform(bound) => {
                (0..count).map(|_| draws.between(-bound, bound) as f32).collect()
            }
        };
        let device = param.lazy_device();
        let tensor = Tensor::from_data(TensorData::new(values, shape), &device);
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

/// A number for a name (FNV-1a), to seed its stream with.
fn number(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Names and values of every float parameter, and of what `beside` keeps for it, as 32-bit floats on the host.
pub(crate) fn read<M: Module>(
    module: &M,
    prefix: &str,
    beside: Option<&Beside>,
    out: &mut Vec<(String, TensorData)>,
) -> Result<()> {
    let mut reader = Reader { path: vec![prefix.to_owned()], beside, out, error: None };
    module.visit(&mut reader);
    reader.error.map_or(Ok(()), |error| Err(error.into()))
}

struct Reader<'a> {
    path: Vec<String>,
    beside: Option<&'a Beside>,
    out: &'a mut Vec<(String, TensorData)>,
    error: Option<unclip_core::Error>,
}

impl ModuleVisitor for Reader<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = match self.beside {
            Some(beside) => match beside.get::<D>(param.id) {
                Some(tensor) => tensor,
                None => return,
            },
            None => param.val().inner(),
        };
        match tensor.try_into_data() {
            Ok(data) => self.out.push((self.path.join("."), data)),
            Err(error) => {
                let reason = error.to_string();
                self.error.get_or_insert(unclip_core::Error::Execution {
                    action: "reading parameters",
                    reason,
                });
            }
        }
    }
}

/// Gives every float parameter, or what is kept beside it, the value that `find` has under its name. Parameters
/// without one are left as they are.
pub(crate) fn write<M: Module>(
    module: M,
    prefix: &str,
    beside: Option<&mut Beside>,
    find: &mut Find<'_>,
) -> Result<M> {
    let mut writer = Writer { path: vec![prefix.to_owned()], beside, find, error: None };
    let module = module.map(&mut writer);
    writer.error.map_or(Ok(module), Err)
}

struct Writer<'a, 'f> {
    path: Vec<String>,
    beside: Option<&'a mut Beside>,
    find: &'a mut Find<'f>,
    error: Option<crate::Error>,
}

impl ModuleMapper for Writer<'_, '_> {
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
        let found = match (self.find)(&self.path.join("."), &param.lazy_shape().to_vec()) {
            Ok(found) => found,
            Err(error) => {
                self.error = Some(error);
                return param;
            }
        };
        let Some(data) = found else { return param };
        let device = param.lazy_device();
        match &mut self.beside {
            Some(beside) => {
                beside.put(param.id, Tensor::<D>::from_data(data, &device.inner()));
                param
            }
            None => {
                let id = param.id;
                param.transform_for_load(Tensor::from_data(data, &device), id)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use unclip_core::nn::{Linear, LinearConfig};
    use unclip_testkit::device;

    use super::*;

    fn layer(seed: u64) -> Linear {
        let layer = LinearConfig::new(3, 4).init(&device());
        initialise(layer, seed, |name, shape| match name {
            "weight" => Fill::fan_in(shape[1]),
            _ => Fill::Constant(0.5),
        })
    }

    fn values(layer: &Linear) -> Vec<(String, Vec<f32>)> {
        let mut out = Vec::new();
        read(layer, "layer", None, &mut out).expect("on the host");
        out.into_iter().map(|(name, data)| (name, data.try_to_vec().expect("floats"))).collect()
    }

    #[test]
    fn weights_are_the_seed_s_and_the_name_s() {
        let one = values(&layer(1));
        assert_eq!(one, values(&layer(1)));
        assert_ne!(one[0], values(&layer(2))[0]);
        assert_eq!(one[1], ("layer.bias".to_owned(), vec![0.5; 4]));
        let bound = 3f32.powf(-0.5);
        assert!(one[0].1.iter().all(|value| value.abs() <= bound), "{one:?}");
    }

    #[test]
    fn what_is_read_can_be_written_back() {
        let source = values(&layer(1));
        let mut find = |name: &str, _: &[usize]| {
            let (_, values) = source.iter().find(|(found, _)| found == name).expect("its name");
            let shape = if name.ends_with("bias") { vec![4] } else { vec![4, 3] };
            Ok(Some(TensorData::new(values.clone(), shape)))
        };
        let other = write(layer(2), "layer", None, &mut find).expect("fits");
        assert_eq!(values(&other), source);
    }
}
