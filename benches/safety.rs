//! What each check and each mark costs: of captions, and of a picture of 256 × 256.

use std::{hint::black_box, io::Cursor};

use criterion::{BatchSize, Criterion, Throughput};
use unclip::{
    image::{ImageFormat, Rgb, RgbImage},
    safety::{
        CaptionCheck, Guard, Lexicon, Policy, SafetyFilter, Watermark,
        mark::{Detector, InvisibleMark, Payload, Signature},
        picture::OpenNsfw,
        provenance::{Origin, write_origin},
    },
};

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

/// Shades, edges and grain.
fn picture() -> RgbImage {
    let mut state = 1_u32;
    RgbImage::from_fn(256, 256, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let disc = (x.abs_diff(150).pow(2) + y.abs_diff(100).pow(2)) < 60 * 60;
        let grain = if y > 128 { (state >> 27) as i32 } else { 0 };
        let level =
            |base: u32| (base as i32 + grain + if disc { 60 } else { 0 }).clamp(0, 255) as u8;
        Rgb([level(x / 2 + 30), level(y / 2 + 40), level((x + y) / 4 + 20)])
    })
}

/// A disc on white, which has to be made room in for the mark: the longest way.
fn icon() -> RgbImage {
    RgbImage::from_fn(256, 256, |x, y| {
        let inside = x.abs_diff(128).pow(2) + y.abs_diff(128).pow(2) < 100 * 100;
        if inside { Rgb([220, 40, 30]) } else { Rgb([255; 3]) }
    })
}

fn pictures(criterion: &mut Criterion) {
    let (plain, icon) = (picture(), icon());
    let mark = InvisibleMark::new(Payload(*b"unclip"));
    let mut marked = plain.clone();
    mark.mark(&mut marked).expect("large enough");
    let mut group = criterion.benchmark_group("safety/256 pixels");
    let network = OpenNsfw::bundled(&unclip::device("auto").expect("a device"));
    group.bench_function("open_nsfw", |bencher| bencher.iter(|| network.score(black_box(&plain))));
    #[cfg(feature = "faces")]
    {
        use unclip::safety::picture::{FaceDetector as _, FrontalFaces};
        let faces = FrontalFaces::bundled();
        group.bench_function("faces", |bencher| bencher.iter(|| faces.faces(black_box(&plain))));
    }
    for (name, mark, picture) in [
        ("invisible mark", &mark as &dyn Watermark, &plain),
        ("invisible mark on an icon", &mark, &icon),
        ("signature", &Signature::new(), &plain),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(|| picture.clone(), |p| mark.mark(p), BatchSize::LargeInput);
        });
    }
    for (name, picture) in [("detecting, marked", &marked), ("detecting, unmarked", &plain)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Detector::new().detect(black_box(picture)));
        });
    }
    let mut png = Cursor::new(Vec::new());
    marked.write_to(&mut png, ImageFormat::Png).expect("memory takes every picture");
    let (png, origin) = (png.into_inner(), Origin::trained("bench"));
    group.bench_function("origin in a PNG", |bencher| {
        bencher.iter(|| write_origin(black_box(&png), &origin));
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .measurement_time(std::time::Duration::from_secs(2))
        .configure_from_args();
    captions(&mut criterion);
    pictures(&mut criterion);
    criterion.final_summary();
}
