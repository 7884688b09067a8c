//! Activations.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// An activation, under the names that configurations use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · σ(x)`.
    #[serde(alias = "swish")]
    Silu,
    /// The exact Gaussian error linear unit.
    Gelu,
    /// `x · σ(1.702 x)`, OpenAI's CLIP.
    QuickGelu,
}

impl Activation {
    /// The names that [`from_name`](Self::from_name) knows, for error messages.
    pub const NAMES: &str = "\"silu\", \"swish\", \"gelu\" or \"quick_gelu\"";

    /// The activation called `name` in diffusers and transformers configurations.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "gelu" => Some(Self::Gelu),
            "quick_gelu" => Some(Self::QuickGelu),
            _ => None,
        }
    }

    /// Applies it to each value.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => silu(x),
            Self::Gelu => gelu(x),
            Self::QuickGelu => quick_gelu(x),
        }
    }

    #[cfg(any(feature = "flex", test))]
    pub(super) fn kernel(self) -> unclip_kernels::Activation {
        match self {
            Self::Silu => unclip_kernels::Activation::Silu,
            Self::Gelu => unclip_kernels::Activation::Gelu,
            Self::QuickGelu => unclip_kernels::Activation::QuickGelu,
        }
    }
}

/// `x · σ(x)`, also called swish.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::activate(&x, Activation::Silu.kernel()) {
        return out;
    }
    activation::silu(x)
}

/// The exact Gaussian error linear unit, `x · Φ(x)` (not the tanh approximation).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::activate(&x, Activation::Gelu.kernel()) {
        return out;
    }
    activation::gelu(x)
}

/// `x · σ(1.702 x)`, the activation of OpenAI's CLIP.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::activate(&x, Activation::QuickGelu.kernel()) {
        return out;
    }
    activation::sigmoid(x.clone() * 1.702) * x
}
