//! What is known of a picture while the decoder learns to edit.
//!
//! Paper §3 edits nothing, GLIDE (Nichol et al. 2021, §4.3) does: random regions are erased and the rest is given to
//! the network. Regions are rectangles, polygons, strokes, and everything outside or inside a frame; some cover the
//! whole picture.

use serde::{Deserialize, Serialize};

use crate::draws::Draws;

/// How often pictures are masked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskConfig {
    /// The share of samples with a mask; of the others nothing is known.
    #[serde(default = "third")]
    pub share: f64,
    /// The share of masks that cover everything, so that nothing is known there either.
    #[serde(default = "quarter")]
    pub whole: f64,
}

fn third() -> f64 {
    1.0 / 3.0
}

fn quarter() -> f64 {
    0.25
}

impl Default for MaskConfig {
    fn default() -> Self {
        Self { share: third(), whole: quarter() }
    }
}

/// A point, in parts of the picture's sides.
type Point = (f64, f64);

/// A region to be painted.
#[derive(Debug, Clone, PartialEq)]
enum Region {
    /// Everything.
    Whole,
    /// What lies between two corners.
    Rectangle(Point, Point),
    /// What lies around two corners: outpainting.
    Frame(Point, Point),
    /// What a closed line surrounds.
    Polygon(Vec<Point>),
    /// What is nearer to a line than its radius.
    Stroke(Vec<Point>, f64),
}

impl MaskConfig {
    /// Draws which pixels are known: `side · side` values, row by row, 1 where the picture is given and 0 where it is to
    /// be painted.
    pub fn draw(&self, side: usize, draws: &mut Draws) -> Vec<f32> {
        if !draws.chance(self.share) || draws.chance(self.whole) {
            return Region::Whole.known(side);
        }
        region(draws).known(side)
    }
}

fn region(draws: &mut Draws) -> Region {
    match draws.below(4) {
        0 => {
            let (a, b) = corners(draws, 0.2, 0.8);
            Region::Rectangle(a, b)
        }
        1 => {
            let (a, b) = corners(draws, 0.3, 0.9);
            Region::Frame(a, b)
        }
        2 => {
            let centre = (draws.between(0.25, 0.75), draws.between(0.25, 0.75));
            let count = 3 + draws.below(6);
            let around = |i: usize, draws: &mut Draws| {
                let angle =
                    (i as f64 + draws.between(-0.4, 0.4)) / count as f64 * std::f64::consts::TAU;
                let radius = draws.between(0.15, 0.5);
                let (sine, cosine) = libm::sincos(angle);
                (centre.0 + radius * cosine, centre.1 + radius * sine)
            };
            Region::Polygon((0..count).map(|i| around(i, draws)).collect())
        }
        _ => {
            let mut points = vec![(draws.unit(), draws.unit())];
            for _ in 0..2 + draws.below(5) {
                let (x, y) = points[points.len() - 1];
                let step =
                    |at: f64, draws: &mut Draws| (at + draws.between(-0.4, 0.4)).clamp(0.0, 1.0);
                points.push((step(x, draws), step(y, draws)));
            }
            Region::Stroke(points, draws.between(0.05, 0.15))
        }
    }
}

/// Two opposite corners of a rectangle inside the picture, each side between two lengths.
fn corners(draws: &mut Draws, shortest: f64, longest: f64) -> (Point, Point) {
    let mut span = || {
        let length = draws.between(shortest, longest);
        let start = draws.between(0.0, 1.0 - length);
        (start, start + length)
    };
    let ((left, right), (top, bottom)) = (span(), span());
    ((left, top), (right, bottom))
}

impl Region {
    fn known(&self, side: usize) -> Vec<f32> {
        let place = |i: usize| (i as f64 + 0.5) / side as f64;
        let pixels = (0..side).flat_map(|y| (0..side).map(move |x| (place(x), place(y))));
        pixels.map(|point| f32::from(!self.covers(point))).collect()
    }

    fn covers(&self, (x, y): Point) -> bool {
        match self {
            Self::Whole => true,
            Self::Rectangle((left, top), (right, bottom)) => {
                (left..right).contains(&&x) && (top..bottom).contains(&&y)
            }
            Self::Frame(a, b) => !Self::Rectangle(*a, *b).covers((x, y)),
            Self::Polygon(points) => {
                // A ray from the point crosses the line an odd number of times.
                let ends = points.iter().zip(points.iter().cycle().skip(1));
                let crossings = ends.filter(|&(a, b)| {
                    (a.1 > y) != (b.1 > y) && x < a.0 + (y - a.1) / (b.1 - a.1) * (b.0 - a.0)
                });
                crossings.count() % 2 == 1
            }
            Self::Stroke(points, radius) => {
                points.windows(2).any(|ends| distance((x, y), ends[0], ends[1]) < *radius)
            }
        }
    }
}

/// The distance of a point from a straight line between two others.
fn distance(point: Point, from: Point, to: Point) -> f64 {
    let (along, up) = (to.0 - from.0, to.1 - from.1);
    let length = along * along + up * up;
    let share = if length == 0.0 {
        0.0
    } else {
        (((point.0 - from.0) * along + (point.1 - from.1) * up) / length).clamp(0.0, 1.0)
    };
    libm::hypot(point.0 - from.0 - share * along, point.1 - from.1 - share * up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Purpose;

    fn rows(region: &Region) -> Vec<String> {
        let known = region.known(6);
        let row = |row: &[f32]| row.iter().map(|&k| if k == 1.0 { 'k' } else { '.' }).collect();
        known.chunks(6).map(row).collect()
    }

    #[test]
    fn regions_cover_what_they_say() {
        let corners = ((1.0 / 6.0, 0.0), (0.5, 2.0 / 6.0));
        let rectangle = Region::Rectangle(corners.0, corners.1);
        assert_eq!(rows(&rectangle), ["k..kkk", "k..kkk", "kkkkkk", "kkkkkk", "kkkkkk", "kkkkkk"]);
        let frame = Region::Frame(corners.0, corners.1);
        assert_eq!(rows(&frame), [".kk...", ".kk...", "......", "......", "......", "......"]);
        let polygon = Region::Polygon(vec![(0.0, 0.0), (1.02, 0.0), (0.0, 1.02)]);
        assert_eq!(rows(&polygon), ["......", ".....k", "....kk", "...kkk", "..kkkk", ".kkkkk"]);
        let stroke = Region::Stroke(vec![(0.0, 0.5), (0.6, 0.5)], 0.1);
        assert_eq!(rows(&stroke), ["kkkkkk", "kkkkkk", "....kk", "....kk", "kkkkkk", "kkkkkk"]);
        assert_eq!(rows(&Region::Whole), ["......"; 6]);
    }

    #[test]
    fn a_third_is_masked_and_a_quarter_of_that_entirely() {
        let mut partly = 0;
        for index in 0..3000 {
            let mut draws = Draws::new(5, Purpose::Mask, 0, index);
            let known = MaskConfig::default().draw(16, &mut draws);
            assert!(known.iter().all(|&k| k == 0.0 || k == 1.0));
            partly += usize::from(known.contains(&1.0));
        }
        // A third times three quarters; a region that happens to cover everything is rare.
        assert!((700..800).contains(&partly), "{partly} of 3000");
    }
}
