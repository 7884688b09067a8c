//! The invisible mark: put it on, read it, and see what it survives. Detecting says what else a file shows of its origin.
//!
//! ```text
//! cargo run --release --example watermark -- embed photo.png marked.png
//! cargo run --release --example watermark -- detect marked.png --json
//! cargo run --release --example watermark -- sweep photo.png
//! ```
//!
//! A folder in the place of a picture stands for the pictures in it.

#![expect(clippy::cast_possible_truncation, reason = "sides and levels are rounded on purpose")]

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use unclip::{
    core::image::load_rgb,
    image::{
        DynamicImage, Rgb, RgbImage,
        codecs::jpeg::JpegEncoder,
        imageops::{self, FilterType},
        load_from_memory,
    },
    safety::{
        Watermark,
        mark::{Detection, Detector, InvisibleMark, Payload, Signature, is_signed_by_dall_e_2},
        provenance::{carries_manifest, read_origin},
    },
};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Keeps marks of different makers apart.
    #[arg(long, global = true, default_value_t = 0)]
    key: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Marks a picture, or every picture of a folder, and saves it as PNG.
    Embed {
        input: PathBuf,
        output: PathBuf,
        /// Six bytes of text.
        #[arg(long, default_value = "unclip")]
        payload: String,
        /// How little the picture changes, in decibels.
        #[arg(long, default_value_t = 40.5)]
        psnr: f64,
    },
    /// Reads the marks of pictures.
    Detect {
        inputs: Vec<PathBuf>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Marks a picture, damages it in every way of the survival table, and reads it again.
    Sweep { input: PathBuf },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let detector = Detector::new().key(args.key);
    match args.command {
        Command::Embed { input, output, payload, psnr } => {
            let mark = InvisibleMark::new(Payload::try_from(payload.as_bytes())?);
            let mark = mark.key(args.key).psnr(psnr);
            for path in pictures(&input)? {
                let mut picture = load_rgb(&path)?;
                mark.mark(&mut picture).with_context(|| path.display().to_string())?;
                let to = if input.is_dir() {
                    fs::create_dir_all(&output)?;
                    output.join(path.file_name().context("a file")?).with_extension("png")
                } else {
                    output.clone()
                };
                picture.save(&to).with_context(|| format!("cannot save {}", to.display()))?;
            }
        }
        Command::Detect { inputs, json } => {
            for input in inputs {
                for path in pictures(&input)? {
                    report(&path, &detector, json)?;
                }
            }
        }
        Command::Sweep { input } => {
            for path in pictures(&input)? {
                sweep(&path, &detector, args.key)?;
            }
        }
    }
    Ok(())
}

/// A picture, or the pictures of a folder by name.
fn pictures(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut paths = fs::read_dir(path)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| ["png", "jpg", "jpeg", "webp"].contains(&extension))
    });
    paths.sort();
    if paths.is_empty() {
        bail!("{} holds no pictures", path.display());
    }
    Ok(paths)
}

fn report(path: &Path, detector: &Detector, json: bool) -> anyhow::Result<()> {
    let picture = load_rgb(path)?;
    let start = Instant::now();
    let detection = detector.detect(&picture);
    let seconds = start.elapsed().as_secs_f64();
    let says = match &detection {
        Detection::Found(_) => "found",
        Detection::NotFound => "not_found",
        Detection::CannotSay { .. } => "cannot_say",
    };
    if json {
        // The likeliest bits stand in the line even where they are too unsure to count as found.
        let reading = detector.read(&picture);
        let hex = reading.as_ref().map(|reading| {
            reading.payload.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        });
        println!(
            "{}",
            serde_json::json!({
                "file": path.display().to_string(),
                "says": says,
                "payload": hex,
                "agreement": reading.as_ref().map(|reading| reading.agreement),
                "log10_false_positive": reading.as_ref().map(|reading| reading.log10_false_positive),
                "scale": reading.as_ref().map(|reading| reading.scale),
                "seconds": seconds,
                "signature": signature(&picture),
                "origin": origin(path)?,
            })
        );
        return Ok(());
    }
    match detection {
        Detection::Found(reading) => println!(
            "{}: \"{}\", scale {:.3}, false with a chance of at most 10^{:.0}",
            path.display(),
            reading.payload.0.escape_ascii(),
            reading.scale,
            reading.log10_false_positive
        ),
        Detection::CannotSay { reason } => println!("{}: cannot say: {reason}", path.display()),
        _ => println!("{}: no mark found", path.display()),
    }
    if let Some(of) = signature(&picture) {
        println!("  the squares of {of} in its corner");
    }
    if let Some(says) = origin(path)? {
        println!("  the file says: {says}");
    }
    Ok(())
}

/// Whose five squares stand in the corner.
fn signature(picture: &RgbImage) -> Option<&'static str> {
    if Signature::new().is_on(picture) {
        return Some("unclip");
    }
    is_signed_by_dall_e_2(picture).then_some("DALL·E 2")
}

/// What the file says of its origin; that it cannot be read where its XMP is damaged or hostile.
fn origin(path: &Path) -> anyhow::Result<Option<String>> {
    let file = fs::read(path)?;
    let says = match read_origin(&file) {
        Ok(origin) => origin.and_then(|origin| origin.source_type),
        Err(error) => Some(error.to_string()),
    };
    let manifest = carries_manifest(&file).unwrap_or(false);
    Ok(match (says, manifest) {
        (Some(says), true) => Some(format!("{says}, and a C2PA manifest, not verified here")),
        (None, true) => Some("a C2PA manifest, not verified here".into()),
        (says, false) => says,
    })
}

/// A name and what it does to a picture.
type Attack = (&'static str, fn(&RgbImage) -> RgbImage);

const ATTACKS: [Attack; 14] = [
    ("as marked", RgbImage::clone),
    ("JPEG 75", |picture| jpeg(picture, 75)),
    ("JPEG 50", |picture| jpeg(picture, 50)),
    ("half the size", |picture| resized(picture, 0.5)),
    ("three quarters", |picture| resized(picture, 0.75)),
    ("twice the size", |picture| resized(picture, 2.0)),
    ("half the area, corner", |picture| cropped(picture, 0)),
    ("half the area, middle", |picture| cropped(picture, 1)),
    ("darker", |picture| levels(picture, 0.7, 0.0)),
    ("brighter", |picture| levels(picture, 1.0, 30.0)),
    ("30 % brighter", |picture| levels(picture, 1.3, 0.0)),
    ("more contrast", |picture| levels(picture, 1.3, -38.0)),
    ("noise", noisy),
    ("blur", |picture| imageops::blur(picture, 1.0)),
];

fn jpeg(picture: &RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality))
        .expect("memory takes every picture");
    let decoded = load_from_memory(bytes.get_ref()).expect("just encoded");
    decoded.into_rgb8()
}

fn resized(picture: &RgbImage, factor: f32) -> RgbImage {
    let side = |length: u32| (length as f32 * factor).round() as u32;
    imageops::resize(picture, side(picture.width()), side(picture.height()), FilterType::CatmullRom)
}

/// Half the area, `parts` halves of what is left over from the upper left corner.
fn cropped(picture: &RgbImage, parts: u32) -> RgbImage {
    let side = |length: u32| (f64::from(length) * 0.5_f64.sqrt()) as u32;
    let (width, height) = (side(picture.width()), side(picture.height()));
    let (left, top) = ((picture.width() - width) / 2, (picture.height() - height) / 2);
    DynamicImage::from(picture.clone()).crop_imm(parts * left, parts * top, width, height).into()
}

fn levels(picture: &RgbImage, gain: f32, lift: f32) -> RgbImage {
    let mut picture = picture.clone();
    for Rgb(pixel) in picture.pixels_mut() {
        *pixel = pixel.map(|value| (f32::from(value) * gain + lift).clamp(0.0, 255.0) as u8);
    }
    picture
}

/// Even noise of deviation 5.
fn noisy(picture: &RgbImage) -> RgbImage {
    let mut picture = picture.clone();
    let mut state = 1_u32;
    for value in picture.as_flat_samples_mut().samples {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let change = (state >> 16) as f32 / 65_536.0 * 17.3 - 8.65;
        *value = (f32::from(*value) + change).round().clamp(0.0, 255.0) as u8;
    }
    picture
}

fn sweep(path: &Path, detector: &Detector, key: u64) -> anyhow::Result<()> {
    let original = load_rgb(path)?;
    let payload = Payload(*b"unclip");
    let mut marked = original.clone();
    InvisibleMark::new(payload).key(key).mark(&mut marked)?;
    let squares: f64 = original
        .as_raw()
        .iter()
        .zip(marked.as_raw())
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum();
    let psnr = 10.0 * (255.0_f64.powi(2) * original.as_raw().len() as f64 / squares).log10();
    println!("{}: {psnr:.1} dB", path.display());
    for (name, attack) in ATTACKS {
        let attacked = attack(&marked);
        let Some(reading) = detector.read(&attacked) else {
            println!("  {name:22} nothing to read");
            continue;
        };
        let wrong: u32 = (reading.payload.0.iter().zip(payload.0))
            .map(|(read, put)| (read ^ put).count_ones())
            .sum();
        println!(
            "  {name:22} {:2}/48 bits, agreement {:4.1} of 16, false positive at most 10^{:.0}",
            48 - wrong,
            reading.agreement,
            reading.log10_false_positive
        );
    }
    Ok(())
}
