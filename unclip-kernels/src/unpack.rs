//! Weights, back in PyTorch's order.

use half::{bf16, slice::HalfBitsSliceExt, vec::HalfBitsVecExt};

use crate::{
    aligned::huge_pages,
    pack::{Data, Weights},
    reorder,
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
        let len =
            self.channels_out() * self.channels_in() * self.kernel().iter().product::<usize>();
        match &self.data {
            Data::F32(packed) => {
                let mut values = vec![0.0; len];
                huge_pages(&values);
                reorder::unpack(packed, &mut values);
                Values::F32(values)
            }
            Data::Bf16(packed) => {
                // Zeros of a whole number's type come from the system, unwritten.
                let mut values = vec![0u16; len];
                huge_pages(&values);
                reorder::unpack(packed, values.reinterpret_cast_mut());
                Values::Bf16(values.reinterpret_into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Format,
        testing::{upto, values},
    };

    proptest! {
        #[test]
        fn unpacking_undoes_packing(
            columns in upto(40),
            depth in upto(70),
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
