//! A run that is killed continues to the same bits.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    child::CONFIG,
    setup::{STAGES, Setup, checkpoint, train},
};

const STEPS: u64 = 11;

fn start(config: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child::trains_what_it_is_told_to", "--ignored"])
        .env(CONFIG, config)
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts")
}

fn lines(log: &Path) -> usize {
    fs::read_to_string(log).map_or(0, |text| text.lines().count())
}

/// Runs `config` and sends SIGKILL as soon as its log has `count` lines.
fn kill_after(config: &Path, log: &Path, count: usize) {
    let mut child = start(config);
    let begun = Instant::now();
    while lines(log) < count {
        assert!(begun.elapsed() < Duration::from_secs(300), "no step for five minutes");
        if let Some(status) = child.try_wait().expect("a child") {
            panic!("it ended by itself, {status}, before step {count}");
        }
        sleep(Duration::from_millis(1));
    }
    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
}

#[test]
fn a_run_that_is_killed_continues_to_the_same_bits() {
    let setup = Setup::new();
    for stage in STAGES {
        setup.foundation(stage);
        let mut whole = setup.config(stage, &format!("{stage}-whole"), STEPS);
        let mut killed = setup.config(stage, &format!("{stage}-killed"), STEPS);
        if stage == "clip" {
            // The stages after it build on a CLIP that stays as it is.
            whole["model"] = json!(setup.path("whole-model"));
            killed["model"] = json!(setup.path("killed-model"));
        }
        if stage == "decoder" {
            // Its matrices are Muon's, those of the other stages AdamW's.
            whole["training"]["optimizer"]["muon"] = json!({});
            killed["training"]["optimizer"]["muon"] = json!({});
        }
        train(&whole);

        let config = setup.path("killed.json");
        fs::write(&config, killed.to_string()).expect("is written");
        let output = setup.path(&format!("{stage}-killed"));
        let log = output.join("log.jsonl");
        // Before the first checkpoint (after step 3), between two, and right after one.
        for count in [2, 5, 9] {
            kill_after(&config, &log, count);
        }
        assert!(start(&config).wait().expect("a child").success(), "{stage}: the last start");

        let file = |output: &Path| {
            fs::read(checkpoint(output).join("tensors.safetensors")).expect("a checkpoint")
        };
        let expected = setup.path(&format!("{stage}-whole"));
        assert!(file(&output) == file(&expected), "{stage}: the tensors differ");
        let text = |output: &Path| fs::read_to_string(output.join("log.jsonl")).expect("a log");
        assert_eq!(text(&output), text(&expected), "{stage}: the logs");
        let kept = fs::read_dir(output.join("checkpoints")).expect("a folder").count();
        assert_eq!(kept, 2, "{stage}: the last two are kept, and nothing half-written");
    }
}
