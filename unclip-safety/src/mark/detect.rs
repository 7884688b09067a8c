//! Reading the invisible mark.

use image::RgbImage;

use super::{
    Payload,
    code::{self, CODED, PAYLOAD_BYTES},
    pattern::{BLOCK, Basis, FREQUENCIES, LARGE_BLOCK, PERIOD, Pattern, Plane, SLOTS, TILE, vote},
};

/// How much larger the pattern of mostly even pictures is.
const LARGE: f64 = LARGE_BLOCK as f64 / BLOCK as f64;
/// Scales that a picture is first looked at, with the pattern of either size: as it is, and as people resize.
const USUAL_SCALES: [f64; 10] = [1.0, 0.5, 2.0, 0.75, 1.5, 1.25, 2.0 / 3.0, 0.8, 0.6, 0.9];
/// Sides that generators paint: a picture's own side over one of these is likely its scale.
const USUAL_SIDES: [u32; 5] = [256, 512, 1024, 768, 64];
/// The least and the greatest scale searched: half of the smaller pattern, twice the larger one.
const SCALES: (f64, f64) = (0.47, 3.2);
/// From one scale of the search to the next. Over 512 pixels the pattern drifts by 3 at most from the middle to an edge,
/// where the anchor's half wave is 8.
const SCALE_STEP: f64 = 1.012;
/// Pixels along the middle part that the scale is searched in.
const SEARCH_SIDE: usize = 512;
/// Pixels along the part that is read.
const READ_SIDE: usize = 2048;
/// Places of the search that are looked at closely.
const CANDIDATES: usize = 6;
/// Below this side a mark that was there may well be gone.
const SURE_SIDE: u32 = 128;
/// Scales about each of the search's own that are looked at closely, on either side.
const FINER: i32 = 5;
/// The binary logarithms of the places that pictures are looked at without a search (the corner, at the usual scales), and
/// of all those that a search may end at. Half of the accepted chance of a false positive is for either kind, so that
/// pictures that were never cut do not pay for the search.
const LOG2_WHOLE: f64 = 6.0;
const LOG2_SEARCHED: f64 = 23.0;

/// Looks for marks that [`InvisibleMark`](super::InvisibleMark) made under the same key.
#[derive(Debug, Clone)]
#[must_use]
pub struct Detector {
    pattern: Pattern,
    log10_false_positive: f64,
}

/// What a [`Detector`] says of a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Detection {
    /// The picture is marked.
    Found(Reading),
    /// The picture carries no mark, or one that was destroyed.
    NotFound,
    /// The picture shows no mark, and would not even if it had been marked.
    CannotSay {
        /// Why not.
        reason: &'static str,
    },
}

/// What was read, and how sure it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The bits.
    pub payload: Payload,
    /// Whether the bits' own checksum agrees.
    pub checksum_agrees: bool,
    /// How well the picture agrees with this payload: 0 for none, 16 for all 256 signs of a tile in equal strength.
    pub agreement: f64,
    /// Decimal logarithm of an upper bound of the chance that a picture without the mark agrees with any payload this well
    /// at any of the places searched, over the choice of keys.
    ///
    /// The signs of a key are even and independent, so the agreement of votes `w`, of length 1, with one payload at one
    /// place reaches `t` with a chance of at most `Π cosh(λwᵢ) · exp(−λt)` for every `λ` (Chernoff), whatever the picture.
    /// The bound sums this over 2⁴⁸ payloads and twice the places of one kind: 2⁶ for a picture that was never cut, at the
    /// usual scales; 2²³ for all others.
    pub log10_false_positive: f64,
    /// How large the pattern is: 1, or 1.5 where the picture is mostly even, times what the picture was enlarged by since it
    /// was marked.
    pub scale: f64,
    /// Where a tile starts, in pixels of the picture made `scale` times smaller, 0 to 63 across and down.
    pub offset: (usize, usize),
}

impl Default for Detector {
    fn default() -> Self {
        Self::new()
    }
}

impl Detector {
    /// A detector for the key 0, wrong on one unmarked picture in a million at most.
    pub fn new() -> Self {
        Self { pattern: Pattern::of(0), log10_false_positive: -6.0 }
    }

    /// Sets the key; 0 by default.
    pub fn key(mut self, key: u64) -> Self {
        self.pattern = Pattern::of(key);
        self
    }

    /// Sets the decimal logarithm of the accepted chance of a false positive, at most −1; −6 by default.
    pub fn log10_false_positive(mut self, log10: f64) -> Self {
        self.log10_false_positive = log10.min(-1.0);
        self
    }

    /// Whether `picture` is marked.
    pub fn detect(&self, picture: &RgbImage) -> Detection {
        let Some(reading) = self.read(picture) else {
            return Detection::CannotSay {
                reason: "the picture is smaller than a tile at every scale, or of one even colour",
            };
        };
        if self.accepts(&reading) {
            return Detection::Found(reading);
        }
        let (width, height) = picture.dimensions();
        if width.min(height) < SURE_SIDE {
            return Detection::CannotSay { reason: "the picture is too small to keep a mark" };
        }
        if mostly_flat(picture) {
            return Detection::CannotSay { reason: "nearly all of the picture is of even colour" };
        }
        Detection::NotFound
    }

    /// The likeliest reading, however unsure; nothing when there is nothing to read.
    pub fn read(&self, picture: &RgbImage) -> Option<Reading> {
        let plane = Plane::luminance(picture);
        if (plane.width.min(plane.height) as f64) < SCALES.0 * PERIOD as f64 {
            return None;
        }
        let mut best: Option<Reading> = None;
        let mut look = |place: Place| {
            let reading = self.read_at(&plane, place)?;
            let sure = self.accepts(&reading);
            let key = |reading: &Reading| (reading.checksum_agrees, -reading.log10_false_positive);
            if best.as_ref().is_none_or(|best| key(&reading) > key(best)) {
                best = Some(reading);
            }
            sure.then_some(())
        };
        for scale in usual_scales(picture) {
            // Most pictures were never cut.
            let whole = Place { agreement: 0.0, log2_places: LOG2_WHOLE, scale, x: 0, y: 0 };
            if look(whole).is_some() {
                return best;
            }
            for place in self.places(&plane, scale, 2 * SEARCH_SIDE, 2) {
                if look(place).is_some() {
                    return best;
                }
            }
        }
        let scales = std::iter::successors(Some(SCALES.0), |scale| Some(scale * SCALE_STEP));
        let mut places: Vec<Place> = scales
            .take_while(|&scale| scale <= SCALES.1)
            .flat_map(|scale| self.places(&plane, scale, SEARCH_SIDE, 1))
            .collect();
        places.sort_by(|a, b| b.agreement.total_cmp(&a.agreement));
        for rough in places.into_iter().take(CANDIDATES) {
            let finer = (-FINER..=FINER).map(|k| rough.scale * SCALE_STEP.powf(f64::from(k) / 9.0));
            let place = finer
                .flat_map(|scale| self.places(&plane, scale, 2 * SEARCH_SIDE, 1))
                .max_by(|a, b| a.agreement.total_cmp(&b.agreement));
            if place.and_then(&mut look).is_some() {
                break;
            }
        }
        best
    }

    fn accepts(&self, reading: &Reading) -> bool {
        reading.checksum_agrees && reading.log10_false_positive <= self.log10_false_positive
    }

    /// The places where the anchor agrees best at one scale, the best first.
    fn places(&self, plane: &Plane, scale: f64, limit: usize, count: usize) -> Vec<Place> {
        let plane = plane.at_scale(scale, limit);
        if plane.width < PERIOD || plane.height < PERIOD {
            return Vec::new();
        }
        let folded = folded_anchor_votes(&plane);
        let mut places: Vec<Place> = Vec::with_capacity(PERIOD * PERIOD);
        for phase in 0..BLOCK * BLOCK {
            let (x, y) = (phase % BLOCK, phase / BLOCK);
            let votes: [f32; TILE * TILE] = std::array::from_fn(|k| {
                folded[(y + BLOCK * (k / TILE)) * PERIOD + x + BLOCK * (k % TILE)]
            });
            let power = votes.iter().map(|vote| vote * vote).sum::<f32>().sqrt();
            if power == 0.0 {
                continue;
            }
            for shift in 0..TILE * TILE {
                let (across, down) = (shift % TILE, shift / TILE);
                let mut agreement = 0.0;
                for (row, signs) in self.pattern.anchor.chunks_exact(TILE).enumerate() {
                    let votes = &votes[(row + down) % TILE * TILE..][..TILE];
                    for (k, sign) in signs.iter().enumerate() {
                        agreement += sign * votes[(k + across) % TILE];
                    }
                }
                let (x, y) = (x + BLOCK * across, y + BLOCK * down);
                let agreement = agreement / power;
                places.push(Place { agreement, log2_places: LOG2_SEARCHED, scale, x, y });
            }
        }
        let best_first = |a: &Place, b: &Place| b.agreement.total_cmp(&a.agreement);
        if places.len() > count {
            places.select_nth_unstable_by(count, best_first);
            places.truncate(count);
        }
        places.sort_by(best_first);
        places
    }

    /// Reads the payload at a place.
    fn read_at(&self, plane: &Plane, place: Place) -> Option<Reading> {
        let plane = plane.at_scale(place.scale, READ_SIDE);
        if plane.width < PERIOD || plane.height < PERIOD {
            return None;
        }
        let basis = Basis::of(BLOCK);
        let mut slots = [0.0; SLOTS];
        // Blocks left of and above the first whole tile count too, as the end of the tile before.
        let starts = |offset: usize, side: usize| {
            let first = offset % BLOCK;
            (0..(side - first) / BLOCK).map(move |k| {
                let at = first + BLOCK * k;
                (at, (at + PERIOD - offset) / BLOCK % TILE)
            })
        };
        for (y, row) in starts(place.y, plane.height) {
            for (x, column) in starts(place.x, plane.width) {
                for (f, value) in plane.block(x, y, &basis).into_iter().enumerate() {
                    slots[f * TILE * TILE + row * TILE + column] += vote(value);
                }
            }
        }
        let power = slots.iter().map(|vote| f64::from(vote * vote)).sum::<f64>().sqrt();
        if power < 1e-6 {
            return None;
        }
        let coded: [f32; CODED] = self.pattern.gather(&slots);
        let (payload, checksum_agrees) = code::decode(&coded);
        let signs = self.pattern.spread(&code::encode(&payload));
        let agreement =
            slots.iter().zip(signs).map(|(vote, sign)| f64::from(vote * sign)).sum::<f64>() / power;
        let weights = slots.map(|vote| f64::from(vote.abs()) / power);
        let log2_hypotheses = (8 * PAYLOAD_BYTES) as f64 + place.log2_places + 1.0;
        let log10_false_positive = log2_hypotheses * std::f64::consts::LOG10_2
            + log_chance(&weights, agreement) * std::f64::consts::LOG10_E;
        Some(Reading {
            payload: Payload(payload),
            checksum_agrees,
            agreement,
            log10_false_positive,
            scale: place.scale,
            offset: (place.x, place.y),
        })
    }
}

/// Chernoff's bound of the logarithm of the chance that the sum of `weights`, each under a sign of its own, reaches
/// `agreement`. The weights are positive and of length 1; at most Hoeffding's `−agreement²/2`.
fn log_chance(weights: &[f64; SLOTS], agreement: f64) -> f64 {
    // Every lambda gives a bound. The derivative rises ever more slowly, so that Newton's steps, from the lambda that is
    // best for Hoeffding on, come near the best one from below.
    let mut lambda = agreement.max(0.0);
    let mut least = 0.0_f64;
    for _ in 0..8 {
        let (mut bound, mut slope, mut curve) = (-lambda * agreement, -agreement, 0.0);
        for weight in weights {
            let x = lambda * weight;
            let tanh = x.tanh();
            // The logarithm of the hyperbolic cosine, which itself may be too large to hold.
            bound += x + (-2.0 * x).exp().ln_1p() - std::f64::consts::LN_2;
            slope += weight * tanh;
            curve += weight * weight * (1.0 - tanh * tanh);
        }
        least = least.min(bound);
        if slope >= 0.0 || curve < 1e-9 {
            break;
        }
        lambda -= slope / curve;
    }
    least
}

/// Where a tile may lie.
#[derive(Debug, Clone, Copy)]
struct Place {
    agreement: f32,
    /// Of the places of its kind.
    log2_places: f64,
    scale: f64,
    x: usize,
    y: usize,
}

/// Scales that are likely from the picture's size alone, without repetition.
fn usual_scales(picture: &RgbImage) -> Vec<f64> {
    let (width, height) = picture.dimensions();
    let own = USUAL_SIDES
        .iter()
        .flat_map(|&side| [width, height].map(|length| f64::from(length) / f64::from(side)));
    let mut scales: Vec<f64> = Vec::new();
    let sizes = USUAL_SCALES.into_iter().chain(own).flat_map(|scale| [scale, LARGE * scale]);
    for scale in sizes {
        let known = scales.iter().any(|other| (other / scale - 1.0).abs() < 1e-4);
        if !known && (SCALES.0..=SCALES.1).contains(&scale) {
            scales.push(scale);
        }
    }
    scales
}

/// The anchor's votes at every pixel, added up over all tiles: `[PERIOD, PERIOD]`.
fn folded_anchor_votes(plane: &Plane) -> Vec<f32> {
    let Basis { vectors, .. } = Basis::of(BLOCK);
    let (across, down) = FREQUENCIES[0];
    let (columns, rows) = (plane.width - BLOCK + 1, plane.height - BLOCK + 1);
    let mut filtered = vec![0.0; columns * plane.height];
    for (out, row) in filtered.chunks_exact_mut(columns).zip(plane.values.chunks_exact(plane.width))
    {
        for (k, cosine) in vectors[across].iter().enumerate() {
            for (out, value) in out.iter_mut().zip(&row[k..]) {
                *out += cosine * value;
            }
        }
    }
    let mut folded = vec![0.0; PERIOD * PERIOD];
    let mut line = vec![0.0; columns];
    for y in 0..rows {
        line.fill(0.0);
        for (k, cosine) in vectors[down].iter().enumerate() {
            let row = &filtered[(y + k) * columns..][..columns];
            for (out, value) in line.iter_mut().zip(row) {
                *out += cosine * value;
            }
        }
        let sums = &mut folded[y % PERIOD * PERIOD..][..PERIOD];
        for part in line.chunks(PERIOD) {
            for (sum, &value) in sums.iter_mut().zip(part) {
                *sum += vote(value);
            }
        }
    }
    folded
}

/// Whether fewer than one block in sixteen shows anything at all.
fn mostly_flat(picture: &RgbImage) -> bool {
    let plane = Plane::luminance(picture);
    let basis = Basis::of(BLOCK);
    let (columns, rows) = (plane.width / BLOCK, plane.height / BLOCK);
    let busy = (0..columns * rows)
        .filter(|block| {
            plane
                .block(block % columns * BLOCK, block / columns * BLOCK, &basis)
                .iter()
                .any(|value| value.abs() > 1.0)
        })
        .count();
    busy * 16 < columns * rows
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test pictures are made of low bits")]
mod tests {
    use std::io::Cursor;

    use image::{
        Rgb,
        codecs::jpeg::JpegEncoder,
        imageops::{FilterType, crop_imm, resize},
    };

    use super::*;
    use crate::{
        Watermark,
        mark::{InvisibleMark, pattern::draw},
    };

    const PAYLOAD: Payload = Payload(*b"unclip");

    /// A shaded ground with discs and, in its lower half, texture.
    fn scene(side: u32, seed: u64) -> RgbImage {
        grained(side, seed, 41)
    }

    /// A scene whose texture takes `levels` levels.
    fn grained(side: u32, seed: u64, levels: u64) -> RgbImage {
        let mut state = seed;
        let mut next = |below: u64| (draw(&mut state) % below) as f32;
        let discs: Vec<([f32; 3], [f32; 3])> = (0..6)
            .map(|_| {
                let place = [next(100) / 100.0, next(100) / 100.0, 0.05 + next(20) / 100.0];
                (place, [next(256), next(256), next(256)])
            })
            .collect();
        let mut noise = seed ^ 0xABCD;
        RgbImage::from_fn(side, side, |x, y| {
            let (u, v) = (x as f32 / side as f32, y as f32 / side as f32);
            let mut colour = [200.0 - 90.0 * v, 120.0 + 80.0 * u, 90.0 + 60.0 * v];
            for ([cx, cy, radius], disc) in &discs {
                if (u - cx).hypot(v - cy) < *radius {
                    colour = *disc;
                }
            }
            let grain = if v > 0.5 {
                (draw(&mut noise) % levels) as f32 - levels as f32 / 2.0
            } else {
                0.0
            };
            Rgb(colour.map(|value| (value + grain).clamp(0.0, 255.0) as u8))
        })
    }

    fn marked(mut picture: RgbImage) -> RgbImage {
        InvisibleMark::new(PAYLOAD).mark(&mut picture).expect("large enough");
        picture
    }

    fn found(picture: &RgbImage) -> Option<Reading> {
        match Detector::new().detect(picture) {
            Detection::Found(reading) => {
                assert_eq!(reading.payload, PAYLOAD, "found, so the bits are right");
                Some(reading)
            }
            _ => None,
        }
    }

    fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
        let squares: f64 = a
            .as_raw()
            .iter()
            .zip(b.as_raw())
            .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
            .sum();
        10.0 * (255.0_f64.powi(2) * a.as_raw().len() as f64 / squares).log10()
    }

    fn jpeg(picture: &RgbImage, quality: u8) -> RgbImage {
        let mut bytes = Cursor::new(Vec::new());
        picture
            .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality))
            .expect("encodable");
        image::load_from_memory(bytes.get_ref()).expect("just encoded").into_rgb8()
    }

    #[test]
    fn a_mark_is_read_at_every_size_and_changes_little() {
        for (side, levels) in [(64, 1), (100, 41), (256, 41), (512, 41)] {
            let plain = grained(side, u64::from(side), levels);
            let marked = marked(plain.clone());
            assert!(psnr(&plain, &marked) >= 40.5 - 1e-9, "{side}: {}", psnr(&plain, &marked));
            let reading = found(&marked).unwrap_or_else(|| panic!("{side} pixels"));
            assert_eq!((reading.scale, reading.offset), (1.0, (0, 0)));
        }
    }

    #[test]
    fn a_mark_survives_what_pictures_go_through() {
        let marked = marked(scene(256, 3));
        for quality in [90, 75, 50] {
            assert!(found(&jpeg(&marked, quality)).is_some(), "JPEG {quality}");
        }
        for side in [128, 192, 217, 340, 512] {
            let resized = resize(&marked, side, side, FilterType::CatmullRom);
            let reading = found(&resized).unwrap_or_else(|| panic!("{side} pixels"));
            // Where a mark is strong, a usual scale near the true one is enough.
            assert!(
                (reading.scale * 256.0 / f64::from(side) - 1.0).abs() < 0.02,
                "{}",
                reading.scale
            );
        }
        for (left, top) in [(0, 0), (75, 75), (13, 50)] {
            let part = crop_imm(&marked, left, top, 181, 181).to_image();
            let reading = found(&part).unwrap_or_else(|| panic!("cut at {left}, {top}"));
            let corner = |cut: u32| (64 - cut as usize % 64) % 64;
            assert_eq!(reading.offset, (corner(left), corner(top)));
        }
        let mut darker = marked.clone();
        darker.as_flat_samples_mut().samples.iter_mut().for_each(|value| *value = *value / 10 * 7);
        assert!(found(&darker).is_some(), "darker, in coarse levels");
    }

    #[test]
    fn an_even_picture_is_read_from_the_means_of_4_by_4_pixels() {
        // What WebP leaves of even areas.
        let marked = marked(grained(256, 5, 1));
        let means = RgbImage::from_fn(256, 256, |x, y| {
            let mut sums = [0_u32; 3];
            for k in 0..16 {
                let pixel = marked.get_pixel(x / 4 * 4 + k % 4, y / 4 * 4 + k / 4);
                sums.iter_mut().zip(pixel.0).for_each(|(sum, value)| *sum += u32::from(value));
            }
            Rgb(sums.map(|sum| (sum / 16) as u8))
        });
        assert_eq!(found(&means).map(|reading| reading.scale), Some(1.5));
        let part = crop_imm(&marked, 13, 50, 181, 181).to_image();
        assert!(found(&part).is_some(), "half of the area");
    }

    #[test]
    fn the_bound_lies_between_the_exact_chance_and_hoeffdings() {
        // Equal weights: the sum is a binomial draw.
        let weights = [1.0 / 16.0; SLOTS];
        let log_choose: Vec<f64> = (0..SLOTS)
            .scan(0.0, |log, k| {
                let here = *log;
                *log += ((SLOTS - k) as f64 / (k + 1) as f64).ln();
                Some(here)
            })
            .collect();
        for wrong in [0, 10, 30, 40, 60, 100, 127] {
            let agreement = (SLOTS - 2 * wrong) as f64 / 16.0;
            let chance: f64 = (0..=wrong).map(|k| (log_choose[k] - log_choose[wrong]).exp()).sum();
            let exact = chance.ln() + log_choose[wrong] - SLOTS as f64 * std::f64::consts::LN_2;
            let bound = log_chance(&weights, agreement);
            assert!(bound >= exact - 1e-9, "{wrong} wrong: {bound} below {exact}");
            assert!(bound <= exact + 4.0, "{wrong} wrong: {bound} far above {exact}");
            assert!(bound <= -agreement * agreement / 2.0, "{wrong} wrong: {bound}");
        }
        let weights: [f64; SLOTS] = std::array::from_fn(|k| if k == 0 { 1.0 } else { 0.0 });
        let one = log_chance(&weights, 1.0);
        assert!((-std::f64::consts::LN_2 - 1e-9..=-0.5).contains(&one), "one sign: {one}");
        assert_eq!(log_chance(&weights, -0.5), 0.0, "no agreement");
    }

    #[test]
    fn no_more_places_are_tried_than_the_bound_counts() {
        for (width, height) in [(97, 411), (256, 256), (1000, 700), (3000, 2999)] {
            let usual = usual_scales(&RgbImage::new(width, height)).len() as f64;
            assert!(usual.log2() <= LOG2_WHOLE, "{usual} usual scales");
            let rough = ((SCALES.1 / SCALES.0).ln() / SCALE_STEP.ln()).ceil();
            let scales = usual + rough * f64::from(2 * FINER + 1);
            let places = scales * (PERIOD * PERIOD) as f64;
            assert!(places.log2() <= LOG2_SEARCHED, "{places} places");
        }
    }

    #[test]
    fn black_white_and_even_pictures_carry_marks() {
        for colour in [[0; 3], [255; 3], [255, 0, 0], [128, 128, 128]] {
            let plain = RgbImage::from_pixel(128, 128, Rgb(colour));
            let marked = marked(plain.clone());
            assert!(found(&marked).is_some(), "{colour:?}");
            assert!(psnr(&plain, &marked) >= 40.5 - 1e-9, "{colour:?}: {}", psnr(&plain, &marked));
        }
    }

    #[test]
    fn unmarked_pictures_and_other_keys_are_not_found() {
        for seed in 0..8 {
            assert_eq!(Detector::new().detect(&scene(200, seed)), Detection::NotFound);
        }
        let marked = marked(scene(256, 1));
        assert_eq!(Detector::new().key(1).detect(&marked), Detection::NotFound);
    }

    #[test]
    fn what_could_not_show_a_mark_is_not_called_unmarked() {
        let sides = [(1, 1), (20, 500), (31, 31), (64, 64), (100, 100)];
        for (width, height) in sides {
            let picture = crop_imm(&scene(500, 5), 0, 0, width, height).to_image();
            let detection = Detector::new().detect(&picture);
            assert!(matches!(detection, Detection::CannotSay { .. }), "{width} × {height}");
        }
        let mut one_dot = RgbImage::from_pixel(256, 256, Rgb([90, 90, 90]));
        for flat in [RgbImage::new(256, 256), one_dot.clone(), {
            one_dot.put_pixel(3, 3, Rgb([255, 0, 0]));
            one_dot
        }] {
            let detection = Detector::new().detect(&flat);
            assert!(matches!(detection, Detection::CannotSay { .. }), "{detection:?}");
        }
        assert!(matches!(
            Detector::new().detect(&RgbImage::new(0, 0)),
            Detection::CannotSay { .. }
        ));
    }
}
