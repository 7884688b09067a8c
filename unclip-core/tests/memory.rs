//! Loading holds the weights, and above them less than the largest tensor.
//!
//! Measured from outside, so this is a process of its own with a single test.

#![cfg(target_os = "linux")]

use std::{fs, io::Write as _};

use burn::{module::Module, tensor::Device};
use unclip_core::{
    checkpoint::{LoadOptions, WeightPrecision, Weights, load},
    nn::{Linear, LinearConfig},
};

const WIDTH: usize = 2048;
const LAYERS: usize = 8;
/// The largest tensor, in kibibytes.
const LARGEST: u64 = (WIDTH * WIDTH * 4 / 1024) as u64;

#[derive(Module, Debug)]
struct Stack {
    layers: Vec<Linear>,
}

fn stack() -> Stack {
    let config = LinearConfig::new(WIDTH, WIDTH).with_bias(false);
    Stack { layers: (0..LAYERS).map(|_| config.init(&Device::flex())).collect() }
}

/// Weights of zero, written without ever being in memory: what was freed before would hide what is taken later.
fn checkpoint() -> tempfile::NamedTempFile {
    let size = WIDTH * WIDTH * 4;
    let tensors: Vec<String> = (0..LAYERS)
        .map(|layer| {
            let (begin, end) = (layer * size, (layer + 1) * size);
            format!(
                r#""layers.{layer}.weight":{{"dtype":"F32","shape":[{WIDTH},{WIDTH}],"data_offsets":[{begin},{end}]}}"#
            )
        })
        .collect();
    let header = format!("{{{}}}", tensors.join(","));
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("is written");
    file.write_all(header.as_bytes()).expect("is written");
    let length = 8 + header.len() + LAYERS * size;
    file.as_file().set_len(length as u64).expect("the rest is a hole");
    file
}

/// A line of this process's status, in kibibytes.
fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the line is there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn the_peak_above_the_loaded_weights_is_below_the_largest_tensor() {
    let file = checkpoint();
    let weights = Weights::open_file(file.path()).expect("opens");
    // Kept to the end: freed memory would be used again, and not be seen.
    let mut kept = Vec::new();
    for (precision, held) in [
        (WeightPrecision::Stored, LAYERS as u64 * LARGEST),
        (WeightPrecision::F16, LAYERS as u64 * LARGEST / 2),
    ] {
        // Makes the peak what is in use now.
        if fs::write("/proc/self/clear_refs", "5").is_err() {
            eprintln!("this system does not let a process reset its own peak: not measured");
            return;
        }
        let before = status("VmRSS:");
        let options = LoadOptions { precision, ..LoadOptions::default() };
        let loaded = load(stack(), &weights, &options).expect("fits");
        let (after, peak) = (status("VmRSS:"), status("VmHWM:"));
        println!("{precision:?}: {before} kB before, {after} kB loaded, {peak} kB at the peak");
        assert!(after - before >= held, "the weights are not all there");
        assert!(after - before < held + LARGEST / 4, "more than the weights is held");
        assert!(peak - after < LARGEST, "{} kB above the loaded weights", peak - after);
        kept.push(loaded);
    }
}
