//! Every kernel at the shapes of Karlo's networks and of a small one in training.
//!
//! Criterion's throughput counts floating-point operations, so its `Gelem/s` are GFLOP/s. Below each result stands the
//! fastest run's share of what all threads reach on registers alone, measured right after it. The environment variable
//! `UNCLIP_KERNELS` picks the path.

#[cfg(target_arch = "x86_64")]
mod peak;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};
use unclip_kernels::{
    Conv, Epilogue, Format, Input, Size, Weights, cpu::Path, linear, linear_weight_gradient,
};

/// Name, batch, side, channels in and out, kernel.
const CONVOLUTIONS: &[(&str, usize, usize, usize, usize, usize)] = &[
    ("upsampler_256_320", 1, 256, 320, 320, 3),
    ("upsampler_256_960_320", 1, 256, 960, 320, 3),
    ("upsampler_128_640", 1, 128, 640, 640, 3),
    ("upsampler_64_2240_960", 1, 64, 2240, 960, 3),
    ("decoder_64_320", 2, 64, 320, 320, 3),
    ("decoder_32_640", 2, 32, 640, 640, 3),
    ("decoder_16_960", 2, 16, 960, 960, 3),
    ("decoder_8_2560_1280", 2, 8, 2560, 1280, 3),
    ("decoder_32_1600_640_1x1", 2, 32, 1600, 640, 1),
    ("training_64_16", 16, 64, 16, 16, 3),
    ("training_32_24", 16, 32, 24, 24, 3),
    ("training_16_48", 16, 16, 48, 48, 3),
    ("training_8_128", 16, 8, 128, 128, 3),
    ("sampling_8_256_128", 2, 8, 256, 128, 3),
    ("sampling_16_48", 2, 16, 48, 48, 3),
    ("training_64_64", 16, 64, 64, 64, 3),
    ("training_32_128", 16, 32, 128, 128, 3),
];

/// Name, rows, channels in and out.
const LINEAR_LAYERS: &[(&str, usize, usize, usize)] = &[
    ("prior_162_2048_8192", 162, 2048, 8192),
    ("prior_162_8192_2048", 162, 8192, 2048),
    ("time_2_1280_2560", 2, 1280, 2560),
];

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|at| (at % 251) as f32 / 125.0 - 1.0).collect()
}

/// Runs `work` under criterion, and prints the fastest run's share of the peak.
fn measure(
    criterion: &mut Criterion,
    id: &str,
    format: Format,
    flop: usize,
    mut work: impl FnMut(),
) {
    let (group, name) = id.split_once('/').expect("a group and a name");
    let mut best = Duration::MAX;
    let mut criterion_group = criterion.benchmark_group(group);
    criterion_group.throughput(Throughput::Elements(flop as u64));
    criterion_group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    let start = Instant::now();
                    work();
                    let time = start.elapsed();
                    best = best.min(time);
                    time
                })
                .sum()
        });
    });
    criterion_group.finish();
    #[cfg(target_arch = "x86_64")]
    if best < Duration::MAX
        && let Some(peak) = peak::peak(Path::chosen(), format)
    {
        let rate = flop as f64 / best.as_secs_f64() * 1e-9;
        let peak = peak * rayon::current_num_threads() as f64;
        println!("{id}: {rate:.0} GFLOP/s, {:.0} % of {peak:.0}", 100.0 * rate / peak);
    }
}

fn convolutions(criterion: &mut Criterion) {
    let path = Path::chosen();
    for format in [Format::Bf16, Format::F32] {
        for &(name, batch, side, channels_in, channels_out, kernel) in CONVOLUTIONS {
            let size = Size::new(batch, side, side);
            let shape = [channels_out, channels_in, kernel, kernel];
            let values = noise(shape.iter().product());
            let weights = Weights::conv(&values, shape, format);
            let conv = Conv::new(kernel).padding(kernel / 2);
            let x = noise(size.pixels() * channels_in);
            let residual = noise(size.pixels() * channels_out);
            let (scale, shift) = (noise(batch * channels_in), noise(batch * channels_in));
            let mut y = vec![0.0f32; residual.len()];
            let flop = 2 * size.pixels() * values.len();
            let id = |kind: &str| format!("{kind}_{format:?}/{name}");

            measure(criterion, &id("conv"), format, flop, || {
                conv.forward(
                    path,
                    &weights,
                    Input::new(&x, size),
                    Epilogue::new(),
                    black_box(&mut y),
                );
            });
            measure(criterion, &id("norm_silu_conv_residual"), format, flop, || {
                let input = Input::new(&x, size).scale_shift(&scale, &shift).silu();
                conv.forward(
                    path,
                    &weights,
                    input,
                    Epilogue::new().residual(&residual),
                    black_box(&mut y),
                );
            });
            if !name.starts_with("training") {
                continue;
            }
            let mut weight_gradient = vec![0.0f32; values.len()];
            measure(criterion, &id("conv_weight_gradient"), format, flop, || {
                let (input, gradient) = (Input::new(&x, size), Input::new(&residual, size));
                conv.weight_gradient(
                    path,
                    format,
                    input,
                    gradient,
                    black_box(&mut weight_gradient),
                );
            });
            let transposed = Weights::conv_transposed(&values, shape, format);
            let mut input_gradient = vec![0.0f32; x.len()];
            measure(criterion, &id("conv_input_gradient"), format, flop, || {
                let gradient = Input::new(&residual, size);
                conv.input_gradient(
                    path,
                    &transposed,
                    gradient,
                    size,
                    black_box(&mut input_gradient),
                );
            });
        }
    }
}

fn linear_layers(criterion: &mut Criterion) {
    let path = Path::chosen();
    for format in [Format::Bf16, Format::F32] {
        for &(name, rows, channels_in, channels_out) in LINEAR_LAYERS {
            let values = noise(channels_out * channels_in);
            let weights = Weights::linear(&values, [channels_out, channels_in], format);
            let x = noise(rows * channels_in);
            let mut y = vec![0.0f32; rows * channels_out];
            let flop = 2 * rows * values.len();
            measure(criterion, &format!("linear_{format:?}/{name}"), format, flop, || {
                linear(path, &weights, &x, Epilogue::new(), black_box(&mut y));
            });
            let mut gradient = vec![0.0f32; values.len()];
            measure(
                criterion,
                &format!("linear_weight_gradient_{format:?}/{name}"),
                format,
                flop,
                || {
                    linear_weight_gradient(path, format, rows, &x, &y, black_box(&mut gradient));
                },
            );
        }
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10)
        .configure_from_args();
    convolutions(&mut criterion);
    linear_layers(&mut criterion);
    criterion.final_summary();
}
