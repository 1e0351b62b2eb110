//! The key-values of a read's answer, written in their last form as they are read.
//!
//! A list may be of many megabytes. Each key and value is copied once, from where the store has it into the message that
//! goes to the socket; there is no list of them in between, and the message is in pieces, so that none of it is moved when
//! it grows. Who reads is not the thread that serves connections, so these do not wait while a list is written.
//!
//! The bytes are exactly those that the generated code would make of the same answer; a test holds the two together.

use bytes::Bytes;
use prost::Message as _;
use tenure_core::borrowed::KvRef;
use tenure_proto::etcdserverpb as pb;

/// The first piece; each further one is twice as long, …
const PIECE_BYTES_MIN: usize = 4 * 1024;
/// …up to this, of which a frame takes a quarter.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// What a key-value has before its key, and its numbers: two tags and lengths; five tags and numbers.
const NUMBERS_BYTES_MAX: usize = 5 * 11;

/// `RangeResponse.kvs`, a message in a field.
const KVS: u8 = 2 << 3 | 2;
/// The fields of `KeyValue`.
const KEY: u8 = 1 << 3 | 2;
const CREATE: u8 = 2 << 3;
const MODIFIED: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | 2;
const LEASE: u8 = 6 << 3;

/// See the module's header.
#[derive(Debug, Default)]
pub struct KvList {
    /// Those that are full.
    pieces: Vec<Bytes>,
    last: Vec<u8>,
}

impl KvList {
    /// Adds a key-value.
    pub fn push(&mut self, kv: KvRef<'_>) {
        let numbers = [(CREATE, kv.create.0), (MODIFIED, kv.modified.0), (VERSION, kv.version)];
        // As protobuf has it: what is zero is left out, and negative numbers are long.
        let number = |number: i64| if number == 0 { 0 } else { 1 + varint_len(number.cast_unsigned()) };
        let text = |text: &[u8]| if text.is_empty() { 0 } else { 1 + varint_len(text.len() as u64) + text.len() };
        let length = text(&kv.key) + numbers.map(|(_, value)| number(value)).iter().sum::<usize>();
        let length = length + text(&kv.value) + number(kv.lease.0);
        self.make_room(NUMBERS_BYTES_MAX);
        self.last.push(KVS);
        put_varint(&mut self.last, length as u64);
        self.put_text(KEY, &kv.key);
        self.make_room(NUMBERS_BYTES_MAX);
        numbers.iter().for_each(|(tag, number)| put_number(&mut self.last, *tag, *number));
        self.put_text(VALUE, &kv.value);
        self.make_room(NUMBERS_BYTES_MAX);
        put_number(&mut self.last, LEASE, kv.lease.0);
    }

    /// The whole message. `more` and `count` are the read's result beside its key-values.
    pub fn finish(mut self, header: pb::ResponseHeader, more: bool, count: i64) -> Vec<Bytes> {
        let first = pb::RangeResponse { header: Some(header), ..pb::RangeResponse::default() };
        let end = pb::RangeResponse { more, count, ..pb::RangeResponse::default() };
        self.make_room(end.encoded_len());
        end.encode_raw(&mut self.last);
        self.pieces.push(self.last.into());
        self.pieces.insert(0, first.encode_to_vec().into());
        self.pieces
    }

    fn put_text(&mut self, tag: u8, mut text: &[u8]) {
        if text.is_empty() {
            return;
        }
        self.last.push(tag);
        put_varint(&mut self.last, text.len() as u64);
        while !text.is_empty() {
            self.make_room(1);
            let (now, later) = text.split_at(text.len().min(self.room()));
            self.last.extend_from_slice(now);
            text = later;
        }
    }

    fn room(&self) -> usize {
        self.last.capacity() - self.last.len()
    }

    /// Begins another piece if there is no room for so much in this one.
    fn make_room(&mut self, bytes: usize) {
        if self.room() < bytes {
            let next = (self.last.capacity() * 2).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
            let full = std::mem::replace(&mut self.last, Vec::with_capacity(next));
            if !full.is_empty() {
                self.pieces.push(full.into());
            }
        }
    }
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: i64) {
    if number != 0 {
        out.push(tag);
        put_varint(out, number.cast_unsigned());
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Seven bits a byte.
fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}
