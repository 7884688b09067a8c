//! The error-correcting code of the invisible mark.
//!
//! 48 bits of payload and their CRC-16 pass through a tail-biting convolutional code of rate 1/3 and constraint length 9
//! (generators 557, 663, 711 in octal), and come back by a wrap-around Viterbi search over soft values.

/// Bytes of a payload.
pub(super) const PAYLOAD_BYTES: usize = 6;
/// Bits that enter the convolutional code: payload and checksum.
const INFO: usize = 8 * PAYLOAD_BYTES + 16;
/// Bits that leave it.
pub(super) const CODED: usize = 3 * INFO;

const GENERATORS: [u16; 3] = [0o557, 0o663, 0o711];
/// Bits of the encoder's state.
const MEMORY: usize = 8;
const STATES: usize = 1 << MEMORY;
/// How often the decoder goes around the tail-biting trellis; the middle round's decisions are kept.
const ROUNDS: usize = 3;

/// CRC-16/CCITT-FALSE.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

fn info_bits(payload: &[u8; PAYLOAD_BYTES]) -> [u8; INFO] {
    let crc = crc16(payload).to_be_bytes();
    let mut bits = [0; INFO];
    for (k, bit) in bits.iter_mut().enumerate() {
        let byte = *payload.iter().chain(&crc).nth(k / 8).expect("INFO is the bits of both");
        *bit = byte >> (7 - k % 8) & 1;
    }
    bits
}

/// The three output bits for a register of state and newest bit.
fn outputs(register: usize) -> [bool; 3] {
    GENERATORS.map(|generator| (register & usize::from(generator)).count_ones() % 2 == 1)
}

/// The payload as signs, `+1` for a one.
pub(super) fn encode(payload: &[u8; PAYLOAD_BYTES]) -> [f32; CODED] {
    let bits = info_bits(payload);
    // Tail-biting: the register starts with the last bits, so that it ends as it began.
    let mut state =
        bits[INFO - MEMORY..].iter().fold(0, |state, &bit| state << 1 | usize::from(bit));
    let mut coded = [0.0; CODED];
    for (three, &bit) in coded.chunks_exact_mut(3).zip(&bits) {
        let register = state << 1 | usize::from(bit);
        for (sign, one) in three.iter_mut().zip(outputs(register)) {
            *sign = if one { 1.0 } else { -1.0 };
        }
        state = register % STATES;
    }
    coded
}

/// The likeliest payload for soft values (positive for a one), and whether its checksum agrees.
pub(super) fn decode(soft: &[f32; CODED]) -> ([u8; PAYLOAD_BYTES], bool) {
    let signs: Vec<[f32; 3]> = (0..2 * STATES)
        .map(|register| outputs(register).map(|one| if one { 1.0 } else { -1.0 }))
        .collect();
    let mut metric = [0.0_f32; STATES];
    let mut came_from = vec![[false; STATES]; ROUNDS * INFO];
    for (step, choice) in came_from.iter_mut().enumerate() {
        let at = 3 * (step % INFO);
        let three = &soft[at..at + 3];
        let mut next = [0.0; STATES];
        for (state, value) in next.iter_mut().enumerate() {
            // The bit that leaves the register is the one that the two ways into `state` differ in.
            let [low, high] = [state, state | STATES].map(|register| {
                let agreement: f32 = signs[register].iter().zip(three).map(|(s, v)| s * v).sum();
                metric[register >> 1] + agreement
            });
            choice[state] = high > low;
            *value = low.max(high);
        }
        metric = next;
    }
    let mut state =
        (0..STATES).max_by(|&a, &b| metric[a].total_cmp(&metric[b])).unwrap_or_default();
    let mut bits = [0_u8; ROUNDS * INFO];
    for (bit, choice) in bits.iter_mut().zip(&came_from).rev() {
        *bit = u8::from(state & 1 == 1);
        state = (state | if choice[state] { STATES } else { 0 }) >> 1;
    }
    let mut bytes = [0_u8; INFO / 8];
    for (k, bit) in bits[INFO..2 * INFO].iter().enumerate() {
        bytes[k / 8] |= bit << (7 - k % 8);
    }
    let (payload, crc) = bytes.split_at(PAYLOAD_BYTES);
    let payload: [u8; PAYLOAD_BYTES] = payload.try_into().expect("split at this length");
    (payload, crc == crc16(&payload).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers that repeat after a long while.
    fn noise(seed: u64) -> impl Iterator<Item = f32> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            // A sum of uniform draws is near enough to a normal one here.
            (0..12)
                .map(|_| super::super::pattern::draw(&mut state) as f32 / 2_f32.powi(64))
                .sum::<f32>()
                - 6.0
        })
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc16(b"123456789"), 0x29B1);
    }

    #[test]
    fn payloads_come_back_and_no_two_share_a_codeword() {
        for payload in [[0; 6], [255; 6], *b"unclip", [1, 2, 3, 4, 5, 6]] {
            assert_eq!(decode(&encode(&payload)), (payload, true));
        }
        let differ = encode(b"unclip").into_iter().zip(encode(b"uncliq")).filter(|(a, b)| a != b);
        assert!(differ.count() >= 18, "at least the free distance of the code");
    }

    #[test]
    fn payloads_come_back_at_one_decibel_a_bit() {
        // Deviation 1.1 a coded bit: energy a payload-and-checksum bit over noise density is 3 / (2 · 1.21) = 0.9 dB.
        let read = (0..100).filter(|&seed| {
            let mut soft = encode(b"unclip");
            for (value, noise) in soft.iter_mut().zip(noise(seed)) {
                *value += 0.9 * noise;
            }
            decode(&soft) == (*b"unclip", true)
        });
        let read = read.count();
        assert!(read >= 90, "{read} of 100");
    }

    #[test]
    fn noise_alone_rarely_passes_the_checksum() {
        let passed = (0..200).filter(|&seed| {
            let mut soft = [0.0; CODED];
            soft.iter_mut().zip(noise(seed)).for_each(|(value, noise)| *value = noise);
            decode(&soft).1
        });
        assert!(passed.count() <= 1, "a checksum of 16 bits passes one time in 65536");
    }
}
