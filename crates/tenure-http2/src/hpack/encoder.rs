//! Writes header blocks.
//!
//! Two fields are put into the peer's table, because every answer of gRPC has them; they stay there, so their indices
//! never change and no table has to be kept. All else is written out, without Huffman coding: it is rare, and a server's
//! cycles are dearer than the bytes.

use super::table::{ENTRY_OVERHEAD_BYTES, STATIC};

const STATUS_200: u8 = 0x88;
/// The index of the newest entry of the dynamic table.
const NEWEST: u8 = 62;
const INDEXED: u8 = 0x80;

const CONTENT_TYPE: (&[u8], &[u8]) = (b"content-type", b"application/grpc");
const GRPC_STATUS_OK: (&[u8], &[u8]) = (b"grpc-status", b"0");

/// What the table holds once both fields are in it.
const TABLE_BYTES: usize = CONTENT_TYPE.0.len()
    + CONTENT_TYPE.1.len()
    + GRPC_STATUS_OK.0.len()
    + GRPC_STATUS_OK.1.len()
    + 2 * ENTRY_OVERHEAD_BYTES;

/// The writing side of a connection's compression.
pub(crate) struct Encoder {
    /// Whether both fields are in the peer's table.
    is_primed: bool,
    /// A change of the table's size that the peer has to be told before anything else.
    resized: Option<usize>,
    table_bytes_max: usize,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder { is_primed: false, resized: None, table_bytes_max: 4096 }
    }

    /// Follows the peer's setting. The table begins anew, which is simpler than to know what the peer evicts.
    pub(crate) fn set_table_bytes_max(&mut self, bytes: usize) {
        let bytes = bytes.min(4096);
        if bytes != self.table_bytes_max {
            self.table_bytes_max = bytes;
            self.resized = Some(bytes);
            self.is_primed = false;
        }
    }

    /// The head of an answer of gRPC that went well, as far as it is the same for all.
    pub(crate) fn put_grpc_head(&mut self, out: &mut Vec<u8>) {
        if self.is_ready(out) {
            out.extend_from_slice(&[STATUS_200, INDEXED | (NEWEST + 1)]);
        } else {
            out.push(STATUS_200);
            put_literal(out, CONTENT_TYPE.0, CONTENT_TYPE.1);
        }
    }

    /// The trailers of an answer of gRPC that went well.
    pub(crate) fn put_grpc_ok(&mut self, out: &mut Vec<u8>) {
        if self.is_ready(out) {
            out.push(INDEXED | NEWEST);
        } else {
            put_literal(out, GRPC_STATUS_OK.0, GRPC_STATUS_OK.1);
        }
    }

    /// The status of an answer, which comes first.
    pub(crate) fn put_status(&mut self, out: &mut Vec<u8>, status: u16) {
        self.put_resize(out);
        if status == 200 {
            out.push(STATUS_200);
        } else {
            put_integer(out, 0x00, 4, 8);
            put_text(out, status.to_string().as_bytes());
        }
    }

    /// Any field.
    pub(crate) fn put_field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        self.put_resize(out);
        if self.is_primed && (name, value) == CONTENT_TYPE {
            out.push(INDEXED | (NEWEST + 1));
        } else if self.is_primed && (name, value) == GRPC_STATUS_OK {
            out.push(INDEXED | NEWEST);
        } else {
            put_literal(out, name, value);
        }
    }

    /// Whether the table holds both fields. If it could but does not, they are not put there here: a block may only have
    /// fields that are meant, so [`Encoder::prime_head`] does it with the first answer that has both.
    fn is_ready(&mut self, out: &mut Vec<u8>) -> bool {
        self.put_resize(out);
        self.is_primed
    }

    /// Whether an answer with both fields should put them into the table.
    pub(crate) fn may_prime(&self) -> bool {
        !self.is_primed && self.table_bytes_max >= TABLE_BYTES
    }

    /// Like [`Encoder::put_grpc_head`], for the answer that puts the fields into the table. Its trailers must follow by
    /// [`Encoder::prime_ok`] before any other block.
    pub(crate) fn prime_head(&mut self, out: &mut Vec<u8>) {
        self.put_resize(out);
        out.push(STATUS_200);
        // The name's place in the static table, the value spelt out.
        put_integer(out, 0x40, 6, 31);
        put_text(out, CONTENT_TYPE.1);
    }

    pub(crate) fn prime_ok(&mut self, out: &mut Vec<u8>) {
        out.push(0x40);
        put_text(out, GRPC_STATUS_OK.0);
        put_text(out, GRPC_STATUS_OK.1);
        self.is_primed = true;
    }

    fn put_resize(&mut self, out: &mut Vec<u8>) {
        if let Some(bytes) = self.resized.take() {
            // Empty first, so that both sides know what is in it.
            put_integer(out, 0x20, 5, 0);
            put_integer(out, 0x20, 5, bytes);
        }
    }
}

/// A field that the peer does not keep.
fn put_literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    match STATIC.iter().skip(14).position(|(known, _)| known.as_bytes() == name) {
        Some(at) => put_integer(out, 0x00, 4, at + 15),
        None => {
            out.push(0x00);
            put_text(out, name);
        }
    }
    put_text(out, value);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0x00, 7, text.len());
    out.extend_from_slice(text);
}

fn put_integer(out: &mut Vec<u8>, first: u8, prefix_bits: u32, value: usize) {
    let mask = (1_usize << prefix_bits) - 1;
    let low = |value: usize| u8::try_from(value & 0x7f).unwrap_or(0);
    if value < mask {
        out.push(first | low(value));
        return;
    }
    out.push(first | u8::try_from(mask).unwrap_or(0));
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(0x80 | low(rest));
        rest >>= 7;
    }
    out.push(low(rest));
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    struct Pair(Encoder, Decoder);

    impl Pair {
        fn read(&mut self, block: &[u8]) -> String {
            let mut out = Vec::new();
            let read = self.1.decode(block, usize::MAX, |name, value| {
                out.push(format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
            });
            read.expect("a block");
            out.join("\n")
        }

        fn answer(&mut self) -> (Vec<u8>, Vec<u8>) {
            let (mut head, mut trailers) = (Vec::new(), Vec::new());
            if self.0.may_prime() {
                self.0.prime_head(&mut head);
                self.0.prime_ok(&mut trailers);
            } else {
                self.0.put_grpc_head(&mut head);
                self.0.put_grpc_ok(&mut trailers);
            }
            assert_eq!(self.read(&head), ":status: 200\ncontent-type: application/grpc");
            assert_eq!(self.read(&trailers), "grpc-status: 0");
            (head, trailers)
        }
    }

    #[test]
    fn the_second_answer_is_three_bytes() {
        let mut pair = Pair(Encoder::new(), Decoder::new());
        pair.answer();
        assert_eq!(pair.answer(), (vec![0x88, 0xbf], vec![0xbe]));
    }

    #[test]
    fn the_table_follows_the_peers_setting() {
        let mut pair = Pair(Encoder::new(), Decoder::new());
        pair.answer();
        for bytes in [0, 50, 104, 4096, 10_000, 60, 200] {
            pair.0.set_table_bytes_max(bytes);
            pair.answer();
            let (head, trailers) = pair.answer();
            assert_eq!((head.len(), trailers.len()) == (2, 1), bytes >= 104, "{bytes}");
        }
    }

    #[test]
    fn any_field_can_be_written() {
        let mut pair = Pair(Encoder::new(), Decoder::new());
        let long = "x".repeat(20_000);
        for status in [200, 404, 599] {
            let mut block = Vec::new();
            pair.0.put_status(&mut block, status);
            for (name, value) in [("content-type", "application/grpc"), ("grpc-status", "0"), ("a", &long), ("via", "")]
            {
                pair.0.put_field(&mut block, name.as_bytes(), value.as_bytes());
            }
            let wanted = format!(":status: {status}\ncontent-type: application/grpc\ngrpc-status: 0\na: {long}\nvia: ");
            assert_eq!(pair.read(&block), wanted);
            pair.answer();
        }
    }
}
