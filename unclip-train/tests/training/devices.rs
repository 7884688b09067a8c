//! Several devices take the step that one takes with the whole batch.
//!
//! Here they are the same processor, which computes their shares at the same time: forks of the network, their gradients
//! and the order of the sums are those of several graphics cards.

use std::ops::ControlFlow;

use burn::tensor::Device;
use serde_json::{Value, json};
use unclip_core::device::keep_freed_memory;
use unclip_testkit::device;
use unclip_train::{StepReport, Trainer};

use crate::{
    setup::{STAGES, Setup, read},
    stages::tensors,
};

fn devices(count: usize) -> Vec<Device> {
    // Shares are then computed among the threads that divide each operation, where they must not wait for each other.
    keep_freed_memory();
    vec![device(); count]
}

fn finish(mut trainer: Trainer) -> Vec<f64> {
    let mut losses = Vec::new();
    let observer = |report: &StepReport| {
        losses.push(report.loss);
        ControlFlow::Continue(())
    };
    trainer.run(observer).expect("it trains");
    losses
}

#[test]
fn devices_share_a_batch_and_take_the_step_of_one() {
    let setup = Setup::new();
    for stage in STAGES {
        setup.foundation(stage);
        let run = |name: &str, steps, part: Value, count| {
            let output = format!("{stage}-{name}");
            let mut config = setup.config(stage, &output, steps);
            config["training"]["part"] = part;
            let trainer = Trainer::start_on(read(&config), &devices(count)).expect("it starts");
            (finish(trainer), tensors(&setup, &output))
        };
        // A batch of 8: halves on two devices are added as two parts on one.
        let parts = run("parts", 3, json!(4), 1);
        let two = run("two", 3, json!(null), 2);
        assert!(parts == two, "{stage}: two devices are not two parts");

        let whole = run("whole", 1, json!(null), 1);
        for count in [2, 3] {
            let shared = run(&format!("shared-{count}"), 1, json!(null), count);
            let loss = (whole.0[0] - shared.0[0]).abs() / whole.0[0].abs();
            assert!(loss < 1e-5, "{stage} on {count}: the loss is off by {loss}");
            // Adam's first step has the sign of the gradient, so the first moment is what to compare.
            let moments = |(name, _): &&(String, Vec<f32>)| name.starts_with("first_moment.");
            let pairs = whole.1.iter().filter(moments).zip(shared.1.iter().filter(moments));
            let all = whole.1.iter().filter(moments).flat_map(|(_, values)| values);
            let size = all.fold(0.0f32, |size, x| size.max(x.abs()));
            for ((name, a), (_, b)) in pairs {
                let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(
                    worst < 1e-5 * size,
                    "{stage} on {count}: {name} is off by {worst} of {size}"
                );
            }
        }
    }
}

#[test]
fn a_run_on_two_devices_continues_to_the_same_bits() {
    let setup = Setup::new();
    let start = |output: &str| {
        let config = read(&setup.config("upsampler", output, 6));
        Trainer::start_on(config, &devices(2)).expect("it starts")
    };
    finish(start("whole"));
    let third = |report: &StepReport| match report.step {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    start("halves").run(third).expect("it trains");
    let config = read(&setup.config("upsampler", "halves", 6));
    finish(Trainer::resume_on(config, &devices(2)).expect("it continues"));
    assert!(tensors(&setup, "whole") == tensors(&setup, "halves"), "the tensors differ");
}

#[test]
fn a_device_without_a_sample_is_refused() {
    let setup = Setup::new();
    let config = setup.config("upsampler", "run", 3);
    let refused =
        |count| Trainer::start_on(read(&config), &devices(count)).expect_err("refused").to_string();
    let text = refused(0);
    assert!(text.contains("`devices`"), "{text}");
    let text = refused(9);
    assert!(text.contains("`batch` is 8, expected 9 or more"), "{text}");
}
