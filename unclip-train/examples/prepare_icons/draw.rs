//! Rendering, on a plain background.

use anyhow::Context;
use image::{Rgb, RgbImage};
use rand::{Rng, RngExt, seq::IndexedRandom};
use resvg::{
    tiny_skia::{Color, Pixmap, Transform},
    usvg,
};

/// A drawing, and its mean colour.
#[derive(Debug)]
pub(crate) struct Drawing {
    tree: usvg::Tree,
    mean: [f32; 3],
}

/// Where a drawing lies: as shares of the canvas.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The side of the square it fills.
    pub(crate) side: f32,
    /// The middle.
    pub(crate) middle: [f32; 2],
}

impl Place {
    /// In the middle with a margin.
    pub(crate) const CENTRE: Self = Self { side: 0.875, middle: [0.5, 0.5] };

    /// A little smaller, and not quite in the middle.
    pub(crate) fn near_the_centre(rng: &mut impl Rng) -> Self {
        let side = rng.random_range(0.7..0.95);
        let room = (0.98 - side) / 2.0;
        let mut middle = || 0.5 + rng.random_range(-room..room);
        Self { side, middle: [middle(), middle()] }
    }
}

/// A plain background.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Background {
    /// What a caption calls it.
    pub(crate) name: &'static str,
    pub(crate) colour: [u8; 3],
}

/// What captions call white.
pub(crate) const WHITE: Background = Background { name: "white", colour: [255; 3] };

const COLOURS: [Background; 15] = [
    colour("red", [214, 50, 44]),
    colour("orange", [244, 142, 44]),
    colour("yellow", [250, 214, 70]),
    colour("green", [70, 164, 84]),
    colour("light green", [178, 224, 160]),
    colour("blue", [52, 108, 214]),
    colour("light blue", [160, 206, 242]),
    colour("dark blue", [28, 42, 104]),
    colour("purple", [132, 74, 180]),
    colour("pink", [246, 160, 192]),
    colour("brown", [130, 88, 54]),
    colour("grey", [150, 150, 150]),
    colour("black", [20, 20, 20]),
    colour("teal", [32, 140, 140]),
    colour("beige", [236, 220, 190]),
];

const fn colour(name: &'static str, colour: [u8; 3]) -> Background {
    Background { name, colour }
}

/// How far a channel of a background strays from its colour.
const STRAY: i16 = 10;
/// A background is this far from a drawing's mean colour, in grey levels.
const CONTRAST: f32 = 50.0;

impl Background {
    /// A colour that the drawings stand out from, as far as one can be found.
    pub(crate) fn behind(drawings: &[&Drawing], rng: &mut impl Rng) -> Self {
        let mut chosen = WHITE;
        for _ in 0..10 {
            let Some(&colour) = COLOURS.choose(rng) else { break };
            chosen = colour;
            let stands_out = |drawing: &&Drawing| {
                let apart = drawing.mean.iter().zip(colour.colour);
                apart.map(|(mean, c)| (mean - f32::from(c)).abs()).sum::<f32>() / 3.0 > CONTRAST
            };
            if drawings.iter().all(stands_out) {
                break;
            }
        }
        chosen.colour = chosen.colour.map(|channel| {
            let strayed = i16::from(channel) + rng.random_range(-STRAY..=STRAY);
            u8::try_from(strayed.clamp(0, 255)).expect("clamped to 8 bits")
        });
        chosen
    }
}

impl Drawing {
    pub(crate) fn new(tree: usvg::Tree) -> anyhow::Result<Self> {
        const SIDE: u32 = 32;
        let mut drawing = Self { tree, mean: [0.0; 3] };
        let mut canvas = Pixmap::new(SIDE, SIDE).context("no memory for a canvas")?;
        drawing.onto(&mut canvas, Place { side: 1.0, middle: [0.5, 0.5] }, SIDE as f32, [0.0; 2]);
        let mut sums = [0.0_f32; 4];
        for pixel in canvas.pixels() {
            let values = [pixel.red(), pixel.green(), pixel.blue(), pixel.alpha()];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += f32::from(value);
            }
        }
        let [red, green, blue, alpha] = sums;
        // The pixels are multiplied by their opacity already.
        drawing.mean = [red, green, blue].map(|sum| 255.0 * sum / alpha.max(1.0));
        Ok(drawing)
    }

    /// Draws onto the part of a canvas of `side` pixels that begins at `corner`.
    fn onto(&self, part: &mut Pixmap, place: Place, side: f32, corner: [f32; 2]) {
        let size = self.tree.size();
        let scale = place.side * side / size.width().max(size.height());
        let [x, y] = place.middle.map(|middle| middle * side);
        let transform = Transform::from_scale(scale, scale).post_translate(
            x - size.width() * scale / 2.0 - corner[0],
            y - size.height() * scale / 2.0 - corner[1],
        );
        resvg::render(&self.tree, transform, &mut part.as_mut());
    }
}

/// The drawing on white with a margin.
pub(crate) fn whole(drawing: &Drawing, side: u32) -> anyhow::Result<RgbImage> {
    scene(&[(drawing, Place::CENTRE)], WHITE, side)
}

/// Drawings on a background.
pub(crate) fn scene(
    drawings: &[(&Drawing, Place)],
    background: Background,
    side: u32,
) -> anyhow::Result<RgbImage> {
    part(drawings, background, side, side, [0, 0])
}

/// The square of `size` pixels at `corner` of a scene of `side` pixels.
pub(crate) fn part(
    drawings: &[(&Drawing, Place)],
    background: Background,
    side: u32,
    size: u32,
    corner: [u32; 2],
) -> anyhow::Result<RgbImage> {
    let mut canvas = Pixmap::new(size, size).context("no memory for a canvas")?;
    let [red, green, blue] = background.colour;
    canvas.fill(Color::from_rgba8(red, green, blue, 255));
    for (drawing, place) in drawings {
        drawing.onto(&mut canvas, *place, side as f32, corner.map(|at| at as f32));
    }
    // The background is opaque, so nothing is left to multiply by.
    let pixels = canvas.pixels();
    Ok(RgbImage::from_fn(size, size, |x, y| {
        let pixel = pixels[(y * size + x) as usize];
        Rgb([pixel.red(), pixel.green(), pixel.blue()])
    }))
}

/// The corner of a part of `size` pixels, around an edge of the scene if there is one.
pub(crate) fn corner_at_an_edge(
    drawings: &[(&Drawing, Place)],
    background: Background,
    side: u32,
    size: u32,
    rng: &mut impl Rng,
) -> anyhow::Result<[u32; 2]> {
    const COARSE: u32 = 64;
    /// Grey levels that neighbours differ by across an edge, over three channels.
    const EDGE: u32 = 60;
    let coarse = scene(drawings, background, COARSE)?;
    let apart = |a: &Rgb<u8>, b: &Rgb<u8>| -> u32 {
        a.0.iter().zip(b.0).map(|(a, b)| u32::from(a.abs_diff(b))).sum()
    };
    let mut edges = Vec::new();
    for (y, x) in (1..COARSE).flat_map(|y| (1..COARSE).map(move |x| (y, x))) {
        let here = coarse.get_pixel(x, y);
        if apart(here, coarse.get_pixel(x - 1, y)) + apart(here, coarse.get_pixel(x, y - 1)) > EDGE
        {
            edges.push([x, y]);
        }
    }
    let middle = edges.choose(rng).copied().unwrap_or([COARSE / 2; 2]);
    let most = side - size;
    Ok(middle.map(|at| {
        let jitter = rng.random_range(0..size / 2);
        (at * side / COARSE + jitter).saturating_sub(size * 3 / 4).min(most)
    }))
}
