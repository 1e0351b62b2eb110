//! Reads Huffman-coded text (RFC 7541, appendix B).
//!
//! The code is canonical: the lengths of its words say all. Words of up to nine bits, which is nearly all text, are looked
//! up at once; longer ones are found by the first word of their length.

use super::HpackError;

/// The length of each byte's word, and of the end's.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const SYMBOLS: usize = LENGTHS.len();
const END: u16 = 256;
const LENGTH_MAX: usize = 30;
const FAST_BITS: u32 = 9;

/// A word of up to [`FAST_BITS`] bits: its symbol and its length, which is zero where the word is longer.
#[derive(Clone, Copy)]
struct Fast {
    symbol: u8,
    length: u8,
}

struct Tables {
    fast: [Fast; 1 << FAST_BITS],
    /// Symbols in the order of their words.
    symbols: [u16; SYMBOLS],
    /// By length: the first word, left-aligned in 32 bits, the end of the words, and where the symbols begin.
    first: [u32; LENGTH_MAX + 1],
    end: [u64; LENGTH_MAX + 1],
    offset: [usize; LENGTH_MAX + 1],
}

static TABLES: Tables = tables();

#[expect(clippy::cast_possible_truncation, reason = "symbols below the end are bytes, and const code has no try_from")]
const fn tables() -> Tables {
    let mut tables = Tables {
        fast: [Fast { symbol: 0, length: 0 }; 1 << FAST_BITS],
        symbols: [0; SYMBOLS],
        first: [0; LENGTH_MAX + 1],
        end: [0; LENGTH_MAX + 1],
        offset: [0; LENGTH_MAX + 1],
    };
    let (mut word, mut placed, mut length) = (0_u64, 0, 1);
    while length <= LENGTH_MAX {
        let shift = 32 - length as u32;
        tables.first[length] = (word << shift) as u32;
        tables.offset[length] = placed;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                tables.symbols[placed] = symbol as u16;
                placed += 1;
                if length as u32 <= FAST_BITS {
                    let spare = FAST_BITS - length as u32;
                    let mut at = (word << spare) as usize;
                    let past = ((word + 1) << spare) as usize;
                    while at < past {
                        tables.fast[at] = Fast { symbol: symbol as u8, length: length as u8 };
                        at += 1;
                    }
                }
                word += 1;
            }
            symbol += 1;
        }
        tables.end[length] = word << shift;
        word <<= 1;
        length += 1;
    }
    tables
}

/// Appends the text that `coded` stands for.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let mut input = coded.iter();
    // The bits not yet decoded, from the highest on.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56 {
            let Some(byte) = input.next() else { break };
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        if count == 0 {
            return Ok(());
        }
        let fast = TABLES.fast[usize::try_from(bits >> (64 - FAST_BITS)).unwrap_or(0)];
        let (symbol, length) = if fast.length == 0 { find(bits)? } else { (fast.symbol, u32::from(fast.length)) };
        if length > count {
            // No word is left: what pads the last byte are the highest bits of the end's word, all ones.
            let is_padding = count < 8 && bits >> (64 - count) == (1 << count) - 1;
            return if is_padding { Ok(()) } else { Err(HpackError::Huffman) };
        }
        out.push(symbol);
        bits <<= length;
        count -= length;
    }
}

/// A word of more than [`FAST_BITS`] bits, and its length. With too few bits left it may be any that is longer than those.
fn find(bits: u64) -> Result<(u8, u32), HpackError> {
    let peeked = u32::try_from(bits >> 32).unwrap_or(0);
    for length in FAST_BITS + 1..=30 {
        let at = usize::try_from(length).unwrap_or(0);
        if u64::from(peeked) < TABLES.end[at] {
            let index = TABLES.offset[at] + usize::try_from((peeked - TABLES.first[at]) >> (32 - length)).unwrap_or(0);
            let symbol = TABLES.symbols[index];
            return u8::try_from(symbol).map(|symbol| (symbol, length)).map_err(|_| {
                debug_assert_eq!(symbol, END);
                HpackError::Huffman
            });
        }
    }
    Err(HpackError::Huffman)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes a bit at a time, by the same lengths.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut words = vec![(0_u32, 0_u32); SYMBOLS];
        let mut word = 0_u32;
        for length in 1..=30_u32 {
            for (symbol, _) in LENGTHS.iter().enumerate().filter(|(_, found)| u32::from(**found) == length) {
                words[symbol] = (word, length);
                word += 1;
            }
            word <<= 1;
        }
        let mut bits: Vec<bool> = Vec::new();
        for byte in text {
            let (word, length) = words[usize::from(*byte)];
            bits.extend((0..length).rev().map(|bit| word >> bit & 1 == 1));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push(true);
        }
        bits.chunks(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit))).collect()
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_words_of_the_rfc_are_read() {
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&coded).expect("text"), b"www.example.com");
    }

    #[test]
    fn every_byte_has_its_word() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encode(&all)).expect("text"), all);
        for byte in all {
            for before in 0..8 {
                let mut text = vec![b'0'; before];
                text.push(byte);
                assert_eq!(decoded(&encode(&text)).expect("text"), text);
            }
        }
    }

    #[test]
    fn padding_is_ones_and_shorter_than_a_byte_and_the_end_is_no_text() {
        assert_eq!(decoded(&[0b0000_0111]), Ok(vec![b'0']));
        assert_eq!(decoded(&[0b0000_0110]), Err(HpackError::Huffman));
        assert_eq!(decoded(&[0b0000_0111, 0xff]), Err(HpackError::Huffman));
        assert_eq!(decoded(&[0xff]), Err(HpackError::Huffman));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(HpackError::Huffman));
        assert_eq!(decoded(&[]), Ok(vec![]));
    }
}
