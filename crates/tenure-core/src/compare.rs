//! The compares of a transaction, as etcd evaluates them (`applyCompare`).
//!
//! Over a range every key must meet the compare. A range without keys is compared as if it held one key of zeros, so
//! that `create = 0` means "absent"; only a value compare of nothing is false whatever the relation, since no value
//! and an empty value look alike on the wire.

use core::cmp::Ordering;
use core::ops::ControlFlow;

use crate::borrowed::KvRef;
use crate::command::{Compare, CompareResult, CompareTarget, KeyRange};
use crate::outcome::KeyValue;
use crate::scan::{At, scan_at};
use crate::state::StateRead;
use bytes::Bytes;

/// Whether all compares hold now.
pub(crate) fn all_hold<S: StateRead>(state: &S, compares: &[Compare]) -> Result<bool, S::Error> {
    for compare in compares {
        if !holds(state, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds<S: StateRead>(state: &S, compare: &Compare) -> Result<bool, S::Error> {
    if let KeyRange::One(key) = &compare.range
        && !matches!(compare.target, CompareTarget::Value(_))
    {
        let meta = state.current_meta(key)?.filter(|meta| !meta.is_tombstone());
        let kv = meta.map(|meta| KeyValue::of(Bytes::new(), &meta, Bytes::new())).unwrap_or_default();
        return Ok(meets(compare, KvRef::from(&kv)));
    }
    let mut any = false;
    let mut all = true;
    scan_at(state, &compare.range, At::Present, None, &mut |kv| {
        any = true;
        all = meets(compare, kv);
        if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if any {
        return Ok(all);
    }
    Ok(!matches!(compare.target, CompareTarget::Value(_)) && meets(compare, KvRef::from(&KeyValue::default())))
}

fn meets(compare: &Compare, kv: KvRef<'_>) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::Create(revision) => kv.create.cmp(revision),
        CompareTarget::Mod(revision) => kv.modified.cmp(revision),
        CompareTarget::Value(value) => (*kv.value).cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
        CompareResult::NotEqual => ordering != Ordering::Equal,
    }
}
