//! In which type weights are held.

use burn::tensor::FloatDType;
use unclip_core::checkpoint::WeightPrecision;

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
}
