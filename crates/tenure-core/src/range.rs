//! Range reads, answered exactly as etcd answers them.
//!
//! What decides how much is loaded is where the limit may cut. In key order it cuts the walk itself, and `count` is
//! counted apart. Under another order the whole range must be seen, but only as many key-values as can be returned
//! are kept. One oddity is etcd's (`server/etcdserver/txn`, `rangeLimit` and `sortRangeResults`): a sort target other
//! than the key with no order given sorts ascending, yet the limit, plus the one key that tells whether there is more,
//! was applied in key order before:
//!
//! ```text
//! versions  a=3 b=2 c=1      limit 2, target VERSION, order ASCEND → c b    order NONE, limit 1 → b (of a, b)
//! ```

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ops::ControlFlow;

use crate::borrowed::{BytesRef, KvRef};
use crate::command::{KeyRange, Range, SortOrder, SortTarget};
use crate::count::count_at;
pub use crate::count::count_present;
pub use crate::history::{key_at, prev_kv, prev_kv_is_compacted};
use crate::ids::Revision;
use crate::outcome::{KeyValue, RangeResult, Refusal};
use crate::row::Meta;
use crate::scan::{At, get_at, scan_at};
use crate::state::{KnownCount, StateRead};

/// Answers a range read.
pub fn read_range<S: StateRead>(state: &S, request: &Range) -> Result<Result<RangeResult, Refusal>, S::Error> {
    let mut kvs = Vec::new();
    let result = read_range_with(state, request, &mut |kv| kvs.push(kv.to_key_value()))?;
    Ok(result.map(|result| if result.kvs.is_empty() { RangeResult { kvs, ..result } } else { result }))
}

/// The same for who may need no copies: the key-values are visited, in the answer's order. Those of a range of keys that had
/// to be kept and sorted first are not; then all of them are in the result, which is otherwise without any.
pub fn read_range_with<S: StateRead>(
    state: &S,
    request: &Range,
    visit: &mut dyn FnMut(KvRef<'_>),
) -> Result<Result<RangeResult, Refusal>, S::Error> {
    let at = match resolve_revision(state.meta(), request.revision) {
        Ok(at) => at,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if request.count_only {
        let count = count_at(state, &request.range, at)?;
        return Ok(Ok(RangeResult { kvs: Vec::new(), more: false, count }));
    }
    let result = match &request.range {
        KeyRange::One(key) => one(request, get_at(state, key, at)?),
        KeyRange::Between(..) | KeyRange::From(_) => many(state, request, at, visit)?,
    };
    Ok(Ok(result))
}

/// Visits the key-values of a range at a revision, in ascending key order, until the visitor breaks off.
pub fn walk_range<S: StateRead>(
    state: &S,
    range: &KeyRange,
    revision: Revision,
    visit: &mut dyn FnMut(KvRef<'_>) -> ControlFlow<()>,
) -> Result<Result<(), Refusal>, S::Error> {
    match resolve_revision(state.meta(), revision) {
        Ok(at) => scan_at(state, range, at, None, visit).map(Ok),
        Err(refusal) => Ok(Err(refusal)),
    }
}

/// Which revision a request means, and whether it can be read. The compacted revision itself still can.
fn resolve_revision(meta: &Meta, asked: Revision) -> Result<At, Refusal> {
    if asked > meta.revision {
        return Err(Refusal::FutureRevision);
    }
    if asked.0 <= 0 || asked == meta.revision {
        return Ok(At::Present);
    }
    if asked < meta.compacted {
        return Err(Refusal::Compacted);
    }
    Ok(At::Past(asked))
}

fn one(request: &Range, found: Option<KeyValue>) -> RangeResult {
    let count = i64::from(found.is_some());
    let mut kvs: Vec<KeyValue> = found.into_iter().filter(|kv| passes(request, KvRef::from(kv))).collect();
    if request.keys_only {
        strip_values(&mut kvs);
    }
    RangeResult { kvs, more: false, count }
}

fn many<S: StateRead>(
    state: &S,
    request: &Range,
    at: At,
    visit: &mut dyn FnMut(KvRef<'_>),
) -> Result<RangeResult, S::Error> {
    let shape = Shape::of(request);
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let mut kept = Kept { kvs: Vec::new(), shape, limit };
    let (mut seen, mut passed) = (0u64, 0);
    let mut cut = false;
    // All of them, or one beyond the limit, to know that there is more.
    let wanted = if shape.limit_cuts_walk { limit.saturating_add(1) } else { usize::MAX };
    let wanted = (wanted == usize::MAX || !shape.filtered).then_some(wanted);
    scan_at(state, &request.range, at, wanted, &mut |mut kv| {
        seen += 1;
        if !passes(request, kv) {
            return ControlFlow::Continue(());
        }
        if request.keys_only && request.target != SortTarget::Value {
            kv.value = BytesRef::EMPTY;
        }
        passed += 1;
        if shape.sorts {
            kept.push(kv.to_key_value());
        } else if passed <= limit {
            visit(kv);
        }
        cut = shape.limit_cuts_walk && passed > limit;
        if cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let count = if cut { count_at(state, &request.range, at)? } else { note_all_seen(state, &request.range, at, seen) };
    let mut kvs = kept.finish();
    if request.keys_only {
        strip_values(&mut kvs);
    }
    Ok(RangeResult { kvs, more: passed > limit, count })
}

/// A whole walk has counted too.
fn note_all_seen<S: StateRead>(state: &S, range: &KeyRange, at: At, seen: u64) -> i64 {
    let revision = match at {
        At::Present => state.meta().revision,
        At::Past(revision) => revision,
    };
    state.note_count(range, KnownCount { at: revision, keys: seen });
    i64::try_from(seen).unwrap_or(i64::MAX)
}

fn strip_values(kvs: &mut [KeyValue]) {
    for kv in kvs {
        kv.value.clear();
    }
}

/// The four revision filters. 0 means no bound, as in etcd; a negative bound is one.
fn passes(request: &Range, kv: KvRef<'_>) -> bool {
    let at_least = |bound: Revision, revision: Revision| bound.0 == 0 || revision >= bound;
    let at_most = |bound: Revision, revision: Revision| bound.0 == 0 || revision <= bound;
    at_least(request.min_mod, kv.modified)
        && at_most(request.max_mod, kv.modified)
        && at_least(request.min_create, kv.create)
        && at_most(request.max_create, kv.create)
}

/// How an answer is ordered, and where its limit cuts.
#[derive(Clone, Copy, Debug)]
struct Shape {
    target: SortTarget,
    descend: bool,
    /// Whether the limit is applied in key order, before any sorting.
    limit_cuts_walk: bool,
    /// Whether some keys are passed over.
    filtered: bool,
    /// Whether the answer's order is another than that of the keys.
    sorts: bool,
}

impl Shape {
    fn of(request: &Range) -> Shape {
        let in_key_order = request.target == SortTarget::Key && request.order != SortOrder::Descend;
        let bounds = [request.min_mod, request.max_mod, request.min_create, request.max_create];
        let filtered = bounds.iter().any(|bound| bound.0 != 0);
        Shape {
            target: request.target,
            descend: request.order == SortOrder::Descend,
            limit_cuts_walk: in_key_order || (request.order == SortOrder::None && !filtered),
            filtered,
            sorts: request.target != SortTarget::Key || request.order == SortOrder::Descend,
        }
    }

    fn compare(&self, a: &KeyValue, b: &KeyValue) -> Ordering {
        let ascending = match self.target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create.cmp(&b.create),
            SortTarget::Mod => a.modified.cmp(&b.modified),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if self.descend { ascending.reverse() } else { ascending }
    }

    /// Stable, so that ties stay in ascending key order whichever way the rest goes.
    fn sort(&self, kvs: &mut [KeyValue]) {
        if self.sorts {
            kvs.sort_by(|a, b| self.compare(a, b));
        }
    }
}

/// The key-values that may still be part of an answer that is sorted: never more than about twice the limit.
struct Kept {
    kvs: Vec<KeyValue>,
    shape: Shape,
    limit: usize,
}

/// Key-values kept beyond the limit before sorting throws the worst away, at least: sorts few at a time otherwise.
const SLACK_MIN: usize = 256;

impl Kept {
    fn push(&mut self, kv: KeyValue) {
        self.kvs.push(kv);
        if !self.shape.limit_cuts_walk && self.kvs.len() >= self.limit.saturating_add(self.limit.max(SLACK_MIN)) {
            self.shape.sort(&mut self.kvs);
            self.kvs.truncate(self.limit);
        }
    }

    /// The answer.
    fn finish(mut self) -> Vec<KeyValue> {
        self.shape.sort(&mut self.kvs);
        self.kvs.truncate(self.limit);
        self.kvs
    }
}
