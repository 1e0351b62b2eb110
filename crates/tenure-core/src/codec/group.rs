//! The encoding of a group: a header and the encoded commands that share one Raft entry.
//!
//! The commands stay as they were encoded where they entered the cluster; only their lengths are added. Their count
//! stands at a fixed place, so that a group can grow while the previous one is being synced.

use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};

use super::DecodeError;
use super::wire::{Reader, flags, put_bytes};
use crate::command::GroupHeader;
use crate::ids::Term;

const VERSION: u8 = 1;

/// More commands than any proposer puts into a group: the place in it is part of a lease's identity, and a group
/// becomes that many answers at once.
pub const GROUP_COMMANDS_MAX: u32 = 65_536;

/// Builds a group, one command after another.
#[derive(Debug)]
pub struct GroupBuilder {
    out: BytesMut,
    count_at: usize,
    count: u32,
}

impl GroupBuilder {
    /// A group without commands.
    pub fn new(header: GroupHeader) -> GroupBuilder {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u8(flags([header.lease_clock_ms.is_some(), header.origin_term.is_some()]));
        if let Some(reading) = header.lease_clock_ms {
            out.put_u64(reading);
        }
        if let Some(term) = header.origin_term {
            out.put_u64(term.0);
        }
        let count_at = out.len();
        out.put_u32(0);
        GroupBuilder { out, count_at, count: 0 }
    }

    /// Adds a command in its encoded form. The group must hold less than [`GROUP_COMMANDS_MAX`].
    pub fn push(&mut self, encoded_command: &[u8]) {
        assert!(self.count < GROUP_COMMANDS_MAX, "a proposer closes its groups well before");
        put_bytes(&mut self.out, encoded_command);
        self.count += 1;
    }

    /// The size of the group so far.
    pub fn len_bytes(&self) -> usize {
        self.out.len()
    }

    /// How many commands it holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The payload of the Raft entry.
    pub fn finish(mut self) -> Bytes {
        self.out[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_be_bytes());
        self.out.freeze()
    }
}

/// A group, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What the leader added.
    pub header: GroupHeader,
    /// The commands, still encoded.
    pub commands: Vec<Bytes>,
}

impl Group {
    /// Takes a group apart. The commands are slices of `bytes` and not looked into.
    pub fn decode(bytes: &Bytes) -> Result<Group, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(VERSION, "group")?;
        let [clock, term] = reader.flags("group flags")?;
        let header = GroupHeader {
            lease_clock_ms: if clock { Some(reader.fixed_u64()?) } else { None },
            origin_term: if term { Some(Term(reader.fixed_u64()?)) } else { None },
        };
        let count = reader.fixed_u32()?;
        if count > GROUP_COMMANDS_MAX {
            return Err(DecodeError::TooManyCommands);
        }
        let commands = reader.items(count as usize, Reader::bytes)?;
        reader.finish()?;
        Ok(Group { header, commands })
    }
}
