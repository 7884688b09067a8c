//! Numbers for tests.

use std::ops::Range;

/// Numbers in `[-1, 1)`, the same for the same seed.
pub(crate) fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Sizes below `end`, and below a few under Miri, which takes a thousand times as long.
pub(crate) fn upto(end: usize) -> Range<usize> {
    1..if cfg!(miri) { end.min(10) } else { end }
}
