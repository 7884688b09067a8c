//! Gradients.

use proptest::prelude::*;
use unclip_kernels::{
    Conv, Epilogue, Format, Input, Size, Weights, bias_gradient, cpu::Path, image_bias_gradient,
    linear,
};

use crate::reference::{FORMATS, ROUNDING, Shape, Sum, assert_sums, cases, noise, shapes, wide};

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_gradient_of_the_input_is_that_of_the_definition(shape in shapes(), seed in any::<u64>()) {
        let gradient = noise(shape.output().pixels() * shape.channels_out, seed);
        let values = noise(shape.weights(), seed ^ 1);
        for format in FORMATS {
            let (wide_gradient, wide_values) = (wide(&gradient, format), wide(&values, format));
            let mut expected = vec![Sum::default(); shape.input.pixels() * shape.channels_in];
            shape.for_each_product(|output, input, weight| {
                expected[input].add(wide_gradient[output] * wide_values[weight]);
            });
            let transposed = Weights::conv_transposed(&values, shape.weight_shape(), format);
            for path in Path::available() {
                let mut found = vec![f32::NAN; expected.len()];
                let gradient = Input::new(&gradient, shape.output());
                shape.conv().input_gradient(path, &transposed, gradient, shape.input, &mut found);
                assert_sums(&found, &expected, ROUNDING, &(path, format, shape));
            }
        }
    }

    #[test]
    fn the_gradient_of_the_weights_is_that_of_the_definition(shape in shapes(), seed in any::<u64>()) {
        let input = noise(shape.input.pixels() * shape.channels_in, seed);
        let gradient = noise(shape.output().pixels() * shape.channels_out, seed ^ 1);
        for format in FORMATS {
            let (wide_input, wide_gradient) = (wide(&input, format), wide(&gradient, format));
            let mut expected = vec![Sum::default(); shape.weights()];
            shape.for_each_product(|output, input, weight| {
                expected[weight].add(wide_gradient[output] * wide_input[input]);
            });
            for path in Path::available() {
                let mut found = vec![f32::NAN; expected.len()];
                let input = Input::new(&input, shape.input);
                let gradient = Input::new(&gradient, shape.output());
                shape.conv().weight_gradient(path, format, input, gradient, &mut found);
                assert_sums(&found, &expected, ROUNDING, &(path, format, shape));
            }
        }
    }

    #[test]
    fn the_gradient_of_a_bias_is_a_sum_over_pixels(shape in shapes(), seed in any::<u64>()) {
        let channels = shape.channels_out;
        let gradient = noise(shape.input.pixels() * channels, seed);
        let batch = shape.input.batch;
        let mut expected = vec![Sum::default(); channels];
        let mut expected_images = vec![Sum::default(); batch * channels];
        for (at, value) in gradient.iter().enumerate() {
            expected[at % channels].add(f64::from(*value));
            let image = at / (gradient.len() / batch);
            expected_images[image * channels + at % channels].add(f64::from(*value));
        }
        for path in Path::available() {
            let gradient = Input::new(&gradient, shape.input);
            let mut found = vec![f32::NAN; channels];
            bias_gradient(path, gradient, &mut found);
            assert_sums(&found, &expected, ROUNDING, &(path, shape));
            let mut found = vec![f32::NAN; batch * channels];
            image_bias_gradient(path, gradient, &mut found);
            assert_sums(&found, &expected_images, ROUNDING, &(path, shape));
        }
    }

    #[test]
    fn the_gradient_of_a_linear_layers_input_is_a_linear_layer(
        rows in 1..40usize, channels_in in 1..90usize, channels_out in 1..90usize, seed in any::<u64>(),
    ) {
        let shape = Shape {
            input: Size::new(1, rows, 1), channels_in, channels_out, kernel: 1, stride: 1, padding: 0,
        };
        let gradient = noise(rows * channels_out, seed);
        let values = noise(shape.weights(), seed ^ 1);
        for format in FORMATS {
            let (wide_gradient, wide_values) = (wide(&gradient, format), wide(&values, format));
            let mut expected = vec![Sum::default(); rows * channels_in];
            shape.for_each_product(|output, input, weight| {
                expected[input].add(wide_gradient[output] * wide_values[weight]);
            });
            let transposed = Weights::linear_transposed(&values, [channels_out, channels_in], format);
            for path in Path::available() {
                let mut found = vec![f32::NAN; expected.len()];
                linear(path, &transposed, &gradient, Epilogue::new(), &mut found);
                assert_sums(&found, &expected, ROUNDING, &(path, format, shape));
            }
        }
    }
}

#[test]
#[should_panic(expected = "leads to")]
fn a_gradient_of_another_size_is_refused() {
    let transposed = Weights::conv_transposed(&[1.0f32; 9], [1, 1, 3, 3], Format::F32);
    let gradient = Input::new(&[0.0f32; 8], Size::new(1, 2, 4));
    let size = Size::new(1, 3, 4);
    Conv::new(3).padding(1).input_gradient(
        Path::chosen(),
        &transposed,
        gradient,
        size,
        &mut [0.0f32; 12],
    );
}

#[test]
fn gradients_of_weights_do_not_depend_on_the_number_of_threads() {
    let size = Size::new(3, 19, 33);
    let input = noise(size.pixels() * 40, 1);
    let gradient = noise(size.pixels() * 24, 2);
    for format in FORMATS {
        let outputs: Vec<_> = [1, 2, 3, 7]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut output = vec![0.0f32; 24 * 40 * 9];
                pool.install(|| {
                    let (input, gradient) = (Input::new(&input, size), Input::new(&gradient, size));
                    Conv::new(3).padding(1).weight_gradient(
                        Path::best(),
                        format,
                        input,
                        gradient,
                        &mut output,
                    );
                });
                output
            })
            .collect();
        assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]), "{format:?}");
    }
}

#[test]
fn sums_over_many_pixels_are_kept_in_f32() {
    // In bf16 a sum of ones ends at 256.
    let size = Size::new(2, 64, 64);
    let (input, gradient) = (vec![1.0f32; size.pixels() * 2], vec![1.0f32; size.pixels() * 3]);
    for path in Path::available() {
        let mut found = [0.0; 6];
        let (input, gradient) = (Input::new(&input, size), Input::new(&gradient, size));
        Conv::new(1).weight_gradient(path, Format::Bf16, input, gradient, &mut found);
        assert_eq!(found, [8192.0; 6], "{path}");
    }
}

#[test]
fn a_gradient_over_no_pixels_is_zero() {
    let size = Size::new(0, 4, 4);
    let mut found = [f32::NAN; 9];
    let empty: Input<'_, f32> = Input::new(&[], size);
    Conv::new(3).padding(1).weight_gradient(Path::chosen(), Format::Bf16, empty, empty, &mut found);
    assert_eq!(found, [0.0; 9]);
}
