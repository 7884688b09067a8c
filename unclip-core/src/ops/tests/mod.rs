//! The kernels against Burn's own operations, at sizes that no tile divides.

use burn::{
    module::Param,
    tensor::{
        DType, Device, Distribution, FloatDType, Tensor, activation, module,
        ops::{AvgPoolOptions, ConvOptions, InterpolateMode, InterpolateOptions, MaxPoolOptions},
    },
};
use proptest::prelude::*;

use super::*;

mod gradients;
mod room;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::flex())
}

fn worst<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f32 {
    assert_eq!(found.dims(), expected.dims(), "the shapes");
    (found.cast(DType::F32) - expected.cast(DType::F32)).abs().max().into_scalar()
}

fn each(values: Tensor<2>) -> Tensor<4> {
    values.unsqueeze_dims(&[2, 3])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_convolution_does_everything_in_its_order(
        (batch, channels_in, channels_out) in (1usize..4, 1usize..40, 1usize..40),
        (height, width) in (2usize..9, 2usize..9),
        (kernel, stride) in (prop_oneof![Just(1usize), Just(3)], 1usize..3),
        (normalised, resampled, rectified) in (any::<bool>(), 0usize..3, any::<bool>()),
    ) {
        let x = random([batch, channels_in, height, width]);
        let bias = Param::from_tensor(random([channels_out]));
        let value = random([channels_out, channels_in, kernel, kernel]);
        let weight = Weight::from(Param::from_tensor(value.clone()));
        let padding = kernel / 2;
        let convolution = Convolution { weight: &weight, bias: Some(&bias), stride, padding };
        let mut input = ConvInput::new(x.clone());
        let mut expected = x;
        if normalised {
            let (scale, shift) = (random([batch, channels_in]), random([batch, channels_in]));
            let affine = Affine { scale: scale.clone(), shift: shift.clone() };
            input = input.affine(affine).silu();
            expected = activation::silu(expected * each(scale) + each(shift));
        }
        if resampled == 1 {
            input = input.resample(Some(Resample::Up));
            let options = InterpolateOptions::new(InterpolateMode::Nearest)
                .with_output_size([2 * height, 2 * width]);
            expected = module::interpolate(expected, options);
        } else if resampled == 2 {
            input = input.resample(Some(Resample::Down));
            let options = AvgPoolOptions::new([2, 2]).with_stride([2, 2]);
            expected = module::avg_pool2d(expected, options);
        }
        let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        expected = module::conv2d(expected, value, Some(bias.val()), options);
        let added = random([batch, channels_out]);
        let residual = random(expected.dims());
        expected = expected + each(added.clone()) + residual.clone();
        input = input.add_each(added).residual(residual);
        if rectified {
            input = input.rectify();
            expected = activation::relu(expected);
        }
        let found = convolution.apply(input);
        prop_assert!(worst(found, expected) < 1e-4);
    }

    #[test]
    fn maxima_are_burns_beyond_even_sides(
        (batch, channels) in (1usize..3, 1usize..40),
        (height, width) in (3usize..12, 3usize..12),
    ) {
        let x = random([batch, channels, height, width]);
        let options = MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_ceil_mode(true);
        let expected = module::max_pool2d(x.clone(), options);
        prop_assert_eq!(expected.dims(), [batch, channels, height / 2, width / 2]);
        prop_assert_eq!(worst(max_pool_3x3(x.clone()), expected.clone()), 0.0);
        // Where there are gradients, Burn's own operation gives them.
        let x = Tensor::<4>::from_data(x.to_data(), &Device::flex().autodiff()).require_grad();
        let recorded = max_pool_3x3(x.clone());
        prop_assert_eq!(worst(recorded.clone().inner(), expected), 0.0);
        prop_assert!(x.grad(&recorded.sum().backward()).is_some());
    }

    #[test]
    fn a_linear_layer_activates_and_then_adds(
        (batch, rows, channels_in, channels_out) in (1usize..4, 1usize..40, 1usize..80, 1usize..40),
    ) {
        let x = random([batch, rows, channels_in]);
        let value = random([channels_out, channels_in]);
        let bias = Param::from_tensor(random([channels_out]));
        let weight = Weight::from(Param::from_tensor(value.clone()));
        let residual = random([batch, rows, channels_out]);
        let expected = activation::gelu(module::linear(x.clone(), value.transpose(), Some(bias.val())))
            + residual.clone();
        let input = LinearInput::new(x).activation(Activation::Gelu).residual(residual);
        prop_assert!(worst(linear(input, &weight, Some(&bias)), expected) < 1e-4);
    }

    #[test]
    fn norms_are_burns(
        (batch, groups, per_group) in (1usize..4, 1usize..4, 1usize..9),
        (height, width) in (1usize..7, 2usize..7),
    ) {
        let channels = groups * per_group;
        let x = random([batch, channels, height, width]);
        let (weight, bias) = (random([channels]), random([channels]));
        let affine = group_norm_affine(&x, groups, weight.clone(), bias.clone(), 1e-5);
        let (variance, mean) =
            x.clone().reshape([batch, groups, per_group * height * width]).var_mean_bias(2);
        let normal = (x.clone().reshape([batch, groups, per_group * height * width]) - mean)
            / (variance + 1e-5).sqrt();
        let expected = normal.reshape([batch, channels, height, width])
            * weight.clone().reshape([1, channels, 1, 1])
            + bias.clone().reshape([1, channels, 1, 1]);
        prop_assert!(worst(apply(x.clone(), &affine, false), expected) < 1e-4);

        let rows = x.permute([0, 2, 3, 1]);
        let expected = module::layer_norm(rows.clone(), weight.clone(), Some(bias.clone()), 1e-5);
        prop_assert!(worst(layer_norm(rows, weight, bias, 1e-5), expected) < 1e-4);
    }

    #[test]
    fn attention_is_burns(
        (batch, heads, queries, keys, width) in (1usize..3, 1usize..4, 1usize..20, 1usize..40, 1usize..20),
    ) {
        let query = random([batch, queries, heads, width]).swap_dims(1, 2);
        let [key, value] = [(); 2].map(|()| random([batch, heads, keys, width]));
        let bias = random([batch, 1, 1, keys]) * 100.0;
        let scores = query.clone().matmul(key.clone().swap_dims(2, 3)) * 0.3 + bias.clone();
        let expected = activation::softmax(scores, 3).matmul(value.clone());
        let found = attention(query, key, value, Some(bias), 0.3);
        prop_assert!(worst(found, expected) < 1e-4);
    }
}

/// A sum of 16 bits stops growing at 256, where 1 is less than half of its last place.
#[test]
fn sums_of_sixteen_bit_products_have_thirty_two() {
    let dtype = FloatDType::BF16;
    let device = Device::flex();
    let depth = 3000;
    let ones = |shape: [usize; 2]| Tensor::<2>::ones(shape, &device).cast(dtype);
    let weight = Weight::from(Param::from_tensor(ones([2, depth])));
    let out = linear(LinearInput::new(ones([2, depth])), &weight, None);
    assert_eq!(out.dtype(), DType::BF16);
    let expected = Tensor::<2>::full([2, 2], 3000.0, &device);
    assert!(worst(out, expected) <= 8.0, "half of the last place of 3000");

    let query = Tensor::<4>::zeros([1, 1, 1, 4], &device).cast(dtype);
    let value = Tensor::<4>::ones([1, 1, depth, 4], &device).cast(dtype);
    let out = attention(query, value.clone(), value, None, 1.0);
    assert!(worst(out, Tensor::ones([1, 1, 1, 4], &device)) < 4e-3, "a mean of ones");

    let x = Tensor::<4>::ones([1, 2, 60, 50], &device).cast(dtype) * 3.0;
    let (weight, bias) = (Tensor::ones([2], &device), Tensor::zeros([2], &device));
    let affine = group_norm_affine(&x, 1, weight, bias, 1e-5);
    assert!(
        worst(apply(x, &affine, false), Tensor::zeros([1, 2, 60, 50], &device)) < 1e-2,
        "3 − 3"
    );
}

#[test]
fn pictures_keep_their_logical_order_whatever_their_storage() {
    let x = random([2, 5, 4, 6]);
    let weight = Weight::from(Param::from_tensor(random([7, 5, 1, 1])));
    let convolution = Convolution { weight: &weight, bias: None, stride: 1, padding: 0 };
    let stored = convolution.apply(ConvInput::new(x));
    // The same values, in the order that Burn itself makes.
    let device = Device::flex();
    let copied = Tensor::<4>::from_data(stored.to_data(), &device);
    let both = join_channels(stored.clone(), copied.clone());
    assert_eq!(both.dims(), [2, 14, 4, 6]);
    assert_eq!(worst(both.clone().narrow(1, 0, 7), both.narrow(1, 7, 7)), 0.0);
    assert_eq!(worst(avg_pool_2x2(stored.clone()), avg_pool_2x2(copied.clone())), 0.0);
    assert_eq!(worst(stored.clone() - copied.clone(), stored.zeros_like()), 0.0);
    assert_eq!(worst(add(stored, copied.clone()), copied * 2.0), 0.0);
}
