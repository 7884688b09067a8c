//! In which type the networks compute.

use burn::tensor::{Device, FloatDType};
use unclip_core::{checkpoint::WeightPrecision, device::multiplies_bf16};

/// In which type the prior, the decoder and the upsamplers compute.
///
/// Sums, normalisation, softmax, what becomes of a timestep, guidance and the samplers' own arithmetic are in 32 bits
/// whatever this says, and so are CLIP's encoders, which run once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Products of 32-bit numbers: what the reference computes.
    #[default]
    F32,
    /// Products of 16-bit numbers (`bf16`), between layers that hand each other such numbers.
    ///
    /// Weights are held in `bf16` too, unless [`weights`](crate::PipelineBuilder::weights) names another type.
    Bf16,
    /// [`Bf16`](Self::Bf16) where the device is a processor that multiplies such numbers itself (AMX, AVX-512 BF16),
    /// where it is several times as fast; [`F32`](Self::F32) elsewhere.
    Auto,
}

impl Precision {
    /// The type of activations on `device`, where it is not that of the input.
    pub(crate) fn activations(self, device: &Device) -> Option<FloatDType> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(FloatDType::BF16),
            Self::Auto => multiplies_bf16(device).then_some(FloatDType::BF16),
        }
    }
}

/// The type to hold weights in: the one asked for, or else that of the activations, or else that of the files.
pub(crate) fn weights(
    asked: Option<WeightPrecision>,
    activations: Option<FloatDType>,
) -> WeightPrecision {
    asked.unwrap_or(match activations {
        Some(FloatDType::BF16) => WeightPrecision::Bf16,
        _ => WeightPrecision::Stored,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_the_activations_unless_asked() {
        assert_eq!(weights(None, None), WeightPrecision::Stored);
        assert_eq!(weights(None, Some(FloatDType::BF16)), WeightPrecision::Bf16);
        assert_eq!(
            weights(Some(WeightPrecision::F32), Some(FloatDType::BF16)),
            WeightPrecision::F32
        );
    }

    #[test]
    fn auto_is_one_of_the_other_two() {
        let device = Device::flex();
        let expected = multiplies_bf16(&device).then_some(FloatDType::BF16);
        assert_eq!(Precision::Auto.activations(&device), expected);
        assert_eq!(Precision::F32.activations(&device), None);
    }
}
