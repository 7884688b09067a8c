//! Classifier-free guidance.
//!
//! Ho & Salimans 2022. The reference runs both halves as one batch, `[all unconditional, all conditional]`.

use burn::tensor::Tensor;

/// `uncond + scale · (cond − uncond)`.
///
/// # Shapes
///
/// - `cond`, `uncond`: equal
/// - output: the same; equal to `cond` (up to rounding) when `scale` is 1
///
/// # Panics
///
/// When the shapes differ.
pub fn guide<const D: usize>(cond: Tensor<D>, uncond: Tensor<D>, scale: f64) -> Tensor<D> {
    (cond - uncond.clone()) * scale + uncond
}

/// [`guide`] on the output of a doubled batch.
///
/// # Shapes
///
/// - `output`: `[2·batch, ..]`, unconditional rows first
/// - output: `[batch, ..]`
///
/// # Panics
///
/// When the first axis is odd.
pub fn guide_halves<const D: usize>(output: Tensor<D>, scale: f64) -> Tensor<D> {
    let (uncond, cond) = halves(output, 0);
    guide(cond, uncond, scale)
}

/// [`guide_halves`] for a network that also predicts variances: the first half of the channels is mixed, the second
/// half (the variance) is the conditional one, unmixed.
///
/// # Shapes
///
/// - `output`: `[2·batch, 2·channels, ..]`, unconditional rows first
/// - output: `[batch, 2·channels, ..]`
///
/// # Panics
///
/// When one of the first two axes is odd.
pub fn guide_halves_learned_range<const D: usize>(output: Tensor<D>, scale: f64) -> Tensor<D> {
    let (uncond, cond) = halves(output, 0);
    let (uncond, _) = halves(uncond, 1);
    let (cond, variance) = halves(cond, 1);
    Tensor::cat(vec![guide(cond, uncond, scale), variance], 1)
}

/// The two halves of `axis`.
fn halves<const D: usize>(x: Tensor<D>, axis: usize) -> (Tensor<D>, Tensor<D>) {
    let size = x.dims()[axis];
    assert!(size.is_multiple_of(2), "axis {axis} holds {size} entries, expected an even number");
    (x.clone().narrow(axis, 0, size / 2), x.narrow(axis, size / 2, size / 2))
}

#[cfg(test)]
mod tests {
    use unclip_testkit::device;

    use super::*;

    fn floats<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
        tensor.try_to_vec_as().expect("readable floats")
    }

    #[test]
    fn unconditional_rows_come_first() {
        let output = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 6.0]], &device());
        assert_eq!(floats(&guide_halves(output.clone(), 4.0)), [9.0, 18.0]);
        assert_eq!(floats(&guide_halves(output.clone(), 1.0)), [3.0, 6.0]);
        assert_eq!(floats(&guide_halves(output, 0.0)), [1.0, 2.0]);
    }

    #[test]
    fn variances_are_taken_from_the_conditional_half() {
        let output = Tensor::<2>::from_floats([[1.0, 10.0], [3.0, 20.0]], &device());
        assert_eq!(floats(&guide_halves_learned_range(output, 2.0)), [5.0, 20.0]);
    }

    #[test]
    #[should_panic(expected = "axis 0 holds 3 entries")]
    fn an_odd_batch_is_a_caller_s_mistake() {
        guide_halves(Tensor::<2>::zeros([3, 2], &device()), 2.0);
    }
}
