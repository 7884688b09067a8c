//! The sheet of pictures.

use anyhow::Context;
use unclip::{
    Pipeline,
    image::{Rgb, RgbImage, imageops},
};

use crate::{Arguments, pictures::request};

/// Names, styles and synonyms as they are in training, and pairs of a style and a name that are not.
const CAPTIONS: [(&str, [&str; 4]); 6] = [
    ("names", ["a red apple, flat", "a dog, 3d", "a cat, cartoon", "a house, flat"]),
    ("names", ["a fish, flat", "a pizza, cartoon", "a sunflower, 3d", "a cactus, flat"]),
    ("names", ["a crown, 3d", "a key, twemoji", "a mushroom, flat", "a snowman, cartoon"]),
    (
        "styles",
        ["a rose, flat", "a rose, 3d", "a rose, black and white icon", "a rose, retro cartoon"],
    ),
    ("synonyms", ["kitten, cartoon", "hotdog, flat", "piano, 3d", "dracula, flat"]),
    (
        "unseen styles",
        ["a hammer, 3d", "a tomato, 3d", "an octopus, flat", "a rabbit, retro cartoon"],
    ),
];
const GAP: u32 = 2;

/// Paints every caption a few times, a row each, and says which row is what.
pub(crate) fn paint(pipeline: &Pipeline, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.columns == 0 {
        return Ok(());
    }
    let rows = CAPTIONS.iter().flat_map(|(kind, captions)| captions.map(|c| (*kind, c)));
    let captions: Vec<&str> = rows.clone().map(|(_, caption)| caption).collect();
    let smallest = pipeline.sizes().first().copied().context("the model has no decoder")?;
    let request = request(captions, arguments).images(arguments.columns).size(smallest);
    let made: Vec<RgbImage> =
        pipeline.generate(request)?.images.into_iter().map(|image| image.picture).collect();
    let step = smallest + GAP;
    let columns = u32::try_from(arguments.columns)?;
    let lines = u32::try_from(made.len())?.div_ceil(columns);
    let mut sheet = RgbImage::from_pixel(columns * step, lines * step, Rgb([255; 3]));
    for (index, picture) in (0..).zip(&made) {
        let (x, y) = (index % columns * step, index / columns * step);
        imageops::replace(&mut sheet, picture, x.into(), y.into());
    }
    sheet
        .save(&arguments.sheet)
        .with_context(|| format!("writing {}", arguments.sheet.display()))?;
    println!("the rows of {}:", arguments.sheet.display());
    for (kind, caption) in rows {
        println!("  {caption} ({kind})");
    }
    Ok(())
}
