//! A decoder's loss by the noise it was asked to remove.

use unclip_core::Error as CoreError;

use crate::Result;

/// Mean losses over equal ranges of time steps.
///
/// The gap between training and held-out pictures, bin by bin, shows where a decoder begins to learn pictures by heart.
///
/// ```
/// # use unclip_train::metrics::NoiseBins;
/// let mut bins = NoiseBins::new(4, 1000)?;
/// bins.add(10, 0.5)?;
/// bins.add(20, 0.7)?;
/// bins.add(999, 0.1)?;
/// assert_eq!(bins.means(), [Some(0.6), None, None, Some(0.1)]);
/// # Ok::<(), unclip_train::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseBins {
    steps: usize,
    sums: Vec<(f64, usize)>,
}

impl NoiseBins {
    /// `bins` ranges over a process of `steps` time steps, least noisy first.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when `bins` is 0 or above `steps`.
    pub fn new(bins: usize, steps: usize) -> Result<Self> {
        match (1..=steps).contains(&bins) {
            true => Ok(Self { steps, sums: vec![(0.0, 0); bins] }),
            false => Err(CoreError::invalid("bins", bins, format!("1 to {steps}")).into()),
        }
    }

    /// Notes the loss of one sample at a time step.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when `step` is beyond the process, or `loss` is not finite.
    pub fn add(&mut self, step: usize, loss: f64) -> Result<()> {
        if !loss.is_finite() {
            return Err(CoreError::invalid("loss", loss, "a finite number").into());
        }
        let bin = step * self.sums.len() / self.steps;
        let Some((sum, count)) = self.sums.get_mut(bin) else {
            return Err(CoreError::invalid("step", step, format!("below {}", self.steps)).into());
        };
        *sum += loss;
        *count += 1;
        Ok(())
    }

    /// The mean loss of each range; none where nothing was noted.
    pub fn means(&self) -> Vec<Option<f64>> {
        self.sums.iter().map(|(sum, count)| (*count > 0).then(|| sum / *count as f64)).collect()
    }

    /// The ranges of time steps.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (bins, steps) = (self.sums.len(), self.steps);
        let start = move |bin: usize| (bin * steps).div_ceil(bins);
        (0..bins).map(move |bin| start(bin)..start(bin + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_in_the_range_that_says_so() {
        for (bins, steps) in [(10, 1000), (7, 1000), (3, 4), (4, 4)] {
            let ranges: Vec<_> = NoiseBins::new(bins, steps).expect("valid").ranges().collect();
            for step in 0..steps {
                let mut noted = NoiseBins::new(bins, steps).expect("valid");
                noted.add(step, 1.0).expect("a step of the process");
                let bin = noted.means().iter().position(Option::is_some).expect("was noted");
                assert!(ranges[bin].contains(&step), "{step} of {steps} in {bin} of {bins}");
            }
        }
    }

    #[test]
    fn what_is_no_measurement_is_refused() {
        let mut bins = NoiseBins::new(2, 10).expect("valid");
        assert!(bins.add(10, 1.0).is_err(), "beyond the last step");
        assert!(bins.add(0, f64::NAN).is_err(), "no number");
        assert_eq!(bins.means(), [None, None]);
        assert!(NoiseBins::new(0, 10).is_err(), "no ranges");
        assert!(NoiseBins::new(11, 10).is_err(), "empty ranges");
    }
}
