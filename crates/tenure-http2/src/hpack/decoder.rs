//! Reads header blocks.
//!
//! Fields are handed out as they are read, borrowed from the block or the table: who takes them may stop keeping them, but
//! the block is read to its end all the same, because the table has to follow.

use super::table::{ENTRY_OVERHEAD_BYTES, Table};
use super::{HpackError, huffman};

/// The table's size that a peer may assume: the RFC's, which we do not change.
const TABLE_BYTES_MAX: usize = 4096;

/// What a block did beside telling fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The table is what it was: the same block would tell the same again.
    None,
    Changed,
}

/// The reading side of a connection's compression.
pub(crate) struct Decoder {
    table: Table,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder { table: Table::new(TABLE_BYTES_MAX), name: Vec::new(), value: Vec::new() }
    }

    /// Reads a whole block. It may stand for as much as `list_bytes_max`, counted as RFC 9113 counts header lists: a byte may
    /// refer to 4 KiB, so who reads on without a bound does the work of a block a thousand times as long.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        list_bytes_max: usize,
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<Effect, HpackError> {
        let mut effect = Effect::None;
        let mut resizable = true;
        let mut left = list_bytes_max;
        let mut count = |name: &[u8], value: &[u8]| {
            left = left.checked_sub(name.len() + value.len() + ENTRY_OVERHEAD_BYTES).ok_or(HpackError::TooLong)?;
            Ok(())
        };
        while let Some(first) = block.first().copied() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                let (name, value) = self.table.get(index).ok_or(HpackError::Index)?;
                count(name, value)?;
                field(name, value);
            } else if first & 0xe0 == 0x20 {
                let size = integer(&mut block, 5)?;
                if !resizable || size > TABLE_BYTES_MAX {
                    return Err(HpackError::TableSize);
                }
                self.table.resize(size);
                effect = Effect::Changed;
                continue;
            } else {
                let is_indexed = first & 0x40 != 0;
                self.literal(&mut block, if is_indexed { 6 } else { 4 })?;
                count(&self.name, &self.value)?;
                field(&self.name, &self.value);
                if is_indexed {
                    self.table.add(&self.name, &self.value);
                    effect = Effect::Changed;
                }
            }
            resizable = false;
        }
        self.name.shrink_to(256);
        self.value.shrink_to(256);
        Ok(effect)
    }

    /// Reads a field that is spelt out, at least its value.
    fn literal(&mut self, block: &mut &[u8], prefix_bits: u32) -> Result<(), HpackError> {
        let index = integer(block, prefix_bits)?;
        self.name.clear();
        if index == 0 {
            text(block, &mut self.name)?;
        } else {
            let (name, _) = self.table.get(index).ok_or(HpackError::Index)?;
            self.name.extend_from_slice(name);
        }
        self.value.clear();
        text(block, &mut self.value)
    }
}

/// An integer whose first bits are the lowest of the first byte (RFC 7541, section 5.1).
fn integer(block: &mut &[u8], prefix_bits: u32) -> Result<usize, HpackError> {
    /// Four bytes beyond the first hold more than any length or index that makes sense.
    const SHIFT_MAX: u32 = 28;
    let (first, rest) = block.split_first().ok_or(HpackError::Truncated)?;
    *block = rest;
    let mask = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(*first) & mask;
    if value < mask {
        return Ok(value);
    }
    let mut shift = 0;
    loop {
        let (byte, rest) = block.split_first().ok_or(HpackError::Truncated)?;
        *block = rest;
        if shift >= SHIFT_MAX {
            return Err(HpackError::Integer);
        }
        value += usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
}

fn text(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let is_coded = block.first().ok_or(HpackError::Truncated)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (raw, rest) = block.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *block = rest;
    if is_coded {
        return huffman::decode(raw, out);
    }
    out.extend_from_slice(raw);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex");
        digits.chunks(2).map(pair).collect()
    }

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<String, HpackError> {
        let mut out = Vec::new();
        decoder.decode(block, usize::MAX, |name, value| {
            out.push(format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        })?;
        Ok(out.join("\n"))
    }

    /// Reads blocks one after the other with one table, and checks its size after each.
    fn check(table_bytes: usize, blocks: &[(&str, &str, usize)]) {
        let mut decoder = Decoder::new();
        decoder.table.resize(table_bytes);
        for (hex, wanted, size) in blocks {
            assert_eq!(decode(&mut decoder, &bytes(hex)).expect("a block"), *wanted);
            assert_eq!(decoder.table.bytes(), *size);
        }
    }

    #[test]
    fn appendix_c_2_single_fields() {
        check(
            4096,
            &[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key: custom-header", 55)],
        );
        check(4096, &[("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path", 0)]);
        check(4096, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret", 0)]);
        check(4096, &[("82", ":method: GET", 0)]);
    }

    const REQUESTS: [(&str, usize); 3] = [
        (":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com", 57),
        (":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache", 110),
        (
            ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value",
            164,
        ),
    ];

    fn with<'a, const N: usize>(hex: [&'a str; N], wanted: [(&'a str, usize); N]) -> Vec<(&'a str, &'a str, usize)> {
        hex.into_iter().zip(wanted).map(|(hex, (text, size))| (hex, text, size)).collect()
    }

    #[test]
    fn appendix_c_3_and_4_requests_plain_and_coded() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        check(4096, &with(plain, REQUESTS));
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        check(4096, &with(coded, REQUESTS));
    }

    const RESPONSES: [(&str, usize); 3] = [
        (
            ":status: 302\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com",
            222,
        ),
        (
            ":status: 307\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com",
            222,
        ),
        (
            ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\nlocation: https://www.example.com\n\
             content-encoding: gzip\nset-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            215,
        ),
    ];

    #[test]
    fn appendix_c_5_and_6_responses_with_a_table_that_evicts() {
        let plain = [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d \
             546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f \
             6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b \
             2076 6572 7369 6f6e 3d31",
        ];
        check(256, &with(plain, RESPONSES));
        let coded = [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 \
             8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 \
             dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        check(256, &with(coded, RESPONSES));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let read = |hex: &str| decode(&mut Decoder::new(), &bytes(hex));
        assert_eq!(read("80"), Err(HpackError::Index));
        assert_eq!(read("be"), Err(HpackError::Index));
        assert_eq!(read("ff"), Err(HpackError::Truncated));
        assert_eq!(read("ff ffff ffff ffff 01"), Err(HpackError::Integer));
        assert_eq!(read("40 0a 61"), Err(HpackError::Truncated));
        assert_eq!(read("3f e2 1f"), Err(HpackError::TableSize));
        assert_eq!(read("82 20"), Err(HpackError::TableSize));
        assert_eq!(read("20 3f e1 1f 82").as_deref(), Ok(":method: GET"));
        assert_eq!(read("3f 00"), Ok(String::new()));
    }

    #[test]
    fn a_block_that_only_refers_to_the_table_has_no_effect() {
        let mut decoder = Decoder::new();
        let mut effect = |hex: &str| decoder.decode(&bytes(hex), usize::MAX, |_, _| ()).expect("a block");
        assert_eq!(effect("82 04 01 2f"), Effect::None);
        assert_eq!(effect("40 01 61 01 62"), Effect::Changed);
        assert_eq!(effect("be 00 01 61 01 62 10 01 61 01 62"), Effect::None);
        assert_eq!(effect("20"), Effect::Changed);
    }
}
