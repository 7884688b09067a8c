//! Results in memory that others have left: every operation has to write all of its own.

use super::*;
use unclip_kernels::room::Room;

/// Leaves memory for `values` 32-bit values, and for as many in 16 bits, in which no value is a number.
fn leave(values: usize) {
    let rooms: Vec<_> = (0..8).map(|at| Room::<f32>::new(values.div_ceil(1 + at % 2))).collect();
    for mut room in rooms {
        room.fill(f32::NAN);
    }
}

/// Runs `operation` in such memory, in both types.
fn check<const D: usize>(name: &str, operation: impl Fn(FloatDType) -> Tensor<D>) {
    for dtype in [FloatDType::F32, FloatDType::BF16] {
        let len = operation(dtype).shape().num_elements();
        assert!(len * size_of::<u16>() > 1 << 17, "{name}: a result of {len} values is not stored");
        leave(len);
        let found = operation(dtype);
        let not_numbers: i32 = found.is_nan().int().sum().into_scalar();
        assert_eq!(not_numbers, 0, "{name} in {dtype:?} left values as they were");
    }
}

#[test]
fn every_value_of_a_result_is_written() {
    // Odd sizes, whose last tiles, panels and windows are not whole.
    let x = |dtype: FloatDType| random([1, 37, 65, 67]).cast(dtype);
    let weight = |out: usize, kernel: usize| {
        Weight::from(Param::from_tensor(random([out, 37, kernel, kernel])))
    };
    let affine = || Affine { scale: random([1, 37]), shift: random([1, 37]) };
    for (kernel, stride, by) in [
        (3, 1, None),
        (1, 1, None),
        (3, 2, None),
        (3, 1, Some(Resample::Up)),
        (3, 1, Some(Resample::Down)),
    ] {
        check(&format!("a convolution of {kernel}, stride {stride}, {by:?}"), |dtype| {
            let weight =
                weight(if stride == 2 || by == Some(Resample::Down) { 83 } else { 35 }, kernel);
            let convolution =
                Convolution { weight: &weight, bias: None, stride, padding: kernel / 2 };
            convolution.apply(ConvInput::new(x(dtype)).affine(affine()).silu().resample(by))
        });
    }
    check("halving", |dtype| avg_pool_2x2(random([2, 37, 65, 67]).cast(dtype)));
    check("maxima", |dtype| max_pool_3x3(random([2, 37, 65, 67]).cast(dtype)));
    check("doubling", |dtype| upsample_nearest_2x(x(dtype)));
    check("joining", |dtype| join_channels(x(dtype), x(dtype)));
    check("adding", |dtype| add(x(dtype), x(dtype)));
    check("normalising", |dtype| apply(x(dtype), &affine(), true));
    check("an activation", |dtype| silu(x(dtype)));
    check("normalising rows", |dtype| {
        let ones = || Tensor::ones([67], &Device::flex());
        layer_norm(random([1, 2111, 67]).cast(dtype), ones(), ones(), 1e-5)
    });
    check("a linear layer", |dtype| {
        let weight = Weight::from(Param::from_tensor(random([83, 67])));
        linear(LinearInput::new(random([1, 1111, 67]).cast(dtype)), &weight, None)
    });
    check("attention", |dtype| {
        let tokens = |count: usize| random([1, 5, count, 33]).cast(dtype);
        attention(tokens(611), tokens(77), tokens(77), None, 0.2)
    });
}
