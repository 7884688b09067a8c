//! Convolution and its gradients in f64, by their definitions.

use half::bf16;
use proptest::prelude::*;
use unclip_kernels::{Conv, Format, Size};

/// Both number types of products.
pub(crate) const FORMATS: [Format; 2] = [Format::F32, Format::Bf16];

/// Relative error of f32 sums of a few thousand terms; sums in bf16 would err by 4e-3.
pub(crate) const ROUNDING: f64 = 2e-6;

/// Random shapes: one picture or three, odd sizes, one channel, sizes that no tile divides.
pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    let batch = prop_oneof![Just(1usize), Just(3)];
    let channels = || prop_oneof![Just(1usize), 2..50usize, Just(64)];
    (batch, 1..12usize, 1..36usize, channels(), channels(), 0..6usize).prop_map(
        |(batch, height, width, channels_in, channels_out, kind)| {
            let (kernel, stride, padding) =
                [(3, 1, 1), (3, 2, 1), (1, 1, 0), (2, 1, 1), (2, 2, 0), (4, 4, 0)][kind];
            // Without padding a picture has at least one window.
            let least = if padding == 0 { kernel } else { 1 };
            let input = Size::new(batch, height.max(least), width.max(least));
            Shape { input, channels_in, channels_out, kernel, stride, padding }
        },
    )
}

/// How many random shapes a test tries.
pub(crate) fn cases() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 20 })
    }
}

/// Values as products see them.
pub(crate) fn wide(values: &[f32], format: Format) -> Vec<f64> {
    values.iter().map(|value| rounded(f64::from(*value), format)).collect()
}

/// Numbers in [-1, 1) that look random; the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// What products see of a value.
pub(crate) fn rounded(value: f64, format: Format) -> f64 {
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what this is for")]
    let single = value as f32;
    match format {
        Format::F32 => f64::from(single),
        Format::Bf16 => f64::from(bf16::from_f32(single).to_f32()),
    }
}

/// A convolution: `[batch, height, width, channels_in]` to `[batch, .., .., channels_out]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) input: Size,
    pub(crate) channels_in: usize,
    pub(crate) channels_out: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Shape {
    pub(crate) fn conv(&self) -> Conv {
        Conv::new(self.kernel).stride(self.stride).padding(self.padding)
    }

    pub(crate) fn output(&self) -> Size {
        let extent = |len: usize| (len + 2 * self.padding - self.kernel) / self.stride + 1;
        Size::new(self.input.batch, extent(self.input.height), extent(self.input.width))
    }

    pub(crate) fn weight_shape(&self) -> [usize; 4] {
        [self.channels_out, self.channels_in, self.kernel, self.kernel]
    }

    pub(crate) fn weights(&self) -> usize {
        self.weight_shape().iter().product()
    }

    /// Calls `product(output, input, weight)` with the indices of every product of the convolution.
    pub(crate) fn for_each_product(&self, mut product: impl FnMut(usize, usize, usize)) {
        let (input, output) = (self.input, self.output());
        for pixel in 0..output.pixels() {
            let (image, y, x) = (
                pixel / (output.height * output.width),
                pixel / output.width % output.height,
                pixel % output.width,
            );
            for tap in 0..self.kernel * self.kernel {
                let row = (y * self.stride + tap / self.kernel).checked_sub(self.padding);
                let column = (x * self.stride + tap % self.kernel).checked_sub(self.padding);
                let (Some(row), Some(column)) = (row, column) else { continue };
                if row >= input.height || column >= input.width {
                    continue;
                }
                let from = (image * input.height + row) * input.width + column;
                for c in 0..self.channels_in {
                    for n in 0..self.channels_out {
                        let weight = (n * self.channels_in + c) * self.kernel * self.kernel + tap;
                        product(pixel * self.channels_out + n, from * self.channels_in + c, weight);
                    }
                }
            }
        }
    }
}

/// A sum and the sum of its terms' magnitudes, to which rounding errors are proportional.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum {
    pub(crate) value: f64,
    pub(crate) magnitude: f64,
}

impl Sum {
    pub(crate) fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
    }
}

/// The convolution of `input` with `weights`.
pub(crate) fn forward(shape: &Shape, input: &[f64], weights: &[f64]) -> Vec<Sum> {
    let mut sums = vec![Sum::default(); shape.output().pixels() * shape.channels_out];
    shape.for_each_product(|output, from, weight| sums[output].add(input[from] * weights[weight]));
    sums
}

/// Demands that every value is within `bound` times the magnitude of its terms.
#[track_caller]
pub(crate) fn assert_sums(found: &[f32], expected: &[Sum], bound: f64, what: &dyn std::fmt::Debug) {
    assert_eq!(found.len(), expected.len(), "{what:?}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected.value).abs();
        assert!(
            error <= bound * expected.magnitude + 1e-30,
            "{what:?}: value {at} is {found}, expected {}, with terms of {}",
            expected.value,
            expected.magnitude
        );
    }
}
