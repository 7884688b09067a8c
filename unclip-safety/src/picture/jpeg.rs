//! What JPEG does to a picture, without the file: libjpeg at quality 75 with halved chroma, to the bit.
//!
//! OpenNSFW was trained on pictures that had passed through JPEG once more after they were resized, and its scores differ
//! by up to 0.45 without that. Everything lossy in libjpeg is integer arithmetic; entropy coding loses nothing and is left
//! out. The steps follow `jccolor.c`, `jcsample.c`, `jfdctint.c`, `jcdctmgr.c`, `jidctint.c`, `jdsample.c` and
//! `jdcolor.c` of the Independent JPEG Group.

use image::RgbImage;

/// Both sides are multiples of this: one block of chroma.
pub(super) const MULTIPLE: u32 = 16;

/// The quantisation tables of the JPEG standard (ITU T.81, annex K.1), row by row.
const LUMINANCE: [i32; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMINANCE: [i32; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];
/// Quality 75 halves the tables.
const PERCENT: i32 = 50;

/// A real number in 16 fractional bits.
#[expect(clippy::cast_possible_truncation, reason = "the constants are below 2")]
const fn fix16(x: f64) -> i32 {
    (x * 65536.0 + 0.5) as i32
}

const HALF: i32 = 1 << 15;

/// One channel.
struct Plane {
    width: usize,
    values: Vec<u8>,
}

/// `picture` as it comes back from JPEG.
///
/// # Panics
///
/// When a side is no multiple of 16.
pub(super) fn round_trip(picture: &RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    assert!(width % MULTIPLE == 0 && height % MULTIPLE == 0, "sides are multiples of 16");
    let width = width as usize;
    let [mut luminance, blue, red] = split(picture);
    through_blocks(&mut luminance, &LUMINANCE);
    let [blue, red] = [blue, red].map(|plane| {
        let mut half = halved(&plane);
        through_blocks(&mut half, &CHROMINANCE);
        doubled(&half)
    });
    let mut back = RgbImage::new(picture.width(), height);
    for ((x, y), pixel) in (0..).map(|k| (k % width, k / width)).zip(back.pixels_mut()) {
        let at = y * width + x;
        let luminance = i32::from(luminance.values[at]);
        let [b, r] = [&blue, &red].map(|plane| i32::from(plane.values[at]) - 128);
        pixel.0 = [
            luminance + ((fix16(1.402) * r + HALF) >> 16),
            luminance + ((-fix16(0.344_14) * b + HALF - fix16(0.714_14) * r) >> 16),
            luminance + ((fix16(1.772) * b + HALF) >> 16),
        ]
        .map(level);
    }
    back
}

/// A value held within 8 bits.
fn level(value: i32) -> u8 {
    u8::try_from(value.clamp(0, 255)).expect("just clamped")
}

/// Luminance and the two colour differences.
fn split(picture: &RgbImage) -> [Plane; 3] {
    let mut planes: [Plane; 3] = std::array::from_fn(|_| Plane {
        width: picture.width() as usize,
        values: Vec::with_capacity(picture.as_raw().len() / 3),
    });
    let middle = (128 << 16) + HALF - 1;
    for pixel in picture.pixels() {
        let [r, g, b] = pixel.0.map(i32::from);
        let values = [
            fix16(0.299) * r + fix16(0.587) * g + fix16(0.114) * b + HALF,
            -fix16(0.168_74) * r - fix16(0.331_26) * g + fix16(0.5) * b + middle,
            fix16(0.5) * r - fix16(0.418_69) * g - fix16(0.081_31) * b + middle,
        ];
        for (plane, value) in planes.iter_mut().zip(values) {
            plane.values.push(level(value >> 16));
        }
    }
    planes
}

/// Means over 2 × 2, rounded down and up in turn so that no bias adds up.
fn halved(plane: &Plane) -> Plane {
    let width = plane.width / 2;
    let values = plane
        .values
        .chunks_exact(2 * plane.width)
        .flat_map(|rows| {
            let (above, below) = rows.split_at(plane.width);
            above.chunks_exact(2).zip(below.chunks_exact(2)).enumerate().map(|(k, (a, b))| {
                let sum: i32 = [a[0], a[1], b[0], b[1]].into_iter().map(i32::from).sum();
                level((sum + if k % 2 == 0 { 1 } else { 2 }) >> 2)
            })
        })
        .collect();
    Plane { width, values }
}

/// Twice the size: each value leans a quarter towards its neighbours.
fn doubled(plane: &Plane) -> Plane {
    let width = plane.width;
    let rows = plane.values.len() / width;
    let mut values = Vec::with_capacity(4 * plane.values.len());
    for y in 0..2 * rows {
        let near = y / 2;
        let far = if y % 2 == 0 { near.saturating_sub(1) } else { (near + 1).min(rows - 1) };
        let sums: Vec<i32> = (0..width)
            .map(|x| {
                let [near, far] = [near, far].map(|row| i32::from(plane.values[row * width + x]));
                3 * near + far
            })
            .collect();
        for (x, &sum) in sums.iter().enumerate() {
            let left = if x == 0 { sum } else { sums[x - 1] };
            let right = if x + 1 == width { sum } else { sums[x + 1] };
            values.push(level((3 * sum + left + 8) >> 4));
            values.push(level((3 * sum + right + 7) >> 4));
        }
    }
    Plane { width: 2 * width, values }
}

/// Each block of 8 × 8 through the transform, the table, and back.
fn through_blocks(plane: &mut Plane, table: &[i32; 64]) {
    let table = table.map(|entry| ((entry * PERCENT + 50) / 100).max(1));
    let width = plane.width;
    for top in (0..plane.values.len() / width).step_by(8) {
        for left in (0..width).step_by(8) {
            let at = |k: usize| (top + k / 8) * width + left + k % 8;
            let mut block: [i32; 64] =
                std::array::from_fn(|k| i32::from(plane.values[at(k)]) - 128);
            forward(&mut block);
            for (value, step) in block.iter_mut().zip(table) {
                // The transform leaves everything eight times too large.
                let divisor = 8 * step;
                let steps = (value.abs() + divisor / 2) / divisor;
                *value = value.signum() * steps * step;
            }
            inverse(&mut block);
            for (k, value) in block.into_iter().enumerate() {
                plane.values[at(k)] = level(value + 128);
            }
        }
    }
}

/// Fractional bits of the constants below.
const BITS: u32 = 13;
/// Fractional bits kept between the two passes.
const BETWEEN: u32 = 2;

const C0_298: i32 = 2446;
const C0_390: i32 = 3196;
const C0_541: i32 = 4433;
const C0_765: i32 = 6270;
const C0_899: i32 = 7373;
const C1_175: i32 = 9633;
const C1_501: i32 = 12299;
const C1_847: i32 = 15137;
const C1_961: i32 = 16069;
const C2_053: i32 = 16819;
const C2_562: i32 = 20995;
const C3_072: i32 = 25172;

fn descale(value: i32, bits: u32) -> i32 {
    (value + (1 << (bits - 1))) >> bits
}

fn forward(block: &mut [i32; 64]) {
    for row in 0..8 {
        let line = std::array::from_fn(|k| block[8 * row + k]);
        let sums = forward_line(line);
        for (k, value) in sums.into_iter().enumerate() {
            block[8 * row + k] =
                if k % 4 == 0 { value << BETWEEN } else { descale(value, BITS - BETWEEN) };
        }
    }
    for column in 0..8 {
        let line = std::array::from_fn(|k| block[8 * k + column]);
        let sums = forward_line(line);
        for (k, value) in sums.into_iter().enumerate() {
            block[8 * k + column] =
                descale(value, if k % 4 == 0 { BETWEEN } else { BITS + BETWEEN });
        }
    }
}

/// Eight values transformed; the first and the fifth without the constants' fractional bits.
fn forward_line(d: [i32; 8]) -> [i32; 8] {
    let [s0, s1, s2, s3] = [d[0] + d[7], d[1] + d[6], d[2] + d[5], d[3] + d[4]];
    let [t7, t6, t5, t4] = [d[0] - d[7], d[1] - d[6], d[2] - d[5], d[3] - d[4]];
    let [e0, e3, e1, e2] = [s0 + s3, s0 - s3, s1 + s2, s1 - s2];
    let z = (e2 + e3) * C0_541;
    let odd = odd_part([t4, t5, t6, t7]);
    [e0 + e1, odd[3], z + e3 * C0_765, odd[2], e0 - e1, odd[1], z - e2 * C1_847, odd[0]]
}

/// The rotations that forward and inverse transform share.
fn odd_part(t: [i32; 4]) -> [i32; 4] {
    let z5 = (t[0] + t[2] + t[1] + t[3]) * C1_175;
    let z1 = -(t[0] + t[3]) * C0_899;
    let z2 = -(t[1] + t[2]) * C2_562;
    let z3 = -(t[0] + t[2]) * C1_961 + z5;
    let z4 = -(t[1] + t[3]) * C0_390 + z5;
    [
        t[0] * C0_298 + z1 + z3,
        t[1] * C2_053 + z2 + z4,
        t[2] * C3_072 + z2 + z3,
        t[3] * C1_501 + z1 + z4,
    ]
}

fn inverse(block: &mut [i32; 64]) {
    for column in 0..8 {
        let line = std::array::from_fn(|k| block[8 * k + column]);
        for (k, value) in inverse_line(line).into_iter().enumerate() {
            block[8 * k + column] = descale(value, BITS - BETWEEN);
        }
    }
    for row in 0..8 {
        let line = std::array::from_fn(|k| block[8 * row + k]);
        for (k, value) in inverse_line(line).into_iter().enumerate() {
            block[8 * row + k] = descale(value, BITS + BETWEEN + 3);
        }
    }
}

fn inverse_line(d: [i32; 8]) -> [i32; 8] {
    let z = (d[2] + d[6]) * C0_541;
    let [a2, a3] = [z - d[6] * C1_847, z + d[2] * C0_765];
    let [a0, a1] = [(d[0] + d[4]) << BITS, (d[0] - d[4]) << BITS];
    let [e0, e3, e1, e2] = [a0 + a3, a0 - a3, a1 + a2, a1 - a2];
    let [o0, o1, o2, o3] = odd_part([d[7], d[5], d[3], d[1]]);
    [e0 + o3, e1 + o2, e2 + o1, e3 + o0, e3 - o0, e2 - o1, e1 - o2, e0 - o3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_picture_stays_even() {
        for level in [0, 77, 128, 255] {
            let picture = RgbImage::from_pixel(32, 16, image::Rgb([level; 3]));
            let back = round_trip(&picture);
            assert!(back.pixels().all(|pixel| pixel == back.get_pixel(0, 0)), "{level}");
            assert!(back.get_pixel(0, 0).0[0].abs_diff(level) <= 1, "{level}");
        }
    }

    #[test]
    #[should_panic(expected = "multiples of 16")]
    fn odd_sides_are_a_programmers_error() {
        round_trip(&RgbImage::new(24, 16));
    }
}
