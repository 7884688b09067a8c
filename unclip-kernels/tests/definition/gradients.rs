//! Gradients.

use proptest::prelude::*;
use unclip_kernels::{Conv, Epilogue, Format, Input, Size, Weights, cpu::Path, linear};

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
