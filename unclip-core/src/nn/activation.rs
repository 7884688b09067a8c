//! The activation that a configuration names.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::ops;

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
            Self::Silu => ops::silu(x),
            Self::Gelu => ops::gelu(x),
            Self::QuickGelu => ops::quick_gelu(x),
        }
    }
}
