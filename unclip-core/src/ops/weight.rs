//! A layer's weight, in the layout that its operation reads.

use std::sync::{Arc, PoisonError, RwLock};

use burn::{
    module::{
        Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
        Param, ParamId,
    },
    tensor::{Device, Shape, Tensor},
};

use super::packed::Packed;

/// The weight of a convolution or a linear layer: a parameter, until an operation packs it.
///
/// A fast kernel reads weights in a layout of its own. The first forward pass that can use one brings the weight into
/// that layout and lets go of the other, so that there is one copy in memory either way. To everything that looks at a
/// module (loading, saving, mapping, training, [`val`](Self::val)) it is the parameter that it was: it is unpacked when
/// someone asks. Packing rounds nothing.
///
/// Clones share their memory until one of them is changed.
#[derive(Debug, Clone)]
pub struct Weight<const D: usize> {
    held: Arc<RwLock<Held<D>>>,
}

#[derive(Debug)]
enum Held<const D: usize> {
    Plain(Param<Tensor<D>>),
    #[cfg_attr(
        not(any(feature = "flex", test)),
        expect(dead_code, reason = "without kernels nothing is packed")
    )]
    Packed {
        /// The parameter without its value, which keeps its identity and training state.
        husk: Param<Tensor<D>>,
        shape: Shape,
        device: Device,
        packed: Arc<Packed>,
    },
}

impl<const D: usize> From<Param<Tensor<D>>> for Weight<D> {
    fn from(param: Param<Tensor<D>>) -> Self {
        Self { held: Arc::new(RwLock::new(Held::Plain(param))) }
    }
}

impl<const D: usize> Weight<D> {
    /// The value.
    pub fn val(&self) -> Tensor<D> {
        self.read(|held| match held {
            Held::Plain(param) => param.val(),
            Held::Packed { device, packed, .. } => packed.unpack(device),
        })
    }

    /// Its identity.
    pub fn id(&self) -> ParamId {
        self.read(|held| match held {
            Held::Plain(param) | Held::Packed { husk: param, .. } => param.id,
        })
    }

    /// The parameter that this is; a lazy one where the weight is packed.
    pub fn param(&self) -> Param<Tensor<D>> {
        self.read(|held| match held {
            Held::Plain(param) => param.clone(),
            Held::Packed { husk, shape, device, packed } => {
                let packed = Arc::clone(packed);
                Param::uninitialized(
                    husk.id,
                    move |device, require_grad| {
                        packed.unpack(device).set_require_grad(require_grad)
                    },
                    device.clone(),
                    false,
                    shape.clone(),
                )
            }
        })
    }

    /// The device that the value is or will be on.
    pub fn lazy_device(&self) -> Device {
        self.read(|held| match held {
            Held::Plain(param) => param.lazy_device(),
            Held::Packed { device, .. } => device.clone(),
        })
    }

    /// Whether a value has been computed or loaded.
    pub fn is_initialized(&self) -> bool {
        self.read(|held| match held {
            Held::Plain(param) => param.is_initialized(),
            Held::Packed { .. } => true,
        })
    }

    /// The sizes of the value, which is not computed for it.
    pub fn dims(&self) -> [usize; D] {
        self.read(|held| match held {
            Held::Plain(param) => param.lazy_shape().dims(),
            Held::Packed { shape, .. } => shape.dims(),
        })
    }

    /// With another value in place of this one, and the same identity and training state.
    #[must_use]
    pub fn with_value(self, change: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Self {
        self.restored().map(change).into()
    }

    /// The packed form, which is made by `pack` where there is none; none where `pack` gives none.
    ///
    /// What `pack` makes must hold the weight exactly: the weight is let go of.
    #[cfg(any(feature = "flex", test))]
    pub(super) fn packed(
        &self,
        pack: impl FnOnce(&Tensor<D>) -> Option<Packed>,
    ) -> Option<Arc<Packed>> {
        // The kernels pack on several threads, and a thread that waits for others may take up another pass through this
        // same layer: no lock is held meanwhile.
        let known = self.read(|held| match held {
            Held::Plain(param) => Err(param.clone()),
            Held::Packed { packed, .. } => Ok(Arc::clone(packed)),
        });
        let param = match known {
            Ok(packed) => return Some(packed),
            Err(param) => param,
        };
        if is_reparameterized(&param) {
            return None;
        }
        let value = param.val();
        let packed = Arc::new(pack(&value)?);
        let (shape, device) = (value.shape(), value.device());
        drop(value);
        // Mapping keeps the identity and whether training is to reach this parameter.
        let husk = param.map(|value| Tensor::empty([0; D], &value.device()));
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if let Held::Packed { packed, .. } = &*held {
            // Another thread was faster.
            return Some(Arc::clone(packed));
        }
        *held = Held::Packed { husk, shape, device, packed: Arc::clone(&packed) };
        Some(packed)
    }

    fn read<T>(&self, look: impl FnOnce(&Held<D>) -> T) -> T {
        look(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The parameter with its value and its training state.
    fn restored(self) -> Param<Tensor<D>> {
        let restore = |held: &Held<D>| match held {
            Held::Plain(param) => param.clone(),
            Held::Packed { husk, device, packed, .. } => {
                husk.clone().map(|_| packed.unpack(device))
            }
        };
        match Arc::try_unwrap(self.held).map(RwLock::into_inner) {
            // A lazy parameter that nobody shares stays lazy on its way to another device.
            Ok(Ok(Held::Plain(param))) => param,
            Ok(held) => restore(&held.unwrap_or_else(PoisonError::into_inner)),
            Err(held) => Self { held }.read(restore),
        }
    }
}

/// Whether the effective value is another than the stored one: an adapter's.
#[cfg(any(feature = "flex", test))]
fn is_reparameterized<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    struct Finder(bool);
    impl ModuleVisitor for Finder {
        fn enter_module(&mut self, _name: &str, container_type: &str) {
            self.0 |= container_type == "Reparameterization";
        }
    }
    let mut finder = Finder(false);
    param.visit(&mut finder);
    finder.0
}

impl<const D: usize> Module for Weight<D> {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        let device = self.lazy_device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn fork(self, device: &Device) -> Self {
        self.restored().fork(device).into()
    }

    fn to_device(self, device: &Device) -> Self {
        self.restored().to_device(device).into()
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.param().visit(visitor);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        Module::map(self.restored(), mapper).into()
    }

    fn train(self) -> Self {
        self.restored().train().into()
    }

    fn valid(&self) -> Self {
        match self.read(|held| matches!(held, Held::Packed { .. })) {
            // A packed weight has neither gradients nor anything to leave out.
            true => self.clone(),
            false => self.param().valid().into(),
        }
    }

    fn materialize(self) -> Self {
        match self.read(|held| matches!(held, Held::Packed { .. })) {
            true => self,
            false => self.restored().materialize().into(),
        }
    }
}

impl<const D: usize> ModuleDisplayDefault for Weight<D> {
    fn content(&self, content: Content) -> Option<Content> {
        self.param().content(content)
    }
}

impl<const D: usize> ModuleDisplay for Weight<D> {}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, FloatDType, TensorData};

    use super::*;
    use crate::ops::{LinearInput, linear};

    fn weight(dtype: FloatDType) -> (Weight<2>, TensorData, ParamId) {
        let device = Device::flex();
        let value = Tensor::<2>::random([37, 19], Distribution::Default, &device).cast(dtype);
        let param = Param::from_tensor(value.clone());
        let id = param.id;
        (param.into(), value.into_data(), id)
    }

    fn is_packed<const D: usize>(weight: &Weight<D>) -> bool {
        weight.read(|held| matches!(held, Held::Packed { .. }))
    }

    fn use_it(weight: &Weight<2>, dtype: FloatDType) {
        let x = Tensor::<2>::ones([3, 19], &Device::flex()).cast(dtype);
        let _out = linear(LinearInput::new(x), weight, None);
    }

    /// While one pass packs, and waits for the threads that help, its own may take up another pass.
    #[test]
    fn a_pass_that_packs_does_not_lock_others_out() {
        let (weight, data, _) = weight(FloatDType::F32);
        let mut others = None;
        let own = weight.packed(|value| {
            use_it(&weight, FloatDType::F32);
            others = weight.packed(|_| None);
            let values: Vec<f32> = value.to_data().try_to_vec().expect("floats");
            let format = unclip_kernels::Format::F32;
            Some(Packed(unclip_kernels::Weights::linear(&values, [37, 19], format)))
        });
        let (own, others) = (own.expect("is packed"), others.expect("is packed"));
        assert!(Arc::ptr_eq(&own, &others), "the first that is done is the one that is held");
        assert_eq!(weight.val().into_data(), data);
    }

    #[test]
    fn a_packed_weight_is_the_parameter_that_it_was() {
        struct Seen(Vec<(ParamId, TensorData)>);
        impl ModuleVisitor for Seen {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                assert_eq!(param.lazy_shape().as_slice(), [37, 19]);
                self.0.push((param.id, param.val().into_data()));
            }
        }
        for dtype in [FloatDType::F32, FloatDType::BF16] {
            let (weight, data, id) = weight(dtype);
            use_it(&weight, dtype);
            assert!(is_packed(&weight), "{dtype:?}");
            let mut seen = Seen(Vec::new());
            weight.visit(&mut seen);
            assert_eq!(seen.0, [(id, data.clone())]);
            assert_eq!((weight.id(), Module::num_params(&weight)), (id, 37 * 19));
            assert_eq!(weight.val().into_data(), data);
        }
    }

    #[test]
    fn mapping_gives_a_parameter_and_leaves_other_clones_alone() {
        struct Doubler;
        impl ModuleMapper for Doubler {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|value| value * 2.0)
            }
        }
        let (weight, data, id) = weight(FloatDType::F32);
        use_it(&weight, FloatDType::F32);
        let mapped = weight.clone().map(&mut Doubler);
        assert_eq!(mapped.id(), id);
        assert_eq!(mapped.val().into_data(), (weight.val() * 2.0).into_data());
        assert_eq!(weight.val().into_data(), data);
    }

    #[test]
    fn only_what_packing_would_not_round_is_replaced() {
        let (weight, data, _) = weight(FloatDType::F32);
        use_it(&weight, FloatDType::BF16);
        assert!(!is_packed(&weight), "a 32-bit weight was let go of for a 16-bit one");
        assert_eq!(weight.val().into_data(), data);
    }
}
