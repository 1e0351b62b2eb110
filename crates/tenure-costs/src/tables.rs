//! The state tables on the engine in memory: runs with their rows as one batch, and reads of the published view.
//!
//! The engine's own share shows in the figures, and is not what a real one costs.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use tenure_core::command::{KeyRange, Range};
use tenure_core::range::read_range_with;
use tenure_core::{LogIndex, Term};
use tenure_storage::engine::{Batch, Engine, Table};
use tenure_storage::mem::MemEngine;
use tenure_storage::store::{Applied, StateStore};

use crate::commands::{apply, group, key, put, value};
use crate::{Piece, Run};

const OPERATIONS: u64 = 1000;
const FEW: u64 = 100;
const PUTS_PER_RUN: u64 = 100;
const ROWS: u64 = 300;

pub(crate) const PIECES: &[Piece] = &[
    Piece { name: "tables: run of 1 put", operations: OPERATIONS, prepare: || runs(OPERATIONS, 1) },
    Piece { name: "tables: run of 100 puts", operations: FEW, prepare: || runs(FEW, PUTS_PER_RUN) },
    Piece { name: "tables: range of 1 key", operations: OPERATIONS, prepare: || ranges(OPERATIONS, 1) },
    Piece { name: "tables: range of 500 keys", operations: FEW, prepare: || ranges(FEW, 500) },
    Piece { name: "tables: batch of 300 rows", operations: FEW, prepare: batches },
];

fn empty() -> StateStore {
    StateStore::open(Arc::new(MemEngine::new())).expect("an empty engine opens")
}

/// Commits a run of one entry.
fn commit(store: &mut StateStore, group: &Bytes) {
    let index = LogIndex(store.applied().index.0 + 1);
    let applied = Applied { index, term: Term(1), membership: Bytes::from_static(b"m") };
    let mut run = store.begin();
    apply(&mut run, index.0, group);
    black_box(run.commit(applied).expect("the engine works"));
}

/// Over keys that are there.
fn runs(count: u64, puts: u64) -> Run {
    let mut store = empty();
    commit(&mut store, &group((0..OPERATIONS).map(put)));
    let entry = |run: u64| group((0..puts).map(move |at| put((run * puts + at) % OPERATIONS)));
    let groups: Vec<Bytes> = (0..count).map(entry).collect();
    Box::new(move || groups.iter().for_each(|group| commit(&mut store, group)))
}

fn ranges(count: u64, keys: u64) -> Run {
    let mut store = empty();
    commit(&mut store, &group((0..OPERATIONS).map(put)));
    let view = store.view();
    let request = Range::of(match keys {
        1 => KeyRange::One(key(1)),
        keys => KeyRange::Between(key(0), key(keys)),
    });
    Box::new(move || {
        for _ in 0..count {
            let mut bytes = 0;
            // As the server reads a list: nothing is kept here.
            let result = read_range_with(&*view, &request, &mut |kv| bytes += kv.key.len() + kv.value.len());
            let result = result.expect("the view is sound").expect("nothing is refused");
            assert_eq!(result.count.cast_unsigned(), keys);
            black_box((bytes, result));
        }
    })
}

fn batches() -> Run {
    let engine = MemEngine::new();
    let rows: Vec<Bytes> = (0..ROWS).map(key).collect();
    Box::new(move || {
        let mut batch = Batch::new();
        for _ in 0..FEW {
            rows.iter().for_each(|row| batch.put(Table::Current, row, &value()));
            engine.write(&batch).expect("the engine works");
            batch.clear(usize::MAX);
        }
    })
}
