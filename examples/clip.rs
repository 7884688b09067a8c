//! Compares captions with pictures in CLIP's space.
//!
//! `model` is a CLIP model as transformers saves it (`openai/clip-vit-large-patch14`, say), or a unCLIP model directory
//! that has both towers, such as `karlo-v1-alpha-image-variations`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use unclip_clip::{Clip, similarity};
use unclip_core::{checkpoint::WeightPrecision, device::device, image::load_rgb};

const EXAMPLES: &str = "\
Examples:
  How alike are these captions and pictures? A table of cosine similarities:
    clip --model clip-vit-large-patch14 -i cat.png -i dog.png -t \"a cat\" -t \"a dog\"

  What is in each picture? Labels with probabilities, put into \"a photo of a {}.\":
    clip --model clip-vit-large-patch14 -i cat.png --labels cat,dog,plane

  Which pictures are alike? Pictures alone are compared with each other, and so are captions:
    clip --model clip-vit-large-patch14 -i one.png -i two.png -i three.png";

/// Compares captions with pictures.
///
/// Captions and pictures become vectors of one space, where those that belong together point the same way: the cosine
/// between them is large. CLIP's cosines are small numbers close to each other, 0.3 for a good match and 0.15 for none,
/// so compare them with one another, and never with 1.
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Arguments {
    /// A CLIP model, or a unCLIP model directory with both towers.
    #[arg(long, short)]
    model: PathBuf,
    /// A picture: PNG, JPEG or WebP. May be given several times.
    #[arg(long = "image", short)]
    images: Vec<PathBuf>,
    /// A caption. May be given several times; only its first 75 tokens count.
    #[arg(long = "text", short)]
    texts: Vec<String>,
    /// Labels to choose from, with commas between them: which one describes each picture?
    #[arg(long, value_delimiter = ',', requires = "images")]
    labels: Vec<String>,
    /// The caption made of each label; `{}` is the label.
    #[arg(long, default_value = "a photo of a {}.")]
    template: String,
    /// The device: auto, cpu, cuda:0, wgpu, ..
    #[arg(long, default_value = "auto")]
    device: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let device = device(&arguments.device)?;
    let clip = Clip::from_dir(&arguments.model, &device, WeightPrecision::Stored)
        .with_context(|| format!("opening {}", arguments.model.display()))?;
    let pictures = arguments.images.iter().map(load_rgb).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = arguments.images.iter().map(|p| p.display().to_string()).collect();

    for text in &arguments.texts {
        let encoding = clip.tokenizer().encode(text)?;
        if encoding.dropped > 0 {
            eprintln!("the last {} tokens are not read of {text:?}", encoding.dropped);
        }
    }

    if !arguments.labels.is_empty() {
        let captions: Vec<String> =
            arguments.labels.iter().map(|label| arguments.template.replace("{}", label)).collect();
        for (picture, name) in pictures.iter().zip(&names) {
            println!("{name}");
            for (caption, probability) in clip.zero_shot(picture, &captions)? {
                println!("  {:5.1} %  {caption}", 100.0 * probability);
            }
        }
    }

    let (texts, images) = (&arguments.texts, !pictures.is_empty());
    let rows = if images { clip.embed_images(&pictures)? } else { clip.embed_texts(texts)? };
    let columns = match texts.is_empty() {
        false => clip.embed_texts(texts)?,
        // Labels have been answered; without them the pictures are compared with each other.
        true if !arguments.labels.is_empty() => return Ok(()),
        true => rows.clone(),
    };
    let row_names = if images { &names } else { texts };
    let column_names = if texts.is_empty() { &names } else { texts };
    let cosines = similarity(rows, columns).try_into_vec_as::<f32>()?;
    for (row, cosines) in row_names.iter().zip(cosines.chunks(column_names.len())) {
        println!("{row}");
        for (column, cosine) in column_names.iter().zip(cosines) {
            println!("  {cosine:7.4}  {column}");
        }
    }
    Ok(())
}
