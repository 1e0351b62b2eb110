//! One segment file: its name, how it is made, and what is found in it when the log is opened.
//!
//! A segment appears under its name only when its header and its first record are on the disk: it is written under
//! another name, synced, renamed, and the directory synced. So a segment with a damaged beginning was damaged later, and
//! only records behind the beginning of the *last* segment can have been torn by a crash.
//!
//! Where a scan meets bad bytes in the last segment it must tell a torn write from a damaged disk, because the first is
//! normal and the second means that acknowledged data may be gone. See [`judge_tail`].

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::error::LogError;
use super::files::{FileLayer, LogFile};
use super::record::{
    Kind, LogStamp, Place, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, Seed, WalState,
    decode_segment_header, encode_segment_header, put_state,
};

/// A segment's place in the row of all segments, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SegmentNumber(pub(super) u64);

/// Ends the name of a segment.
const SUFFIX: &str = ".wal";
/// Ends the name of a segment that is not ready.
const SUFFIX_UNFINISHED: &str = ".wal.new";
/// Digits of a segment's number in its name, so that names sort like numbers.
const NAME_DIGITS: usize = 20;
/// A disk loses or keeps at least this much as one.
const SECTOR_BYTES: usize = 512;

impl SegmentNumber {
    pub(super) fn next(self) -> SegmentNumber {
        SegmentNumber(self.0 + 1)
    }

    pub(super) fn file_name(self) -> String {
        format!("{:0NAME_DIGITS$}{SUFFIX}", self.0)
    }

    /// The number in a segment's name; `None` for the name of anything else.
    pub(super) fn from_file_name(name: &str) -> Option<SegmentNumber> {
        let number = SegmentNumber(name.strip_suffix(SUFFIX)?.parse().ok()?);
        (number.file_name() == name).then_some(number)
    }
}

/// Whether this is the name of a segment that a crash left unfinished.
pub(super) fn is_unfinished(file_name: &str) -> bool {
    file_name.ends_with(SUFFIX_UNFINISHED)
}

/// A new segment, durable with its name, and its length.
pub(super) fn create_segment(
    files: &dyn FileLayer,
    dir: &Path,
    stamp: LogStamp,
    number: SegmentNumber,
    state: &WalState,
) -> Result<(Arc<dyn LogFile>, u32), LogError> {
    let path = dir.join(number.file_name());
    let unfinished = path.with_extension(SUFFIX_UNFINISHED.trim_start_matches('.'));
    let mut bytes = encode_segment_header(stamp, number).to_vec();
    put_state(&mut bytes, Place { seed: Seed::new(stamp, number), offset: SEGMENT_HEADER_OFFSET, synced: 0 }, state);
    let file = files.create(&unfinished).map_err(|e| LogError::io("create", &unfinished, &e))?;
    file.write_at(0, &bytes).map_err(|e| LogError::io("write", &unfinished, &e))?;
    file.sync_data().map_err(|e| LogError::io("sync", &unfinished, &e))?;
    files.rename(&unfinished, &path).map_err(|e| LogError::io("rename", &unfinished, &e))?;
    files.sync_dir(dir).map_err(|e| LogError::io("sync", dir, &e))?;
    Ok((file, offset32(bytes.len())))
}

const SEGMENT_HEADER_OFFSET: u32 = 32;
const _: () = assert!(SEGMENT_HEADER_OFFSET as usize == SEGMENT_HEADER_BYTES);

/// An offset as records hold it. Segments end far below 4 GiB: see `LogOptions::segment_bytes` and `BODY_BYTES_MAX`.
pub(super) fn offset32(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

/// The file's whole contents.
pub(super) fn read_segment(file: &dyn LogFile, path: &Path) -> Result<Vec<u8>, LogError> {
    let read = || {
        let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(usize::MAX)];
        let count = file.read_at(0, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    };
    read().map_err(|e| LogError::io("read", path, &e))
}

/// One sound record.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) offset: usize,
    pub(super) body: Range<usize>,
}

/// What is in a segment.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) records: Vec<Found>,
    /// Where the sound records end. What follows is to be cut off.
    pub(super) end: usize,
    /// What follows, if it is neither nothing nor zeros.
    pub(super) torn: Option<String>,
}

/// Damage: where, and what it is.
#[derive(Debug)]
pub(super) struct Damage {
    pub(super) offset: usize,
    pub(super) detail: String,
}

/// The stamp of the log that the segment belongs to.
pub(super) fn segment_stamp(bytes: &[u8], number: SegmentNumber) -> Result<LogStamp, Damage> {
    decode_segment_header(bytes, number).map_err(|detail| Damage { offset: 0, detail })
}

/// Finds the records of a segment whose header is sound. Only the last segment may have a torn end.
pub(super) fn scan_segment(bytes: &[u8], seed: Seed, is_last: bool) -> Result<Scan, Damage> {
    let mut records = Vec::new();
    let mut end = SEGMENT_HEADER_BYTES;
    while end < bytes.len() {
        let Some((header, body)) = record_at(bytes, seed, end) else { break };
        let start = end + RECORD_HEADER_BYTES;
        records.push(Found { kind: header.kind, offset: end, body: start..start + body.len() });
        end += header.record_bytes();
    }
    if !records.first().is_some_and(|record| record.kind == Kind::State) {
        return Err(Damage { offset: SEGMENT_HEADER_BYTES, detail: "the segment's first record is damaged".into() });
    }
    if end == bytes.len() {
        return Ok(Scan { records, end, torn: None });
    }
    if is_last && bytes[end..].iter().all(|byte| *byte == 0) {
        // Room for records that were never written, or never reached the disk.
        return Ok(Scan { records, end, torn: None });
    }
    if !is_last {
        let detail = "a record is damaged, and later segments follow".into();
        return Err(Damage { offset: end, detail });
    }
    let torn = judge_tail(bytes, seed, end)?;
    Ok(Scan { records, end, torn: Some(torn) })
}

fn record_at(bytes: &[u8], seed: Seed, offset: usize) -> Option<(RecordHeader, &[u8])> {
    let rest = &bytes[offset..];
    let header = RecordHeader::decode(rest, seed, offset32(offset))?;
    let body = header.body(rest, seed)?;
    Some((header, body))
}

/// Decides whether the bytes from `bad` on, where no sound record begins, were torn by a crash; says why, or what is
/// damaged.
///
/// A crash tears only what was not synced, and all of that was written after the last sync. So
/// - a later record that knew `bad` to be synced proves damage;
/// - a later sound record without that knowledge was written together with the bad one. A file system may keep the
///   later one and lose the earlier, but then whole blocks of the earlier one were never written and read as zeros. If
///   there is no such block, something changed bytes that had been written;
/// - with nothing sound behind it, the bad record is the torn end that every crash may leave.
fn judge_tail(bytes: &[u8], seed: Seed, bad: usize) -> Result<String, Damage> {
    let mut at = bad + 1;
    let mut companion = None;
    while at < bytes.len() {
        let Some(header) = RecordHeader::decode(&bytes[at..], seed, offset32(at)) else {
            at += 1;
            continue;
        };
        if header.synced > offset32(bad) {
            let detail = format!("a record is damaged that was durable before the sound record at byte {at} was made");
            return Err(Damage { offset: bad, detail });
        }
        if header.body(&bytes[at..], seed).is_some() {
            companion = companion.or(Some(at));
            at += header.record_bytes();
        } else {
            at += 1;
        }
    }
    let lost = bytes.len() - bad;
    match companion {
        None => Ok(format!("{lost} bytes of an unfinished write")),
        Some(next) if has_unwritten_sector(bytes, bad..next) => Ok(format!("{lost} bytes of a write with holes")),
        Some(next) => {
            let detail = format!("a record is damaged, but the record at byte {next} is sound");
            Err(Damage { offset: bad, detail })
        }
    }
}

/// Whether a whole sector of zeros touches the range: one that was never written, most probably.
fn has_unwritten_sector(bytes: &[u8], range: Range<usize>) -> bool {
    let first = range.start - range.start % SECTOR_BYTES;
    (first..range.end).step_by(SECTOR_BYTES).any(|start| {
        let sector = start.max(range.start)..(start + SECTOR_BYTES).min(bytes.len());
        // Of the first sector only the bad record's part counts. Four bytes are enough: no record has length zero.
        sector.len() >= 4 && bytes[sector].iter().all(|byte| *byte == 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_log_would_give_are_segments() {
        let name = SegmentNumber(42).file_name();
        assert_eq!(name, "00000000000000000042.wal");
        assert_eq!(SegmentNumber::from_file_name(&name), Some(SegmentNumber(42)));
        for other in ["42.wal", "00000000000000000042.wal.new", "LOCK", "x.wal", "-0000000000000000042.wal", ".wal"] {
            assert_eq!(SegmentNumber::from_file_name(other), None, "{other}");
        }
        assert!(is_unfinished("00000000000000000042.wal.new"));
    }
}
