//! Weights, back in PyTorch's order.

use half::bf16;

use crate::{
    gemm::{Compute, TILE},
    pack::{Data, Packed, Weights, for_each_run},
    parallel,
};

/// A layer's weights as they were before packing, `[channels_out, channels_in, rows, columns]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Of [`Format::F32`](crate::Format::F32).
    F32(Vec<f32>),
    /// Of [`Format::Bf16`](crate::Format::Bf16).
    Bf16(Vec<bf16>),
}

impl Weights {
    /// The values that were packed, rounded to the format.
    pub fn unpack(&self) -> Values {
        match &self.data {
            Data::F32(packed) => Values::F32(packed.unpack()),
            Data::Bf16(packed) => Values::Bf16(packed.unpack()),
        }
    }
}

impl<S: Compute> Packed<S> {
    fn unpack(&self) -> Vec<S> {
        let [rows, cols] = self.kernel;
        let taps = rows * cols;
        let column_len = self.depth * taps;
        let mut values = vec![S::default(); self.columns * column_len];
        let panel_len = self.panel_len();
        parallel::for_each_chunk(&mut values, TILE * column_len, |panel, values| {
            let mut packed =
                self.values[panel * panel_len..][..panel_len].chunks_exact(TILE * S::PAIR);
            for_each_run::<S>(self.kernel, self.depth, |row, col, first, len| {
                for (pair, packed) in (first..first + len).step_by(S::PAIR).zip(&mut packed) {
                    for (at, value) in packed.iter().enumerate() {
                        let (column, channel) = (at / S::PAIR, pair + at % S::PAIR);
                        if column * column_len < values.len() && channel < self.depth {
                            values[column * column_len + channel * taps + row * cols + col] =
                                *value;
                        }
                    }
                }
            });
        });
        values
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Format, testing::values};

    proptest! {
        #[test]
        fn unpacking_undoes_packing(
            columns in 1usize..40,
            depth in 1usize..70,
            rows in 1usize..4,
            cols in 1usize..4,
        ) {
            let wide = values(columns * depth * rows * cols, 1);
            let shape = [columns, depth, rows, cols];
            let found = Weights::conv(&wide, shape, Format::F32).unpack();
            prop_assert_eq!(found, Values::F32(wide.clone()));
            let narrow: Vec<bf16> = wide.iter().map(|&x| bf16::from_f32(x)).collect();
            let found = Weights::conv(&narrow, shape, Format::Bf16).unpack();
            prop_assert_eq!(found, Values::Bf16(narrow));
        }
    }
}
