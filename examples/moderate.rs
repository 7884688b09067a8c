//! Says what the safety checks make of captions and pictures.
//!
//! ```text
//! moderate --caption "a killer whale under a shooting star"
//! moderate --captions captions.txt --json
//! moderate --image upload.png --consent
//! moderate --caption "a harbour" --policy-file mine.json
//! ```
//!
//! A folder in the place of a picture stands for the pictures in it.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use unclip::{
    core::image::load_rgb,
    device,
    safety::{
        CaptionCheck, Guard, Lexicon, Policy, SafetyFilter, Upload, Verdict, picture::OpenNsfw,
    },
};

/// Says what the safety checks make of captions and pictures.
#[derive(Debug, Parser)]
struct Arguments {
    /// A caption; may be given several times.
    #[arg(long, required_unless_present_any = ["captions", "image"])]
    caption: Vec<String>,
    /// A file of captions, one a line.
    #[arg(long)]
    captions: Option<PathBuf>,
    /// A picture or a folder of pictures, judged as given ones are; may be given several times.
    #[arg(long)]
    image: Vec<PathBuf>,
    /// Where the network that judges pictures runs.
    #[arg(long, default_value = "auto")]
    device: String,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// The policy: a preset, or a policy file with `--policy-file`.
    #[arg(long, value_enum, default_value = "standard")]
    policy: Preset,
    /// A policy file, in the place of a preset.
    #[arg(long)]
    policy_file: Option<PathBuf>,
    /// Word lists of your own beside the built-in ones.
    #[arg(long)]
    list: Vec<PathBuf>,
    /// The people in the pictures have agreed.
    #[arg(long)]
    consent: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Preset {
    Standard,
    Strict,
    Off,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let policy = match (&arguments.policy_file, arguments.policy) {
        (Some(file), _) => Policy::read(file)?,
        (None, Preset::Standard) => Policy::standard(),
        (None, Preset::Strict) => Policy::strict(),
        (None, Preset::Off) => Policy::off(),
    };
    let mut guard = Guard::new(policy);
    if !arguments.list.is_empty() {
        guard = guard.captions(CaptionCheck::new(Lexicon::read(&arguments.list, true)?));
    }
    let mut out = Report { out: io::stdout().lock(), json: arguments.json };
    out.head()?;
    for caption in &arguments.caption {
        out.line("caption", caption, &guard.check_caption(caption))?;
    }
    if let Some(file) = &arguments.captions {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        for caption in text.lines() {
            out.line("caption", caption, &guard.check_caption(caption))?;
        }
    }
    if arguments.image.is_empty() {
        return Ok(());
    }
    let guard = guard.pictures(OpenNsfw::bundled(&device(&arguments.device)?));
    #[cfg(feature = "faces")]
    let guard = guard.faces(unclip::safety::picture::FrontalFaces::bundled());
    #[cfg(not(feature = "faces"))]
    if guard.policy().faces != unclip::safety::FacePolicy::Allow {
        eprintln!("faces are not looked for: that takes `--features faces`");
    }
    for path in arguments.image.iter().map(pictures).collect::<anyhow::Result<Vec<_>>>()?.concat() {
        let picture = load_rgb(&path)?;
        let verdict = guard.check_upload(&Upload::new(&picture).consent(arguments.consent));
        out.line("image", &path.display().to_string(), &verdict)?;
    }
    Ok(())
}

/// A picture, or the pictures of a folder by name.
fn pictures(path: &PathBuf) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.clone()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| ["png", "jpg", "jpeg", "webp"].contains(&extension))
    });
    paths.sort();
    Ok(paths)
}

struct Report<W> {
    out: W,
    json: bool,
}

impl<W: Write> Report<W> {
    fn head(&mut self) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(self.out, "{:<8} {:<16} {:>5}  subject", "action", "category", "score")
    }

    /// The gravest finding, and all of them as the reason.
    fn line(&mut self, kind: &str, subject: &str, verdict: &Verdict) -> io::Result<()> {
        let gravest = verdict.gravest();
        let category = gravest.map(|finding| finding.category.name());
        let score = gravest.map_or(0.0, |finding| finding.score);
        let findings: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
        let reason = findings.join("; ");
        if self.json {
            let object = serde_json::json!({
                kind: subject,
                "action": verdict.action,
                "category": category,
                // In decimals: 0.3 of 32 bits is 0.30000001192092896 otherwise.
                "score": (f64::from(score) * 1e6).round() / 1e6,
                "reason": reason,
            });
            return writeln!(self.out, "{object}");
        }
        let category = category.unwrap_or("-");
        writeln!(self.out, "{:<8} {category:<16} {score:>5.2}  {subject}", verdict.action.name())?;
        if reason.is_empty() { Ok(()) } else { writeln!(self.out, "{:<8} {reason}", "") }
    }
}
