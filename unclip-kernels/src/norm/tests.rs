//! Against the definitions, in 64 bits; gradients against differences of them.

#![expect(clippy::cast_possible_truncation, reason = "expected values are wider than inputs")]

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::{cpu::Path, element::Element, testing::values};

/// Group normalisation, with SiLU after it or not, `[batch, pixels, channels]`.
struct Group {
    shape: Pixels,
    groups: usize,
    x: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    silu: bool,
}

const EPSILON: f64 = 1e-5;

impl Group {
    fn new(shape: Pixels, groups: usize, silu: bool, seed: u64) -> Self {
        let channels = shape.channels;
        // Not around zero, as activations are not.
        let wide = |count, seed, centre: f64| -> Vec<f64> {
            values(count, seed).iter().map(|&x| centre + f64::from(x)).collect()
        };
        Self {
            shape,
            groups,
            x: wide(shape.len(), seed, 3.0),
            weight: wide(channels, seed + 1, 1.0),
            bias: wide(channels, seed + 2, 0.0),
            silu,
        }
    }

    fn forward(&self) -> Vec<f64> {
        let Pixels { batch, pixels, channels } = self.shape;
        let per_group = channels / self.groups;
        let at = |b: usize, p: usize, c: usize| (b * pixels + p) * channels + c;
        let mut out = vec![0.0; self.x.len()];
        for (b, g) in (0..batch).flat_map(|b| (0..self.groups).map(move |g| (b, g))) {
            let members: Vec<(usize, usize)> = (0..pixels)
                .flat_map(|p| (g * per_group..(g + 1) * per_group).map(move |c| (p, c)))
                .collect();
            let value = |&(p, c): &(usize, usize)| self.x[at(b, p, c)];
            let count = members.len() as f64;
            let mean = members.iter().map(value).sum::<f64>() / count;
            let variance = members.iter().map(|m| (value(m) - mean).powi(2)).sum::<f64>() / count;
            for member in &members {
                let z = (value(member) - mean) / (variance + EPSILON).sqrt()
                    * self.weight[member.1]
                    + self.bias[member.1];
                out[at(b, member.0, member.1)] = if self.silu { z / (1.0 + (-z).exp()) } else { z };
            }
        }
        out
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn worst(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "as many values");
    let size = expected.iter().fold(1f64, |size, x| size.max(x.abs()));
    found
        .iter()
        .zip(expected)
        .map(|(&found, expected)| (f64::from(found) - expected).abs())
        .fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
        / size
}

fn shapes() -> impl Strategy<Value = (Pixels, usize)> {
    (1usize..4, 1usize..90, 1usize..5, 1usize..9).prop_map(|(batch, pixels, groups, per_group)| {
        (Pixels { batch, pixels, channels: groups * per_group }, groups)
    })
}

/// The derivative of the sum of `gradient · forward` by one value that `change` moves.
fn slope(group: &mut Group, gradient: &[f32], at: impl Fn(&mut Group) -> &mut f64) -> f64 {
    const STEP: f64 = 1e-5;
    let mut loss = |by: f64| {
        *at(group) += by;
        let loss: f64 = group.forward().iter().zip(gradient).map(|(y, &g)| y * f64::from(g)).sum();
        *at(group) -= by;
        loss
    };
    (loss(STEP) - loss(-STEP)) / (2.0 * STEP)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn group_norm_agrees_with_its_definition(
        (shape, groups) in shapes(),
        silu: bool,
        seed in 0u64..1000,
    ) {
        let group = Group::new(shape, groups, silu, seed);
        let x = narrow(&group.x);
        let (weight, bias) = (narrow(&group.weight), narrow(&group.bias));
        // A group of one value has no spread: it is divided by √ε, and so is the rounding of x itself.
        let bound = if shape.pixels * (shape.channels / groups) < 4 { 2e-3 } else { 2e-5 };
        for path in Path::available() {
            let statistics = group_statistics(path, &x, shape, groups, EPSILON);
            let (scale, shift) = statistics.affine(shape.batch, &weight, &bias);
            let mut out = vec![0f32; x.len()];
            apply(path, &x, shape, &scale, &shift, silu, &mut out);
            prop_assert!(worst(&out, &group.forward()) < bound, "{}", path);
        }

        let half: Vec<bf16> = x.iter().map(|&x| <bf16 as Element>::narrow(x)).collect();
        let group = Group { x: half.iter().map(|x| f64::from(x.widen())).collect(), ..group };
        let path = Path::best();
        let statistics = group_statistics(path, &half, shape, groups, EPSILON);
        let (scale, shift) = statistics.affine(shape.batch, &weight, &bias);
        let mut out = vec![bf16::ZERO; x.len()];
        apply(path, &half, shape, &scale, &shift, silu, &mut out);
        let out: Vec<f32> = out.iter().map(|x| x.widen()).collect();
        prop_assert!(worst(&out, &group.forward()) < 4e-3);
    }

    #[test]
    fn gradients_of_group_norm_are_its_slopes(
        (shape, groups) in shapes(),
        silu: bool,
        seed in 0u64..1000,
    ) {
        // The finite differences of a group of a few values are those of a nearly vertical curve.
        prop_assume!(shape.pixels * (shape.channels / groups) >= 6);
        let mut group = Group::new(shape, groups, silu, seed);
        let x = narrow(&group.x);
        let (weight, bias) = (narrow(&group.weight), narrow(&group.bias));
        let gradient = values(x.len(), seed + 7);
        let path = Path::best();
        let statistics = group_statistics(path, &x, shape, groups, EPSILON);
        let (scale, shift) = statistics.affine(shape.batch, &weight, &bias);
        let outer = apply_backward(path, &x, shape, &scale, &shift, silu, &gradient);
        let inner = group_backward(
            path, &x, shape, &statistics, &weight,  &outer.scale, &outer.shift,
        );
        let size = (x.len() as f64).sqrt();
        let close = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 2e-5 * size;
        for i in (0..x.len()).step_by(1 + x.len() / 5) {
            let expected = slope(&mut group, &gradient, |group| &mut group.x[i]);
            prop_assert!(close(outer.x[i] + inner.x[i], expected), "x[{}]", i);
        }
        for c in 0..shape.channels {
            let expected = slope(&mut group, &gradient, |group| &mut group.weight[c]);
            prop_assert!(close(inner.weight[c], expected), "weight[{}]", c);
            let expected = slope(&mut group, &gradient, |group| &mut group.bias[c]);
            prop_assert!(close(inner.bias[c], expected), "bias[{}]", c);
        }
    }

    #[test]
    fn layer_norm_is_a_group_norm_of_one_pixel_a_row(
        rows in 1usize..40,
        width in 4usize..70,
        seed in 0u64..1000,
    ) {
        let shape = Pixels { batch: rows, pixels: 1, channels: width };
        let group = Group::new(shape, 1, false, seed);
        let x = narrow(&group.x);
        let (weight, bias) = (narrow(&group.weight), narrow(&group.bias));
        let path = Path::best();
        let mut out = vec![0f32; x.len()];
        layer_norm(path, &x, &weight, &bias, EPSILON as f32, &mut out);
        prop_assert!(worst(&out, &group.forward()) < 2e-5);

        let gradient = values(x.len(), seed + 7);
        let found = layer_norm_backward(path, &x, &weight, EPSILON as f32, &gradient);
        let statistics = group_statistics(path, &x, shape, 1, EPSILON);
        let (scale, shift) = statistics.affine(shape.batch, &weight, &bias);
        let outer = apply_backward(path, &x, shape, &scale, &shift, false, &gradient);
        let inner =
            group_backward(path, &x, shape, &statistics, &weight, &outer.scale, &outer.shift);
        let expected: Vec<f64> =
            outer.x.iter().zip(&inner.x).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
        prop_assert!(worst(&found.x, &expected) < 2e-5);
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        prop_assert!(worst(&found.weight, &wide(&inner.weight)) < 2e-5);
        prop_assert!(worst(&found.bias, &wide(&inner.bias)) < 2e-5);
    }
}

/// A mean a thousand times the deviation leaves a sum of squares no digits of the variance.
#[test]
fn a_mean_far_from_zero_does_not_swallow_the_variance() {
    let shape = Pixels { batch: 1, pixels: 4096, channels: 4 };
    let x: Vec<f32> = values(shape.len(), 1).iter().map(|x| 1000.0 + x).collect();
    let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let mean = wide.iter().sum::<f64>() / wide.len() as f64;
    let variance = wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / wide.len() as f64;
    let statistics = group_statistics(Path::best(), &x, shape, 1, 0.0);
    let found = f64::from(statistics.inverse_deviation[0]).powi(-2);
    assert!((found / variance - 1.0).abs() < 1e-5, "{found}, not {variance}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let shape = Pixels { batch: 2, pixels: 3000, channels: 12 };
    let x = values(shape.len(), 4);
    let path = Path::best();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            let statistics = group_statistics(path, &x, shape, 3, EPSILON);
            let (scale, shift) = statistics.affine(2, &x[..12], &x[12..24]);
            (statistics, apply_backward(path, &x, shape, &scale, &shift, true, &x))
        })
    };
    assert!(run(1) == run(3), "one thread and three differ");
}

#[test]
#[should_panic(expected = "do not divide")]
fn groups_that_do_not_divide_the_channels_are_refused() {
    let shape = Pixels { batch: 1, pixels: 1, channels: 4 };
    drop(group_statistics(Path::best(), &[0f32; 4], shape, 3, EPSILON));
}
