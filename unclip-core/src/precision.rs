//! In which type networks compute.

use std::str::FromStr;

use burn::tensor::{Device, FloatDType};
use serde::{Deserialize, Serialize};

use crate::{Error, device::multiplies_bf16};

/// In which type a network computes, when pictures are drawn and when it is trained.
///
/// Sums, normalisation, softmax, what becomes of a timestep, losses, guidance and the samplers' own arithmetic are in
/// 32 bits whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Products of 32-bit numbers: what the reference computes.
    #[default]
    F32,
    /// Products of 16-bit numbers (`bf16`), between layers that hand each other such numbers.
    Bf16,
    /// [`Bf16`](Self::Bf16) where the device is a processor that multiplies such numbers itself (AMX, AVX-512 BF16),
    /// where it is several times as fast; [`F32`](Self::F32) elsewhere.
    Auto,
}

impl Precision {
    /// The type of activations on `device`, where it is not that of the input.
    pub fn activations(self, device: &Device) -> Option<FloatDType> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(FloatDType::BF16),
            Self::Auto => multiplies_bf16(device).then_some(FloatDType::BF16),
        }
    }
}

/// From `f32`, `bf16` or `auto`.
impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "auto" => Ok(Self::Auto),
            _ => Err(Error::invalid("precision", name, "f32, bf16 or auto")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_one_of_the_other_two() {
        let device = Device::flex();
        let expected = multiplies_bf16(&device).then_some(FloatDType::BF16);
        assert_eq!(Precision::Auto.activations(&device), expected);
        assert_eq!(Precision::F32.activations(&device), None);
    }

    #[test]
    fn names_are_those_of_configurations() {
        for name in ["f32", "bf16", "auto"] {
            let precision: Precision = name.parse().expect("a known name");
            assert_eq!(serde_json::to_value(precision).expect("JSON"), name);
        }
        let error = "f16".parse::<Precision>().expect_err("not a precision");
        assert!(error.to_string().contains("f32, bf16 or auto"), "{error}");
    }

    #[test]
    fn a_device_that_records_gradients_is_the_same_processor() {
        let device = Device::flex();
        let recording = device.clone().autodiff();
        assert_eq!(Precision::Auto.activations(&recording), Precision::Auto.activations(&device));
    }
}
