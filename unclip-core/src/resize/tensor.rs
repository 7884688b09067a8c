//! Bicubic resampling of tensors, as two products with constant matrices.

use burn::tensor::{Tensor, TensorData};

use super::{Filter, kernel};
use crate::{Error, Result};

/// The most weights that one resampling matrix may hold: 2²⁴, 64 MiB, enough for 4096 to 4096.
const MAX_WEIGHTS: usize = 1 << 24;

/// Resamples the last two axes with the antialiased cubic kernel.
///
/// Equals PyTorch's `interpolate(x, (height, width), mode="bicubic", align_corners=False, antialias=True)`. Values may
/// overshoot the range of the input; they are not clamped.
///
/// # Shapes
///
/// - `x`: `[batch, channels, rows, columns]`
/// - output: `[batch, channels, height, width]`
///
/// # Errors
///
/// [`Error::InvalidInput`] when a size is 0, or so large that a matrix would hold more than 2²⁴ weights.
pub fn resize_bicubic(x: Tensor<4>, height: usize, width: usize) -> Result<Tensor<4>> {
    let [batch, channels, rows, columns] = x.dims();
    for (field, input, output) in [("height", rows, height), ("width", columns, width)] {
        let weights = input.checked_mul(output);
        if !weights.is_some_and(|weights| (1..=MAX_WEIGHTS).contains(&weights)) {
            let expected = format!("sizes above 0 with a product of at most {MAX_WEIGHTS}");
            return Err(Error::invalid(field, format_args!("{input} to {output}"), expected));
        }
    }
    if batch == 0 || channels == 0 {
        let found = format_args!("{batch} pictures of {channels} channels");
        return Err(Error::invalid("picture", found, "at least one of each"));
    }
    let planes = batch * channels;
    let across = matrix(columns, width, &x);
    let down = matrix(rows, height, &x);
    let wide = x.reshape([planes * rows, columns]).matmul(across);
    let turned = wide.reshape([planes, rows, width]).swap_dims(1, 2);
    let sized = turned.reshape([planes * width, rows]).matmul(down);
    let upright = sized.reshape([planes, width, height]).swap_dims(1, 2);
    Ok(upright.reshape([batch, channels, height, width]))
}

/// The matrix `[input, output]` that resamples a row, on the device and in the type of `like`.
#[expect(clippy::cast_possible_truncation, reason = "tensors are at most 32 bits wide")]
fn matrix(input: usize, output: usize, like: &Tensor<4>) -> Tensor<2> {
    let mut values = vec![0f32; input * output];
    for (column, window) in kernel::windows(input, output, Filter::Bicubic).into_iter().enumerate()
    {
        for (row, weight) in (window.first..).zip(window.weights) {
            values[row * output + column] = weight as f32;
        }
    }
    let data = TensorData::new(values, [input, output]);
    Tensor::<2>::from_data(data, &like.device()).cast(like.dtype())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unclip_testkit::{device, fixture_sets, is_default_device};

    use super::*;

    #[test]
    fn recorded_resizes_are_reproduced() {
        let bound = if is_default_device() { 2e-6 } else { 2e-5 };
        for set in fixture_sets() {
            let recorded = set.tensors("resize");
            for case in 0..5 {
                let name = format!("out.{case}");
                let x = recorded.tensor(&format!("in.{case}"), &device());
                let [.., height, width] = *recorded.shape(&name) else { panic!("{name} has axes") };
                let resized = resize_bicubic(x, height, width).expect("valid sizes");
                let error = unclip_testkit::assert_close(&resized, &recorded, &name, bound);
                println!("{} {name}: {:.1e}", set.name(), error.max_abs);
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        let x = || Tensor::<4>::zeros([1, 1, 4, 4], &device());
        for (height, width, field) in [
            (0, 4, "`height`"),
            (4, 0, "`width`"),
            (usize::MAX, 4, "`height`"),
            (4, 1 << 23, "`width`"),
        ] {
            let error = resize_bicubic(x(), height, width).expect_err("impossible").to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_constant_stays_constant(
            rows in 1usize..40,
            columns in 1usize..40,
            height in 1usize..60,
            width in 1usize..60,
            value in -4f32..4.0,
        ) {
            let x = Tensor::<4>::full([2, 1, rows, columns], value, &device());
            let resized = resize_bicubic(x, height, width).expect("valid sizes");
            prop_assert_eq!(resized.dims(), [2, 1, height, width]);
            for found in resized.try_to_vec_as::<f32>().expect("floats") {
                prop_assert!((found - value).abs() < 1e-5, "{} became {}", value, found);
            }
        }
    }
}
