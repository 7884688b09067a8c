//! Which training timesteps a run visits.

use serde::{Deserialize, Serialize};

use super::{SamplerConfig, SamplerKind};
use crate::{Error, Result};

/// How a run's timesteps spread over the training timesteps (Lin et al. 2024, table 2).
///
/// With `n` training timesteps and `k` steps:
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// `i · ⌊n / k⌋`, then `steps_offset` added: ends at the offset, starts below the last timestep.
    Leading,
    /// Equal steps from 0 to `n − 1`, rounded: both ends are visited.
    Linspace,
    /// `n − i · n / k`, rounded, minus 1: starts at the last timestep, ends above 0.
    Trailing,
}

/// The timesteps of a run of `count` steps, noisiest first. All roundings are half to even.
///
/// # Errors
///
/// [`Error::InvalidInput`] when `count` or the offset does not fit.
pub(super) fn timesteps(config: &SamplerConfig, count: usize) -> Result<Vec<usize>> {
    let trained = config.train_timesteps;
    // Karlo's spacing divides by `count - 1`.
    let fewest = if config.kind == SamplerKind::UnClip { 2 } else { 1 };
    if !(fewest..=trained).contains(&count) {
        return Err(Error::invalid("steps", count, format!("{fewest} to {trained}")));
    }
    // DPM-Solver++ ends at the clean sample, so the last of its points is no timestep to visit.
    let beyond = usize::from(config.kind == SamplerKind::DpmSolverPp2M);
    let (n, points) = (trained as f64, (count + beyond) as f64);
    let descending = (0..count).map(|i| (count + beyond - 1 - i) as f64);
    let spacing = match config.kind {
        SamplerKind::UnClip => Spacing::Linspace,
        _ => config.spacing(),
    };
    let spaced: Vec<f64> = match spacing {
        Spacing::Linspace if points < 2.0 => vec![0.0],
        Spacing::Linspace => {
            let step = (n - 1.0) / (points - 1.0);
            descending.map(|i| (i * step).min(n - 1.0).round_ties_even()).collect()
        }
        Spacing::Leading => {
            let step = (trained / (count + beyond)) as f64;
            descending.map(|i| i * step + config.steps_offset as f64).collect()
        }
        Spacing::Trailing => {
            // The step as NumPy's `arange` has it: the difference of its first two values.
            let step = (n - n / count as f64) - n;
            (0..count).map(|i| (n + i as f64 * step).round_ties_even().max(1.0) - 1.0).collect()
        }
    };
    if let Some(first) = spaced.first().filter(|&&first| first >= n) {
        let offset = config.steps_offset;
        let expected = format!("less: the first timestep would be {first}, of {trained}");
        return Err(Error::invalid("steps_offset", offset, expected));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole numbers from 0 to the number of training timesteps"
    )]
    Ok(spaced.into_iter().map(|t| t as usize).collect())
}
