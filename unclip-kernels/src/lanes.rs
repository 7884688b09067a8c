//! Loops that the compiler turns into vectors, compiled once for each instruction set.
//!
//! A kernel that is bound by memory needs no intrinsics: a plain loop over slices becomes as good as they are, provided
//! that it is compiled for the processor that runs it. [`by_path`] writes that out: one body, a copy with AVX-512, one
//! with AVX2 and one without either, and a choice at run time.

use crate::gemm::TILE;

/// How a product and a sum are rounded: once where the processor has the instruction, twice where it would be a call
/// into the mathematics library.
pub(crate) trait Fused {
    /// `a · b + c`.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// With the processor's own instruction.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Once;

#[cfg(target_arch = "x86_64")]
impl Fused for Once {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// Whatever the target always has.
pub(crate) struct Baseline;

impl Fused for Baseline {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            a.mul_add(b, c)
        } else {
            a * b + c
        }
    }
}

/// The fewest pixels of `channels` values each that fill whole vectors of 16, so that loops over few channels leave no lanes
/// empty.
pub(crate) fn pixels_of_whole_vectors(channels: usize) -> usize {
    // Sixteen has no other divisors than powers of two.
    TILE >> channels.trailing_zeros().min(TILE.trailing_zeros())
}

/// Writes a function whose body is compiled for each instruction set, and which runs the one that its first argument,
/// a [`Path`](crate::cpu::Path), stands for.
///
/// The first type parameter stands for the [`Fused`] arithmetic of the instruction set.
macro_rules! by_path {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<$fused:ident $(, $element:ident: $bound:path)*>(
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $output:ty)? $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name<$($element: $bound),*>(
            path: $crate::cpu::Path,
            $($argument: $type),*
        ) $(-> $output)? {
            #[inline(always)]
            fn body<$fused: $crate::lanes::Fused $(, $element: $bound)*>(
                $($argument: $type),*
            ) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512<$($element: $bound),*>($($argument: $type),*) $(-> $output)? {
                body::<$crate::lanes::Once $(, $element)*>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($element: $bound),*>($($argument: $type),*) $(-> $output)? {
                body::<$crate::lanes::Once $(, $element)*>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            match path.isa() {
                $crate::cpu::Isa::Portable => {}
                // SAFETY: a path with these instructions exists only where the processor has them.
                $crate::cpu::Isa::Avx2 => return unsafe { avx2($($argument),*) },
                // SAFETY: as above; the paths above AVX-512 have it too.
                _ => return unsafe { avx512($($argument),*) },
            }
            #[cfg(not(target_arch = "x86_64"))]
            drop(path);
            body::<$crate::lanes::Baseline $(, $element)*>($($argument),*)
        }
    };
}
pub(crate) use by_path;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_fewer_pixels_fill_whole_vectors() {
        for channels in 1..70 {
            let fewest = (1..).find(|pixels| (pixels * channels) % TILE == 0);
            assert_eq!(Some(pixels_of_whole_vectors(channels)), fewest, "{channels} channels");
        }
    }
}
