//! What moves whole pixels: the two resamplings of the UNet, maxima, joining channels, adding.
//!
//! Activations are channels-last, `[batch, height, width, channels]`.

use crate::{cpu::Path, element::Element, lanes::by_path, parallel::for_each_chunk, stage::Size};

/// Values that one task handles at least.
const BLOCK: usize = 16 * 1024;

fn check<E>(values: &[E], size: Size, channels: usize) {
    assert_eq!(
        size.pixels().checked_mul(channels),
        Some(values.len()),
        "pictures of {size:?} with {channels} channels"
    );
}

/// Mean over 2 × 2 windows, stride 2; an odd last row or column is dropped.
///
/// # Shapes
///
/// - `x`: `[batch, height, width, channels]`
/// - `out`: `[batch, height / 2, width / 2, channels]`
///
/// # Panics
///
/// When a slice has another length than its shape says.
pub fn avg_pool_2x2<E: Element>(path: Path, x: &[E], size: Size, channels: usize, out: &mut [E]) {
    let Size { height, width, .. } = size;
    let small = Size { height: height / 2, width: width / 2, ..size };
    check(x, size, channels);
    check(out, small, channels);
    if out.is_empty() {
        return;
    }
    for_each_chunk(out, small.width * channels, |index, out| {
        let (picture, row) = (index / small.height, index % small.height);
        let start = (picture * height + 2 * row) * width * channels;
        let upper = &x[start..start + width * channels];
        let lower = &x[start + width * channels..start + 2 * width * channels];
        average_rows(path, upper, lower, channels, out);
    });
}

by_path! {
    fn average_rows<F, E: Element>(upper: &[E], lower: &[E], channels: usize, out: &mut [E]) {
        let pairs = upper.chunks_exact(2 * channels).zip(lower.chunks_exact(2 * channels));
        for (out, (upper, lower)) in out.chunks_exact_mut(channels).zip(pairs) {
            let ((a, b), (c, d)) = (upper.split_at(channels), lower.split_at(channels));
            let (b, c, d) = (&b[..channels], &c[..channels], &d[..channels]);
            for i in 0..channels {
                let sum = (a[i].widen() + b[i].widen()) + (c[i].widen() + d[i].widen());
                out[i] = E::narrow(0.25 * sum);
            }
        }
    }
}

/// The largest value of each window of `side` × `side` pixels, `stride` apart, whose first is whole. Windows reach beyond
/// the last row and column as long as they begin inside, as Caffe's do, and only pixels count.
///
/// # Shapes
///
/// - `x`: `[batch, height, width, channels]`
/// - `out`: `[batch, windows(height, side, stride), windows(width, side, stride), channels]`, see [`windows`]
///
/// # Panics
///
/// When a slice has another length than its shape says, or a window does not fit the picture.
pub fn max_pool<E: Element>(
    path: Path,
    x: &[E],
    size: Size,
    channels: usize,
    (side, stride): (usize, usize),
    out: &mut [E],
) {
    let Size { height, width, .. } = size;
    let small =
        Size { height: windows(height, side, stride), width: windows(width, side, stride), ..size };
    check(x, size, channels);
    check(out, small, channels);
    if out.is_empty() {
        return;
    }
    for_each_chunk(out, small.width * channels, |index, out| {
        let (picture, row) = (index / small.height, index % small.height);
        let rows = row * stride..(row * stride + side).min(height);
        let start = picture * height * width * channels;
        let line = |row: usize| &x[start + row * width * channels..][..width * channels];
        for (column, out) in out.chunks_exact_mut(channels).enumerate() {
            let columns = column * stride..(column * stride + side).min(width);
            out.copy_from_slice(&line(rows.start)[columns.start * channels..][..channels]);
            for row in rows.clone() {
                let pixels = &line(row)[columns.start * channels..columns.end * channels];
                pixels.chunks_exact(channels).for_each(|pixel| keep_largest(path, pixel, out));
            }
        }
    });
}

/// Windows of `side` values, `stride` apart, in a row of `length`; see [`max_pool`].
///
/// # Panics
///
/// When one does not fit.
pub fn windows(length: usize, side: usize, stride: usize) -> usize {
    assert!(0 < stride && 0 < side && side <= length, "{side} of {length}, {stride} apart");
    let count = (length - side).div_ceil(stride) + 1;
    // The last one begins inside.
    if (count - 1) * stride < length { count } else { count - 1 }
}

by_path! {
    fn keep_largest<F, E: Element>(pixel: &[E], out: &mut [E]) {
        for (out, &value) in out.iter_mut().zip(pixel) {
            if value.widen() > out.widen() {
                *out = value;
            }
        }
    }
}

/// Doubles both axes by repeating each pixel.
///
/// # Shapes
///
/// - `x`: `[batch, height, width, channels]`
/// - `out`: `[batch, 2 · height, 2 · width, channels]`
///
/// # Panics
///
/// When a slice has another length than its shape says.
pub fn upsample_nearest_2x<E: Element>(x: &[E], size: Size, channels: usize, out: &mut [E]) {
    let Size { height, width, .. } = size;
    let large = Size { height: 2 * height, width: 2 * width, ..size };
    check(x, size, channels);
    check(out, large, channels);
    if out.is_empty() {
        return;
    }
    // A row of small pixels makes two rows of large ones.
    for_each_chunk(out, 2 * large.width * channels, |row, out| {
        let from = &x[row * width * channels..][..width * channels];
        let (upper, lower) = out.split_at_mut(large.width * channels);
        for (to, pixel) in upper.chunks_exact_mut(2 * channels).zip(from.chunks_exact(channels)) {
            let (left, right) = to.split_at_mut(channels);
            left.copy_from_slice(pixel);
            right.copy_from_slice(pixel);
        }
        lower.copy_from_slice(upper);
    });
}

/// Puts the channels of two sets of pixels beside each other.
///
/// # Shapes
///
/// - `left`: `[pixels, left_channels]`
/// - `right`: `[pixels, right_channels]`
/// - `out`: `[pixels, left_channels + right_channels]`
///
/// # Panics
///
/// When a slice has another length than its shape says.
pub fn join_channels<E: Element>(
    left: &[E],
    left_channels: usize,
    right: &[E],
    right_channels: usize,
    out: &mut [E],
) {
    let channels = left_channels + right_channels;
    assert_eq!(left.len() + right.len(), out.len(), "one output a value");
    assert_eq!(left.len() * channels, out.len() * left_channels, "as many pixels on the left");
    if left.is_empty() || right.is_empty() {
        out.copy_from_slice(if left.is_empty() { right } else { left });
        return;
    }
    let pixels = BLOCK.div_ceil(channels);
    for_each_chunk(out, pixels * channels, |block, out| {
        let left = left[block * pixels * left_channels..].chunks_exact(left_channels);
        let right = right[block * pixels * right_channels..].chunks_exact(right_channels);
        for (out, (left, right)) in out.chunks_exact_mut(channels).zip(left.zip(right)) {
            let (to_left, to_right) = out.split_at_mut(left_channels);
            to_left.copy_from_slice(left);
            to_right.copy_from_slice(right);
        }
    });
}

/// `left + right`, value by value.
///
/// # Panics
///
/// When the slices differ in length.
pub fn add<E: Element>(path: Path, left: &[E], right: &[E], out: &mut [E]) {
    assert_eq!(left.len(), out.len(), "one output a value");
    assert_eq!(right.len(), out.len(), "one output a value");
    for_each_chunk(out, BLOCK, |block, out| {
        let at = block * BLOCK..block * BLOCK + out.len();
        add_block(path, &left[at.clone()], &right[at], out);
    });
}

by_path! {
    fn add_block<F, E: Element>(left: &[E], right: &[E], out: &mut [E]) {
        for (out, (left, right)) in out.iter_mut().zip(left.iter().zip(right)) {
            *out = E::narrow(left.widen() + right.widen());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::values;

    proptest! {
        #[test]
        fn pooling_undoes_doubling(
            batch in 1usize..3,
            height in 1usize..6,
            width in 1usize..6,
            channels in 1usize..20,
        ) {
            let size = Size { batch, height, width };
            let x = values(size.pixels() * channels, 1);
            let large = Size { height: 2 * height, width: 2 * width, ..size };
            let mut doubled = vec![0f32; 4 * x.len()];
            upsample_nearest_2x(&x, size, channels, &mut doubled);
            for path in Path::available() {
                let mut back = vec![0f32; x.len()];
                avg_pool_2x2(path, &doubled, large, channels, &mut back);
                prop_assert_eq!(&back, &x);
            }
        }

        #[test]
        fn joined_channels_are_both_sides(
            pixels in 1usize..5000,
            left_channels in 0usize..9,
            right_channels in 1usize..9,
        ) {
            let (left, right) = (values(pixels * left_channels, 1), values(pixels * right_channels, 2));
            let mut out = vec![0f32; left.len() + right.len()];
            join_channels(&left, left_channels, &right, right_channels, &mut out);
            for (i, out) in out.chunks_exact(left_channels + right_channels).enumerate() {
                prop_assert_eq!(&out[..left_channels], &left[i * left_channels..][..left_channels]);
                prop_assert_eq!(&out[left_channels..], &right[i * right_channels..][..right_channels]);
            }
        }
    }

    #[test]
    fn windows_reach_beyond_the_last_row_and_column() {
        let size = Size { batch: 2, height: 4, width: 5 };
        // One channel rises, the other falls.
        let x: Vec<f32> = (0..40).flat_map(|i| [i as f32, -(i as f32)]).collect();
        for path in Path::available() {
            let mut out = vec![0f32; 2 * 2 * 2 * 2];
            max_pool(path, &x, size, 2, (3, 2), &mut out);
            let first = [12.0, 0.0, 14.0, -2.0, 17.0, -10.0, 19.0, -12.0];
            let second = [32.0, -20.0, 34.0, -22.0, 37.0, -30.0, 39.0, -32.0];
            assert_eq!(out, [first, second].concat(), "{path:?}");
        }
        assert_eq!([112, 5, 4, 3].map(|length| windows(length, 3, 2)), [56, 2, 2, 1]);
        // A window that would begin outside is none.
        assert_eq!(windows(2, 1, 3), 1);
    }

    #[test]
    fn an_odd_last_row_and_column_are_dropped() {
        let size = Size { batch: 2, height: 3, width: 5 };
        let x: Vec<f32> = (0..30).map(|i| i as f32).collect();
        let mut out = vec![0f32; 4];
        avg_pool_2x2(Path::best(), &x, size, 1, &mut out);
        assert_eq!(out, [3.0, 5.0, 18.0, 20.0]);
    }

    #[test]
    fn sums_are_value_by_value() {
        let (left, right) = (values(40_000, 1), values(40_000, 2));
        let mut out = vec![0f32; 40_000];
        add(Path::best(), &left, &right, &mut out);
        assert!(
            out.iter().zip(left.iter().zip(&right)).all(|(sum, (a, b))| *sum == a + b),
            "a sum"
        );
    }
}
