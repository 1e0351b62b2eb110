//! The log's encoding: commands, groups of 100, and outcomes as they come back from a leader. What a log entry adds in front
//! of a group is 17 bytes of fixed width, private to its crate.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use tenure_core::codec::Group;
use tenure_core::command::Command;
use tenure_core::memory::MemoryState;
use tenure_core::outcome::Outcome;

use crate::commands::{apply, group, put, txn};
use crate::{Piece, Run};

const OPERATIONS: u64 = 1000;
const GROUPS: u64 = 100;
const COMMANDS_PER_GROUP: u64 = 100;

pub(crate) const PIECES: &[Piece] = &[
    Piece { name: "codec: encode a put", operations: OPERATIONS, prepare: || encode(put) },
    Piece { name: "codec: decode a put", operations: OPERATIONS, prepare: || decode(put) },
    Piece { name: "codec: encode a txn of 10 puts", operations: OPERATIONS, prepare: || encode(txn) },
    Piece { name: "codec: decode a txn of 10 puts", operations: OPERATIONS, prepare: || decode(txn) },
    Piece { name: "codec: encode a group of 100 puts", operations: GROUPS, prepare: encode_groups },
    Piece { name: "codec: decode a group of 100 puts", operations: GROUPS, prepare: decode_groups },
    Piece { name: "codec: encode and decode a put's outcome", operations: OPERATIONS, prepare: outcomes },
];

fn encode(command: fn(u64) -> Command) -> Run {
    let commands: Vec<_> = (0..OPERATIONS).map(command).collect();
    Box::new(move || commands.iter().for_each(|command| drop(black_box(command.encode()))))
}

fn decode(command: fn(u64) -> Command) -> Run {
    let encoded: Vec<Bytes> = (0..OPERATIONS).map(|number| command(number).encode()).collect();
    Box::new(move || {
        for bytes in &encoded {
            black_box(Command::decode(bytes).expect("it was encoded"));
        }
    })
}

/// The commands come encoded from whoever proposed them.
fn encode_groups() -> Run {
    use tenure_core::codec::GroupBuilder;
    use tenure_core::command::GroupHeader;

    let encoded: Vec<Bytes> = (0..COMMANDS_PER_GROUP).map(|number| put(number).encode()).collect();
    Box::new(move || {
        for _ in 0..GROUPS {
            let mut builder = GroupBuilder::new(GroupHeader { lease_clock_ms: Some(1), origin_term: None });
            encoded.iter().for_each(|command| builder.push(command));
            black_box(builder.finish());
        }
    })
}

fn decode_groups() -> Run {
    let encoded = group((0..COMMANDS_PER_GROUP).map(put));
    Box::new(move || {
        for _ in 0..GROUPS {
            black_box(Group::decode(&encoded).expect("it was encoded"));
        }
    })
}

fn outcomes() -> Run {
    let outcome = apply(&mut MemoryState::default(), 1, &group([put(1)])).remove(0);
    let mut out = BytesMut::new();
    Box::new(move || {
        for _ in 0..OPERATIONS {
            outcome.encode(&mut out);
            black_box(Outcome::decode(&mut out.split().freeze()).expect("it was encoded"));
        }
    })
}
