//! The primitives of the encoding: varints, zigzag, byte strings, flags, and the reader that hands out slices.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes};

use super::DecodeError;

/// The longest varint of a `u64`.
const VARINT_BYTES_MAX: usize = 10;

pub(super) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.put_u8(low_byte(value));
}

/// The low seven bits.
fn low_byte(value: u64) -> u8 {
    (value & 0x7f).to_le_bytes()[0]
}

/// Signed numbers as zigzag, so that small ones of either sign stay short.
pub(super) fn put_signed(out: &mut impl BufMut, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(super) fn put_len(out: &mut impl BufMut, len: usize) {
    put_varint(out, len as u64);
}

pub(super) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.put_slice(bytes);
}

/// Packs bits, the first in the lowest place.
pub(super) fn flags<const N: usize>(bits: [bool; N]) -> u8 {
    const { assert!(N <= 8) }
    bits.iter().enumerate().fold(0, |flags, (place, bit)| flags | (u8::from(*bit) << place))
}

/// Reads from the front of a byte string. Keys and values come out as slices of it.
pub(super) struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    pub(super) fn new(bytes: &Bytes) -> Reader {
        Reader { bytes: bytes.clone(), at: 0 }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// How many bytes were read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.left() == 0 { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn version(&mut self, known: u8, what: &'static str) -> Result<(), DecodeError> {
        match self.byte()? {
            found if found == known => Ok(()),
            found => Err(DecodeError::UnknownVersion { what, found }),
        }
    }

    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for place in 0..VARINT_BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * place);
            if shifted >> (7 * place) != bits {
                return Err(DecodeError::NotCanonical("a number above 64 bits"));
            }
            value |= shifted;
            if byte & 0x80 == 0 {
                let overlong = byte == 0 && place > 0;
                return if overlong { Err(DecodeError::NotCanonical("a number")) } else { Ok(value) };
            }
        }
        Err(DecodeError::NotCanonical("a number above 64 bits"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, DecodeError> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    /// Big-endian, for what must stand at a fixed place.
    pub(super) fn fixed_u32(&mut self) -> Result<u32, DecodeError> {
        let mut number = [0; 4];
        self.fill(&mut number)?;
        Ok(u32::from_be_bytes(number))
    }

    pub(super) fn fixed_u64(&mut self) -> Result<u64, DecodeError> {
        let mut number = [0; 8];
        self.fill(&mut number)?;
        Ok(u64::from_be_bytes(number))
    }

    fn fill(&mut self, number: &mut [u8]) -> Result<(), DecodeError> {
        for byte in number {
            *byte = self.byte()?;
        }
        Ok(())
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError::NotCanonical("a number above 32 bits"))
    }

    /// The length of something of which each piece takes at least one byte, so that it bounds what is allocated.
    pub(super) fn len(&mut self) -> Result<usize, DecodeError> {
        let len = self.varint()?;
        if len > self.left() as u64 {
            return Err(DecodeError::Truncated);
        }
        usize::try_from(len).map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.len()?;
        Ok(self.take(len))
    }

    pub(super) fn string(&mut self) -> Result<String, DecodeError> {
        let bytes = self.bytes()?;
        let text = core::str::from_utf8(&bytes).map_err(|_| DecodeError::NotCanonical("a text"))?;
        Ok(String::from(text))
    }

    /// Unpacks `N` flags. A bit beyond them is something this version does not know.
    pub(super) fn flags<const N: usize>(&mut self, what: &'static str) -> Result<[bool; N], DecodeError> {
        const { assert!(N <= 8) }
        let found = self.byte()?;
        if N < 8 && found >> N != 0 {
            return Err(DecodeError::UnknownTag { what, found });
        }
        Ok(core::array::from_fn(|place| found & (1 << place) != 0))
    }

    pub(super) fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        let [bit] = self.flags::<1>(what)?;
        Ok(bit)
    }

    /// A counted sequence.
    pub(super) fn list<T>(
        &mut self,
        item: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.len()?;
        self.items(count, item)
    }

    /// `count` items in a row.
    pub(super) fn items<T>(
        &mut self,
        count: usize,
        mut item: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        if count > self.left() {
            return Err(DecodeError::Truncated);
        }
        let mut items = Vec::with_capacity(count.min(LIST_RESERVE_MAX));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// A number that its flag announced, and which is therefore not 0.
    pub(super) fn signed_if(&mut self, present: bool) -> Result<i64, DecodeError> {
        if !present {
            return Ok(0);
        }
        match self.signed()? {
            0 => Err(DecodeError::NotCanonical("a number announced by a flag")),
            value => Ok(value),
        }
    }

    fn take(&mut self, len: usize) -> Bytes {
        assert!(len <= self.left());
        let taken = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        taken
    }
}

/// Lists grow beyond this as their items turn out to be there: a forged count reserves little.
const LIST_RESERVE_MAX: usize = 64;
