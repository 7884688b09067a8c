//! Convolution.

use burn::tensor::Tensor;
use unclip_kernels::{Conv, Epilogue, Input, Resample};

use super::{Picture, floats, linear::weights, path, picture, typed};
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
    let x = Picture::new(&input.x)?;
    assert_eq!(x.channels, channels_in, "the channels of the input and of the weight");
    let affine = match &input.affine {
        Some(affine) => Some((floats(&affine.scale)?, floats(&affine.shift)?)),
        None => None,
    };
    let added = match &input.added {
        Some(added) => Some(floats(added)?),
        None => None,
    };
    let bias = match bias {
        Some(bias) => Some(floats(bias)?),
        None => None,
    };
    let resample = match input.resample {
        None => Resample::Keep,
        Some(ops::Resample::Up) => Resample::Double,
        Some(ops::Resample::Down) => Resample::Halve,
    };
    let weights = weights(dtype, convolution.weight)?;
    let conv = Conv::new(kernel)
        .stride(convolution.stride)
        .padding(convolution.padding)
        .resample(resample);
    let size = conv.output_size(x.size);
    let residual = match &input.residual {
        Some(residual) => {
            let residual = Picture::new(residual)?;
            assert_eq!(
                (residual.size, residual.channels),
                (size, channels_out),
                "the shapes of a residual and the output"
            );
            (residual.dtype() == dtype).then_some(())?;
            Some(residual)
        }
        None => None,
    };
    Some(typed!(dtype, E => {
        let mut read = Input::<E>::new(x.values(), x.size);
        if let Some((scale, shift)) = &affine {
            read = read.scale_shift(scale, shift);
        }
        if input.silu {
            read = read.silu();
        }
        let mut epilogue = Epilogue::<E>::new();
        if let Some(bias) = &bias {
            epilogue = epilogue.bias(bias);
        }
        if let Some(added) = &added {
            epilogue = epilogue.image_bias(added);
        }
        if let Some(residual) = &residual {
            epilogue = epilogue.residual(residual.values());
        }
        let mut out = bytemuck::zeroed_vec::<E>(size.pixels() * channels_out);
        conv.forward(path(), &weights.0, read, epilogue, &mut out);
        picture(out, size, channels_out)
    }))
}
