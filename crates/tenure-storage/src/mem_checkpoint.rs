//! The checkpoint of an engine in memory: one file with all rows and a checksum.

use bytes::Bytes;

use crate::engine::Table;
use crate::mem::Rows;

/// The file of a checkpoint.
pub const CHECKPOINT_FILE: &str = "tables";
/// What the file starts with.
const CHECKPOINT_MAGIC: &[u8; 8] = b"TNMEMCP1";

pub(crate) fn encode_checkpoint(tables: &[Rows; Table::ALL.len()]) -> Vec<u8> {
    let mut out = CHECKPOINT_MAGIC.to_vec();
    for rows in tables {
        out.extend_from_slice(&(rows.len() as u64).to_be_bytes());
        for bytes in rows.iter().flat_map(|(key, value)| [key, value]) {
            out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_be_bytes());
    out
}

pub(crate) fn decode_checkpoint(bytes: &[u8]) -> Option<[Rows; Table::ALL.len()]> {
    fn number(rest: &mut &[u8]) -> Option<usize> {
        let (number, after) = rest.split_first_chunk::<8>()?;
        *rest = after;
        usize::try_from(u64::from_be_bytes(*number)).ok()
    }
    fn text(rest: &mut &[u8]) -> Option<Bytes> {
        let length = number(rest)?;
        let (text, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(Bytes::copy_from_slice(text))
    }
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let mut rest = body.strip_prefix(CHECKPOINT_MAGIC)?;
    let mut tables: [Rows; Table::ALL.len()] = Default::default();
    for rows in &mut tables {
        for _ in 0..number(&mut rest)? {
            let key = text(&mut rest)?;
            rows.insert(key, text(&mut rest)?);
        }
    }
    rest.is_empty().then_some(tables)
}
