//! What the checks of captions cost.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use unclip::safety::{CaptionCheck, Guard, Lexicon, Policy, SafetyFilter};

const SHORT: &str = "a high-resolution photograph of a big red frog on a green leaf.";

fn captions(criterion: &mut Criterion) {
    let guard = Guard::new(Policy::standard());
    let lists = CaptionCheck::builtin().profanity(false);
    let long = format!("{SHORT} ").repeat(100_000 / (SHORT.len() + 1));
    let evasive = "a g-0-r-e sc\u{435}ne, b1oody and n.a.k.e.d, in a sch00l";
    let mut group = criterion.benchmark_group("safety/caption");
    for (name, caption) in [("63 bytes", SHORT), ("evasive", evasive), ("100 kB", long.as_str())] {
        group.throughput(Throughput::Bytes(caption.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| guard.check_caption(black_box(caption)));
        });
        group.bench_function(format!("{name}, lists alone"), |bencher| {
            bencher.iter(|| lists.signals(black_box(caption)));
        });
    }
    group.finish();
    criterion.bench_function("safety/lists/first use", |bencher| {
        bencher.iter(|| Lexicon::read::<&str>(&[], true));
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .measurement_time(std::time::Duration::from_secs(2))
        .configure_from_args();
    captions(&mut criterion);
    criterion.final_summary();
}
