//! What a read may cost: with thousands of keys, tombstones and versions, by counting the rows that it looks at. (The
//! count of the live keys is storage's own business, and not counted.)

use bytes::Bytes;
use tenure_core::command::{Command, DeleteRange, EntryPosition, KeyRange, Op, Put, Range, SortOrder, SortTarget, Txn};
use tenure_core::outcome::{Outcome, RangeResult};
use tenure_core::range::{key_at, read_range};
use tenure_core::row::Incarnation;
use tenure_core::{LeaseId, LogIndex, Revision, Term, apply_group};

use crate::model::Model;
use crate::mutant::{Mutant, Reads};

/// The state, with the model beside it.
#[derive(Default)]
struct Store {
    state: Mutant,
    model: Model,
    index: u64,
}

impl Store {
    fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        let mut builder = tenure_core::codec::GroupBuilder::new(Default::default());
        builder.push(&command.encode());
        let position = EntryPosition { index: LogIndex(self.index), term: Term(1) };
        let mut outcomes = apply_group(&mut self.state, position, &builder.finish()).unwrap().outcomes;
        let place = Incarnation { index: position.index, place: 0 };
        assert_eq!(outcomes, [self.model.apply(command, place, false)]);
        outcomes.remove(0)
    }

    /// Puts in transactions of 100, as the model copies all keys for each revision.
    fn fill(&mut self, keys: std::ops::Range<u32>) {
        for chunk in keys.collect::<Vec<_>>().chunks(100) {
            let success = chunk.iter().map(|key| Op::Put(put(*key))).collect();
            self.apply(&Command::Txn(Txn { success, ..Txn::default() }));
        }
    }

    fn delete(&mut self, from: u32, to: u32) {
        let range = KeyRange::Between(name(from), name(to));
        self.apply(&Command::DeleteRange(DeleteRange { range, prev_kv: false }));
    }

    /// Reads, checks the answer against the model's, and says what it cost.
    fn read(&self, range: &Range) -> (RangeResult, Reads) {
        self.state.take_reads();
        let result = read_range(&self.state, range).unwrap();
        let reads = self.state.take_reads();
        assert_eq!(result, self.model.read(range));
        (result.unwrap(), reads)
    }
}

fn name(key: u32) -> Bytes {
    format!("{key:05}").into()
}

fn put(key: u32) -> Put {
    Put {
        key: name(key),
        // In no order, with many ties.
        value: format!("{}", key.wrapping_mul(2_654_435_761) % 97).into(),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }
}

fn all() -> Range {
    Range::of(KeyRange::From(Bytes::new()))
}

#[test]
fn a_plain_put_looks_at_one_keys_metadata_and_at_no_value() {
    let mut store = Store::default();
    store.apply(&Command::Put(put(1)));
    store.state.take_reads();
    store.apply(&Command::Put(put(1)));
    assert_eq!(store.state.take_reads(), Reads { metas: 1, ..Reads::default() });
}

#[test]
fn a_limit_ends_the_walk() {
    let mut store = Store::default();
    store.fill(0..5000);
    let (result, reads) = store.read(&Range { limit: 10, ..all() });
    assert_eq!((result.kvs.len(), result.more, result.count), (10, true, 5000));
    // Ten and the one that says there is more; the count walks no values.
    assert_eq!(reads, Reads { rows: 11, ..Reads::default() });

    let ascending = Range { limit: 10, order: SortOrder::Ascend, min_mod: Revision(3), ..all() };
    let (_, reads) = store.read(&ascending);
    assert_eq!(reads.rows, 111, "the first transaction's hundred keys are filtered out");

    let (_, reads) = store.read(&Range { count_only: true, ..all() });
    assert_eq!(reads.rows, 0);
}

#[test]
fn a_sorted_limit_gives_the_right_ones_of_thousands() {
    let mut store = Store::default();
    store.fill(0..3000);
    for target in [SortTarget::Key, SortTarget::Value, SortTarget::Mod, SortTarget::Version] {
        for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
            for limit in [1, 7, 256, 257, 1000, 2999, 3000, 3001] {
                let (result, _) = store.read(&Range { limit, order, target, ..all() });
                assert_eq!(result.more, limit < 3000);
            }
        }
    }
}

#[test]
fn tombstones_that_lie_dense_are_stepped_over() {
    let mut store = Store::default();
    store.fill(0..4000);
    store.delete(10, 3990);
    let (result, reads) = store.read(&all());
    assert_eq!(result.count, 20);
    assert!(reads.rows < 400, "{reads:?}");
    let between = KeyRange::Between(name(5), name(3995));
    let (result, reads) = store.read(&Range { range: between.clone(), limit: 7, ..all() });
    assert_eq!((result.kvs.len(), result.count), (7, 10));
    assert!(reads.rows < 400, "{reads:?}");
    // The walk that has changed over still ends where the range does.
    let (result, _) = store.read(&Range { range: between, order: SortOrder::Descend, ..all() });
    assert_eq!(result.kvs[0].key, name(3994));
}

#[test]
fn a_count_at_an_old_revision_takes_the_shorter_way() {
    let mut store = Store::default();
    store.fill(0..2000);
    let old = store.state.state.meta.revision;
    store.apply(&Command::Put(put(9999)));
    store.delete(0, 3);
    let counted = Range { count_only: true, revision: old, ..all() };
    let (result, reads) = store.read(&counted);
    assert_eq!(result.count, 2000);
    assert_eq!(reads, Reads { events: 4, ..Reads::default() }, "four events are undone");

    // A page at an old revision reads the page.
    let (result, reads) = store.read(&Range { count_only: false, limit: 5, ..counted.clone() });
    assert_eq!(result.count, 2000);
    assert!(reads.rows < 15, "{reads:?}");

    // Few keys are left and many events lie between: the walk over the keys is shorter.
    store.delete(0, 1990);
    let (result, _) = store.read(&counted);
    assert_eq!(result.count, 2000);
    let (result, reads) = store.read(&Range { revision: Revision(old.0 + 2), ..counted });
    assert_eq!(result.count, 1998);
    assert!(reads.events < 10_000, "{reads:?}");
}

#[test]
fn a_hot_key_read_far_back_costs_its_versions_since() {
    let mut store = Store::default();
    for _ in 0..100 {
        store.apply(&Command::Put(put(1)));
    }
    store.state.take_reads();
    let kv = key_at(&store.state, &name(1), Revision(52)).unwrap().unwrap();
    assert_eq!(kv.version, 51);
    assert_eq!(store.state.take_reads(), Reads { metas: 1, events: 50, ..Reads::default() });
}
