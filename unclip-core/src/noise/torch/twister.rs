//! The generator below PyTorch's random numbers.

/// MT19937 (Matsumoto & Nishimura 1998).
#[derive(Debug, Clone)]
pub(super) struct MersenneTwister {
    state: Vec<u32>,
    /// The next word of `state` to hand out.
    next: usize,
}

impl MersenneTwister {
    const WORDS: usize = 624;
    const MIDDLE: usize = 397;

    pub(super) fn new(seed: u32) -> Self {
        let mut state = Vec::with_capacity(Self::WORDS);
        state.push(seed);
        let mut word = seed;
        for i in (1u32..).take(Self::WORDS - 1) {
            word = 1_812_433_253u32.wrapping_mul(word ^ (word >> 30)).wrapping_add(i);
            state.push(word);
        }
        Self { state, next: Self::WORDS }
    }

    pub(super) fn next(&mut self) -> u32 {
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
    use super::*;

    #[test]
    fn the_twister_s_first_and_ten_thousandth_words_are_those_of_its_authors() {
        let mut words = MersenneTwister::new(5489);
        assert_eq!(words.next(), 3_499_211_612);
        assert_eq!((2..10_000).map(|_| words.next()).count(), 9_998);
        assert_eq!(words.next(), 4_123_659_995);
    }
}
