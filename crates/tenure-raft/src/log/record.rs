//! How one record lies in a segment file: framing, checksums and the encoding of what is recorded.
//!
//! ```text
//! segment   header (32 bytes) · record · record · …                            all integers big-endian
//! header    "TENURLOG" · format version u32 · log stamp u64 · segment number u64 · CRC32 of these u32
//! record    body length u32 · synced u32 · body CRC32 u32 · kind u8 · 0 0 0 · header CRC32 u32 · body
//! ```
//!
//! A record's header has a CRC of its own, so that a damaged body cannot lead the reader astray and the search for
//! records behind damage is cheap. Both CRCs start from the log's stamp and the segment's number, and the header's one
//! covers the record's offset: a record that a disk or a person brings back from another log, segment or place is none.
//!
//! `synced` is the choice that is not obvious. It is the length of the segment that was known to be on the disk when the
//! record was made. Damage at an offset below the `synced` of any later record is certainly damage to what was durable;
//! without it, a write torn by a power cut and a disk that lost acknowledged bytes would look the same.

use bytes::{Buf, BufMut};
use crc32fast::Hasher;

use super::segment::SegmentNumber;
use crate::entry_codec::{
    CodecError, ENTRY_HEADER_BYTES, LOG_ID_BYTES, encode_entry_parts, encode_log_id, encode_vote, put_optional_log_id,
    take_optional_log_id, take_vote,
};
use crate::types::{Entry, LogId, Vote};

/// Raised when the format changes; a segment of another version is not read.
const FORMAT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"TENURLOG";
/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 32;
/// Bytes in front of a record's body.
pub(super) const RECORD_HEADER_BYTES: usize = 20;
/// The largest body. An entry holds one group of commands, some MiB at most; this only keeps offsets within 32 bits.
pub(super) const BODY_BYTES_MAX: usize = 256 << 20;

/// Tells this log's records from those of any other log. Drawn when the log is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogStamp(pub(super) u64);

/// What a record records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Where the log stands: first in every segment, and last in a log that was closed.
    State = 1,
    Entry = 2,
    Vote = 3,
    Truncate = 4,
    Committed = 5,
    Purge = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::State),
            2 => Some(Kind::Entry),
            3 => Some(Kind::Vote),
            4 => Some(Kind::Truncate),
            5 => Some(Kind::Committed),
            6 => Some(Kind::Purge),
            _ => None,
        }
    }
}

/// Everything but the entries themselves, as of one place in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WalState {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// The last entry, or what was purged if there is none.
    pub(super) last: Option<LogId>,
}

impl WalState {
    /// Forgets the entries up to a log id, which may lie beyond the last one.
    pub(super) fn purge(&mut self, upto: LogId) {
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }
}

/// The checksums of one segment start from this.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(stamp: LogStamp, segment: SegmentNumber) -> Seed {
        let mut hasher = Hasher::new();
        hasher.update(&stamp.0.to_be_bytes());
        hasher.update(&segment.0.to_be_bytes());
        Seed(hasher.finalize())
    }

    fn body_crc(self, body: &[u8]) -> u32 {
        let mut hasher = Hasher::new_with_initial(self.0);
        hasher.update(body);
        hasher.finalize()
    }

    fn header_crc(self, offset: u32, fields: &[u8]) -> u32 {
        let mut hasher = Hasher::new_with_initial(self.0);
        hasher.update(&offset.to_be_bytes());
        hasher.update(fields);
        hasher.finalize()
    }
}

/// A segment's header.
pub(super) fn encode_segment_header(stamp: LogStamp, segment: SegmentNumber) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut out = [0; SEGMENT_HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
    out[12..20].copy_from_slice(&stamp.0.to_be_bytes());
    out[20..28].copy_from_slice(&segment.0.to_be_bytes());
    let crc = crc32fast::hash(&out[..28]);
    out[28..].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The stamp in a segment's header, or why it is not the header of that segment.
pub(super) fn decode_segment_header(bytes: &[u8], segment: SegmentNumber) -> Result<LogStamp, String> {
    let Some((mut header, _)) = bytes.split_at_checked(SEGMENT_HEADER_BYTES) else {
        return Err(format!("only {} bytes of a segment header of {SEGMENT_HEADER_BYTES}", bytes.len()));
    };
    let expected = crc32fast::hash(&header[..28]);
    let magic = header.copy_to_bytes(8);
    let (version, stamp, number, crc) = (header.get_u32(), header.get_u64(), header.get_u64(), header.get_u32());
    if magic[..] != MAGIC[..] {
        return Err("not a segment of a Raft log: the magic is missing".into());
    }
    if crc != expected {
        return Err("the segment header's checksum does not match".into());
    }
    if version != FORMAT_VERSION {
        return Err(format!("format version {version}, while this program reads version {FORMAT_VERSION}"));
    }
    if number != segment.0 {
        return Err(format!("the header belongs to segment {number}"));
    }
    Ok(LogStamp(stamp))
}

/// Where a record is put.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) seed: Seed,
    pub(super) offset: u32,
    pub(super) synced: u32,
}

/// Appends an entry; its payload is copied once, into `out`.
pub(super) fn put_entry(out: &mut Vec<u8>, place: Place, entry: &Entry) {
    let (header, payload) = encode_entry_parts(entry);
    put_record(out, place, Kind::Entry, |out| {
        out.put_slice(&header);
        out.put_slice(&payload);
    });
}

/// Appends a vote.
pub(super) fn put_vote(out: &mut Vec<u8>, place: Place, vote: &Vote) {
    put_record(out, place, Kind::Vote, |out| out.put_slice(&encode_vote(vote)));
}

/// Appends a committed mark, or a truncation to what is then the last log id.
pub(super) fn put_mark(out: &mut Vec<u8>, place: Place, kind: Kind, at: Option<&LogId>) {
    debug_assert!(matches!(kind, Kind::Committed | Kind::Truncate));
    put_record(out, place, kind, |out| put_optional_log_id(out, at));
}

/// Appends a purge.
pub(super) fn put_purge(out: &mut Vec<u8>, place: Place, upto: &LogId) {
    put_record(out, place, Kind::Purge, |out| out.put_slice(&encode_log_id(upto)));
}

/// Appends where the log stands.
pub(super) fn put_state(out: &mut Vec<u8>, place: Place, state: &WalState) {
    put_record(out, place, Kind::State, |out| {
        out.put_u8(u8::from(state.vote.is_some()));
        if let Some(vote) = &state.vote {
            out.put_slice(&encode_vote(vote));
        }
        for log_id in [&state.committed, &state.purged, &state.last] {
            put_optional_log_id(out, log_id.as_ref());
        }
    });
}

/// The state in a record's body.
pub(super) fn decode_state(mut body: &[u8]) -> Result<WalState, CodecError> {
    let bytes = &mut body;
    let vote = match bytes.try_get_u8() {
        Ok(0) => None,
        Ok(1) => Some(take_vote(bytes)?),
        Ok(tag) => return Err(CodecError::UnknownTag { what: "presence of a vote", tag }),
        Err(_) => return Err(CodecError::Truncated { what: "state", missing: 1 }),
    };
    let committed = take_optional_log_id(bytes)?;
    let purged = take_optional_log_id(bytes)?;
    let last = take_optional_log_id(bytes)?;
    finish(bytes)?;
    Ok(WalState { vote, committed, purged, last })
}

/// The log id in the body of a committed mark or a truncation.
pub(super) fn decode_mark(mut body: &[u8]) -> Result<Option<LogId>, CodecError> {
    let log_id = take_optional_log_id(&mut body)?;
    finish(body)?;
    Ok(log_id)
}

fn finish(rest: &[u8]) -> Result<(), CodecError> {
    match rest.len() {
        0 => Ok(()),
        count => Err(CodecError::Trailing { what: "record", count }),
    }
}

/// How many bytes the record of an entry takes, of whose payload this is the length.
pub(super) fn entry_record_bytes(payload_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + ENTRY_HEADER_BYTES + payload_bytes
}

/// The part of an entry's body that holds its log id.
pub(super) fn entry_log_id_bytes(body: &[u8]) -> &[u8] {
    &body[..LOG_ID_BYTES.min(body.len())]
}

fn put_record(out: &mut Vec<u8>, place: Place, kind: Kind, put_body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.resize(start + RECORD_HEADER_BYTES, 0);
    put_body(out);
    let (header, body) = out[start..].split_at_mut(RECORD_HEADER_BYTES);
    debug_assert!(body.len() <= BODY_BYTES_MAX);
    // Entries are refused beyond BODY_BYTES_MAX when they are appended, and no other record comes near.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    header[..4].copy_from_slice(&length.to_be_bytes());
    header[4..8].copy_from_slice(&place.synced.to_be_bytes());
    header[8..12].copy_from_slice(&place.seed.body_crc(body).to_be_bytes());
    header[12] = kind as u8;
    let crc = place.seed.header_crc(place.offset, &header[..16]);
    header[16..].copy_from_slice(&crc.to_be_bytes());
}

/// A record's header whose checksum held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    pub(super) body_bytes: usize,
    pub(super) synced: u32,
    body_crc: u32,
}

impl RecordHeader {
    /// The header at an offset of a segment, if there is one; `bytes` begin there.
    pub(super) fn decode(bytes: &[u8], seed: Seed, offset: u32) -> Option<RecordHeader> {
        let (header, _) = bytes.split_at_checked(RECORD_HEADER_BYTES)?;
        let (mut fields, mut crc) = header.split_at(16);
        if seed.header_crc(offset, fields) != crc.get_u32() {
            return None;
        }
        let body_bytes = usize::try_from(fields.get_u32()).ok()?;
        let (synced, body_crc) = (fields.get_u32(), fields.get_u32());
        let kind = Kind::from_byte(fields.get_u8())?;
        (body_bytes <= BODY_BYTES_MAX).then_some(RecordHeader { kind, body_bytes, synced, body_crc })
    }

    /// The body behind this header, if it is whole and sound; `bytes` begin at the header.
    pub(super) fn body<'a>(&self, bytes: &'a [u8], seed: Seed) -> Option<&'a [u8]> {
        let body = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + self.body_bytes)?;
        (seed.body_crc(body) == self.body_crc).then_some(body)
    }

    /// Header and body together.
    pub(super) fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.body_bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{Payload, Proposal, log_id};

    const SEGMENT: SegmentNumber = SegmentNumber(2);
    const STAMP: LogStamp = LogStamp(0x0123_4567_89ab_cdef);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn place(offset: u32) -> Place {
        Place { seed: Seed::new(STAMP, SEGMENT), offset, synced: 7 }
    }

    fn entry() -> Entry {
        Entry { log_id: log_id(3, 4), payload: Payload::Normal(Proposal(Bytes::from_static(b"hi"))) }
    }

    #[test]
    fn segment_headers_and_records_have_the_pinned_bytes() {
        let header = encode_segment_header(STAMP, SEGMENT);
        assert_eq!(hex(&header), "54454e55524c4f47000000010123456789abcdef0000000000000002efa7f4a9");
        let mut out = Vec::new();
        put_entry(&mut out, place(32), &entry());
        assert_eq!(
            hex(&out),
            concat!("0000001300000007c318789d", "02000000d98b5ccd", "00000000000000030000000000000004016869")
        );
        out.clear();
        put_vote(&mut out, place(32), &Vote::new_committed(5, 6));
        assert_eq!(
            hex(&out),
            concat!("0000001100000007adababde", "030000005e6e254f", "0000000000000005000000000000000601")
        );
        out.clear();
        put_mark(&mut out, place(32), Kind::Truncate, None);
        assert_eq!(hex(&out), concat!("0000000100000007d0ab7f8e", "04000000f157ae9f", "00"));
        out.clear();
        put_mark(&mut out, place(32), Kind::Committed, Some(&log_id(1, 2)));
        assert_eq!(
            hex(&out),
            concat!("0000001100000007140c49a6", "05000000a29e4b78", "0100000000000000010000000000000002")
        );
        out.clear();
        put_purge(&mut out, place(32), &log_id(1, 2));
        assert_eq!(
            hex(&out),
            concat!("000000100000000799c87d58", "06000000f53ebd07", "00000000000000010000000000000002")
        );
        out.clear();
        let state = WalState { vote: Some(Vote::new(1, 2)), committed: None, purged: None, last: Some(log_id(8, 9)) };
        put_state(&mut out, place(32), &state);
        assert_eq!(
            hex(&out),
            concat!(
                "000000250000000754b271cd",
                "01000000b5206e1a",
                "01000000000000000100000000000000020000000100000000000000080000000000000009"
            )
        );
        assert_eq!(decode_state(&out[RECORD_HEADER_BYTES..]).unwrap(), state);
    }

    #[test]
    fn a_record_counts_only_in_its_log_its_segment_and_its_place() {
        let mut out = Vec::new();
        put_entry(&mut out, place(32), &entry());
        let seed = Seed::new(STAMP, SEGMENT);
        let header = RecordHeader::decode(&out, seed, 32).unwrap();
        assert_eq!(header.body(&out, seed).unwrap(), &out[RECORD_HEADER_BYTES..]);
        assert_eq!((header.kind, header.synced, header.record_bytes()), (Kind::Entry, 7, out.len()));
        assert!(RecordHeader::decode(&out, seed, 33).is_none());
        assert!(RecordHeader::decode(&out, Seed::new(STAMP, SegmentNumber(3)), 32).is_none());
        assert!(RecordHeader::decode(&out, Seed::new(LogStamp(1), SEGMENT), 32).is_none());
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let mut record = Vec::new();
        put_entry(&mut record, place(32), &entry());
        let seed = Seed::new(STAMP, SEGMENT);
        for bit in 0..record.len() * 8 {
            let mut bytes = record.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let body = RecordHeader::decode(&bytes, seed, 32).and_then(|header| header.body(&bytes, seed));
            assert!(body.is_none(), "bit {bit}");
        }
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut header = encode_segment_header(STAMP, SEGMENT);
            header[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_segment_header(&header, SEGMENT).is_err(), "bit {bit}");
        }
        assert_eq!(decode_segment_header(&encode_segment_header(STAMP, SEGMENT), SEGMENT), Ok(STAMP));
    }
}
