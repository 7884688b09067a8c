//! Gradient checkpointing gives the same gradients (see `stages`) from less memory.

use std::{fs, process::Command};

use serde_json::json;

use crate::{
    child::{CONFIG, PEAK},
    setup::Setup,
};

/// What a process that trains as `config` says takes of memory at most, in kB.
fn peak(setup: &Setup, config: &serde_json::Value) -> u64 {
    let file = setup.path("memory.json");
    fs::write(&file, config.to_string()).expect("is written");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child::trains_what_it_is_told_to", "--ignored", "--nocapture"])
        .env(CONFIG, &file)
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let peak = text.lines().find_map(|line| line.strip_prefix(PEAK)).expect("its peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[cfg(target_os = "linux")]
#[test]
fn checkpointing_takes_less_memory() {
    let setup = Setup::new();
    let run = |name: &str, checkpointing: bool| {
        let mut config = setup.config("upsampler", name, 1);
        config["stage"]["upsampler"]["crop"] = json!(32);
        let network = &mut config["stage"]["upsampler"]["network"];
        network["block_out_channels"] = json!([64, 64]);
        network["layers_per_block"] = json!(6);
        config["training"]["batch"] = json!(16);
        config["training"]["gradient_checkpointing"] = json!(checkpointing);
        peak(&setup, &config)
    };
    let (kept, again) = (run("kept", false), run("again", true));
    println!("{kept} kB, with checkpoints {again} kB");
    assert!(4 * again < 3 * kept, "{kept} kB, with checkpoints {again} kB");
}
