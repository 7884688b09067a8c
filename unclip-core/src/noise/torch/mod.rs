//! The noise that PyTorch's CPU generator draws.

mod single;
mod twister;

use std::{f32::consts::TAU as TAU_32, f64::consts::TAU};

use super::{NoiseSource, volume};
use crate::Result;

use twister::MersenneTwister;

/// Reproduces `torch.randn(.., generator=torch.Generator().manual_seed(seed))` on the CPU, 32-bit floats.
///
/// One generator serves all draws and all stages of a run, in the reference's order, and a batch is drawn whole: unlike
/// [`CounterNoise`](super::CounterNoise), what a row gets depends on the rows before it and on every earlier draw.
///
/// PyTorch takes one of two ways, by the number of values in a draw:
///
/// - fewer than 16: pairs by Box–Muller from 53-bit uniforms in 64 bits, the second of a pair kept for the next such
///   draw;
/// - 16 or more: the tensor is filled with 24-bit uniforms, and each block of 16 turned into normals in place; where
///   the size is no multiple of 16, the last 16 values are drawn anew.
///
/// The long way's logarithm, sine and cosine are those of PyTorch's kernel for AVX2, so that values agree to the bit
/// with what it draws on x86 processors (2.15 was compared). On others it uses the C library's functions, and differs
/// from itself in the last bits.
#[derive(Debug, Clone)]
pub struct TorchNoise {
    words: MersenneTwister,
    /// The second value of a pair whose first has been handed out.
    spare: Option<f64>,
}

/// Values that the long way turns into normals together.
const BLOCK: usize = 16;

impl TorchNoise {
    /// The generator after `manual_seed(seed)`, which keeps the low 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "PyTorch's generator truncates its seed")]
    pub fn new(seed: u64) -> Self {
        Self { words: MersenneTwister::new(seed as u32), spare: None }
    }

    /// One value the short way.
    fn single(&mut self) -> f64 {
        self.spare.take().unwrap_or_else(|| {
            let angle = self.uniform_53() * TAU;
            let radius = (-2.0 * libm::log1p(-self.uniform_53())).sqrt();
            let (sine, cosine) = libm::sincos(angle);
            self.spare = Some(radius * sine);
            radius * cosine
        })
    }

    /// A uniform value in `[0, 1)` with 53 random bits.
    fn uniform_53(&mut self) -> f64 {
        const MASK: u64 = (1 << f64::MANTISSA_DIGITS) - 1;
        const STEP: f64 = 1.0 / (1u64 << f64::MANTISSA_DIGITS) as f64;
        let high = u64::from(self.words.next());
        let word = high << 32 | u64::from(self.words.next());
        (word & MASK) as f64 * STEP
    }

    /// A uniform value in `[0, 1)` with 24 random bits.
    fn uniform_24(&mut self) -> f32 {
        const MASK: u32 = (1 << f32::MANTISSA_DIGITS) - 1;
        const STEP: f32 = 1.0 / (1u32 << f32::MANTISSA_DIGITS) as f32;
        (self.words.next() & MASK) as f32 * STEP
    }

    /// Turns a block of uniforms into normals; its first half will hold cosines, its second sines.
    fn normals(block: &mut [f32]) {
        let (first, second) = block.split_at_mut(BLOCK / 2);
        for (a, b) in first.iter_mut().zip(second) {
            let radius = (-2.0 * single::ln(1.0 - *a)).sqrt();
            let (sine, cosine) = single::sin_cos(TAU_32 * *b);
            *a = radius * cosine;
            *b = radius * sine;
        }
    }
}

impl NoiseSource for TorchNoise {
    fn draw(&mut self, shape: &[usize]) -> Result<Vec<f32>> {
        let total = volume(shape)?;
        #[expect(clippy::cast_possible_truncation, reason = "noise is 32 bits wide")]
        if total < BLOCK {
            return Ok((0..total).map(|_| self.single() as f32).collect());
        }
        let mut values: Vec<f32> = (0..total).map(|_| self.uniform_24()).collect();
        values.chunks_exact_mut(BLOCK).for_each(Self::normals);
        if !total.is_multiple_of(BLOCK) {
            let last = &mut values[total - BLOCK..];
            last.fill_with(|| self.uniform_24());
            Self::normals(last);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use unclip_testkit::{Recorded, fixtures_root};

    use super::*;

    #[test]
    fn recorded_draws_of_pytorch_are_reproduced_in_order() {
        const SHAPES: [&[usize]; 11] = [
            &[768],
            &[1, 3, 16, 16],
            &[5],
            &[17],
            &[1],
            &[2, 3, 8, 8],
            &[15],
            &[16],
            &[31],
            &[33],
            &[1, 3, 64, 64],
        ];
        let recorded = Recorded::open(fixtures_root().join("torch_randn.safetensors"));
        for seed in [0, 1, 42, 123_456_789, (1 << 32) - 1, (1 << 40) + 7] {
            let mut noise = TorchNoise::new(seed);
            for (k, shape) in SHAPES.into_iter().enumerate() {
                let name = format!("draw.{seed}.{k}");
                let actual = noise.draw(shape).expect("a valid shape");
                let expected = recorded.floats(&name);
                let bits = |values: &[f32]| -> Vec<u32> {
                    values.iter().copied().map(f32::to_bits).collect()
                };
                assert_eq!(bits(&actual), bits(&expected), "{name}");
            }
        }
    }

    #[test]
    fn an_empty_draw_leaves_the_generator_alone() {
        let (mut a, mut b) = (TorchNoise::new(1), TorchNoise::new(1));
        assert!(a.draw(&[0, 3]).expect("valid").is_empty(), "nothing was asked for");
        assert_eq!(a.draw(&[3]).expect("valid"), b.draw(&[3]).expect("valid"));
    }
}
