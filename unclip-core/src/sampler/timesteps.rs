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
    let spacing = match config.kind {
        SamplerKind::UnClip => Spacing::Linspace,
        _ => config.spacing(),
    };
    // DPM-Solver++ ends at the clean sample, so the last of its points is no timestep to visit. With as many steps as
    // timesteps, its leading spacing would visit timestep 0 alone.
    let beyond = usize::from(config.kind == SamplerKind::DpmSolverPp2M);
    let most = if spacing == Spacing::Leading { trained.saturating_sub(beyond) } else { trained };
    if !(fewest..=most).contains(&count) {
        return Err(Error::invalid("steps", count, format!("{fewest} to {most}")));
    }
    let (n, points) = (trained as f64, (count + beyond) as f64);
    let descending = (0..count).map(|i| (count + beyond - 1 - i) as f64);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn karlo_s_ties_go_to_even() {
        let config = SamplerConfig::karlo_prior();
        assert_eq!(timesteps(&config, 7).expect("valid"), [999, 832, 666, 500, 333, 166, 0]);
        let expected = [
            999, 957, 916, 874, 832, 791, 749, 708, 666, 624, 583, 541, 500, 458, 416, 375, 333,
            291, 250, 208, 166, 125, 83, 42, 0,
        ];
        assert_eq!(timesteps(&config, 25).expect("valid"), expected);
    }

    #[test]
    fn absurd_numbers_of_steps_are_refused() {
        for kind in ["unclip", "ddpm", "ddim", "dpm_solver_pp_2m"] {
            let kind: SamplerKind = kind.parse().expect("a name");
            let config = SamplerConfig::karlo_prior().with_kind(kind);
            for steps in [0, 1001, 10_000, usize::MAX] {
                let error = timesteps(&config, steps).expect_err("absurd");
                assert!(matches!(error, Error::InvalidInput { field: "steps", .. }), "{error}");
            }
            assert_eq!(timesteps(&config, 1).is_ok(), kind != SamplerKind::UnClip, "{kind}");
        }
        let error = timesteps(&SamplerConfig::karlo_prior(), 1).expect_err("divides by zero");
        assert_eq!(error.to_string(), "`steps` is 1, expected 2 to 1000");
    }

    #[test]
    fn every_number_of_steps_gives_descending_timesteps_within_the_table() {
        for kind in ["unclip", "ddpm", "ddim", "dpm_solver_pp_2m"] {
            for spacing in [Spacing::Leading, Spacing::Linspace, Spacing::Trailing] {
                for trained in [1, 2, 10, 37, 1000] {
                    let kind: SamplerKind = kind.parse().expect("a name");
                    let config = SamplerConfig {
                        spacing: Some(spacing),
                        train_timesteps: trained,
                        ..SamplerConfig::karlo_prior().with_kind(kind)
                    };
                    for steps in 1..=trained {
                        let Ok(visited) = timesteps(&config, steps) else {
                            let solver = kind == SamplerKind::DpmSolverPp2M;
                            let all = solver && spacing == Spacing::Leading && steps == trained;
                            let one = kind == SamplerKind::UnClip && steps == 1;
                            assert!(all || one, "{kind} {spacing:?} {steps} of {trained}");
                            continue;
                        };
                        assert_eq!(visited.len(), steps);
                        assert!(visited[0] < trained, "{kind} {spacing:?} {trained} {visited:?}");
                        assert!(
                            visited.is_sorted_by(|a, b| a >= b),
                            "{kind} {spacing:?} {trained} {visited:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_offset_beyond_the_table_is_refused() {
        let config = SamplerConfig {
            steps_offset: 1,
            ..SamplerConfig::karlo_prior().with_kind(SamplerKind::Ddpm)
        };
        assert_eq!(timesteps(&config, 2).expect("fits"), [501, 1]);
        let error = timesteps(&config, 1000).expect_err("1000 is beyond the table");
        assert!(matches!(error, Error::InvalidInput { field: "steps_offset", .. }), "{error}");
        let config = SamplerConfig { steps_offset: usize::MAX, ..config };
        assert!(timesteps(&config, 2).is_err(), "an absurd offset");
    }
}
