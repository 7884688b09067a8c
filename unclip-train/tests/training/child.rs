//! The other half of the tests that kill a run: a process that trains until it is killed, or to the end.

use std::{ops::ControlFlow, thread::sleep, time::Duration};

use unclip_train::{Error, RunConfig, Trainer};

/// Names the configuration of the run to train.
pub(crate) const CONFIG: &str = "UNCLIP_TRAIN_CONFIG";

/// Begins the line on which a process says how much memory it took at most, in kB, as on Linux it can.
pub(crate) const PEAK: &str = "VmHWM:";

#[test]
#[ignore = "started by the tests that kill it"]
fn trains_what_it_is_told_to() {
    let path = std::env::var(CONFIG).expect("the configuration of a run");
    let open = || RunConfig::open(&path).expect("a configuration");
    let device = unclip_testkit::device();
    let trainer = match Trainer::resume(open(), &device) {
        // Killed before its first checkpoint: from the start.
        Err(Error::NoCheckpoint { .. }) => Trainer::start(open(), &device),
        other => other,
    };
    // Slow enough that it can be hit at a step.
    let wait = |_: &_| {
        sleep(Duration::from_millis(100));
        ControlFlow::Continue(())
    };
    trainer.expect("it starts").run(wait).expect("it trains");
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find_map(|line| line.strip_prefix(PEAK));
        println!("{PEAK}{}", peak.unwrap_or_default());
    }
}
