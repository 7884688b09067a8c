//! The noise that PyTorch's CPU generator draws.

use std::f64::consts::TAU;

use super::{NoiseSource, volume};
use crate::Result;

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
/// The uniforms are exact. Logarithm, sine and cosine are correctly rounded here, where PyTorch's depend on the
/// processor, so values may differ from a given machine's in the last bits.
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

    /// Fills a block with normals; its first half holds cosines, its second sines.
    #[expect(clippy::cast_possible_truncation, reason = "noise is 32 bits wide")]
    fn normals(block: &mut [f32]) {
        const TAU_32: f32 = TAU as f32;
        let (first, second) = block.split_at_mut(BLOCK / 2);
        for (a, b) in first.iter_mut().zip(second) {
            let logarithm = libm::log(f64::from(1.0 - *a)) as f32;
            let radius = (-2.0 * logarithm).sqrt();
            let (sine, cosine) = libm::sincos(f64::from(TAU_32 * *b));
            *a = radius * cosine as f32;
            *b = radius * sine as f32;
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

/// MT19937 (Matsumoto & Nishimura 1998).
#[derive(Debug, Clone)]
struct MersenneTwister {
    state: Vec<u32>,
    /// The next word of `state` to hand out.
    next: usize,
}

impl MersenneTwister {
    const WORDS: usize = 624;
    const MIDDLE: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = Vec::with_capacity(Self::WORDS);
        state.push(seed);
        let mut word = seed;
        for i in (1u32..).take(Self::WORDS - 1) {
            word = 1_812_433_253u32.wrapping_mul(word ^ (word >> 30)).wrapping_add(i);
            state.push(word);
        }
        Self { state, next: Self::WORDS }
    }

    fn next(&mut self) -> u32 {
        if self.next == Self::WORDS {
            self.twist();
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9D2C_5680;
        word ^= (word << 15) & 0xEFC6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::WORDS {
            let upper = self.state[i] & 0x8000_0000;
            let lower = self.state[(i + 1) % Self::WORDS] & 0x7FFF_FFFF;
            let joined = upper | lower;
            let odd = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[i] = self.state[(i + Self::MIDDLE) % Self::WORDS] ^ (joined >> 1) ^ odd;
        }
    }
}

#[cfg(test)]
mod tests {
    use unclip_testkit::{Recorded, fixtures_root};

    use super::*;

    #[test]
    fn the_twister_s_first_and_ten_thousandth_words_are_those_of_its_authors() {
        let mut words = MersenneTwister::new(5489);
        assert_eq!(words.next(), 3_499_211_612);
        assert_eq!((2..10_000).map(|_| words.next()).count(), 9_998);
        assert_eq!(words.next(), 4_123_659_995);
    }

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
        let (mut worst, mut differing, mut total) = (0, 0, 0);
        for seed in [0, 1, 42, 123_456_789, (1 << 32) - 1, (1 << 40) + 7] {
            let mut noise = TorchNoise::new(seed);
            for (k, shape) in SHAPES.into_iter().enumerate() {
                let name = format!("draw.{seed}.{k}");
                let actual = noise.draw(shape).expect("a valid shape");
                let expected = recorded.floats(&name);
                assert_eq!(actual.len(), expected.len(), "{name}");
                total += actual.len();
                for (a, e) in actual.iter().zip(&expected) {
                    let ulps = a.to_bits().abs_diff(e.to_bits());
                    differing += usize::from(ulps > 0);
                    worst = worst.max(ulps);
                }
            }
        }
        println!(
            "{differing} of {total} values differ, by {worst} units in the last place at most"
        );
        assert!(worst <= 4, "{worst}");
    }

    #[test]
    fn an_empty_draw_leaves_the_generator_alone() {
        let (mut a, mut b) = (TorchNoise::new(1), TorchNoise::new(1));
        assert!(a.draw(&[0, 3]).expect("valid").is_empty(), "nothing was asked for");
        assert_eq!(a.draw(&[3]).expect("valid"), b.draw(&[3]).expect("valid"));
    }
}
