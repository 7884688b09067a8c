//! The gradients of the kernels against those of Burn's own operations, at sizes that no tile divides.

use burn::{module::ParamId, tensor::Gradients};

use super::*;

/// The same values, as a tensor that gradients reach.
fn leaf<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    Tensor::<D>::from_data(x.to_data(), &Device::flex().autodiff()).require_grad()
}

/// The gradients of the sum of products with numbers that differ from place to place.
fn backward<const D: usize>(out: Tensor<D>) -> Gradients {
    let shape = out.dims();
    let len = shape.iter().product();
    let weights: Vec<f32> =
        (0..len).map(|i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let weights = burn::tensor::TensorData::new(weights, shape);
    (out.cast(DType::F32) * Tensor::from_data(weights, &Device::flex().autodiff())).sum().backward()
}

/// How far the gradients of both sides are apart, relative to the largest of them or 1.
fn apart<const D: usize>(
    (ours, of_ours): (&Gradients, &Tensor<D>),
    (burns, of_burns): (&Gradients, &Tensor<D>),
) -> f32 {
    let found = of_ours.grad(ours).expect("a gradient from the kernels");
    let expected = of_burns.grad(burns).expect("a gradient from Burn");
    assert_eq!(found.dtype(), expected.dtype(), "the types of the gradients");
    let scale: f32 = expected.clone().cast(DType::F32).abs().max().into_scalar();
    worst(found, expected) / scale.max(1.0)
}

/// Compares the gradients by each operand that is named.
macro_rules! compare {
    ($bound:expr, $ours:expr, $burns:expr, $(($name:literal, $found:expr, $expected:expr)),+ $(,)?) => {{
        let (ours, burns) = (&$ours, &$burns);
        $(
            let distance = apart((ours, &$found), (burns, &$expected));
            prop_assert!(distance < $bound, "the gradient by {} is off by {distance}", $name);
        )+
    }};
}

const BOUND: f32 = 2e-5;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn of_a_convolution_and_all_that_it_does(
        (batch, channels_in, channels_out) in
            (prop_oneof![Just(1usize), Just(3)], 1usize..40, 1usize..40),
        (height, width) in (2usize..10, 2usize..10),
        (kernel, stride) in (prop_oneof![Just(1usize), Just(3)], 1usize..3),
        (normalised, resampled) in (any::<bool>(), 0usize..3),
    ) {
        let value = random([channels_out, channels_in, kernel, kernel]);
        let (x, bias) = (random([batch, channels_in, height, width]), random([channels_out]));
        let (scale, shift) = (random([batch, channels_in]), random([batch, channels_in]));
        let added = random([batch, channels_out]);
        let padding = kernel / 2;
        let leaves = || {
            (leaf(&x), leaf(&value), leaf(&bias), leaf(&scale), leaf(&shift), leaf(&added))
        };

        let burns = leaves();
        let mut expected = burns.0.clone();
        if normalised {
            expected = activation::silu(expected * each(burns.3.clone()) + each(burns.4.clone()));
        }
        if resampled == 1 {
            let options = InterpolateOptions::new(InterpolateMode::Nearest)
                .with_output_size([2 * height, 2 * width]);
            expected = module::interpolate(expected, options);
        } else if resampled == 2 {
            let options = AvgPoolOptions::new([2, 2]).with_stride([2, 2]);
            expected = module::avg_pool2d(expected, options);
        }
        let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        expected = module::conv2d(expected, burns.1.clone(), Some(burns.2.clone()), options)
            + each(burns.5.clone());
        let residual = random(expected.dims());
        let burns_residual = leaf(&residual);
        let expected = backward(expected + burns_residual.clone());

        let ours = leaves();
        let own_residual = leaf(&residual);
        let weight = Weight::from(Param::initialized(ParamId::new(), ours.1.clone()));
        let bias = Param::initialized(ParamId::new(), ours.2.clone());
        let convolution = Convolution { weight: &weight, bias: Some(&bias), stride, padding };
        let mut input = ConvInput::new(ours.0.clone());
        if normalised {
            input = input.affine(Affine { scale: ours.3.clone(), shift: ours.4.clone() }).silu();
        }
        let resample = [None, Some(Resample::Up), Some(Resample::Down)][resampled];
        let input = input.resample(resample).add_each(ours.5.clone());
        let found = backward(convolution.apply(input.residual(own_residual.clone())));

        compare!(
            BOUND, found, expected,
            ("the input", ours.0, burns.0), ("the weight", ours.1, burns.1),
            ("the bias", ours.2, burns.2), ("what is added", ours.5, burns.5),
            ("the residual", own_residual, burns_residual),
        );
        if normalised {
            compare!(
                BOUND, found, expected,
                ("the scale", ours.3, burns.3), ("the shift", ours.4, burns.4),
            );
        }
    }

    #[test]
    fn of_a_linear_layer_and_its_activation(
        (batch, rows, channels_in, channels_out) in
            (prop_oneof![Just(1usize), Just(3)], 1usize..40, 1usize..80, 1usize..40),
        activated in 0usize..4,
    ) {
        let (x, value) = (random([batch, rows, channels_in]), random([channels_out, channels_in]));
        let (bias, residual) = (random([channels_out]), random([batch, rows, channels_out]));
        let leaves = || (leaf(&x), leaf(&value), leaf(&bias), leaf(&residual));
        let kind = [None, Some(Activation::Silu), Some(Activation::Gelu), Some(Activation::QuickGelu)]
            [activated];

        let burns = leaves();
        let out = module::linear(burns.0.clone(), burns.1.clone().transpose(), Some(burns.2.clone()));
        let out = match kind {
            None => out,
            Some(Activation::Silu) => activation::silu(out),
            Some(Activation::Gelu) => activation::gelu(out),
            Some(Activation::QuickGelu) => activation::sigmoid(out.clone() * 1.702) * out,
        };
        let expected = backward(out + burns.3.clone());

        let ours = leaves();
        let weight = Weight::from(Param::initialized(ParamId::new(), ours.1.clone()));
        let bias = Param::initialized(ParamId::new(), ours.2.clone());
        let mut input = LinearInput::new(ours.0.clone()).residual(ours.3.clone());
        if let Some(kind) = kind {
            input = input.activation(kind);
        }
        let found = backward(linear(input, &weight, Some(&bias)));
        compare!(
            BOUND, found, expected,
            ("the input", ours.0, burns.0), ("the weight", ours.1, burns.1),
            ("the bias", ours.2, burns.2), ("the residual", ours.3, burns.3),
        );
    }

    #[test]
    fn of_norms(
        (batch, groups, per_group) in (prop_oneof![Just(1usize), Just(3)], 1usize..4, 1usize..9),
        (height, width, silu) in (1usize..7, 2usize..7, any::<bool>()),
    ) {
        let channels = groups * per_group;
        let x = random([batch, channels, height, width]);
        let (weight, bias) = (random([channels]), random([channels]));
        let leaves = || (leaf(&x), leaf(&weight), leaf(&bias));

        let burns = leaves();
        let grouped = burns.0.clone().reshape([batch, groups, per_group * height * width]);
        let (variance, mean) = grouped.clone().var_mean_bias(2);
        let normal = ((grouped - mean) / (variance + 1e-5).sqrt())
            .reshape([batch, channels, height, width]);
        let out = normal * burns.1.clone().reshape([1, channels, 1, 1])
            + burns.2.clone().reshape([1, channels, 1, 1]);
        let expected = backward(if silu { activation::silu(out) } else { out });
        let ours = leaves();
        let affine = group_norm_affine(&ours.0, groups, ours.1.clone(), ours.2.clone(), 1e-5);
        let found = backward(apply(ours.0.clone(), &affine, silu));
        compare!(
            1e-4, found, expected,
            ("the input", ours.0, burns.0), ("the weight", ours.1, burns.1),
            ("the bias", ours.2, burns.2),
        );

        let (burns, ours) = (leaves(), leaves());
        let rows = |x: &Tensor<4>| x.clone().permute([0, 2, 3, 1]);
        let norm = module::layer_norm(rows(&burns.0), burns.1.clone(), Some(burns.2.clone()), 1e-2);
        let expected = backward(norm);
        let found = backward(layer_norm(rows(&ours.0), ours.1.clone(), ours.2.clone(), 1e-2));
        compare!(
            1e-4, found, expected,
            ("the input", ours.0, burns.0), ("the weight", ours.1, burns.1),
            ("the bias", ours.2, burns.2),
        );
    }

    #[test]
    fn of_attention(
        (batch, heads, queries, keys, width) in
            (prop_oneof![Just(1usize), Just(3)], 1usize..4, 1usize..20, 1usize..40, 1usize..20),
        masked in any::<bool>(),
    ) {
        let query = random([batch, queries, heads, width]);
        let [key, value] = [(); 2].map(|()| random([batch, heads, keys, width]));
        let leaves = || (leaf(&query), leaf(&key), leaf(&value));
        let bias = masked.then(|| random([batch, 1, 1, keys]) * 10.0);
        let constant = bias.clone().map(|bias| {
            Tensor::<4>::from_data(bias.to_data(), &Device::flex().autodiff())
        });

        let burns = leaves();
        let scores = burns.0.clone().swap_dims(1, 2).matmul(burns.1.clone().swap_dims(2, 3)) * 0.3;
        let scores = match constant {
            Some(bias) => scores + bias,
            None => scores,
        };
        let expected = backward(activation::softmax(scores, 3).matmul(burns.2.clone()));
        let ours = leaves();
        let query = ours.0.clone().swap_dims(1, 2);
        let found = backward(attention(query, ours.1.clone(), ours.2.clone(), bias, 0.3));
        compare!(
            BOUND, found, expected,
            ("the queries", ours.0, burns.0), ("the keys", ours.1, burns.1),
            ("the values", ours.2, burns.2),
        );
    }

    #[test]
    fn of_what_moves_pixels(
        (batch, left, right) in (prop_oneof![Just(1usize), Just(3)], 1usize..20, 1usize..20),
        (height, width) in (2usize..8, 2usize..8),
    ) {
        let (a, b) = (random([batch, left, height, width]), random([batch, right, height, width]));
        let leaves = || (leaf(&a), leaf(&b));

        let burns = leaves();
        let joined = Tensor::cat(vec![burns.0.clone(), burns.1.clone()], 1);
        let options =
            InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([2 * height, 2 * width]);
        let doubled = module::interpolate(joined.clone() + joined, options);
        // An odd last row and column, which pooling drops.
        let doubled = doubled.slice([0..batch, 0..left + right, 0..2 * height - 1, 0..2 * width - 1]);
        let options = AvgPoolOptions::new([2, 2]).with_stride([2, 2]);
        let expected = backward(module::avg_pool2d(doubled, options));

        let ours = leaves();
        let joined = join_channels(ours.0.clone(), ours.1.clone());
        let doubled = upsample_nearest_2x(add(joined.clone(), joined));
        let doubled = doubled.slice([0..batch, 0..left + right, 0..2 * height - 1, 0..2 * width - 1]);
        let found = backward(avg_pool_2x2(doubled));
        compare!(BOUND, found, expected, ("the left", ours.0, burns.0), ("the right", ours.1, burns.1));
    }

    #[test]
    fn of_pixels_as_tokens(
        (batch, channels) in (prop_oneof![Just(1usize), Just(3)], 1usize..20),
        (height, width) in (1usize..8, 1usize..8),
    ) {
        let shape = [batch, channels, height, width];
        let (x, value) = (random(shape), random([channels, channels]));

        let burns = (leaf(&x), leaf(&value));
        let rows = burns.0.clone().permute([0, 2, 3, 1]).reshape([batch, height * width, channels]);
        let products = module::linear(rows.clone(), burns.1.clone().transpose(), None) + rows * 2.0;
        let back = products.reshape([batch, height, width, channels]).permute([0, 3, 1, 2]);
        let expected = backward(back.clone() + back);

        let ours = (leaf(&x), leaf(&value));
        let weight = Weight::from(Param::initialized(ParamId::new(), ours.1.clone()));
        let rows = shared(to_tokens(ours.0.clone()));
        let doubled = rows.clone() * 2.0;
        let products = linear(LinearInput::new(rows).residual(doubled), &weight, None);
        let back = from_tokens(products, [height, width]);
        let found = backward(add(back.clone(), back));
        compare!(BOUND, found, expected, ("the pixels", ours.0, burns.0), ("the weight", ours.1, burns.1));
    }

    #[test]
    fn of_what_several_operations_read(
        shape in (1usize..3, 1usize..9, 1usize..5, 1usize..5),
        readers in 1usize..8,
    ) {
        let (batch, channels, height, width) = shape;
        let [a, b] = [(); 2].map(|()| random([batch, channels, height, width]));
        let leaves = || (leaf(&a), leaf(&b));
        // Some of the readers are the kernels', some are Burn's; the sum is read again.
        let sum = |y: Tensor<4>, double: fn(Tensor<4>) -> Tensor<4>, plus: fn(Tensor<4>, Tensor<4>) -> Tensor<4>| {
            let mut terms = Vec::new();
            if readers & 1 > 0 {
                terms.push(double(y.clone()));
            }
            if readers & 2 > 0 {
                terms.push(double(plus(y.clone(), y.clone())));
            }
            if readers & 4 > 0 {
                terms.push(double(y * 0.3).square());
            }
            terms.into_iter().reduce(plus).expect("one reader")
        };
        let double = |x: Tensor<4>| {
            let [_, _, height, width] = x.dims();
            let options = InterpolateOptions::new(InterpolateMode::Nearest)
                .with_output_size([2 * height, 2 * width]);
            module::interpolate(x, options)
        };

        let burns = leaves();
        let expected = backward(sum(burns.0.clone() + burns.1.clone(), double, |a, b| a + b));
        let ours = leaves();
        let found = backward(sum(add(ours.0.clone(), ours.1.clone()), upsample_nearest_2x, add));
        compare!(BOUND, found, expected, ("the left", ours.0, burns.0), ("the right", ours.1, burns.1));
    }
}

/// Were it otherwise, the comparisons above would be of Burn with itself.
#[test]
fn come_from_the_kernels() {
    let x = leaf(&random([1, 3, 4, 4]));
    let weight = Weight::from(Param::initialized(ParamId::new(), leaf(&random([5, 3, 3, 3]))));
    let convolution = Convolution { weight: &weight, bias: None, stride: 1, padding: 1 };
    let out = kernels::conv2d(&ConvInput::new(x.clone()), &convolution, None).expect("the kernels");
    assert!(x.grad(&out.sum().backward()).is_some(), "no gradient");
}

#[test]
fn stop_where_the_output_is_set_to_zero() {
    let (value, values) = (random([5, 3, 3, 3]), random([2, 3, 4, 4]));
    let gradient = |run: fn(&Convolution<'_>, ConvInput) -> Tensor<4>| {
        let weight = Weight::from(Param::initialized(ParamId::new(), leaf(&value)));
        let convolution = Convolution { weight: &weight, bias: None, stride: 1, padding: 1 };
        let x = leaf(&values);
        let out = run(&convolution, ConvInput::new(x.clone()));
        x.grad(&backward(out)).expect("a gradient")
    };
    let fused = gradient(|convolution, input| convolution.apply(input.rectify()));
    let apart = gradient(|convolution, input| activation::relu(convolution.apply(input)));
    let whole = gradient(|convolution, input| convolution.apply(input));
    assert_eq!(worst(fused.clone(), apart), 0.0);
    assert!(worst(fused, whole) > 0.1, "nothing was set to zero");
}

/// Products of 16 bits, sums of 32: the gradient of a weight that many pixels share does not stop growing.
#[test]
fn in_sixteen_bits_have_sums_of_thirty_two() {
    let device = Device::flex().autodiff();
    let rows = 3000;
    let weight = Tensor::<2>::ones([2, 2], &device).require_grad();
    let layer = Weight::from(Param::initialized(ParamId::new(), weight.clone()));
    let x = Tensor::<2>::ones([rows, 2], &device).cast(FloatDType::BF16);
    let out = linear(LinearInput::new(x), &layer, None);
    assert_eq!(out.dtype(), DType::BF16);
    let gradients = out.cast(FloatDType::F32).sum().backward();
    let found = weight.grad(&gradients).expect("a gradient");
    assert_eq!(found.dtype(), DType::F32, "a weight in 32 bits has such a gradient");
    assert_eq!(found.into_data(), Tensor::<2>::full([2, 2], 3000.0, &Device::flex()).into_data());
}

/// Frozen weights are packed for good, and gradients still pass through them.
#[test]
fn pass_through_packed_weights() {
    let value = random([5, 7]);
    let layer = Weight::from(Param::from_tensor(value.clone()));
    let plain = linear(LinearInput::new(random([3, 7])), &layer, None);
    assert_eq!(plain.dims(), [3, 5]);
    let x = leaf(&random([3, 7]));
    let gradients = linear(LinearInput::new(x.clone()), &layer, None).sum().backward();
    let found = x.grad(&gradients).expect("a gradient");
    let expected = Tensor::<2>::ones([3, 5], &Device::flex()).matmul(value);
    assert!(worst(found, expected) < 1e-5);
}

#[test]
fn with_recomputed_activations_are_the_same() {
    let [x, value] = [random([4, 6]), random([6, 6])];
    let gradient = |device: Device| {
        let x = Tensor::<2>::from_data(x.to_data(), &device).require_grad();
        let value = Tensor::<2>::from_data(value.to_data(), &device).require_grad();
        let layer = Weight::from(Param::initialized(ParamId::new(), value));
        let inner = linear(LinearInput::new(x.clone()).activation(Activation::Silu), &layer, None);
        let out = linear(LinearInput::new(inner * 2.0), &layer, None);
        x.grad(&out.sum().backward()).expect("a gradient")
    };
    let kept = gradient(Device::flex().autodiff());
    let recomputed = gradient(Device::flex().autodiff().gradient_checkpointing());
    assert_eq!(kept.into_data(), recomputed.into_data());
}
