//! Claims about every kind of data.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    num::{NonZeroU16, NonZeroU32},
    path::Path,
};

use half::f16;
use image::{Rgb, RgbImage};
use ndarray::Array2;
use tempfile::TempDir;

use super::*;
use crate::Error;

fn picture(number: usize) -> RgbImage {
    let level = u8::try_from(number % 256).expect("below 256");
    RgbImage::from_fn(6, 4, |x, y| Rgb([level, u8::try_from(10 * x + y).expect("small"), 7]))
}

fn sample(number: usize) -> Sample {
    Sample {
        key: format!("{number:06}"),
        content: Content::Picture(picture(number)),
        captions: vec![format!("picture {number}"), "a picture".into()],
        concept: Some(format!("concept {}", number / 2)),
        family: None,
        style: Some("flat".into()),
    }
}

fn write_shards(dir: &Path, samples: usize, per_shard: usize) -> ShardSummary {
    let mut writer = ShardWriter::create(dir, per_shard).expect("an empty folder");
    for number in 0..samples {
        writer.write(&sample(number)).expect("is written");
    }
    writer.finish().expect("is written")
}

fn write_folder(dir: &Path, samples: usize) {
    for number in 0..samples {
        picture(number).save(dir.join(format!("{number:03}.png"))).expect("is written");
        let captions = format!("picture {number}\na picture\n");
        fs::write(dir.join(format!("{number:03}.txt")), captions).expect("is written");
    }
}

/// Every kind of data with `samples` samples, and what keeps its files.
fn every_kind(samples: usize) -> Vec<(DataConfig, TempDir)> {
    let temporary = || tempfile::tempdir().expect("a temporary folder");
    let folder = temporary();
    write_folder(folder.path(), samples);
    let shards = temporary();
    write_shards(shards.path(), samples, 5);
    let embeddings = temporary();
    let file = |name: &str| embeddings.path().join(name);
    let rows = Array2::from_shape_fn((samples, 3), |(row, column)| (10 * row + column) as f32);
    write_npy(file("image.npy"), rows.view()).expect("is written");
    let captions: String = (0..samples).map(|n| format!("picture {n}\n")).collect();
    fs::write(file("captions.txt"), captions).expect("is written");
    vec![
        (DataConfig::Folder(FolderConfig::new(folder.path())), folder),
        (
            DataConfig::Shards(ShardsConfig {
                shards_at_once: 2,
                ..ShardsConfig::new(shards.path().display().to_string())
            }),
            shards,
        ),
        (
            DataConfig::Embeddings(EmbeddingsConfig {
                image: vec![file("image.npy")],
                text: vec![],
                captions: vec![file("captions.txt")],
            }),
            embeddings,
        ),
    ]
}

fn keys(source: &mut dyn Source, count: usize) -> Vec<String> {
    let next = |_| source.next().expect("readable").expect("another sample").key;
    (0..count).map(next).collect()
}

#[test]
fn a_source_continues_at_the_exact_sample() {
    for (config, _files) in every_kind(17) {
        let mut whole = config.open(3, 0, 1).expect("opens");
        let expected = keys(&mut *whole, 60);
        for stop in [0, 1, 9, 10, 16, 17, 18, 40] {
            let mut first = config.open(3, 0, 1).expect("opens");
            keys(&mut *first, stop);
            let cursor = serde_json::to_string(&first.cursor()).expect("serialisable");
            let mut second = config.open(3, 0, 1).expect("opens");
            second.seek(&serde_json::from_str(&cursor).expect("a cursor")).expect("the same data");
            assert_eq!(keys(&mut *second, 60 - stop), expected[stop..], "{config:?} after {stop}");
        }
    }
}

#[test]
fn a_pass_gives_every_sample_once_and_the_next_in_another_order() {
    for (config, _files) in every_kind(23) {
        let mut source = config.open(1, 0, 1).expect("opens");
        let (first, second) = (keys(&mut *source, 23), keys(&mut *source, 23));
        assert_eq!(source.cursor().epoch(), 1, "{config:?}");
        assert_ne!(first, second, "{config:?}");
        for pass in [&first, &second] {
            assert_eq!(pass.iter().collect::<BTreeSet<_>>().len(), 23, "{config:?}: {pass:?}");
        }
        let other = keys(&mut *config.open(2, 0, 1).expect("opens"), 23);
        assert_ne!(first, other, "{config:?} with another seed");
        let mut once = config.open_once().expect("opens");
        let mut lying = keys(&mut *once, 23);
        assert!(once.next().expect("readable").is_none(), "{config:?} ends");
        assert!(once.next().expect("readable").is_none(), "{config:?} stays at its end");
        lying.sort();
        assert_eq!(lying.iter().collect::<BTreeSet<_>>().len(), 23, "{config:?}");
    }
}

#[test]
fn ranks_share_out_what_one_reads() {
    for (config, _files) in every_kind(20) {
        let expected = keys(&mut *config.open(5, 0, 1).expect("opens"), 40);
        for ranks in [2, 5] {
            let parts: Vec<Vec<String>> = (0..ranks)
                .map(|rank| keys(&mut *config.open(5, rank, ranks).expect("opens"), 40 / ranks))
                .collect();
            let dealt: Vec<&String> = (0..40).map(|n| &parts[n % ranks][n / ranks]).collect();
            assert_eq!(dealt, expected.iter().collect::<Vec<_>>(), "{config:?} on {ranks}");
        }
        assert!(config.open(5, 2, 2).is_err(), "rank 2 of 2");
        let mut idle = config.open(5, 24, 25).expect("opens");
        let error = idle.next().expect_err("20 samples for 25 ranks");
        assert!(error.to_string().contains("25 ranks"), "{error}");
    }
}

#[test]
fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let summary = write_shards(dir.path(), 12, 5);
    assert_eq!(summary, ShardSummary { samples: 12, shards: 3 });
    let config = ShardsConfig::new(format!("{}/{{00000..00002}}.tar", dir.path().display()));
    let mut source = DataConfig::Shards(config).open_once().expect("opens");
    for number in 0..12 {
        assert_eq!(source.next().expect("readable"), Some(sample(number)));
    }
    assert_eq!(source.next().expect("readable"), None);
    assert!(source.skipped().is_empty(), "{:?}", source.skipped());
    let error = ShardWriter::create(dir.path(), 5).expect_err("there are archives");
    assert!(error.to_string().contains("without archives"), "{error}");
}

#[test]
fn equal_samples_make_equal_shards() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let [a, b] = ["a", "b"].map(|name| {
        write_shards(&dir.path().join(name), 3, 5);
        fs::read(dir.path().join(name).join("00000.tar")).expect("is written")
    });
    assert!(a == b, "two writes differ");
}

#[test]
fn broken_samples_are_skipped_counted_and_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write_folder(dir.path(), 5);
    let write =
        |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("written");
    write("000.png", b"no picture");
    write("001.txt", b" \n");
    write("002.txt", &[0xff, 0xfe]);
    fs::remove_file(dir.path().join("003.txt")).expect("is removed");
    write("lonely.txt", b"a caption");
    write("notes.md", b"something else");
    let config = FolderConfig::new(dir.path());
    let mut source = DataConfig::Folder(config.clone()).open(0, 0, 1).expect("opens");
    // Two passes: a sample counts once.
    assert_eq!(keys(&mut *source, 2), ["004", "004"]);
    source.next().expect("readable");
    let names: Vec<(&str, &Fault)> = source.skipped().iter().collect();
    let [no_picture, empty, not_text, absent, lonely] = names[..] else {
        panic!("five faults, not {names:?}")
    };
    assert!(matches!(no_picture, ("000.png", Fault::Picture(_))), "{no_picture:?}");
    assert_eq!(empty, ("001.png", &Fault::NoCaption));
    assert!(matches!(not_text, ("002.png", Fault::Caption(_))), "{not_text:?}");
    assert_eq!(absent, ("003.png", &Fault::NoCaption));
    assert_eq!(lonely, ("lonely.txt", &Fault::NoPicture));

    let config = FolderConfig { captions_required: false, ..config };
    let mut source = DataConfig::Folder(config).open_once().expect("opens");
    assert_eq!(keys(&mut *source, 3), ["001", "003", "004"]);
}

#[cfg(unix)]
#[test]
fn links_to_nothing_are_skipped_and_links_to_themselves_end() {
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = dir.path().join("pictures");
    fs::create_dir(&folder).expect("is created");
    write_folder(&folder, 2);
    symlink(dir.path().join("gone.png"), folder.join("gone.png")).expect("a link");
    fs::write(folder.join("gone.txt"), "a picture that was").expect("is written");
    // A link to the folder that it lies in, and two folders with links to each other.
    symlink(&folder, folder.join("again")).expect("a link");
    for (one, other) in [("a", "b"), ("b", "a")] {
        fs::create_dir_all(folder.join(one)).expect("is created");
        symlink(folder.join(other), folder.join(one).join(other)).expect("a link");
    }
    let config = DataConfig::Folder(FolderConfig::new(&folder));
    let mut source = config.open_once().expect("opens");
    assert_eq!(keys(&mut *source, 2), ["000", "001"]);
    assert!(source.next().expect("readable").is_none(), "every picture comes once");
    let faults: Vec<(&str, &Fault)> = source.skipped().iter().collect();
    assert_eq!(faults, [("gone.png", &Fault::NoPicture)]);
}

#[test]
fn a_list_names_pictures_and_describes_them() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write_folder(dir.path(), 2);
    let list = "{\"file_name\": \"000.png\", \"text\": \"one\", \"style\": \"flat\"}\n\nnonsense\n\
                {\"file_name\": \"gone.png\", \"text\": \"two\"}\n";
    fs::write(dir.path().join("metadata.jsonl"), list).expect("is written");
    let side = NonZeroU32::new(2);
    let config = FolderConfig { side, ..FolderConfig::new(dir.path()) };
    let mut source = DataConfig::Folder(config).open_once().expect("opens");
    let sample = source.next().expect("readable").expect("a sample");
    assert_eq!((sample.captions, sample.style), (vec!["one".into()], Some("flat".into())));
    let Content::Picture(picture) = sample.content else { panic!("a folder holds pictures") };
    assert_eq!(picture.dimensions(), (2, 2));
    assert!(source.next().expect("readable").is_none(), "the other lines are broken");
    let names: Vec<&str> = source.skipped().iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["gone.png", "metadata.jsonl, line 3"]);
}

#[test]
fn shards_may_be_gone_through_several_times_a_pass() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (all, best) = (dir.path().join("all"), dir.path().join("best"));
    write_shards(&all, 6, 4);
    write_shards(&best, 2, 4);
    let paths = |times: u16| {
        let path = |folder: &Path| folder.display().to_string();
        let times = NonZeroU16::new(times).expect("more than none");
        let repeated = RepeatedPath { path: path(&best), times };
        let paths = vec![ShardPath::Once(path(&all)), ShardPath::Repeated(repeated)];
        DataConfig::Shards(ShardsConfig { paths, ..ShardsConfig::new("") })
    };
    let mut source = paths(3).open(5, 0, 1).expect("there are samples");
    for pass in 0..2 {
        let mut found = keys(source.as_mut(), 12);
        assert_eq!(source.cursor().epoch(), pass, "twelve samples are a pass");
        found.sort();
        let expected: Vec<String> = [[0; 4], [1; 4], [2, 3, 4, 5]]
            .concat()
            .into_iter()
            .map(|number| format!("{number:06}"))
            .collect();
        assert_eq!(found, expected);
    }
    // A position in one is no position in the other.
    let error = paths(2).open(5, 0, 1).expect("there are samples").seek(&source.cursor());
    assert!(matches!(error, Err(Error::ForeignCursor { .. })), "{error:?}");
}

#[test]
fn shards_of_other_tools_are_read_and_damage_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("a.tar");
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).expect("in memory");
    };
    let mut png = std::io::Cursor::new(Vec::new());
    picture(1).write_to(&mut png, image::ImageFormat::Png).expect("encodable");
    let png = png.into_inner();
    add("README.md", b"about the data");
    add("0001.PNG", &png);
    add("0001.txt", b"one");
    add("0001.json", b"{\"width\": 6, \"caption\": \"uno\"}");
    add("0002.txt", b"no picture");
    add("0003.png", &png[..20]);
    add("0003.txt", b"cut off");
    add("0004.png", &png);
    add("0004.txt", b"four");
    let mut bytes = builder.into_inner().expect("in memory");
    // The header of member 0004.txt and what follows is damaged.
    let damaged = bytes.windows(8).rposition(|name| name == b"0004.txt").expect("is there");
    bytes[damaged..].fill(b'x');
    fs::write(&path, bytes).expect("is written");
    let config = DataConfig::Shards(ShardsConfig::new(path.display().to_string()));
    let mut source = config.open_once().expect("opens");
    let sample = source.next().expect("readable").expect("a sample");
    assert_eq!((sample.key.as_str(), sample.captions), ("0001", vec!["uno".into(), "one".into()]));
    assert!(source.next().expect("readable").is_none(), "the others are broken");
    let names: Vec<&str> = source.skipped().iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a.tar after 5 samples", "a.tar: 0002", "a.tar: 0003", "a.tar: 0004"]);
}

#[test]
fn data_without_samples_is_a_typed_error() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = || DataConfig::Folder(FolderConfig::new(dir.path()));
    let shards = |name: &str| DataConfig::Shards(ShardsConfig::new(name));
    let here = dir.path().display().to_string();
    for config in [folder(), shards(&here)] {
        let error = config.open(0, 0, 1).expect_err("nothing is there");
        assert!(matches!(error, Error::NoSamples { .. }), "{error}");
        assert!(error.to_string().contains(&here), "{error}");
    }
    fs::write(dir.path().join("a.txt"), b"a caption").expect("is written");
    let error = folder().open(0, 0, 1).expect_err("a caption alone");
    assert!(error.to_string().contains("1 captions without pictures"), "{error}");
    fs::write(dir.path().join("a.png"), b"damaged").expect("is written");
    let mut source = folder().open(0, 0, 1).expect("there is a file to try");
    let error = source.next().expect_err("no sample is usable");
    assert!(matches!(error, Error::NothingUsable { .. }), "{error}");
    assert!(error.to_string().contains("a.png"), "{error}");

    let tar = dir.path().join("x.tar");
    fs::write(&tar, [7; 2000]).expect("is written");
    for name in [tar.display().to_string(), format!("{here}/gone.tar"), here.clone()] {
        let error = shards(&name).open(0, 0, 1).expect_err("no archive");
        assert!(matches!(error, Error::Shard { .. }), "{name}: {error}");
    }
    let error = DataConfig::Folder(FolderConfig::new(dir.path().join("gone"))).open(0, 0, 1);
    assert!(matches!(error, Err(Error::Core(_))), "{error:?}");
}

/// A `.npy` file as NumPy writes it.
fn numpy(path: &Path, descr: &str, shape: &str, data: &[u8]) {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = fs::File::create(path).expect("is created");
    file.write_all(b"\x93NUMPY\x01\x00").expect("is written");
    let length = u16::try_from(header.len()).expect("short");
    file.write_all(&length.to_le_bytes()).expect("is written");
    file.write_all(header.as_bytes()).expect("is written");
    file.write_all(data).expect("is written");
}

#[test]
fn embeddings_of_16_bits_are_read_with_both_ends_and_their_captions() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| dir.path().join(name);
    let half = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
    };
    numpy(&file("i.npy"), "<f2", "(3, 2)", &half(&[0.5, -2.0, 1.0, f32::NAN, 3.0, 4.0]));
    write_npy(file("t.npy"), Array2::from_elem((3, 1), 9.0).view()).expect("is written");
    let lines = "{\"caption\": \"one\", \"concept\": \"c\"}\n{\"caption\": \"two\"}\n{}\n";
    fs::write(file("c.jsonl"), lines).expect("is written");
    let config = EmbeddingsConfig {
        image: vec![file("i.npy")],
        text: vec![file("t.npy")],
        captions: vec![file("c.jsonl")],
    };
    let mut source = DataConfig::Embeddings(config.clone()).open_once().expect("opens");
    let sample = source.next().expect("readable").expect("a sample");
    assert_eq!(
        sample.content,
        Content::Embeddings { image: vec![0.5, -2.0], text: Some(vec![9.0]) }
    );
    assert_eq!((sample.captions, sample.concept), (vec!["one".into()], Some("c".into())));
    assert!(source.next().expect("readable").is_none(), "a NaN and a missing caption");
    let faults: Vec<(&str, &Fault)> = source.skipped().iter().collect();
    assert_eq!(faults, [("i.npy: row 1", &Fault::NotFinite), ("i.npy: row 2", &Fault::NoCaption)]);

    fs::write(file("c.jsonl"), "{}\n").expect("is written");
    let error = DataConfig::Embeddings(config.clone()).open_once().expect_err("one line");
    assert!(matches!(error, Error::RowsDisagree { found: 1, expected: 3, .. }), "{error}");
    for (descr, shape, data, part) in [
        ("<f8", "(3, 2)", 48, "<f8"),
        ("<f4", "(6,)", 24, "[6]"),
        ("<f4", "(3, 2)", 20, "3 rows of 2"),
        ("<f4", "(3, 0)", 0, "0 numbers"),
    ] {
        numpy(&file("i.npy"), descr, shape, &vec![0; data]);
        let error = DataConfig::Embeddings(config.clone()).open_once().expect_err("refused");
        assert!(matches!(error, Error::Npy { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_position_in_other_data_is_refused() {
    let all = every_kind(6);
    let mut source = all[0].0.open(0, 0, 1).expect("opens");
    for (config, seed) in [(&all[1].0, 0), (&all[2].0, 0), (&all[0].0, 1)] {
        let cursor = config.open(seed, 0, 1).expect("opens").cursor();
        let error = source.seek(&cursor).expect_err("other data or another seed");
        assert!(matches!(error, Error::ForeignCursor { .. }), "{error}");
    }
}
