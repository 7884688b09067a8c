//! Packed weights: those of the processor kernels where they are built in, and nothing elsewhere.

use burn::tensor::{Device, Tensor};

/// A weight in the layout of a kernel.
#[cfg(any(feature = "flex", test))]
#[derive(Debug)]
pub(super) struct Packed(pub(super) unclip_kernels::Weights);

#[cfg(any(feature = "flex", test))]
impl Packed {
    /// The weight as it was.
    pub(super) fn unpack<const D: usize>(&self, device: &Device) -> Tensor<D> {
        use burn::tensor::TensorData;
        use unclip_kernels::Values;

        let [rows, columns] = self.0.kernel();
        let shape = [self.0.channels_out(), self.0.channels_in(), rows, columns];
        // A linear layer's weight has two axes, and a kernel of one tap.
        let shape: [usize; D] = std::array::from_fn(|axis| shape[axis]);
        match self.0.unpack() {
            Values::F32(values) => Tensor::from_data(TensorData::new(values, shape), device),
            Values::Bf16(values) => {
                let dtype = burn::tensor::DType::BF16;
                Tensor::from_data(TensorData::new(values, shape), (device, dtype))
            }
        }
    }
}

/// Without kernels there is no such layout.
#[cfg(not(any(feature = "flex", test)))]
#[derive(Debug)]
pub(super) enum Packed {}

#[cfg(not(any(feature = "flex", test)))]
impl Packed {
    pub(super) fn unpack<const D: usize>(&self, _device: &Device) -> Tensor<D> {
        match *self {}
    }
}
