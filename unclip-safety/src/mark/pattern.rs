//! Where the invisible mark lies: which frequencies of which blocks, with which signs.
//!
//! The picture's luminance is cut into blocks of 8 × 8 pixels, and 8 × 8 blocks are a tile. Four low frequencies of every
//! block carry one sign each: one frequency the signs that a detector finds the tile by, three the coded payload. Each
//! tile carries everything, so any whole tile can be read, and more of them are read together.
//!
//! A picture that is mostly even carries the same pattern half as large again, in blocks of 12 × 12: what varies more slowly
//! shows in the means of 4 × 4 pixels, and those are what WebP leaves of even areas. A textured picture does not, since it
//! drowns slow patterns itself, and more tiles can be read together. A detector looks for patterns of every size anyway.

use super::code::CODED;

/// Pixels along a block.
pub(super) const BLOCK: usize = 8;
/// Pixels along a block of a picture that is mostly even.
pub(super) const LARGE_BLOCK: usize = 12;
/// Blocks along a tile.
pub(super) const TILE: usize = 8;
/// Pixels along a tile.
pub(super) const PERIOD: usize = BLOCK * TILE;
/// Marked frequencies of a block: `(across, down)` of the discrete cosine transform. The first finds the tile.
///
/// All four vanish on even gradients, keep most of their energy when the picture is halved, and are among those that
/// JPEG's tables quantise finest.
pub(super) const FREQUENCIES: [(usize, usize); 4] = [(1, 1), (2, 0), (0, 2), (1, 2)];
/// What flat blocks are changed by, in units of the orthonormal transform: a third more than half the step of JPEG's
/// luminance table at quality 50, below which rounding would put the coefficient back to zero.
pub(super) const AMPLITUDE: [f32; 4] = [8.0, 6.7, 9.3, 8.7];
/// Signs of a tile.
pub(super) const SLOTS: usize = TILE * TILE * FREQUENCIES.len();

/// The next of the numbers that follow from a state (SplitMix64: Steele, Lea & Flood 2014).
pub(super) fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// The pattern of one key.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// Signs that find the tile, row by row.
    pub(super) anchor: [f32; TILE * TILE],
    /// For each coded bit: the slot that carries it.
    place: [usize; CODED],
    /// For each coded bit: the sign that it is multiplied with.
    sign: [f32; CODED],
}

impl Pattern {
    pub(super) fn of(key: u64) -> Self {
        let mut state = key;
        let mut sign = |_| if draw(&mut state) >> 63 == 0 { 1.0 } else { -1.0 };
        let anchor = std::array::from_fn(&mut sign);
        let signs = std::array::from_fn(&mut sign);
        let mut place = std::array::from_fn(|k| TILE * TILE + k);
        for k in (1..CODED).rev() {
            // Fisher and Yates; 64 bits over 192 places leave no bias that matters.
            let other = draw(&mut state) % (k as u64 + 1);
            place.swap(k, usize::try_from(other).expect("below the number of places"));
        }
        Self { anchor, place, sign: signs }
    }

    /// The sign of every slot for a codeword; slots are ordered by frequency, then by row and column of the tile.
    pub(super) fn spread(&self, codeword: &[f32; CODED]) -> [f32; SLOTS] {
        let mut slots = [0.0; SLOTS];
        slots[..TILE * TILE].copy_from_slice(&self.anchor);
        for ((&place, sign), bit) in self.place.iter().zip(self.sign).zip(codeword) {
            slots[place] = sign * bit;
        }
        slots
    }

    /// The soft value of every coded bit from those of the slots.
    pub(super) fn gather(&self, slots: &[f32; SLOTS]) -> [f32; CODED] {
        std::array::from_fn(|k| self.sign[k] * slots[self.place[k]])
    }
}

/// Cosine vectors 0, 1 and 2 of a block of some size. Coefficients are in units of blocks of 8 × 8, so that a pattern has
/// the same ones at every size.
#[derive(Debug, Clone)]
pub(super) struct Basis {
    /// Pixels along a block.
    pub(super) side: usize,
    /// How much larger than 8 that is.
    pub(super) gain: f32,
    /// Orthonormal.
    pub(super) vectors: [Vec<f32>; 3],
}

impl Basis {
    /// The vectors for blocks of `side` pixels.
    #[expect(clippy::cast_possible_truncation, reason = "the tables are rounded to 32 bits once")]
    pub(super) fn of(side: usize) -> Self {
        let vectors = std::array::from_fn(|u| {
            let scale = (if u == 0 { 1.0 } else { 2.0_f64 } / side as f64).sqrt();
            let angle = std::f64::consts::PI * u as f64 / (2 * side) as f64;
            (0..side).map(|x| (scale * (angle * (2 * x + 1) as f64).cos()) as f32).collect()
        });
        Self { side, gain: side as f32 / BLOCK as f32, vectors }
    }
}

/// The luminance of a picture, or a part of it at another scale.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<f32>,
}

impl Plane {
    /// The luminance that JPEG stores, 0 to 255.
    pub(super) fn luminance(picture: &image::RgbImage) -> Self {
        let values = picture
            .pixels()
            .map(|pixel| {
                let [r, g, b] = pixel.0.map(f32::from);
                0.299 * r + 0.587 * g + 0.114 * b
            })
            .collect();
        Self { width: picture.width() as usize, height: picture.height() as usize, values }
    }

    /// The plane as it was before it was enlarged `scale` times, from its upper left corner, at most `limit` pixels wide
    /// and high from the middle; bilinear.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positions lie within the plane, and what is left of them below 1"
    )]
    pub(super) fn at_scale(&self, scale: f64, limit: usize) -> Self {
        let whole = |side: usize| ((side as f64 / scale + 1e-6) as usize).max(1);
        let part = |side: usize| {
            let whole = whole(side);
            // The middle part starts on a tile's corner of the whole, so that offsets agree.
            let skip = whole.saturating_sub(limit) / 2 / PERIOD * PERIOD;
            (skip, whole.min(limit))
        };
        let ((left, width), (top, height)) = (part(self.width), part(self.height));
        let taps = |start: usize, count: usize, side: usize| -> Vec<(usize, usize, f32)> {
            (start..start + count)
                .map(|k| {
                    let at = ((k as f64 + 0.5) * scale - 0.5).clamp(0.0, (side - 1) as f64);
                    let low = at as usize;
                    (low, (low + 1).min(side - 1), (at - low as f64) as f32)
                })
                .collect()
        };
        if scale == 1.0 && (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let (columns, rows) = (taps(left, width, self.width), taps(top, height, self.height));
        let mut values = Vec::with_capacity(width * height);
        for &(above, below, down) in &rows {
            let above = &self.values[above * self.width..][..self.width];
            let below = &self.values[below * self.width..][..self.width];
            values.extend(columns.iter().map(|&(low, high, right)| {
                let upper = above[low] + (above[high] - above[low]) * right;
                let lower = below[low] + (below[high] - below[low]) * right;
                upper + (lower - upper) * down
            }));
        }
        Self { width, height, values }
    }

    /// The marked coefficients of the block whose corner is at `(x, y)`.
    pub(super) fn block(&self, x: usize, y: usize, basis: &Basis) -> [f32; 4] {
        // Rows first: each row's three products are shared by the frequencies.
        let mut sums = [[0.0; 3]; 3];
        for v in 0..basis.side {
            let row = &self.values[(y + v) * self.width + x..][..basis.side];
            for (sums, across) in sums.iter_mut().zip(&basis.vectors) {
                let product: f32 =
                    row.iter().zip(across).map(|(value, cosine)| value * cosine).sum();
                for (sum, down) in sums.iter_mut().zip(&basis.vectors) {
                    *sum += product * down[v];
                }
            }
        }
        FREQUENCIES.map(|(across, down)| sums[across][down] / basis.gain)
    }
}

/// What a coefficient counts as a vote for its sign: most where it is as large as marks are, and the less the further the
/// picture itself exceeds them, as the likelihood ratio has it for pictures whose coefficients have heavy tails.
pub(super) fn vote(coefficient: f32) -> f32 {
    const USUAL: f32 = 10.0;
    2.0 * USUAL * coefficient / (coefficient * coefficient + USUAL * USUAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathering_undoes_spreading() {
        let pattern = Pattern::of(7);
        let codeword = super::super::code::encode(b"unclip");
        assert_eq!(pattern.gather(&pattern.spread(&codeword)), codeword);
        assert!(pattern.spread(&codeword).iter().all(|sign| sign.abs() == 1.0), "no empty slot");
        assert_ne!(Pattern::of(8).anchor, pattern.anchor);
    }

    #[test]
    fn cosine_vectors_are_orthonormal() {
        for side in [BLOCK, LARGE_BLOCK] {
            let vectors = Basis::of(side).vectors;
            for (u, a) in vectors.iter().enumerate() {
                for (v, b) in vectors.iter().enumerate() {
                    let product: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    assert!((product - f32::from(u8::from(u == v))).abs() < 1e-6, "{u} {v}");
                }
            }
        }
    }

    #[test]
    fn gradients_have_no_marked_coefficient() {
        let values = (0..64).map(|k| 3.0 * (k % 8) as f32 + 5.0 * (k / 8) as f32).collect();
        let plane = Plane { width: 8, height: 8, values };
        assert!(plane.block(0, 0, &Basis::of(BLOCK)).iter().all(|value| value.abs() < 1e-3));
    }
}
