//! The hot operations at the shapes of full-size Karlo, a picture a batch with guidance (two rows in the decoder, one in
//! the upsampler). Throughput is counted in floating-point operations, two a multiply-add.
//!
//! ```text
//! cargo bench --bench ops                      # all
//! cargo bench --bench ops -- conv3x3           # one family
//! UNCLIP_BENCH_DEVICE=wgpu cargo bench --features wgpu --bench ops
//! ```

#![expect(missing_docs, reason = "criterion's macros write items without documentation")]

use burn::{
    module::Param,
    tensor::{Device, Distribution, FloatDType, Tensor},
};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use unclip::core::ops::{self, ConvInput, Convolution, LinearInput, Weight};

fn device() -> Device {
    let name = std::env::var("UNCLIP_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    unclip::device(&name).expect("UNCLIP_BENCH_DEVICE names a device of this machine")
}

/// `UNCLIP_BENCH_DTYPE=bf16` makes everything of that type, and with it the products.
fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let dtype = match std::env::var("UNCLIP_BENCH_DTYPE").as_deref() {
        Ok("bf16") => FloatDType::BF16,
        _ => FloatDType::F32,
    };
    Tensor::<D>::random(shape, Distribution::Normal(0.0, 1.0), device).cast(dtype)
}

/// Times `run`, waiting for the device inside the timed closure.
fn time<const D: usize>(
    criterion: &mut Criterion,
    family: &str,
    name: &str,
    flop: usize,
    device: &Device,
    run: impl Fn() -> Tensor<D>,
) {
    let mut group = criterion.benchmark_group(family);
    group
        .throughput(Throughput::Elements(flop as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10);
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let out = run();
            device.sync().expect("the device answers");
            out
        });
    });
    group.finish();
}

fn conv(criterion: &mut Criterion) {
    let device = device();
    // Batch, channels in and out, side, kernel: the costliest convolution of each level.
    for (network, batch, channels_in, channels_out, side, kernel) in [
        ("decoder", 2, 960, 320, 64, 3),
        ("decoder", 2, 1600, 640, 32, 3),
        ("decoder", 2, 2240, 960, 16, 3),
        ("decoder", 2, 2560, 1280, 8, 3),
        ("decoder", 2, 960, 320, 64, 1),
        ("upsampler", 1, 320, 320, 256, 3),
        ("upsampler", 1, 960, 320, 256, 3),
        ("upsampler", 1, 1600, 640, 128, 3),
    ] {
        let x = random([batch, channels_in, side, side], &device);
        let weight: Weight<4> =
            Param::from_tensor(random([channels_out, channels_in, kernel, kernel], &device)).into();
        let bias = Param::from_tensor(random([channels_out], &device));
        let convolution =
            Convolution { weight: &weight, bias: Some(&bias), stride: 1, padding: kernel / 2 };
        let flop = 2 * batch * side * side * channels_in * channels_out * kernel * kernel;
        let name = format!("{network}/{channels_in}to{channels_out}/{side}px");
        time(criterion, &format!("conv{kernel}x{kernel}"), &name, flop, &device, || {
            convolution.apply(ConvInput::new(x.clone()))
        });
    }
}

fn linear(criterion: &mut Criterion) {
    let device = device();
    for (name, rows, channels_in, channels_out) in [
        ("prior/q", 81, 2048, 2048),
        ("prior/ff_in", 81, 2048, 8192),
        ("decoder/q", 1024, 640, 640),
    ] {
        let x = random([2, rows, channels_in], &device);
        let weight: Weight<2> =
            Param::from_tensor(random([channels_out, channels_in], &device)).into();
        let bias = Param::from_tensor(random([channels_out], &device));
        let flop = 2 * 2 * rows * channels_in * channels_out;
        time(criterion, "linear", name, flop, &device, || {
            ops::linear(LinearInput::new(x.clone()), &weight, Some(&bias))
        });
    }
}

fn attention(criterion: &mut Criterion) {
    let device = device();
    for (name, heads, queries, keys) in
        [("prior", 32, 81, 81), ("decoder/32px", 10, 1024, 1105), ("decoder/16px", 15, 256, 337)]
    {
        let query = random([2, heads, queries, 64], &device);
        let key = random([2, heads, keys, 64], &device);
        let value = random([2, heads, keys, 64], &device);
        let bias = random([2, 1, queries, keys], &device);
        let flop = 2 * 2 * 2 * heads * queries * keys * 64;
        time(criterion, "attention", name, flop, &device, || {
            ops::attention(query.clone(), key.clone(), value.clone(), Some(bias.clone()), 0.125)
        });
    }
}

fn norm(criterion: &mut Criterion) {
    let device = device();
    for (name, batch, channels, side) in
        [("decoder/64px", 2, 320, 64), ("upsampler/256px", 1, 320, 256)]
    {
        let x = random([batch, channels, side, side], &device);
        let weight = random([channels], &device);
        let bias = random([channels], &device);
        // Counted in values, not operations: this one is bound by memory.
        time(criterion, "group_norm_silu", name, batch * channels * side * side, &device, || {
            let affine = ops::group_norm_affine(&x, 32, weight.clone(), bias.clone(), 1e-5);
            ops::apply(x.clone(), &affine, true)
        });
    }
}

criterion_group!(benches, conv, linear, attention, norm);
criterion_main!(benches);
