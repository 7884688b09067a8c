//! What brings filters and pixels to the points, and sums back from them, along one axis.

use crate::gemm::TILE;

/// Sixteen channels.
pub(super) type Lanes = [f32; TILE];

/// Blocks of `SIDE` × `SIDE` pixels of the output from `AXIS` × `AXIS` points.
pub(super) trait Filtering<const SIDE: usize, const AXIS: usize> {
    /// Blocks along each axis of a task. Its rows at all points, of up to [`SLICE`](Self::SLICE) channels, stay in the
    /// second-level cache while every panel of filters passes over them.
    const BLOCKS: [usize; 2];

    /// Channels that a task brings to the points at once, at most.
    const SLICE: usize;

    /// The point that is zero for pixels that are equal two by two, from the second on.
    const ZERO_WHERE_DOUBLED: usize;

    /// `G g`.
    fn filter(taps: [f32; 3]) -> [f32; AXIS];

    /// `Bᵀ d`.
    fn input(pixels: [f32; AXIS]) -> [f32; AXIS];

    /// `Aᵀ m`.
    fn output(sums: [f32; AXIS]) -> [f32; SIDE];
}

/// F(2 × 2, 3 × 3): the points 0, 1, −1 and ∞.
///
/// `Bᵀ` and `Aᵀ` only add and subtract, so that little of the precision is lost: a few units in the last place of the
/// largest number near a window.
pub(super) struct Two;

impl Filtering<2, 4> for Two {
    const BLOCKS: [usize; 2] = [8, 8];
    /// Of so few, three panels of filters at a point stay in the first-level cache while all blocks meet them.
    const SLICE: usize = 160;
    const ZERO_WHERE_DOUBLED: usize = 2;

    #[inline(always)]
    fn filter([a, b, c]: [f32; 3]) -> [f32; 4] {
        let (even, odd) = (0.5 * (a + c), 0.5 * b);
        [a, even + odd, even - odd, c]
    }

    #[inline(always)]
    fn input([a, b, c, d]: [f32; 4]) -> [f32; 4] {
        [a - c, b + c, c - b, b - d]
    }

    #[inline(always)]
    fn output([a, b, c, d]: [f32; 4]) -> [f32; 2] {
        [a + (b + c), (b - c) - d]
    }
}

/// F(4 × 4, 3 × 3): the points 0, 1, −1, ½, −½ and ∞.
///
/// Of the points ±1 and ±q, those with q = ½ lose the least, and all factors but ⅔ and ⁸⁄₃ are exact (on how points are
/// chosen: Barabasz et al. 2018, arXiv 1803.10986). Sums are off by five to ten times what those of [`Two`] are off by.
pub(super) struct Four;

impl Filtering<4, 6> for Four {
    const BLOCKS: [usize; 2] = [4, 8];
    const SLICE: usize = 320;
    const ZERO_WHERE_DOUBLED: usize = 2;

    #[inline(always)]
    fn filter([a, b, c]: [f32; 3]) -> [f32; 6] {
        let (even, odd) = (2.0 / 3.0 * (a + c), 2.0 / 3.0 * b);
        let (near, far) = (-8.0 / 3.0 * (a + 0.25 * c), -4.0 / 3.0 * b);
        [4.0 * a, even + odd, even - odd, near + far, near - far, c]
    }

    #[inline(always)]
    fn input([a, b, c, d, e, f]: [f32; 6]) -> [f32; 6] {
        let (even, odd) = (e - 0.25 * c, d - 0.25 * b);
        let (near, far) = (e - c, 0.5 * (d - b));
        [
            0.25 * (a - c) + near,
            even + odd,
            even - odd,
            near + far,
            near - far,
            0.25 * (b - d) + (f - d),
        ]
    }

    #[inline(always)]
    fn output([a, b, c, d, e, f]: [f32; 6]) -> [f32; 4] {
        let (even, odd) = (b + c, b - c);
        let (near, far) = (d + e, d - e);
        [a + (even + near), odd + 0.5 * far, even + 0.25 * near, odd + 0.125 * far + f]
    }
}

/// `along` each row of a square of values, and then along each column.
#[inline(always)]
pub(super) fn along_both<const FROM: usize, const TO: usize>(
    values: &[[Lanes; FROM]; FROM],
    along: impl Fn([f32; FROM]) -> [f32; TO],
) -> [[Lanes; TO]; TO] {
    let mut columns = [[[0.0; TILE]; FROM]; TO];
    for row in 0..FROM {
        for lane in 0..TILE {
            let line = along(std::array::from_fn(|at| values[row][at][lane]));
            for to in 0..TO {
                columns[to][row][lane] = line[to];
            }
        }
    }
    let mut done = [[[0.0; TILE]; TO]; TO];
    for column in 0..TO {
        for lane in 0..TILE {
            let line = along(std::array::from_fn(|at| columns[column][at][lane]));
            for to in 0..TO {
                done[to][column][lane] = line[to];
            }
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One axis, with small whole numbers, of which all that is done is exact but for thirds.
    fn check<F: Filtering<SIDE, AXIS>, const SIDE: usize, const AXIS: usize>() {
        let pixels: [f32; AXIS] = std::array::from_fn(|at| [3.0, -1.0, 4.0, 2.0, -5.0, 9.0][at]);
        let taps = [2.0, -7.0, 1.0];
        let (filter, input) = (F::filter(taps), F::input(pixels));
        let sums = F::output(std::array::from_fn(|point| filter[point] * input[point]));
        for (at, found) in sums.into_iter().enumerate() {
            let expected: f32 = (0..3).map(|tap| taps[tap] * pixels[at + tap]).sum();
            assert!((found - expected).abs() < 1e-4, "pixel {at}: {found} for {expected}");
        }
    }

    #[test]
    fn an_axis_is_filtered() {
        check::<Two, 2, 4>();
        check::<Four, 4, 6>();
    }

    #[test]
    fn one_point_is_zero_where_pixels_are_doubled() {
        assert_eq!(Two::input([7.0, 0.3, 0.3, -2.1])[Two::ZERO_WHERE_DOUBLED], 0.0);
        let four = Four::input([7.0, 0.3, 0.3, -2.1, -2.1, 5.0]);
        assert_eq!(four[Four::ZERO_WHERE_DOUBLED], 0.0);
    }
}
