//! Apply, over ordered maps: the state machine's own work, from an entry's payload to outcomes. One command is one entry.

use bytes::Bytes;
use tenure_core::command::Command;
use tenure_core::memory::MemoryState;
use tenure_core::outcome::{LockAnswer, Response};

use crate::commands::{acquire, apply, delete, grant, group, put, release, renew, response, txn};
use crate::{Piece, Run};

const OPERATIONS: u64 = 1000;

pub(crate) const PIECES: &[Piece] = &[
    Piece { name: "apply: put of a new key", operations: OPERATIONS, prepare: || each(&[], put) },
    Piece { name: "apply: put over a key", operations: OPERATIONS, prepare: || each(&[put], put) },
    Piece { name: "apply: delete", operations: OPERATIONS, prepare: || each(&[put], delete) },
    Piece { name: "apply: txn of 10 puts", operations: OPERATIONS / 10, prepare: txns },
    Piece { name: "apply: lease renewal", operations: OPERATIONS, prepare: renewals },
    Piece { name: "apply: lock acquire and release", operations: OPERATIONS, prepare: locks },
];

/// Applies an entry for each key, after those of `before`.
fn each(before: &[fn(u64) -> Command], command: fn(u64) -> Command) -> Run {
    let mut state = MemoryState::default();
    for before in before {
        (0..OPERATIONS).for_each(|number| drop(apply(&mut state, 1, &group([before(number)]))));
    }
    run(state, (0..OPERATIONS).map(|number| group([command(number)])).collect())
}

fn run(mut state: MemoryState, groups: Vec<Bytes>) -> Run {
    Box::new(move || {
        for (index, group) in (10..).zip(&groups) {
            assert_eq!(apply(&mut state, index, group).len(), 1);
        }
    })
}

fn txns() -> Run {
    run(MemoryState::default(), (0..OPERATIONS / 10).map(|number| group([txn(number)])).collect())
}

fn renewals() -> Run {
    let mut state = MemoryState::default();
    response(&mut state, grant());
    run(state, (0..OPERATIONS).map(|_| group([renew()])).collect())
}

/// The token of each turn is found out on a copy of the state.
fn locks() -> Run {
    let mut state = MemoryState::default();
    response(&mut state, grant());
    let mut trial = state.clone();
    let mut groups = Vec::new();
    for number in 1..=OPERATIONS {
        let granted = response(&mut trial, acquire(number));
        let Response::LockAcquire(LockAnswer::Granted { token, .. }) = granted else {
            panic!("a free lock is not granted: {granted:?}")
        };
        response(&mut trial, release(number, token));
        groups.extend([group([acquire(number)]), group([release(number, token)])]);
    }
    run(state, groups)
}
