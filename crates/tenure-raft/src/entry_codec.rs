//! Log entries, votes and memberships as bytes: in the log on disk and between peers.
//!
//! Written by hand and pinned by golden bytes, because both uses outlive a version of this program. Integers are
//! big-endian and of fixed width. There is exactly one encoding of each value, and decoding refuses every other, so that
//! equal bytes and equal values mean the same. The payload of an entry stands last and without a length: whoever frames
//! an entry knows where it ends, and the payload can be sliced out of the received buffer instead of copied.
//!
//! ```text
//! log id            term u64 · index u64
//! optional log id   0 | 1 · log id
//! vote              term u64 · node u64 · committed u8 (0 or 1)
//! entry             log id · kind u8 · payload to the end      kind: 0 blank, 1 group of commands, 2 membership
//! membership        configs [ [node u64] ] · nodes [ node u64 · name · urls [ text ] ]
//! stored membership optional log id · membership
//! [ … ] is a count u64 and that many items, node ids strictly ascending; text is a length u64 and UTF-8
//! ```
//!
//! No checksums here: the log and the transport each add their own.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;

use crate::types::{Entry, LeaderId, LogId, Membership, Payload, Peer, Proposal, StoredMembership, Vote, log_id};

/// Bytes in front of an entry's payload.
pub(crate) const ENTRY_HEADER_BYTES: usize = LOG_ID_BYTES + 1;
/// Bytes of an encoded log id.
pub(crate) const LOG_ID_BYTES: usize = 16;
/// Bytes of an encoded vote.
pub(crate) const VOTE_BYTES: usize = 17;

const KIND_BLANK: u8 = 0;
const KIND_GROUP: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// Why bytes were not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("ends {missing} bytes too early, in {what}")]
    Truncated { what: &'static str, missing: usize },
    #[error("{count} bytes too many after {what}")]
    Trailing { what: &'static str, count: usize },
    #[error("unknown {what} {tag}")]
    UnknownTag { what: &'static str, tag: u8 },
    #[error("{what} is not valid: {why}")]
    Invalid { what: &'static str, why: String },
}

/// An entry in two parts, its header and its payload; a command group's payload is shared, not copied.
pub(crate) fn encode_entry_parts(entry: &Entry) -> ([u8; ENTRY_HEADER_BYTES], Bytes) {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(Proposal(bytes)) => (KIND_GROUP, bytes.clone()),
        EntryPayload::Membership(membership) => (KIND_MEMBERSHIP, encode_membership(membership)),
    };
    let mut header = [kind; ENTRY_HEADER_BYTES];
    header[..LOG_ID_BYTES].copy_from_slice(&encode_log_id(&entry.log_id));
    (header, payload)
}

/// An entry in one buffer.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let (header, payload) = encode_entry_parts(entry);
    let mut out = BytesMut::with_capacity(header.len() + payload.len());
    out.put_slice(&header);
    out.put_slice(&payload);
    out.freeze()
}

/// The entry that fills `bytes`; a group's payload is a slice of them.
pub(crate) fn decode_entry(mut bytes: Bytes) -> Result<Entry, CodecError> {
    let log_id = take_log_id(&mut bytes, "entry's log id")?;
    let kind = take_u8(&mut bytes, "entry's kind")?;
    let payload = match kind {
        KIND_BLANK => {
            finish(&bytes, "blank entry")?;
            Payload::Blank
        }
        KIND_GROUP => Payload::Normal(Proposal(bytes)),
        KIND_MEMBERSHIP => Payload::Membership(decode_membership(bytes)?),
        tag => return Err(CodecError::UnknownTag { what: "entry kind", tag }),
    };
    Ok(Entry { log_id, payload })
}

/// A log id.
pub(crate) fn encode_log_id(log_id: &LogId) -> [u8; LOG_ID_BYTES] {
    let mut out = [0; LOG_ID_BYTES];
    out[..8].copy_from_slice(&log_id.leader_id.term.to_be_bytes());
    out[8..].copy_from_slice(&log_id.index.to_be_bytes());
    out
}

/// The log id that fills `bytes`.
pub(crate) fn decode_log_id(mut bytes: &[u8]) -> Result<LogId, CodecError> {
    let id = take_log_id(&mut bytes, "log id")?;
    finish(&bytes, "log id")?;
    Ok(id)
}

/// Appends a log id that may be absent.
pub(crate) fn put_optional_log_id(out: &mut impl BufMut, log_id: Option<&LogId>) {
    match log_id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_slice(&encode_log_id(id));
        }
    }
}

/// Reads a log id that may be absent off the front of `bytes`.
pub(crate) fn take_optional_log_id(bytes: &mut impl Buf) -> Result<Option<LogId>, CodecError> {
    match take_u8(bytes, "optional log id")? {
        0 => Ok(None),
        1 => take_log_id(bytes, "log id").map(Some),
        tag => Err(CodecError::UnknownTag { what: "presence of a log id", tag }),
    }
}

/// A vote.
pub(crate) fn encode_vote(vote: &Vote) -> [u8; VOTE_BYTES] {
    let mut out = [u8::from(vote.committed); VOTE_BYTES];
    out[..8].copy_from_slice(&vote.leader_id.term.to_be_bytes());
    out[8..16].copy_from_slice(&vote.leader_id.voted_for.to_be_bytes());
    out
}

/// The vote that fills `bytes`.
pub(crate) fn decode_vote(mut bytes: &[u8]) -> Result<Vote, CodecError> {
    let vote = take_vote(&mut bytes)?;
    finish(&bytes, "vote")?;
    Ok(vote)
}

/// Reads a vote off the front of `bytes`.
pub(crate) fn take_vote(bytes: &mut impl Buf) -> Result<Vote, CodecError> {
    let term = take_u64(bytes, "vote's term")?;
    let voted_for = take_u64(bytes, "vote's node")?;
    let committed = match take_u8(bytes, "vote's state")? {
        0 => false,
        1 => true,
        tag => return Err(CodecError::UnknownTag { what: "state of a vote", tag }),
    };
    Ok(Vote { leader_id: LeaderId { term, voted_for }, committed })
}

/// A membership.
pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let mut out = BytesMut::new();
    put_membership(&mut out, membership);
    out.freeze()
}

/// The membership that fills `bytes`.
pub(crate) fn decode_membership(mut bytes: impl Buf) -> Result<Membership, CodecError> {
    let membership = take_membership(&mut bytes)?;
    finish(&bytes, "membership")?;
    Ok(membership)
}

/// A membership and where in the log it stands.
pub(crate) fn encode_stored_membership(stored: &StoredMembership) -> Bytes {
    let mut out = BytesMut::new();
    put_optional_log_id(&mut out, stored.log_id().as_ref());
    put_membership(&mut out, stored.membership());
    out.freeze()
}

/// The stored membership that fills `bytes`.
pub(crate) fn decode_stored_membership(mut bytes: impl Buf) -> Result<StoredMembership, CodecError> {
    let log_id = take_optional_log_id(&mut bytes)?;
    let membership = take_membership(&mut bytes)?;
    finish(&bytes, "stored membership")?;
    Ok(StoredMembership::new(log_id, membership))
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_count(out, configs.len());
    for config in configs {
        put_count(out, config.len());
        for node in config {
            out.put_u64(*node);
        }
    }
    put_count(out, membership.nodes().count());
    for (node, peer) in membership.nodes() {
        out.put_u64(*node);
        put_text(out, &peer.name);
        put_count(out, peer.peer_urls.len());
        for url in &peer.peer_urls {
            put_text(out, url);
        }
    }
}

fn take_membership(bytes: &mut impl Buf) -> Result<Membership, CodecError> {
    // Counts come from outside, so nothing is reserved by them: each item read consumes bytes that exist.
    let mut configs = Vec::new();
    for _ in 0..take_u64(bytes, "count of configs")? {
        configs.push(take_config(bytes)?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..take_u64(bytes, "count of nodes")? {
        let node = take_u64(bytes, "node id")?;
        ensure_ascending(nodes.last_key_value().map(|(last, _)| *last), node)?;
        let name = take_text(bytes, "node's name")?;
        let mut peer_urls = Vec::new();
        for _ in 0..take_u64(bytes, "count of URLs")? {
            peer_urls.push(take_text(bytes, "node's URL")?);
        }
        nodes.insert(node, Peer { name, peer_urls });
    }
    Membership::new(configs, nodes).map_err(|e| CodecError::Invalid { what: "membership", why: e.to_string() })
}

fn take_config(bytes: &mut impl Buf) -> Result<BTreeSet<u64>, CodecError> {
    let mut config = BTreeSet::new();
    for _ in 0..take_u64(bytes, "count of voters")? {
        let node = take_u64(bytes, "voter id")?;
        ensure_ascending(config.last().copied(), node)?;
        config.insert(node);
    }
    Ok(config)
}

fn ensure_ascending(last: Option<u64>, next: u64) -> Result<(), CodecError> {
    if last.is_some_and(|last| last >= next) {
        return Err(CodecError::Invalid { what: "list of nodes", why: format!("{next} is out of order") });
    }
    Ok(())
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u64(count as u64);
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_count(out, text.len());
    out.put_slice(text.as_bytes());
}

fn take_text(bytes: &mut impl Buf, what: &'static str) -> Result<String, CodecError> {
    let length = usize::try_from(take_u64(bytes, what)?).unwrap_or(usize::MAX);
    require(bytes, length, what)?;
    let mut text = vec![0; length];
    bytes.copy_to_slice(&mut text);
    String::from_utf8(text).map_err(|e| CodecError::Invalid { what, why: e.to_string() })
}

fn take_log_id(bytes: &mut impl Buf, what: &'static str) -> Result<LogId, CodecError> {
    require(bytes, LOG_ID_BYTES, what)?;
    let term = bytes.get_u64();
    Ok(log_id(term, bytes.get_u64()))
}

fn take_u64(bytes: &mut impl Buf, what: &'static str) -> Result<u64, CodecError> {
    require(bytes, 8, what)?;
    Ok(bytes.get_u64())
}

fn take_u8(bytes: &mut impl Buf, what: &'static str) -> Result<u8, CodecError> {
    require(bytes, 1, what)?;
    Ok(bytes.get_u8())
}

fn require(bytes: &impl Buf, count: usize, what: &'static str) -> Result<(), CodecError> {
    match count.checked_sub(bytes.remaining()) {
        None | Some(0) => Ok(()),
        Some(missing) => Err(CodecError::Truncated { what, missing }),
    }
}

fn finish(bytes: &impl Buf, what: &'static str) -> Result<(), CodecError> {
    match bytes.remaining() {
        0 => Ok(()),
        count => Err(CodecError::Trailing { what, count }),
    }
}

#[cfg(test)]
#[path = "entry_codec_tests.rs"]
mod tests;
