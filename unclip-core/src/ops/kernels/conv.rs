//! Convolution.

use burn::{
    backend::flex::FlexTensor,
    tensor::{Tensor, activation::relu},
};
use unclip_kernels::{
    self as kernels, Conv, Epilogue, Input, Resample, Size,
    memory::zeros,
    norm,
    picture::{avg_pool_2x2, upsample_nearest_2x},
};

use super::{
    Floats, Picture, Value, activations, format,
    linear::Layer,
    norm::pixels,
    path,
    record::{Operand, Operation, record},
    room, rounded, typed,
};
use crate::ops::{self, ConvInput, Convolution};

/// What [`Convolution::apply`] says.
pub(in crate::ops) fn conv2d(
    input: &ConvInput,
    convolution: &Convolution<'_>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<4>> {
    let dtype = input.x.dtype();
    let [channels_out, channels_in, kernel, columns] = convolution.weight.dims();
    if kernel != columns || kernel == 0 {
        return None;
    }
    let x_operand = activations(&input.x)?;
    let x = Picture::new(x_operand.tensor.clone());
    assert_eq!(x.channels, channels_in, "the channels of the input and of the weight");
    let affine = match &input.affine {
        Some(affine) => Some([Floats::new(&affine.scale)?, Floats::new(&affine.shift)?]),
        None => None,
    };
    let added = Floats::of(input.added.as_ref())?;
    let bias = Floats::of(bias)?;
    let resample = match input.resample {
        None => Resample::Keep,
        Some(ops::Resample::Up) => Resample::Double,
        Some(ops::Resample::Down) => Resample::Halve,
    };
    let layer = Layer::new(dtype, convolution.weight)?;
    let conv = Conv::new(kernel)
        .stride(convolution.stride)
        .padding(convolution.padding)
        .resample(resample);
    let size = conv.output_size(x.size);
    let residual_operand = match &input.residual {
        Some(residual) => {
            (residual.dtype() == dtype).then_some(())?;
            Some(activations(residual)?)
        }
        None => None,
    };
    let residual = residual_operand.as_ref().map(|operand| Picture::new(operand.tensor.clone()));
    if let Some(residual) = &residual {
        assert_eq!(
            (residual.size, residual.channels),
            (size, channels_out),
            "the shapes of a residual and the output"
        );
    }
    let operation = Convolved { conv, x, affine, silu: input.silu, layer, bias, added };
    let [scale, shift] = match &operation.affine {
        Some([scale, shift]) => [Some(&scale.operand), Some(&shift.operand)],
        None => [None, None],
    };
    let operands = [
        Some(&x_operand),
        scale,
        shift,
        operation.layer.operand(),
        operation.bias.as_ref().map(|bias| &bias.operand),
        operation.added.as_ref().map(|added| &added.operand),
        residual_operand.as_ref(),
    ];
    // What is set to zero has no gradient, which in a graph a step of its own says.
    let in_graph = operands.into_iter().flatten().any(Operand::is_in_graph);
    let out = typed!(dtype, E => {
        let mut epilogue = Epilogue::<E>::new().rectified(input.rectified && !in_graph);
        if let Some(bias) = &operation.bias {
            epilogue = epilogue.bias(bias.values());
        }
        if let Some(added) = &operation.added {
            epilogue = epilogue.image_bias(added.values());
        }
        if let Some(residual) = &residual {
            epilogue = epilogue.residual(residual.values());
        }
        let mut out = room::<E>(size.pixels() * channels_out, in_graph);
        let packed = operation.layer.packed();
        conv.forward(path(), &packed.0, operation.input::<E>(), epilogue, &mut out);
        Picture::from_values(out, size, channels_out)
    });
    let out: Tensor<4> = record(operands, out.into_tensor(), || operation.clone()).into();
    Some(if input.rectified && in_graph { relu(out) } else { out })
}

/// A convolution with what it read.
#[derive(Debug, Clone)]
struct Convolved {
    conv: Conv,
    x: Picture,
    affine: Option<[Floats; 2]>,
    silu: bool,
    layer: Layer<4>,
    bias: Option<Floats>,
    added: Option<Floats>,
}

impl Convolved {
    fn input<E: Value>(&self) -> Input<'_, E> {
        let mut input = Input::new(self.x.values(), self.x.size);
        if let Some([scale, shift]) = &self.affine {
            input = input.scale_shift(scale.values(), shift.values());
        }
        if self.silu {
            input = input.silu();
        }
        input
    }

    /// The gradients by the input, and by its scale and shift.
    fn input_gradients<E: Value>(&self, gradient: &Picture) -> [Option<FlexTensor>; 3] {
        let Self { conv, x, .. } = self;
        let (dtype, channels) = (x.dtype(), x.channels);
        let seen = conv.seen_size(x.size);
        let mut by_seen = zeros::<E>(seen.pixels() * channels);
        conv.input_gradient(
            path(),
            &self.layer.transposed(format(dtype)),
            Input::<E>::new(gradient.values(), gradient.size),
            seen,
            &mut by_seen,
        );
        let by_read = self.unsample(by_seen, seen);
        let constant;
        let [scale, shift] = match &self.affine {
            Some([scale, shift]) => [scale.values(), shift.values()],
            None if self.silu => {
                constant = [1.0, 0.0].map(|value| vec![value; x.size.batch * channels]);
                [&constant[0][..], &constant[1]]
            }
            None => {
                let by_x = Picture::from_values(by_read, x.size, channels).into_tensor();
                return [Some(by_x), None, None];
            }
        };
        let found = norm::apply_backward::<E>(
            path(),
            x.values(),
            pixels(x),
            scale,
            shift,
            self.silu,
            &by_read,
        );
        let by_x = Picture::rounded(found.x, dtype, x.size, channels).into_tensor();
        match &self.affine {
            Some([scale, shift]) => {
                [Some(by_x), Some(scale.gradient(found.scale)), Some(shift.gradient(found.shift))]
            }
            None => [Some(by_x), None, None],
        }
    }

    /// The gradient by what was resampled, given that by what came of it.
    fn unsample<E: Value>(&self, gradient: Vec<E>, seen: Size) -> Vec<E> {
        let (size, channels) = (self.x.size, self.x.channels);
        match self.conv.resampling() {
            Resample::Keep => gradient,
            Resample::Double => {
                let mut sums = zeros::<E>(size.pixels() * channels);
                avg_pool_2x2(path(), &gradient, seen, channels, &mut sums);
                // A sum of four is four means; the factor is a power of two, and rounds nothing.
                scale_by(&mut sums, 4.0);
                sums
            }
            Resample::Halve => spread_means(&gradient, seen, size, channels),
        }
    }
}

/// The gradient by what 2 × 2 means were taken of: a quarter to each value, nothing to an odd last row or column.
pub(super) fn spread_means<E: Value>(
    gradient: &[E],
    small: Size,
    size: Size,
    channels: usize,
) -> Vec<E> {
    let even = Size::new(size.batch, 2 * small.height, 2 * small.width);
    let mut spread = zeros::<E>(even.pixels() * channels);
    upsample_nearest_2x(gradient, small, channels, &mut spread);
    scale_by(&mut spread, 0.25);
    if even == size {
        return spread;
    }
    let mut out = zeros::<E>(size.pixels() * channels);
    let (from, to) = (even.width * channels, size.width * channels);
    for picture in 0..size.batch {
        for row in 0..even.height {
            let read = &spread[(picture * even.height + row) * from..][..from];
            out[(picture * size.height + row) * to..][..from].copy_from_slice(read);
        }
    }
    out
}

/// Multiplies each value.
pub(super) fn scale_by<E: Value>(values: &mut [E], factor: f32) {
    for value in values {
        let wide = kernels::Element::widen(*value) * factor;
        *value = <E as kernels::Element>::narrow(wide);
    }
}

impl Operation<7> for Convolved {
    fn backward(&self, gradient: FlexTensor, wanted: [bool; 7]) -> [Option<FlexTensor>; 7] {
        let [x, scale, shift, weight, bias, added, residual] = wanted;
        let gradient_tensor = gradient.clone();
        let gradient = Picture::new(gradient);
        typed!(self.x.dtype(), E => {
            let read = || Input::<E>::new(gradient.values(), gradient.size);
            let [by_x, by_scale, by_shift] = if x || scale || shift {
                self.input_gradients::<E>(&gradient)
            } else {
                [None, None, None]
            };
            let by_weight = weight.then(|| {
                let len = self.layer.shape.iter().product();
                let mut out = vec![0.0; len];
                let products = format(self.x.dtype());
                self.conv.weight_gradient(path(), products, self.input::<E>(), read(), &mut out);
                rounded(out, self.layer.dtype, self.layer.shape)
            });
            let by_bias = self.bias.as_ref().filter(|_| bias).map(|bias| {
                let mut out = vec![0.0; gradient.channels];
                kernels::bias_gradient(path(), read(), &mut out);
                bias.gradient(out)
            });
            let by_added = self.added.as_ref().filter(|_| added).map(|added| {
                let mut out = vec![0.0; gradient.size.batch * gradient.channels];
                kernels::image_bias_gradient(path(), read(), &mut out);
                added.gradient(out)
            });
            let by_residual = residual.then_some(gradient_tensor);
            [by_x, by_scale, by_shift, by_weight, by_bias, by_added, by_residual]
        })
    }
}
