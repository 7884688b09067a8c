//! Convolutions and linear layers.

use half::bf16;
use proptest::prelude::*;
use unclip_kernels::{
    Activation, Conv, Epilogue, Format, Input, Resample, Size, Weights, cpu::Path, linear,
};

use crate::reference::{
    FORMATS, ROUNDING, Shape, Sum, assert_sums, cases, forward, noise, rounded, shapes, wide,
};

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn convolutions_are_sums_over_windows(shape in shapes(), seed in any::<u64>()) {
        let input = noise(shape.input.pixels() * shape.channels_in, seed);
        let values = noise(shape.weights(), seed ^ 1);
        for format in FORMATS {
            let expected = forward(&shape, &wide(&input, format), &wide(&values, format));
            let weights = Weights::conv(&values, shape.weight_shape(), format);
            let conv = shape.conv();
            prop_assert_eq!(conv.output_size(shape.input), shape.output());
            for path in Path::available() {
                let mut output = vec![f32::NAN; expected.len()];
                conv.forward(path, &weights, Input::new(&input, shape.input), Epilogue::new(), &mut output);
                assert_sums(&output, &expected, ROUNDING, &(path, format, shape));
            }
        }
    }

    #[test]
    fn linear_layers_are_products_of_matrices(
        rows in 1..80usize, channels_in in 1..200usize, channels_out in 1..100usize, seed in any::<u64>(),
    ) {
        let shape = Shape {
            input: Size::new(1, rows, 1), channels_in, channels_out, kernel: 1, stride: 1, padding: 0,
        };
        let x = noise(rows * channels_in, seed);
        let values = noise(shape.weights(), seed ^ 1);
        for format in FORMATS {
            let expected = forward(&shape, &wide(&x, format), &wide(&values, format));
            let weights = Weights::linear(&values, [channels_out, channels_in], format);
            for path in Path::available() {
                let mut output = vec![f32::NAN; expected.len()];
                linear(path, &weights, &x, Epilogue::new(), &mut output);
                assert_sums(&output, &expected, ROUNDING, &(path, format, rows, channels_in, channels_out));
            }
        }
    }

    #[test]
    fn what_stands_before_and_after_is_fused(shape in shapes(), kind in 0..3usize, seed in any::<u64>()) {
        let resample = [Resample::Keep, Resample::Double, Resample::Halve][kind];
        let seen = match resample {
            Resample::Keep => shape.input,
            Resample::Double => Size::new(shape.input.batch, 2 * shape.input.height, 2 * shape.input.width),
            Resample::Halve => Size::new(shape.input.batch, shape.input.height / 2, shape.input.width / 2),
        };
        prop_assume!(seen.height + 2 * shape.padding >= shape.kernel && seen.width + 2 * shape.padding >= shape.kernel);
        let (channels_in, channels_out) = (shape.channels_in, shape.channels_out);
        let input = noise(shape.input.pixels() * channels_in, seed);
        let values = noise(shape.weights(), seed ^ 1);
        let per_image = shape.input.batch * channels_in;
        let (scale, shift) = (noise(per_image, seed ^ 2), noise(per_image, seed ^ 3));
        let seen_shape = Shape { input: seen, ..shape };
        let output_len = seen_shape.output().pixels() * channels_out;
        let bias = noise(channels_out, seed ^ 4);
        let image_bias = noise(shape.input.batch * channels_out, seed ^ 5);
        let residual = noise(output_len, seed ^ 6);
        // Either is written by a loop of its own where the other is absent.
        let (activated, rectified) = (seed & 1 == 0, seed & 2 == 0);

        let normalised: Vec<f64> = input.iter().enumerate().map(|(at, value)| {
            let channel = at / (shape.input.height * shape.input.width * channels_in) * channels_in + at % channels_in;
            let value = f64::from(*value) * f64::from(scale[channel]) + f64::from(shift[channel]);
            value / (1.0 + (-value).exp())
        }).collect();
        let at = |image: usize, row: usize, column: usize, channel: usize| {
            normalised[((image * shape.input.height + row) * shape.input.width + column) * channels_in + channel]
        };
        let resampled: Vec<f64> = (0..seen.pixels() * channels_in).map(|index| {
            let (pixel, channel) = (index / channels_in, index % channels_in);
            let (image, row, column) =
                (pixel / (seen.height * seen.width), pixel / seen.width % seen.height, pixel % seen.width);
            match resample {
                Resample::Keep => at(image, row, column, channel),
                Resample::Double => at(image, row / 2, column / 2, channel),
                Resample::Halve => {
                    let corner = |y: usize, x: usize| at(image, 2 * row + y, 2 * column + x, channel);
                    (corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)) / 4.0
                }
            }
        }).collect();

        for format in FORMATS {
            let seen: Vec<f64> = resampled.iter().map(|value| rounded(*value, format)).collect();
            let sums = forward(&seen_shape, &seen, &wide(&values, format));
            let per_image = output_len / shape.input.batch;
            let expected: Vec<Sum> = sums.iter().enumerate().map(|(at, sum)| {
                let channel = at % channels_out;
                let image = at / per_image;
                let value = sum.value
                    + f64::from(bias[channel])
                    + f64::from(image_bias[image * channels_out + channel]);
                let value = if activated { value / (1.0 + (-value).exp()) } else { value };
                let value = value + f64::from(residual[at]);
                let value = if rectified { value.max(0.0) } else { value };
                Sum { value, magnitude: sum.magnitude + 3.0 }
            }).collect();
            // A value whose f32 and f64 forms round to neighbouring bf16 shifts its terms by one such step, 1/128 at most. Of one
            // channel, doubled, these are all there are.
            // Windows may be filtered in blocks of 4 × 4 pixels from that many on, with the bound of the test below.
            let Size { height, width, .. } = seen_shape.input;
            let in_blocks = shape.kernel == 3 && shape.stride == 1 && height * width >= 32 * 32;
            let bound = match format {
                Format::F32 if in_blocks => 5e-6,
                Format::F32 => ROUNDING,
                Format::Bf16 => (9e-3 / channels_in as f64).max(1e-3),
            };
            let weights = Weights::conv(&values, shape.weight_shape(), format);
            let conv = shape.conv().resample(resample);
            for path in Path::available() {
                let mut output = vec![f32::NAN; output_len];
                conv.forward(
                    path,
                    &weights,
                    Input::new(&input, shape.input).scale_shift(&scale, &shift).silu(),
                    Epilogue::new()
                        .bias(&bias)
                        .image_bias(&image_bias)
                        .activation(if activated { Activation::Silu } else { Activation::Identity })
                        .residual(&residual)
                        .rectified(rectified),
                    &mut output,
                );
                assert_sums(&output, &expected, bound, &(path, format, shape, resample));
            }
        }
    }
}

/// Enough pixels and channels for minimal filtering, on sides that no block divides, by channels that are met in slices.
#[test]
fn enough_pixels_of_enough_channels_are_filtered_in_32_bits() {
    for (resample, height, width, channels_in, channels_out, bound) in [
        // Without AVX-512.
        (Resample::Keep, 8, 8, 128, 130, 5e-7),
        (Resample::Keep, 9, 11, 30, 27, 5e-7),
        (Resample::Double, 10, 8, 24, 24, 5e-7),
        (Resample::Keep, 17, 16, 300, 240, 5e-7),
        (Resample::Keep, 33, 32, 25, 24, 5e-6),
        // With it, too.
        (Resample::Keep, 25, 27, 70, 50, 5e-7),
        (Resample::Keep, 24, 40, 330, 48, 5e-7),
        (Resample::Double, 26, 34, 64, 101, 5e-7),
        // In blocks of 4 × 4.
        (Resample::Keep, 49, 54, 70, 50, 5e-6),
        (Resample::Keep, 47, 51, 330, 48, 5e-6),
        (Resample::Double, 46, 54, 64, 101, 5e-6),
    ] {
        let seen = Size::new(2, height, width);
        let shape =
            Shape { input: seen, channels_in, channels_out, kernel: 3, stride: 1, padding: 1 };
        let values = noise(shape.weights(), 1);
        let size = match resample {
            Resample::Double => Size::new(2, height / 2, width / 2),
            _ => seen,
        };
        let input = noise(size.pixels() * channels_in, 2);
        let wide = wide(&input, Format::F32);
        let resampled: Vec<f64> = (0..seen.pixels() * channels_in)
            .map(|at| {
                let (pixel, channel) = (at / channels_in, at % channels_in);
                let (row, column) = (pixel / width, pixel % width);
                let divisor = seen.height / size.height;
                wide[(row / divisor * size.width + column / divisor) * channels_in + channel]
            })
            .collect();
        let expected = forward(&shape, &resampled, &crate::reference::wide(&values, Format::F32));
        let bias = noise(channels_out, 3);
        let weights = Weights::conv(&values, shape.weight_shape(), Format::F32);
        for path in Path::available() {
            let mut output = vec![f32::NAN; expected.len()];
            shape.conv().resample(resample).forward(
                path,
                &weights,
                Input::new(&input, size),
                Epilogue::new().bias(&bias),
                &mut output,
            );
            output.iter_mut().enumerate().for_each(|(at, sum)| *sum -= bias[at % channels_out]);
            assert_sums(&output, &expected, bound, &(path, shape));
        }
    }
}

/// Where windows are filtered in blocks, a block's other pixels may see it too.
#[test]
fn what_is_not_finite_reaches_its_own_windows_and_hardly_others() {
    let channels = 64;
    let weights =
        Weights::conv(&vec![1.0f32; 48 * channels * 9], [48, channels, 3, 3], Format::F32);
    for (side, block) in [(30, 2), (64, 4)] {
        let size = Size::new(1, side, side);
        for (path, value) in
            Path::available().flat_map(|path| [f32::INFINITY, f32::NAN].map(|value| (path, value)))
        {
            let mut input = vec![1.0f32; size.pixels() * channels];
            input[(9 * side + 12) * channels + 5] = value;
            let mut output = vec![0.0f32; size.pixels() * 48];
            Conv::new(3).padding(1).forward(
                path,
                &weights,
                Input::new(&input, size),
                Epilogue::new(),
                &mut output,
            );
            for (pixel, sums) in output.chunks(48).enumerate() {
                let (row, column) = (pixel / side, pixel % side);
                let extent = |at: usize| 3.0 - f32::from(u8::from(at == 0 || at == side - 1));
                let expected = extent(row) * extent(column) * 64.0;
                let distance = row.abs_diff(9).max(column.abs_diff(12));
                if distance <= 1 {
                    assert!(sums.iter().all(|sum| !sum.is_finite()), "{path}: {row}, {column}");
                } else if distance > block {
                    let near = |sum: &f32| (sum - expected).abs() <= 1e-5 * expected;
                    assert!(sums.iter().all(near), "{path}: {row}, {column}");
                }
            }
        }
    }
}

#[test]
fn sums_of_bf16_products_are_kept_in_f32() {
    // In bf16 a sum of ones ends at 256, and one of 1 + 2⁻⁷ far from 9 · 512 of them.
    let (channels, size) = (512, Size::new(1, 5, 5));
    let value = 1.0 + 2f32.powi(-7);
    let input = vec![value; size.pixels() * channels];
    let weights = Weights::conv(&vec![1.0f32; channels * 9], [1, channels, 3, 3], Format::Bf16);
    for path in Path::available() {
        let mut output = [0.0f32; 9];
        Conv::new(3).forward(
            path,
            &weights,
            Input::new(&input, size),
            Epilogue::new(),
            &mut output,
        );
        assert_eq!(output, [value * 4608.0; 9], "{path}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let values = noise(80 * 64 * 9, 2);
    let conv = Conv::new(3).padding(1);
    // In 32 bits, filtered in blocks of 2 × 2 and of 4 × 4.
    for (size, format) in [Size::new(2, 27, 33), Size::new(1, 49, 50)]
        .into_iter()
        .flat_map(|size| FORMATS.map(|format| (size, format)))
    {
        let input = noise(size.pixels() * 64, 1);
        let weights = Weights::conv(&values, [80, 64, 3, 3], format);
        for path in Path::available() {
            let outputs: Vec<_> = [1, 2, 3, 7]
                .into_iter()
                .map(|threads| {
                    let pool =
                        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut output = vec![0.0f32; size.pixels() * 80];
                    pool.install(|| {
                        conv.forward(
                            path,
                            &weights,
                            Input::new(&input, size),
                            Epilogue::new(),
                            &mut output,
                        );
                    });
                    output
                })
                .collect();
            assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]), "{path} {format:?}");
        }
    }
}

#[test]
fn a_depth_of_several_passes_over_the_panels_is_summed_whole() {
    // More steps than a block takes at once, in both formats.
    let channels = 1500;
    let size = Size::new(1, 4, 5);
    let shape = Shape {
        input: size,
        channels_in: channels,
        channels_out: 20,
        kernel: 3,
        stride: 1,
        padding: 1,
    };
    let input = noise(size.pixels() * channels, 3);
    let values = noise(shape.weights(), 4);
    for format in FORMATS {
        let expected = forward(&shape, &wide(&input, format), &wide(&values, format));
        let weights = Weights::conv(&values, shape.weight_shape(), format);
        for path in Path::available() {
            let mut output = vec![0.0f32; expected.len()];
            let conv = Conv::new(3).padding(1);
            conv.forward(path, &weights, Input::new(&input, size), Epilogue::new(), &mut output);
            assert_sums(&output, &expected, ROUNDING, &(path, format));
        }
    }
}

#[test]
fn activations_may_be_bf16_on_both_sides() {
    let x: Vec<bf16> = noise(6 * 40, 5).into_iter().map(bf16::from_f32).collect();
    let values = noise(24 * 40, 6);
    let weights = Weights::linear(&values, [24, 40], Format::Bf16);
    let as_f32: Vec<f32> = x.iter().map(|value| value.to_f32()).collect();
    for path in Path::available() {
        let mut wide = vec![0.0f32; 6 * 24];
        linear(path, &weights, &as_f32, Epilogue::new(), &mut wide);
        let mut narrow = vec![bf16::ZERO; 6 * 24];
        linear(path, &weights, &x, Epilogue::new(), &mut narrow);
        let expected: Vec<bf16> = wide.iter().map(|value| bf16::from_f32(*value)).collect();
        assert_eq!(narrow, expected, "{path}");
    }
}

#[test]
fn an_empty_batch_has_an_empty_output() {
    let weights = Weights::conv(&[1.0f32; 9], [1, 1, 3, 3], Format::F32);
    let conv = Conv::new(3).padding(1);
    conv.forward::<f32, f32>(
        Path::chosen(),
        &weights,
        Input::new(&[], Size::new(0, 4, 4)),
        Epilogue::new(),
        &mut [],
    );
}

#[test]
#[should_panic(expected = "cannot have 7 values")]
fn an_input_of_the_wrong_length_is_refused() {
    let weights = Weights::conv(&[1.0f32; 9], [1, 1, 3, 3], Format::F32);
    let input = Input::new(&[0.0f32; 7], Size::new(1, 2, 4));
    Conv::new(3).padding(1).forward(
        Path::chosen(),
        &weights,
        input,
        Epilogue::new(),
        &mut [0.0f32; 8],
    );
}

#[test]
#[should_panic(expected = "cannot have 9 values")]
fn an_output_of_the_wrong_length_is_refused() {
    let weights = Weights::conv(&[1.0f32; 9], [1, 1, 3, 3], Format::F32);
    let input = Input::new(&[0.0f32; 8], Size::new(1, 2, 4));
    Conv::new(3).padding(1).forward(
        Path::chosen(),
        &weights,
        input,
        Epilogue::new(),
        &mut [0.0f32; 9],
    );
}

/// So much input that it is met in slices, by rows of which the last tile has few.
#[test]
fn few_rows_of_very_many_channels_are_summed_whole() {
    let (size, channels_in, channels_out) = (Size::new(1, 7, 14), 5000, 55);
    let x = noise(size.pixels() * channels_in, 1);
    let values = noise(channels_in * channels_out, 2);
    let [scale, shift] = [3, 4].map(|seed| noise(channels_in, seed));
    for (format, is_normed) in [(Format::F32, false), (Format::F32, true), (Format::Bf16, false)] {
        let mut wide_x = wide(&x, format);
        if is_normed {
            for (at, value) in wide_x.iter_mut().enumerate() {
                let channel = at % channels_in;
                *value = *value * f64::from(scale[channel]) + f64::from(shift[channel]);
                *value /= 1.0 + (-*value).exp();
            }
        }
        let wide_values = wide(&values, format);
        let weights = Weights::linear(&values, [channels_out, channels_in], format);
        for path in Path::available() {
            let mut output = vec![f32::NAN; size.pixels() * channels_out];
            let input = Input::new(&x, size);
            let input = if is_normed { input.scale_shift(&scale, &shift).silu() } else { input };
            Conv::new(1).forward(path, &weights, input, Epilogue::new(), &mut output);
            for (at, found) in output.iter().enumerate() {
                let row = &wide_x[at / channels_out * channels_in..][..channels_in];
                let column = &wide_values[at % channels_out * channels_in..][..channels_in];
                let sum: f64 = row.iter().zip(column).map(|(a, b)| a * b).sum();
                assert!(
                    (f64::from(*found) - sum).abs() < 1e-3,
                    "{path} {format:?}: {found}, {sum}"
                );
            }
        }
    }
}
