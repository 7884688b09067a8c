//! Instructions that a processor has are there to be used: no path may be slower than plain Rust.
//!
//! What is called out of line from code of a path is compiled without the path's instructions, where a fused
//! multiplication and addition is a call to a function: tens of times as slow, and right to the last bit.

use std::time::{Duration, Instant};

use unclip_kernels::{
    Activation, Conv, Epilogue, Format, Input, Size, Weights,
    activation::activate,
    attention::{AttentionInput, AttentionShape, Heads, Products, attention, attention_backward},
    cpu::Path,
    linear,
    norm::{Pixels, apply, group_statistics, layer_norm},
};

/// How much slower than plain Rust a path may be found on a busy machine.
const MARGIN: u32 = 3;

/// Runs in which a path may show that it is not.
const RUNS: usize = 50;

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|at| (at % 251) as f32 / 125.0 - 1.0).collect()
}

fn no_path_is_slower(what: &str, mut work: impl FnMut(Path)) {
    let mut time = |path| {
        let start = Instant::now();
        work(path);
        start.elapsed()
    };
    let plain = Path::named("portable").expect("every machine runs it");
    for path in Path::available().filter(|path| *path != plain) {
        let (mut own, mut of_plain) = (Duration::MAX, Duration::MAX);
        // The fastest runs, in turn, since other work comes and goes.
        let shown = (0..RUNS).any(|run| {
            of_plain = of_plain.min(time(plain));
            own = own.min(time(path));
            run > 2 && own <= MARGIN * of_plain
        });
        assert!(shown, "{what} takes {own:?} on {path} and {of_plain:?} in plain Rust");
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "without optimisation instructions are calls")]
fn convolutions_and_linear_layers() {
    let (size, channels) = (Size::new(2, 16, 16), 48);
    let shape = [channels, channels, 3, 3];
    let values = noise(shape.iter().product());
    let x = noise(size.pixels() * channels);
    let (scale, shift) = (noise(2 * channels), noise(2 * channels));
    let conv = Conv::new(3).padding(1);
    for format in [Format::F32, Format::Bf16] {
        let weights = Weights::conv(&values, shape, format);
        let mut y = vec![0.0f32; x.len()];
        no_path_is_slower(&format!("a convolution in {format:?}"), |path| {
            let input = Input::new(&x, size).scale_shift(&scale, &shift).silu();
            conv.forward(path, &weights, input, Epilogue::new().residual(&x), &mut y);
        });
        let mut gradient = vec![0.0f32; values.len()];
        no_path_is_slower(&format!("a gradient of weights in {format:?}"), |path| {
            let input = || Input::new(&x, size);
            conv.weight_gradient(path, format, input(), input(), &mut gradient);
        });
        let (rows, width) = (64, 256);
        let values = noise(width * width);
        let weights = Weights::linear(&values, [width, width], format);
        let x = noise(rows * width);
        let mut y = vec![0.0f32; rows * width];
        no_path_is_slower(&format!("a linear layer in {format:?}"), |path| {
            linear(path, &weights, &x, Epilogue::new(), &mut y);
        });
    }
    // Large enough to be filtered in blocks.
    let (size, channels) = (Size::new(1, 64, 64), 32);
    let weights =
        Weights::conv(&noise(9 * channels * channels), [channels, channels, 3, 3], Format::F32);
    let x = noise(size.pixels() * channels);
    let mut y = vec![0.0f32; x.len()];
    no_path_is_slower("a filtering", |path| {
        conv.forward(path, &weights, Input::new(&x, size), Epilogue::new(), &mut y);
    });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "without optimisation instructions are calls")]
fn attention_and_its_gradients() {
    let shape = AttentionShape { batch: 1, heads: 3, queries: 256, keys: 292, width: 16 };
    let AttentionShape { batch, heads, queries, keys, width } = shape;
    let (query, key) = (noise(heads * queries * width), noise(heads * keys * width));
    let input = AttentionInput {
        shape,
        query: Heads::beside(&query, batch, heads, queries, width),
        key: Heads::beside(&key, batch, heads, keys, width),
        value: Heads::beside(&key, batch, heads, keys, width),
        bias: None,
        scale: 0.25,
    };
    let mut out = vec![0.0f32; query.len()];
    let mut log_sums = vec![0.0; heads * queries];
    for products in [Products::F32, Products::Bf16] {
        no_path_is_slower(&format!("attention in {products:?}"), |path| {
            attention(path, &input, products, &mut out, Some(&mut log_sums));
        });
        no_path_is_slower(&format!("its gradients in {products:?}"), |path| {
            attention_backward(path, &input, products, &out, &log_sums, &query);
        });
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "without optimisation instructions are calls")]
fn norms_and_activations() {
    let shape = Pixels { batch: 2, pixels: 1024, channels: 48 };
    let x = noise(shape.len());
    let (scale, shift) = (noise(2 * 48), noise(2 * 48));
    let mut out = vec![0.0f32; x.len()];
    no_path_is_slower("the statistics of groups", |path| {
        group_statistics(path, &x, shape, 8, 1e-5);
    });
    no_path_is_slower("a norm's application", |path| {
        apply(path, &x, shape, &scale, &shift, true, &mut out);
    });
    no_path_is_slower("a layer norm", |path| {
        layer_norm(path, &x, &scale[..48], &shift[..48], 1e-5, &mut out);
    });
    for activation in [Activation::Silu, Activation::QuickGelu, Activation::Gelu] {
        no_path_is_slower(&format!("{activation:?}"), |path| {
            activate(path, activation, &x, &mut out);
        });
    }
}
