//! The byte form of what crosses the log and the wire between members: commands, groups of commands, outcomes.
//!
//! Written by hand, because a log that is replayed after an upgrade must mean exactly what it meant before: golden
//! bytes pin every form. Each starts with a version byte, and a version or tag that this build does not know is an
//! error that stops the node, since guessing would make members differ.
//!
//! The forms are canonical: every value has one encoding and every other byte string is refused, so two members can
//! never hold "the same" command in different bytes. Numbers are LEB128 varints in their shortest form (signed ones
//! zigzag), byte strings carry a varint length, enums and flags are one byte with no spare bit set:
//!
//! ```text
//! put a=b            01 01  00      01 61  01 62  00
//!                    │  │   │       │      │      └ lease 0
//!                    │  │   flags   key    value
//!                    │  └ command 1
//!                    └ version 1
//! ```
//!
//! Decoding copies no key and no value (they are slices of the input), allocates in proportion to the input only, and
//! recurses no deeper than [`TXN_DEPTH_MAX`].

mod command;
mod group;
mod lock;
mod lock_row;
mod outcome;
mod wire;

pub use group::{GROUP_COMMANDS_MAX, Group, GroupBuilder};

/// How deep transactions may nest, the outermost counted. A protobuf decoder's usual limit of 100 nested messages ends
/// at 50; the limit here is what keeps a hostile byte string from overflowing the stack.
pub const TXN_DEPTH_MAX: u32 = 64;

/// Why bytes are no command, group or outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end in the middle of something.
    #[error("truncated")]
    Truncated,
    /// Something follows the end.
    #[error("bytes follow the end")]
    TrailingBytes,
    /// They were written by another version of this software.
    #[error("unknown version {found} of a {what}")]
    UnknownVersion {
        /// What they encode.
        what: &'static str,
        /// The version byte.
        found: u8,
    },
    /// An enum or a set of flags holds something that this version does not know.
    #[error("unknown {what} {found}")]
    UnknownTag {
        /// Which enum.
        what: &'static str,
        /// The byte.
        found: u8,
    },
    /// A value is not in the one form that encoding gives it.
    #[error("{0} is not in canonical form")]
    NotCanonical(&'static str),
    /// Transactions nest deeper than [`TXN_DEPTH_MAX`].
    #[error("transactions nest too deep")]
    TooDeep,
    /// A group holds more than [`GROUP_COMMANDS_MAX`] commands.
    #[error("too many commands in a group")]
    TooManyCommands,
}
