//! Lengths that do not fit are refused by every entry, before any kernel sees them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use unclip_kernels::{
    Activation, Conv, Epilogue, Format, Input, Size, Weights,
    activation::{activate, activate_backward},
    attention::{AttentionInput, AttentionShape, Heads, Products, ScoreBias, attention},
    bias_gradient,
    cpu::Path,
    image_bias_gradient, linear, linear_weight_gradient,
    norm::{
        Pixels, apply, apply_backward, group_backward, group_statistics, layer_norm,
        layer_norm_backward,
    },
    picture::{add, avg_pool_2x2, join_channels, upsample_nearest_2x},
};

use crate::reference::FORMATS;

/// Demands that `work` panics when it is given `wrong` in place of `right`, with a message that says `words`.
#[track_caller]
fn refuses(right: usize, wrong: &[usize], words: &str, work: impl Fn(usize)) {
    work(right);
    for &wrong in wrong {
        let refusal = catch_unwind(AssertUnwindSafe(|| work(wrong)));
        let message = refusal.expect_err("a wrong length was taken");
        let message = message
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| message.downcast_ref::<&str>().copied())
            .expect("a message");
        assert!(message.contains(words), "`{message}` does not say `{words}`");
    }
}

/// Two pictures of 3 × 4 pixels.
const SIZE: Size = Size { batch: 2, height: 3, width: 4 };
const PIXELS: usize = 24;

fn numbers(len: usize) -> Vec<f32> {
    vec![1.0; len]
}

#[test]
fn convolutions_refuse_lengths_that_do_not_fit() {
    for format in FORMATS {
        let weights = Weights::conv(&numbers(5 * 2 * 9), [5, 2, 3, 3], format);
        let conv = Conv::new(3).padding(1);
        let (x, y) = (numbers(PIXELS * 2), numbers(PIXELS * 5));
        let run = |input: Input<'_, f32>, epilogue: Epilogue<'_, f32>, len: usize| {
            conv.forward(Path::chosen(), &weights, input, epilogue, &mut numbers(len));
        };
        let plain = || Input::new(&x, SIZE);
        let around = |right: usize| [0, right - 1, right + 1];
        refuses(x.len(), &around(x.len()), "an input of", |len| {
            run(Input::new(&numbers(len), SIZE), Epilogue::new(), y.len());
        });
        refuses(y.len(), &around(y.len()), "an output of", |len| {
            run(plain(), Epilogue::new(), len);
        });
        refuses(4, &around(4), "scale has", |len| {
            run(plain().scale_shift(&numbers(len), &numbers(4)), Epilogue::new(), y.len());
        });
        refuses(4, &around(4), "shift has", |len| {
            run(plain().scale_shift(&numbers(4), &numbers(len)), Epilogue::new(), y.len());
        });
        refuses(5, &around(5), "a bias of", |len| {
            run(plain(), Epilogue::new().bias(&numbers(len)), y.len());
        });
        refuses(10, &around(10), "an image bias of", |len| {
            run(plain(), Epilogue::new().image_bias(&numbers(len)), y.len());
        });
        refuses(y.len(), &around(y.len()), "a residual of", |len| {
            run(plain(), Epilogue::new().residual(&numbers(len)), y.len());
        });
        refuses(3, &[1, 2, 4], "weights of a kernel", |kernel| {
            let weights =
                Weights::conv(&numbers(10 * kernel * kernel), [5, 2, kernel, kernel], format);
            let mut y = y.clone();
            conv.forward(Path::chosen(), &weights, plain(), Epilogue::new(), &mut y);
        });
    }
}

#[test]
fn gradients_refuse_lengths_that_do_not_fit() {
    // Windows that overlap, and windows that are cut out.
    for (conv, kernel, output) in
        [(Conv::new(3).padding(1), 3, SIZE), (Conv::new(2).stride(2), 2, Size::new(2, 1, 2))]
    {
        for format in FORMATS {
            let taps = kernel * kernel;
            let weights =
                Weights::conv_transposed(&numbers(5 * 2 * taps), [5, 2, kernel, kernel], format);
            let (x, y) = (numbers(PIXELS * 2), numbers(output.pixels() * 5));
            let around = |right: usize| [right - 1, right + 1];
            let by_input = |gradient: &[f32], size: Size, len: usize| {
                let gradient = Input::new(gradient, size);
                let mut out = numbers(len);
                conv.input_gradient(Path::chosen(), &weights, gradient, SIZE, &mut out);
            };
            refuses(y.len(), &around(y.len()), "an input of", |len| {
                by_input(&numbers(len), output, x.len());
            });
            refuses(x.len(), &around(x.len()), "an output of", |len| by_input(&y, output, len));
            refuses(output.height, &[0, output.height + 1], "leads to", |height| {
                by_input(&y, Size { height, ..output }, x.len());
            });

            let by_weight = |x: &[f32], gradient: &[f32], len: usize| {
                let (x, gradient) = (Input::new(x, SIZE), Input::new(gradient, output));
                conv.weight_gradient(Path::chosen(), format, x, gradient, &mut numbers(len));
            };
            refuses(10 * taps, &around(10 * taps), "the gradient of", |len| by_weight(&x, &y, len));
            refuses(x.len(), &around(x.len()), "an input of", |len| {
                by_weight(&numbers(len), &y, 10 * taps);
            });
            refuses(y.len(), &around(y.len()), "an input of", |len| {
                by_weight(&x, &numbers(len), 10 * taps);
            });
        }
    }
}

#[test]
fn linear_layers_refuse_lengths_that_do_not_fit() {
    let weights = Weights::linear(&numbers(15), [5, 3], Format::F32);
    refuses(12, &[11, 13], "an input of", |len| {
        linear(Path::chosen(), &weights, &numbers(len), Epilogue::new(), &mut numbers(20));
    });
    refuses(20, &[19, 21], "an output of", |len| {
        linear(Path::chosen(), &weights, &numbers(12), Epilogue::new(), &mut numbers(len));
    });
    refuses(15, &[14, 16], "the gradient of", |len| {
        let (x, gradient) = (numbers(12), numbers(20));
        let mut out = numbers(len);
        linear_weight_gradient(Path::chosen(), Format::F32, 4, &x, &gradient, &mut out);
    });
    refuses(20, &[19, 21], "an input of", |len| {
        bias_gradient(
            Path::chosen(),
            Input::new(&numbers(len), Size::new(1, 4, 1)),
            &mut numbers(5),
        );
    });
    refuses(10, &[9, 11], "sums for 2 pictures", |len| {
        let gradient = numbers(PIXELS * 5);
        image_bias_gradient(Path::chosen(), Input::new(&gradient, SIZE), &mut numbers(len));
    });
}

#[test]
fn norms_refuse_lengths_that_do_not_fit() {
    let path = Path::chosen();
    let shape = Pixels { batch: 2, pixels: 3, channels: 4 };
    let x = numbers(24);
    let run = |x: usize, scale: usize, shift: usize, out: usize| {
        let (scale, shift) = (numbers(scale), numbers(shift));
        apply(path, &numbers(x), shape, &scale, &shift, true, &mut numbers(out));
    };
    refuses(24, &[23, 25], "activations of", |len| run(len, 8, 8, 24));
    refuses(8, &[7, 9], "one scale", |len| run(24, len, 8, 24));
    refuses(8, &[7, 9], "one shift", |len| run(24, 8, len, 24));
    refuses(24, &[23, 25], "one output", |len| run(24, 8, 8, len));
    refuses(24, &[23, 25], "one gradient", |len| {
        apply_backward(path, &x, shape, &numbers(8), &numbers(8), true, &numbers(len));
    });
    refuses(24, &[23, 25], "activations of", |len| {
        group_statistics(path, &numbers(len), shape, 2, 1e-5);
    });
    let statistics = group_statistics(path, &x, shape, 2, 1e-5);
    refuses(4, &[3, 5], "one", |len| {
        statistics.affine(2, &numbers(len), &numbers(4));
    });
    refuses(4, &[3, 5], "one bias", |len| {
        statistics.affine(2, &numbers(4), &numbers(len));
    });
    refuses(8, &[7, 9], "one gradient a picture", |len| {
        group_backward(path, &x, shape, &statistics, &numbers(4), &numbers(len), &numbers(8));
    });
    refuses(4, &[5, 7], "rows of", |width| {
        let (weight, bias) = (numbers(width), numbers(width));
        layer_norm(path, &x, &weight, &bias, 1e-5, &mut numbers(24));
    });
    refuses(24, &[23, 25], "one output", |len| {
        layer_norm(path, &x, &numbers(4), &numbers(4), 1e-5, &mut numbers(len));
    });
    refuses(24, &[23, 25], "one gradient", |len| {
        layer_norm_backward(path, &x, &numbers(4), 1e-5, &numbers(len));
    });
}

#[test]
fn attention_refuses_views_of_other_sizes() {
    let shape = AttentionShape { batch: 2, heads: 2, queries: 3, keys: 4, width: 5 };
    let run = |query: usize, key: usize, value: usize, bias: usize, out: usize| {
        let (values, scores) = (numbers(1000), numbers(1000));
        let view = |rows: usize| Heads::beside(&values[..2 * rows * 10], 2, 2, rows, 5);
        let input = AttentionInput {
            shape,
            query: view(query),
            key: view(key),
            value: view(value),
            bias: Some(ScoreBias::new(&scores[..6 * bias], [2, 3, bias], [3 * bias, bias])),
            scale: 1.0,
        };
        attention(Path::chosen(), &input, Products::F32, &mut numbers(out), None);
    };
    refuses(3, &[2], "end behind", |rows| run(rows, 4, 4, 4, 60));
    refuses(4, &[3], "end behind", |rows| run(3, rows, 4, 4, 60));
    refuses(4, &[3], "end behind", |rows| run(3, 4, rows, 4, 60));
    refuses(4, &[3, 5], "one bias a key", |keys| run(3, 4, 4, keys, 60));
    refuses(60, &[59, 61], "the output has", |len| run(3, 4, 4, 4, len));
}

#[test]
fn what_moves_pixels_refuses_lengths_that_do_not_fit() {
    let path = Path::chosen();
    let size = Size::new(1, 4, 6);
    refuses(48, &[47, 49], "pictures of", |len| {
        avg_pool_2x2(path, &numbers(len), size, 2, &mut numbers(12));
    });
    refuses(12, &[11, 13], "pictures of", |len| {
        avg_pool_2x2(path, &numbers(48), size, 2, &mut numbers(len));
    });
    refuses(48, &[47, 49], "pictures of", |len| {
        upsample_nearest_2x(&numbers(len), size, 2, &mut numbers(192));
    });
    refuses(192, &[191, 193], "pictures of", |len| {
        upsample_nearest_2x(&numbers(48), size, 2, &mut numbers(len));
    });
    refuses(50, &[49, 51], "one output a value", |len| {
        join_channels(&numbers(20), 2, &numbers(30), 3, &mut numbers(len));
    });
    refuses(50, &[49, 51], "one output a value", |len| {
        add(path, &numbers(50), &numbers(50), &mut numbers(len));
    });
    refuses(50, &[49, 51], "one output a value", |len| {
        activate(path, Activation::Silu, &numbers(50), &mut numbers(len));
    });
    refuses(50, &[49, 51], "one gradient a value", |len| {
        activate_backward(path, Activation::Silu, &numbers(50), &numbers(len), &mut numbers(50));
    });
}
