//! Tensors as plain data.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::{Result, invalid};

/// A float tensor on the host: what requests and results hold, and what noise is supplied as.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostTensor {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// The values, row-major; as many as the axes multiply to.
    pub values: Vec<f32>,
}

impl HostTensor {
    /// A tensor of `shape`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`](unclip_core::Error::InvalidInput) when the values are not as many as the shape says.
    pub fn new(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Result<Self> {
        let tensor = Self { shape: shape.into(), values };
        tensor.check("values")?;
        Ok(tensor)
    }

    /// Reads a tensor back from its device.
    ///
    /// # Errors
    ///
    /// [`Error::Execution`](unclip_core::Error::Execution) when the device fails.
    pub fn read<const D: usize>(tensor: &Tensor<D>) -> Result<Self> {
        let values =
            tensor.try_to_vec_as::<f32>().map_err(|error| unclip_core::Error::Execution {
                action: "reading a tensor back",
                reason: error.to_string(),
            })?;
        Ok(Self { shape: tensor.dims().to_vec(), values })
    }

    /// The same values on `device`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`](unclip_core::Error::InvalidInput) when it has another number of axes than `D`.
    pub fn on<const D: usize>(&self, device: &Device) -> Result<Tensor<D>> {
        self.check("values")?;
        if self.shape.len() != D {
            return Err(invalid("shape", format!("{:?}", self.shape), format!("{D} axes")));
        }
        Ok(Tensor::from_data(TensorData::new(self.values.clone(), self.shape.clone()), device))
    }

    /// Demands the given shape and finite values.
    pub(crate) fn expect_shape(&self, field: &'static str, shape: &[usize]) -> Result<()> {
        self.check(field)?;
        if self.shape != shape {
            return Err(invalid(
                field,
                format!("of shape {:?}", self.shape),
                format!("shape {shape:?}"),
            ));
        }
        match self.values.iter().position(|value| !value.is_finite()) {
            Some(at) => {
                Err(invalid(field, format!("{} at {at}", self.values[at]), "finite values"))
            }
            None => Ok(()),
        }
    }

    fn check(&self, field: &'static str) -> Result<()> {
        let expected =
            self.shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis));
        if expected == Some(self.values.len()) {
            Ok(())
        } else {
            let expected = format!("the product of the axes {:?}", self.shape);
            Err(invalid(field, format!("{} values", self.values.len()), expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_disagrees_with_its_values_is_refused() {
        assert!(HostTensor::new([2, 3], vec![0.0; 6]).is_ok());
        assert!(HostTensor::new([2, 3], vec![0.0; 5]).is_err());
        assert!(HostTensor::new([usize::MAX, 3], vec![0.0; 5]).is_err(), "an overflowing product");
    }

    #[test]
    fn values_survive_the_way_to_a_device_and_back() {
        let tensor = HostTensor::new([2, 2], vec![1.0, -2.0, 3.5, 0.0]).expect("four values");
        let device = unclip_testkit::device();
        assert_eq!(
            HostTensor::read(&tensor.on::<2>(&device).expect("two axes")).expect("readable"),
            tensor
        );
        assert!(tensor.on::<3>(&device).is_err());
    }

    #[test]
    fn a_nan_among_supplied_values_is_named() {
        let tensor = HostTensor::new([2], vec![0.0, f32::NAN]).expect("two values");
        let text = tensor.expect_shape("prior_noise", &[2]).expect_err("a NaN").to_string();
        assert!(text.contains("prior_noise") && text.contains("NaN at 1"), "{text}");
    }
}
