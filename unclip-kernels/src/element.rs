//! The number types that activations and weights may have.

use std::fmt;

use half::{bf16, f16};

mod sealed {
    #[cfg(target_arch = "x86_64")]
    pub trait Sealed: crate::vector::Vector {}
    #[cfg(not(target_arch = "x86_64"))]
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// A number type that kernels read and write: `f32`, [`bf16`] or [`f16`](struct@f16). All arithmetic is in `f32`.
pub trait Element:
    bytemuck::Pod + Default + PartialEq + fmt::Debug + Send + Sync + Copy + 'static + sealed::Sealed
{
    /// The value, exactly.
    fn widen(self) -> f32;

    /// The nearest value of this type, ties to even.
    fn narrow(value: f32) -> Self;

    /// The nearest value of [`bf16`].
    #[inline(always)]
    fn to_bf16(self) -> bf16 {
        bf16::narrow(self.widen())
    }

    /// `values`, where this type is [`bf16`].
    #[inline(always)]
    fn as_bf16(values: &[Self]) -> Option<&[bf16]> {
        let _ = values;
        None
    }

    /// As [`as_bf16`](Self::as_bf16), to be written.
    #[inline(always)]
    fn as_bf16_mut(values: &mut [Self]) -> Option<&mut [bf16]> {
        let _ = values;
        None
    }
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Free of branches, so that a loop over it becomes vector instructions.
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let half_of_last_place = 0x7fff + ((bits >> 16) & 1);
        let rounded = bits.wrapping_add(half_of_last_place) >> 16;
        // Rounding could carry a NaN's payload into the sign; a set quiet bit keeps it a NaN.
        let upper = if value.is_nan() { (bits >> 16) | 0x40 } else { rounded };
        #[expect(clippy::cast_possible_truncation, reason = "both cases were shifted to 16 bits")]
        Self::from_bits(upper as u16)
    }

    #[inline(always)]
    fn to_bf16(self) -> bf16 {
        self
    }

    #[inline(always)]
    fn as_bf16(values: &[Self]) -> Option<&[bf16]> {
        Some(values)
    }

    #[inline(always)]
    fn as_bf16_mut(values: &mut [Self]) -> Option<&mut [bf16]> {
        Some(values)
    }
}

impl Element for f16 {
    /// Free of branches, as above.
    #[inline(always)]
    fn widen(self) -> f32 {
        // The exponents' biases, 15 and 127, differ by 112.
        const BIAS: u32 = 112 << 23;
        let bits = u32::from(self.to_bits());
        let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
        let exponent = bits & 0x7c00;
        #[expect(clippy::cast_precision_loss, reason = "these are 10 bits")]
        let below_normal = ((bits & 0x3ff) as f32 * 2f32.powi(-24)).to_bits();
        let unsigned = match exponent {
            0 => below_normal,
            // Infinities and what is no number keep an exponent of ones.
            0x7c00 => magnitude + 2 * BIAS,
            _ => magnitude + BIAS,
        };
        f32::from_bits(sign | unsigned)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bf16_rounds_as_the_half_crate_does(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Element>::narrow(value), bf16::from_f32(value));
            prop_assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{value}: {ours} {theirs}");
        }

        #[test]
        fn bf16_widens_exactly(bits in any::<u16>()) {
            let value = bf16::from_bits(bits);
            prop_assert!(value.is_nan() || value.widen() == value.to_f32(), "{value}");
        }
    }

    #[test]
    fn f16_widens_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let (ours, theirs) = (value.widen(), value.to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{bits:#x}: {ours} {theirs}"
            );
        }
    }

    #[test]
    fn a_nan_with_every_payload_bit_stays_one() {
        assert!(<bf16 as Element>::narrow(f32::from_bits(0x7fff_ffff)).is_nan());
    }
}
