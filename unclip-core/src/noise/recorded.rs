//! Noise that the caller supplies.

use std::{collections::VecDeque, ops::Range};

use ndarray::{ArrayD, Axis, Slice};

use super::NoiseSource;
use crate::{Error, Result};

/// Noise tensors that are handed out in order, each to a draw of exactly its shape.
///
/// ```
/// # use ndarray::array;
/// # use unclip_core::noise::{NoiseSource, RecordedNoise};
/// let mut noise = RecordedNoise::new([array![[0.5], [-1.0]].into_dyn()])?;
/// let mut second = noise.rows(1..2)?;
/// assert_eq!(noise.draw(&[2, 1])?, [0.5, -1.0]);
/// assert_eq!(second.draw(&[1, 1])?, [-1.0]);
/// assert!(noise.draw(&[2, 1]).is_err(), "nothing is left");
/// # Ok::<(), unclip_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedNoise {
    tensors: VecDeque<ArrayD<f32>>,
    drawn: usize,
}

impl RecordedNoise {
    /// A source that hands out `tensors` in order.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when a value is not finite.
    pub fn new(tensors: impl IntoIterator<Item = ArrayD<f32>>) -> Result<Self> {
        let tensors: VecDeque<_> = tensors.into_iter().collect();
        for (index, tensor) in tensors.iter().enumerate() {
            if let Some(value) = tensor.iter().find(|value| !value.is_finite()) {
                let found = format_args!("{value} in tensor {index}");
                return Err(Error::invalid("noise", found, "finite values"));
            }
        }
        Ok(Self { tensors, drawn: 0 })
    }

    /// The same noise for `rows` of the batch alone, so that a run can be cut into chunks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when a tensor has no such rows.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self> {
        let tensors = self.tensors.iter().map(|tensor| {
            let available = tensor.shape().first().copied().unwrap_or(0);
            if rows.start > rows.end || rows.end > available {
                let expected = format!("rows within {available}");
                return Err(Error::invalid("rows", format_args!("{rows:?}"), expected));
            }
            Ok(tensor.slice_axis(Axis(0), Slice::from(rows.clone())).to_owned())
        });
        Ok(Self { tensors: tensors.collect::<Result<_>>()?, drawn: self.drawn })
    }

    /// Tensors that have not been drawn yet.
    pub fn remaining(&self) -> usize {
        self.tensors.len()
    }
}

impl NoiseSource for RecordedNoise {
    fn draw(&mut self, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(next) = self.tensors.front() else {
            let found = format!("exhausted after {} tensors", self.drawn);
            return Err(Error::invalid("noise", found, format!("one more, of shape {shape:?}")));
        };
        if next.shape() != shape {
            let found = format!("of shape {:?} in tensor {}", next.shape(), self.drawn);
            return Err(Error::invalid("noise", found, format!("shape {shape:?}")));
        }
        let values = next.iter().copied().collect();
        self.tensors.pop_front();
        self.drawn += 1;
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array;

    use super::*;

    fn two() -> RecordedNoise {
        let counting = |rows: usize, columns: usize| {
            Array::from_shape_fn((rows, columns), |(r, c)| (10 * r + c) as f32).into_dyn()
        };
        RecordedNoise::new([counting(3, 2), counting(3, 1)]).expect("finite")
    }

    #[test]
    fn tensors_come_in_order_and_then_end() {
        let mut noise = two();
        assert_eq!(noise.draw(&[3, 2]).expect("the first"), [0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
        assert_eq!(noise.draw(&[3, 1]).expect("the second"), [0.0, 10.0, 20.0]);
        let error = noise.draw(&[3, 1]).expect_err("there is no third");
        assert_eq!(
            error.to_string(),
            "`noise` is exhausted after 2 tensors, expected one more, of shape [3, 1]"
        );
    }

    #[test]
    fn a_wrong_shape_is_refused_and_nothing_is_lost() {
        let mut noise = two();
        let error = noise.draw(&[2, 3]).expect_err("transposed");
        assert_eq!(
            error.to_string(),
            "`noise` is of shape [3, 2] in tensor 0, expected shape [2, 3]"
        );
        assert!(noise.draw(&[3, 2]).is_ok(), "the tensor is still there");
        assert_eq!(noise.remaining(), 1);
    }

    #[test]
    fn rows_can_be_cut_out() {
        let mut middle = two().rows(1..3).expect("three rows are there");
        assert_eq!(middle.draw(&[2, 2]).expect("cut"), [10.0, 11.0, 20.0, 21.0]);
        #[expect(
            clippy::reversed_empty_ranges,
            reason = "a reversed range is one of the bad inputs"
        )]
        for bad in [2..4, 3..2, 0..usize::MAX] {
            assert!(two().rows(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn values_that_are_no_numbers_are_refused() {
        let nan = Array::from_elem((1, 1), f32::NAN).into_dyn();
        let error = RecordedNoise::new([nan]).expect_err("not a number");
        assert_eq!(error.to_string(), "`noise` is NaN in tensor 0, expected finite values");
    }
}
