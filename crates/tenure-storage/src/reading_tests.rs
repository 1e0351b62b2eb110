//! Reads of random histories, however they are looked up: by remembered counts, by events, by walking.
//!
//! Views are kept while the history goes on, is compacted and purged. Every read asks one of them, newer or older than
//! what was asked before, and is held against the plainest answer there is: the keys of the model at that revision, one
//! by one, filtered and cut here.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{Command, DeleteRange, EntryPosition, GroupHeader, KeyRange, Op, Put, Range, Txn};
use tenure_core::memory::MemoryState;
use tenure_core::outcome::{KeyValue, OpResponse, Outcome, RangeResult};
use tenure_core::range::{read_range, walk_range};
use tenure_core::{LeaseId, LogIndex, Revision, Term, apply_group};

use super::*;
use crate::mem::MemEngine;
use crate::purge::{PurgeProgress, PurgeWork};
use crate::rows::decode_current;
use crate::testing::rows_of;

const INLINE_MAX: usize = 4;
const KEYS: u8 = 60;

#[derive(Clone, Debug)]
enum Step {
    /// Puts keys one after the other, each in a revision of its own or all in one.
    Put {
        first: u8,
        keys: u8,
        bytes: usize,
        at_once: bool,
    },
    Delete(KeyRange),
    /// Compacts what is not compacted by this share, in percent.
    Compact(i64),
    Purge,
    /// Leaves some rows as the first builds wrote them, which named no event before the newest.
    Unname(u8),
    KeepView,
    Read(Asked),
    /// Reads in a transaction that has put a key before.
    ReadInTxn(Asked, u8),
}

/// A read. The view and the revision are chosen among those that there are.
#[derive(Clone, Debug)]
struct Asked {
    view: usize,
    /// A share, in percent, of the revisions that can be read; 100 is the present.
    revision: i64,
    range: Range,
}

fn key(number: u8) -> Bytes {
    Bytes::from(vec![b'k', number])
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        1 => (0..KEYS).prop_map(|number| KeyRange::One(key(number))),
        // Few different ones, so that they are asked for again.
        2 => (0..3u8, 1..4u8).prop_map(|(start, length)| {
            KeyRange::Between(key(start * (KEYS / 4)), key((start + length) * (KEYS / 4)))
        }),
        3 => Just(KeyRange::From(Bytes::new())),
        1 => (0..KEYS).prop_map(|number| KeyRange::From(key(number))),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let revision = prop_oneof![3 => Just(100i64), 2 => Just(50), 1 => Just(0), 3 => 0..=100i64];
    let bound = || prop_oneof![4 => Just(0i64), 1 => 1..300i64];
    let limit = prop_oneof![Just(0i64), Just(1), 2..70i64];
    let asked = (0..4usize, revision, key_range(), limit, any::<bool>(), any::<bool>());
    (asked, [bound(), bound(), bound(), bound()]).prop_map(|(asked, bounds)| {
        let (view, revision, range, limit, count_only, keys_only) = asked;
        let [min_mod, max_mod, min_create, max_create] = bounds.map(Revision);
        let all = Range::of(range);
        let range = Range { limit, keys_only, count_only, min_mod, max_mod, min_create, max_create, ..all };
        Asked { view, revision, range }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![Just(0usize), Just(INLINE_MAX), Just(INLINE_MAX + 1), Just(40)];
    prop_oneof![
        6 => (0..KEYS, 1..KEYS, bytes, any::<bool>())
            .prop_map(|(first, keys, bytes, at_once)| Step::Put { first, keys, bytes, at_once }),
        2 => key_range().prop_map(Step::Delete),
        1 => (0..=100i64).prop_map(Step::Compact),
        1 => Just(Step::Purge),
        1 => any::<u8>().prop_map(Step::Unname),
        2 => Just(Step::KeepView),
        16 => asked().prop_map(Step::Read),
        2 => (asked(), 0..KEYS).prop_map(|(asked, key)| Step::ReadInTxn(asked, key)),
    ]
}

fn put(number: u8, bytes: usize) -> Put {
    Put {
        key: key(number),
        value: vec![number; bytes].into(),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }
}

struct Node {
    engine: Arc<MemEngine>,
    store: StateStore,
    model: MemoryState,
    kept: Vec<(Arc<StateView>, MemoryState)>,
    index: u64,
}

impl Node {
    fn new() -> Node {
        let options = Options { inline_value_bytes_max: INLINE_MAX, counted_keys_min: 3, ..Options::default() };
        let engine = Arc::new(MemEngine::new());
        let store = StateStore::open_with(engine.clone(), options).unwrap();
        Node { engine, store, model: MemoryState::default(), kept: Vec::new(), index: 0 }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        let mut group = GroupBuilder::new(GroupHeader { lease_clock_ms: None, origin_term: None });
        group.push(&command.encode());
        let group = group.finish();
        let at = EntryPosition { index: LogIndex(self.index), term: Term(1) };
        let mut run = self.store.begin();
        let outcomes = apply_group(&mut run, at, &group).unwrap();
        run.commit(Applied { index: at.index, term: at.term, membership: Bytes::new() }).unwrap();
        assert_eq!(apply_group(&mut self.model, at, &group).unwrap(), outcomes);
        outcomes.outcomes.into_iter().next().unwrap()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put { first, keys, bytes, at_once } => {
                let puts = (first..KEYS.min(first + keys)).map(|number| put(number, bytes));
                if at_once {
                    let success = puts.map(Op::Put).collect();
                    self.apply(&Command::Txn(Txn { success, ..Txn::default() }));
                } else {
                    puts.for_each(|put| drop(self.apply(&Command::Put(put))));
                }
            }
            Step::Delete(range) => {
                self.apply(&Command::DeleteRange(DeleteRange { range, prev_kv: false }));
            }
            Step::Compact(share) => {
                let revision = revision_of(self.store.view().meta(), share);
                self.apply(&Command::Compact(revision));
            }
            Step::Purge => {
                while let Some(mut work) = PurgeWork::plan_at_most(&self.store.view(), 7).unwrap() {
                    while self.store.purge_step_at_most(&mut work, 5).unwrap() == PurgeProgress::More {}
                }
            }
            Step::Unname(which) => {
                let mut batch = Batch::new();
                for (key, row) in rows_of(self.store.view().engine_snapshot(), Table::Current) {
                    let row = decode_current(&row).unwrap();
                    if key[1] & which == 0 {
                        let encode = |out: &mut Vec<u8>| encode_current(out, &row.meta, None, row.value);
                        batch.put_with(Table::Current, &key, encode);
                    }
                }
                self.engine.write(&batch).unwrap();
                // The next view has them.
                self.apply(&Command::Put(put(0, 1)));
            }
            Step::KeepView => {
                let place = self.kept.len() % 4;
                self.kept.truncate(3);
                self.kept.insert(place.min(self.kept.len()), (self.store.view(), self.model.clone()));
            }
            Step::Read(asked) => self.read(asked),
            Step::ReadInTxn(asked, number) => self.read_in_txn(asked, number),
        }
    }

    fn read(&self, Asked { view, revision, mut range }: Asked) {
        let present = (self.store.view(), self.model.clone());
        let (view, model) = self.kept.get(view).unwrap_or(&present);
        range.revision = revision_of(view.meta(), revision);
        assert_eq!(read_range(&**view, &range).unwrap().unwrap(), plain(model, &range), "{range:?}");
    }

    fn read_in_txn(&mut self, Asked { revision, mut range, .. }: Asked, number: u8) {
        range.revision = match revision {
            100 => Revision(0),
            revision => revision_of(self.store.view().meta(), revision),
        };
        let success = vec![Op::Put(put(number, 1)), Op::Range(range.clone())];
        let outcome = self.apply(&Command::Txn(Txn { success, ..Txn::default() }));
        let Outcome { result: Ok(tenure_core::outcome::Response::Txn(txn)), .. } = outcome else {
            panic!("{outcome:?}");
        };
        let Some(OpResponse::Range(result)) = txn.responses.last() else { panic!("{txn:?}") };
        assert_eq!(result, &plain(&self.model, &range), "{range:?}");
    }
}

fn revision_of(meta: &Meta, share: i64) -> Revision {
    let first = meta.compacted.0.max(1);
    Revision(first + (meta.revision.0 - first) * share / 100)
}

/// The answer, from all keys that the range held.
fn plain(model: &MemoryState, request: &Range) -> RangeResult {
    let mut all: Vec<KeyValue> = Vec::new();
    let walked = walk_range(model, &request.range, request.revision, &mut |kv| {
        all.push(kv.to_key_value());
        ControlFlow::Continue(())
    });
    assert_eq!(walked, Ok(Ok(())));
    let count = i64::try_from(all.len()).unwrap();
    if request.count_only {
        return RangeResult { kvs: Vec::new(), more: false, count };
    }
    let bound = |bound: Revision, default: i64| if bound.0 == 0 { default } else { bound.0 };
    let mods = bound(request.min_mod, 0)..=bound(request.max_mod, i64::MAX);
    let creates = bound(request.min_create, 0)..=bound(request.max_create, i64::MAX);
    all.retain(|kv| mods.contains(&kv.modified.0) && creates.contains(&kv.create.0));
    let single = matches!(request.range, KeyRange::One(_));
    let limit = usize::try_from(request.limit).unwrap();
    let more = !single && limit > 0 && all.len() > limit;
    if more {
        all.truncate(limit);
    }
    if request.keys_only {
        all.iter_mut().for_each(|kv| kv.value.clear());
    }
    RangeResult { kvs: all, more, count }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_read_says_what_walking_over_all_keys_says(steps in vec(step(), 1..80)) {
        let mut node = Node::new();
        for step in steps {
            node.take(step);
        }
    }
}
