//! Frames: their heads, read and written, and the padding around what they carry.
//!
//! A frame is looked at only once it is there as a whole: none may be longer than 16 KiB, so waiting costs little, and
//! everything above knows no half-read state.

use crate::error::{ConnectionError, Reason};

/// What a client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What every frame has before its payload.
pub(crate) const HEAD_BYTES: usize = 9;

/// The longest payload that is accepted: what RFC 9113 wants of everyone, and what clients send unless told otherwise.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 * 1024;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const PRIORITIZED: u8 = 0x20;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    /// The head of a frame that begins here, if that much is there.
    pub(crate) fn read(bytes: &[u8]) -> Option<Head> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
        Some(Head {
            length: usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2),
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        })
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What is left of a payload without its padding, and how much that was.
    pub(crate) fn without_padding(self, payload: &[u8]) -> Result<&[u8], ConnectionError> {
        if !self.has(PADDED) {
            return Ok(payload);
        }
        let (length, rest) = payload.split_first().ok_or(FRAME_TOO_SHORT)?;
        let kept = rest.len().checked_sub(usize::from(*length));
        kept.map(|kept| &rest[..kept]).ok_or(ConnectionError::new(Reason::PROTOCOL_ERROR, "more padding than payload"))
    }

    /// What is left of the payload of HEADERS without padding and priority.
    pub(crate) fn header_block(self, payload: &[u8]) -> Result<&[u8], ConnectionError> {
        let block = self.without_padding(payload)?;
        if self.has(PRIORITIZED) { block.get(5..).ok_or(FRAME_TOO_SHORT) } else { Ok(block) }
    }
}

const FRAME_TOO_SHORT: ConnectionError = ConnectionError::new(Reason::FRAME_SIZE_ERROR, "a frame is too short");

/// Writes the head of a frame.
pub(crate) fn put_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    debug_assert!(length < 1 << 24, "a frame's length has 24 bits");
    let [_, l0, l1, l2] = (u32::try_from(length).unwrap_or(u32::MAX)).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[l0, l1, l2, kind, flags, s0, s1, s2, s3]);
}

/// Writes the length into a head that was put before its payload was known.
pub(crate) fn patch_length(out: &mut [u8], head_at: usize) {
    let length = u32::try_from(out.len() - head_at - HEAD_BYTES).unwrap_or(u32::MAX);
    out[head_at..head_at + 3].copy_from_slice(&length.to_be_bytes()[1..]);
}

pub(crate) fn put_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    put_head(out, 4, RST_STREAM, 0, stream);
    out.extend_from_slice(&reason.0.to_be_bytes());
}

pub(crate) fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put_head(out, 4, WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

pub(crate) fn put_ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    put_head(out, 8, PING, flags, 0);
    out.extend_from_slice(&payload);
}

pub(crate) fn put_goaway(out: &mut Vec<u8>, last_stream: u32, reason: Reason, text: &str) {
    put_head(out, 8 + text.len(), GOAWAY, 0, 0);
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&reason.0.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let mut out = Vec::new();
        put_head(&mut out, 0x01_0203, HEADERS, END_HEADERS | END_STREAM, 0x7fff_fffd);
        let head = Head::read(&out).expect("a head");
        assert_eq!(
            head,
            Head { length: 0x01_0203, kind: HEADERS, flags: END_HEADERS | END_STREAM, stream: 0x7fff_fffd }
        );
        assert_eq!(Head::read(&out[..8]), None);
    }

    #[test]
    fn padding_and_priority_are_taken_off_and_may_not_exceed_the_payload() {
        let head = Head { length: 0, kind: HEADERS, flags: PADDED | PRIORITIZED, stream: 1 };
        assert_eq!(head.header_block(&[2, 0, 0, 0, 1, 7, 0x88, 0, 0]).expect("a block"), [0x88]);
        assert!(head.header_block(&[5, 0, 0, 0, 1]).is_err());
        assert!(head.header_block(&[1, 0, 0, 0, 1]).is_err());
        assert!(head.header_block(&[]).is_err());
    }
}
