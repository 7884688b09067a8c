//! Putting the invisible mark on.

use image::RgbImage;
use rayon::prelude::*;

use super::{
    code::{self, PAYLOAD_BYTES},
    pattern::{
        AMPLITUDE, BLOCK, Basis, FREQUENCIES, LARGE_BLOCK, PERIOD, Pattern, Plane, SLOTS, TILE,
        vote,
    },
};
use crate::{MarkError, Watermark};

/// The name in results and logs.
const NAME: &str = "invisible";
/// The least side of a picture that may carry the larger pattern: half of its area still holds a whole tile of it.
const LARGE_FROM: usize = 192;
/// A block is even whose marked coefficients are all below this.
const EVEN: f32 = 6.0;
/// The share of even blocks from which on a picture is mostly even.
const MOSTLY: f64 = 0.5;

const _: () = assert!(InvisibleMark::MIN_SIDE as usize == PERIOD, "a picture holds a tile");

/// The 48 bits of an [`InvisibleMark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Payload(pub [u8; PAYLOAD_BYTES]);

/// A payload is of the wrong length.
#[derive(Debug, thiserror::Error)]
#[error("the payload is {found} bytes, expected {PAYLOAD_BYTES}")]
pub struct PayloadError {
    /// Bytes given.
    pub found: usize,
}

impl TryFrom<&[u8]> for Payload {
    type Error = PayloadError;

    fn try_from(bytes: &[u8]) -> Result<Self, PayloadError> {
        bytes.try_into().map(Self).map_err(|_| PayloadError { found: bytes.len() })
    }
}

/// 48 bits in the luminance of a picture, which nobody sees and [`Detector`](super::Detector) reads without the original.
///
/// Every tile of 64 × 64 pixels, or of 96 × 96 where the picture is mostly even, carries the whole payload under an
/// error-correcting code, as signs of four low frequencies of each of its 8 × 8 blocks. The embedder knows the picture: signs that it already has cost nothing, and bits
/// that it speaks against get more of what may be changed. Pixels change by 40.5 dB or less, which is the root of the mean
/// square of about 2.4 levels of 255.
///
/// ```
/// use unclip_safety::{Watermark, mark::{Detection, Detector, InvisibleMark, Payload}};
///
/// let mut picture = image::RgbImage::from_fn(128, 128, |x, y| image::Rgb([x as u8, y as u8, 90]));
/// InvisibleMark::new(Payload(*b"unclip")).mark(&mut picture)?;
/// let Detection::Found(reading) = Detector::new().detect(&picture) else { panic!("just marked") };
/// assert_eq!(reading.payload, Payload(*b"unclip"));
/// # Ok::<(), unclip_safety::MarkError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct InvisibleMark {
    payload: Payload,
    pattern: Pattern,
    psnr: f64,
}

impl InvisibleMark {
    /// The least side of a picture that carries the mark: one tile.
    pub const MIN_SIDE: u32 = 64;

    /// A mark with `payload`, under the key 0.
    pub fn new(payload: Payload) -> Self {
        Self { payload, pattern: Pattern::of(0), psnr: 40.5 }
    }

    /// Sets the key, without which nobody reads the mark; 0 by default.
    ///
    /// The key keeps marks of different makers apart. It is no secret in the sense of cryptography: who has many pictures
    /// marked under one key can find the pattern.
    pub fn key(mut self, key: u64) -> Self {
        self.pattern = Pattern::of(key);
        self
    }

    /// Sets how little the picture changes, as peak signal-to-noise ratio in decibels, from 36 to 50; 40.5 by default.
    /// More is fainter, and survives less.
    pub fn psnr(mut self, decibels: f64) -> Self {
        self.psnr = if decibels.is_nan() { 40.5 } else { decibels.clamp(36.0, 50.0) };
        self
    }
}

impl Watermark for InvisibleMark {
    fn name(&self) -> &str {
        NAME
    }

    fn mark(&self, picture: &mut RgbImage) -> Result<(), MarkError> {
        let (width, height) = picture.dimensions();
        if width.min(height) < Self::MIN_SIDE {
            return Err(MarkError {
                watermark: NAME.into(),
                width,
                height,
                reason: format!("48 bits need {0} × {0} pixels", Self::MIN_SIDE),
            });
        }
        let signs = self.pattern.spread(&code::encode(&self.payload.0));
        let budget = 255.0_f64.powi(2) / 10_f64.powf(self.psnr / 10.0);
        let host = Host::of(picture);
        // Where much is black or white, room for the mark must be made first, which costs as well; how much is best
        // depends on the picture.
        let rooms: &[u8] = if clipped_share(picture) < 0.01 { &[2] } else { &[0, 1, 2] };
        let marked: Vec<Option<(f32, RgbImage)>> =
            rooms.par_iter().map(|&room| host.within(picture, &signs, budget, room)).collect();
        let best = marked.into_iter().flatten().max_by(|(a, _), (b, _)| a.total_cmp(b));
        if let Some((_, marked)) = best {
            *picture = marked;
        }
        Ok(())
    }
}

fn mean_square(a: &RgbImage, b: &RgbImage) -> f64 {
    let sum: u64 =
        a.as_raw().iter().zip(b.as_raw()).map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum();
    sum as f64 / a.as_raw().len() as f64
}

/// The share of values that are black or white, or nearly.
fn clipped_share(picture: &RgbImage) -> f64 {
    let values = picture.as_raw();
    let clipped = values.iter().filter(|&&value| !(4..=251).contains(&value)).count();
    clipped as f64 / values.len() as f64
}

/// The coefficients that a picture has before it is marked.
struct Host {
    basis: Basis,
    columns: usize,
    rows: usize,
    /// Of each block, row by row.
    coefficients: Vec<[f32; 4]>,
    /// The slot of each of them.
    slots: Vec<[usize; 4]>,
    /// How busy each block is, 0 where it is flat, towards 1 where it is textured.
    texture: Vec<f32>,
}

impl Host {
    fn of(picture: &RgbImage) -> Self {
        let plane = Plane::luminance(picture);
        let host = Self::at(&plane, Basis::of(BLOCK));
        let is_even = |block: &&[f32; 4]| block.iter().all(|value| value.abs() < EVEN);
        let even = host.coefficients.iter().filter(is_even).count();
        let large = plane.width.min(plane.height) >= LARGE_FROM;
        if large && even as f64 > MOSTLY * host.coefficients.len() as f64 {
            return Self::at(&plane, Basis::of(LARGE_BLOCK));
        }
        host
    }

    fn at(plane: &Plane, basis: Basis) -> Self {
        let (columns, rows) = (plane.width / basis.side, plane.height / basis.side);
        let coefficients = coefficients(plane, &basis);
        let texture = coefficients
            .iter()
            .map(|block| {
                let mean = block.iter().map(|value| value.abs()).sum::<f32>() / 4.0;
                mean / (mean + 20.0)
            })
            .collect();
        let slots = (0..coefficients.len())
            .map(|block| {
                let place = block / columns % TILE * TILE + block % columns % TILE;
                std::array::from_fn(|f| f * TILE * TILE + place)
            })
            .collect();
        Self { basis, columns, rows, coefficients, slots, texture }
    }

    /// How far each coefficient is moved towards its sign, for a strength and each slot's share of it.
    fn moves<'a>(
        &'a self,
        signs: &'a [f32; SLOTS],
        share: &'a [f32; SLOTS],
        strength: f32,
    ) -> impl Iterator<Item = [f32; 4]> + 'a {
        // A flat block shows what is done to it; a textured one hides it.
        let flat = strength.min(1.1);
        let blocks = self.coefficients.iter().zip(&self.slots).zip(&self.texture);
        blocks.map(move |((coefficients, slots), texture)| {
            let visible = flat + (strength - flat) * texture;
            std::array::from_fn(|f| {
                let (sign, aim) = (signs[slots[f]], AMPLITUDE[f] * visible * share[slots[f]]);
                let lacks = (aim - coefficients[f] * sign).max(0.0);
                // Where the picture speaks loudly against the sign, little is gained however much is spent.
                let beyond = (lacks / aim - 2.0).max(0.0) / 2.0;
                sign * lacks.min(2.0 * aim) / (1.0 + beyond * beyond)
            })
        })
    }

    /// The greatest strength whose moves cost at most `allowed`.
    fn strongest(&self, signs: &[f32; SLOTS], share: &[f32; SLOTS], allowed: f64) -> Vec<[f32; 4]> {
        let pixels = (self.coefficients.len() * BLOCK * BLOCK) as f64;
        let (mut low, mut high) = (0.0, 3.0);
        for _ in 0..10 {
            let middle = (low + high) / 2.0;
            let mut costs = [0.0; 4];
            for moves in self.moves(signs, share, middle) {
                for (cost, d) in costs.iter_mut().zip(moves) {
                    *cost += f64::from(d * d);
                }
            }
            if costs.iter().sum::<f64>() / pixels <= allowed { low = middle } else { high = middle }
        }
        self.moves(signs, share, low).collect()
    }

    /// The moves that make all slots about equally sure.
    fn balanced(&self, signs: &[f32; SLOTS], allowed: f64) -> Vec<[f32; 4]> {
        let mut share = [1.0_f32; SLOTS];
        for _ in 0..4 {
            let moves = self.strongest(signs, &share, allowed);
            let mut votes = [(0.0_f32, 0.0_f32); SLOTS];
            for (block, slots) in self.slots.iter().enumerate() {
                for (f, &slot) in slots.iter().enumerate() {
                    let now = self.coefficients[block][f] + moves[block][f];
                    votes[slot].0 += vote(now) * signs[slot];
                    votes[slot].1 += 1.0;
                }
            }
            let margins = votes.map(|(sum, looks)| sum / looks);
            let mean = margins.iter().sum::<f32>() / SLOTS as f32;
            for (share, margin) in share.iter_mut().zip(margins) {
                *share = (*share * (1.5 * (mean - margin)).exp()).clamp(0.5, 2.5);
            }
        }
        self.strongest(signs, &share, allowed)
    }

    /// The picture with the strongest mark that spends at most `budget`, and how well the mark can be read.
    ///
    /// What is clipped at black and white cannot be foreseen exactly, so that the moves' own cost is adjusted until what
    /// was spent is just below the budget.
    fn within(
        &self,
        picture: &RgbImage,
        signs: &[f32; SLOTS],
        budget: f64,
        room: u8,
    ) -> Option<(f32, RgbImage)> {
        let mut allowed = budget;
        let mut best = None;
        for _ in 0..6 {
            let marked = self.marked(picture, signs, allowed, room);
            let spent = mean_square(picture, &marked);
            if spent <= budget {
                best = Some(marked);
                if spent > 0.96 * budget || allowed >= 2.0 * budget {
                    break;
                }
            } else if best.is_some() {
                break;
            }
            // Of what clipping adds, a part does not shrink with the mark: aim a little below.
            allowed *= (0.98 * budget / spent).clamp(0.4, 1.5);
        }
        let marked = best?;
        let votes: f32 = coefficients(&Plane::luminance(&marked), &self.basis)
            .iter()
            .zip(&self.slots)
            .map(|(block, slots)| {
                let votes = block.iter().zip(slots);
                votes.map(|(&value, &slot)| vote(value) * signs[slot]).sum::<f32>()
            })
            .sum();
        Some((votes, marked))
    }

    /// The picture with its mark.
    fn marked(&self, picture: &RgbImage, signs: &[f32; SLOTS], allowed: f64, room: u8) -> RgbImage {
        let moves = self.balanced(signs, allowed);
        let mut push = moves.clone();
        let mut marked = self.painted(picture, &push, room);
        // Rounding and clipping take from the mark; further pushes give back what they took.
        for _ in 0..2 {
            let got = coefficients(&Plane::luminance(&marked), &self.basis);
            for (block, push) in push.iter_mut().enumerate() {
                for f in 0..FREQUENCIES.len() {
                    let want = self.coefficients[block][f] + moves[block][f];
                    let short = want - got[block][f];
                    if short * moves[block][f] > 0.0 {
                        push[f] += short;
                    }
                }
            }
            marked = self.painted(picture, &push, room);
        }
        marked
    }

    /// The picture with its coefficients pushed, `room` levels made below white and above black.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the values are clamped to 0 to 255 before"
    )]
    fn painted(&self, picture: &RgbImage, push: &[[f32; 4]], room: u8) -> RgbImage {
        let Basis { side, gain, vectors } = &self.basis;
        let mut painted = picture.clone();
        for (block, push) in push.iter().enumerate() {
            if push.iter().all(|&push| push == 0.0) {
                continue;
            }
            let (left, top) = (block % self.columns * side, block / self.columns * side);
            debug_assert!(block / self.columns < self.rows, "blocks are whole");
            for y in 0..*side {
                // What each of the vectors across is multiplied with in this row.
                let mut weights = [0.0; 3];
                for (&(across, down), push) in FREQUENCIES.iter().zip(push) {
                    weights[across] += gain * push * vectors[down][y];
                }
                for x in 0..*side {
                    let change: f32 = weights
                        .iter()
                        .zip(vectors)
                        .map(|(weight, vector)| weight * vector[x])
                        .sum();
                    let change = change.round();
                    let pixel = painted.get_pixel_mut((left + x) as u32, (top + y) as u32);
                    for value in &mut pixel.0 {
                        let level = (*value).clamp(room, 255 - room);
                        *value = (f32::from(level) + change).clamp(0.0, 255.0) as u8;
                    }
                }
            }
        }
        painted
    }
}

/// The marked coefficients of every whole block, row by row.
fn coefficients(plane: &Plane, basis: &Basis) -> Vec<[f32; 4]> {
    let (columns, rows) = (plane.width / basis.side, plane.height / basis.side);
    (0..rows * columns)
        .map(|block| plane.block(block % columns * basis.side, block / columns * basis.side, basis))
        .collect()
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test pictures are made of low bits")]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_six_bytes() {
        assert_eq!(Payload::try_from(&b"unclip"[..]).expect("six bytes"), Payload(*b"unclip"));
        for wrong in [&b""[..], b"five5", b"seven77"] {
            let error = Payload::try_from(wrong).expect_err("of another length");
            assert_eq!(error.found, wrong.len());
        }
    }

    #[test]
    fn what_is_smaller_than_a_tile_is_an_error_and_stays_as_it_is() {
        for (width, height) in [(0, 0), (63, 200), (200, 63)] {
            let mut picture = RgbImage::from_pixel(width, height, image::Rgb([9, 9, 9]));
            let before = picture.clone();
            let error = InvisibleMark::new(Payload([0; 6])).mark(&mut picture).expect_err("small");
            assert_eq!((error.width, error.height), (width, height));
            assert_eq!(picture, before);
        }
    }

    #[test]
    fn more_decibels_change_less() {
        let plain = RgbImage::from_fn(128, 128, |x, y| {
            let texture = super::super::pattern::draw(&mut (u64::from(x) << 32 | u64::from(y)));
            image::Rgb([x as u8 + texture as u8 % 64, y as u8 + texture as u8 % 64, 60])
        });
        let errors = [37.0, 40.5, 45.0].map(|psnr| {
            let mut marked = plain.clone();
            InvisibleMark::new(Payload([7; 6])).psnr(psnr).mark(&mut marked).expect("large enough");
            mean_square(&plain, &marked)
        });
        assert!(errors[0] > errors[1] && errors[1] > errors[2], "{errors:?}");
        assert!(errors[2] > 0.0, "{errors:?}");
    }
}
