//! Rounding 32-bit values to a narrower type.

use crate::{cpu::Path, element::Element, lanes::by_path, parallel::for_each_chunk};

/// Values that one task rounds.
const BLOCK: usize = 32 * 1024;

/// Writes each value as the nearest of another type, ties to even.
///
/// # Panics
///
/// When the slices differ in length.
pub fn narrow<E: Element>(path: Path, values: &[f32], out: &mut [E]) {
    assert_eq!(values.len(), out.len(), "one output a value");
    for_each_chunk(out, BLOCK, |block, out| {
        narrow_block(path, &values[block * BLOCK..][..out.len()], out);
    });
}

by_path! {
    fn narrow_block<F, E: Element>(values: &[f32], out: &mut [E]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = E::narrow(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::testing::values;

    fn check<E: Element>(path: Path, given: &[f32]) {
        let mut out = vec![E::default(); given.len()];
        narrow(path, given, &mut out);
        for (out, &value) in out.iter().zip(given) {
            assert_eq!(*out, E::narrow(value), "{path}: {value}");
        }
    }

    #[test]
    fn every_value_of_every_block_is_rounded_by_itself() {
        for path in Path::available() {
            for len in [0, 1, 17, BLOCK, 2 * BLOCK + 5] {
                let given = values(len, 7);
                check::<f32>(path, &given);
                check::<bf16>(path, &given);
                check::<f16>(path, &given);
            }
        }
    }
}
