//! Deletes: the keys of a range that exist, in ascending order.

use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

use super::ApplyError;
use super::changes::{Changes, change};
use super::lock::queue::Why;
use crate::command::{DeleteRange, KeyRange};
use crate::outcome::{DeletedRange, KeyValue};
use crate::scan::{At, scan_at};
use crate::state::StateWrite;

/// A delete of its own.
pub(super) fn apply<S: StateWrite>(state: &mut S, delete: &DeleteRange) -> Result<DeletedRange, ApplyError<S::Error>> {
    change(state, Why::Plain, |changes| delete_range(changes, delete))
}

/// Deletes a range, which may be empty: then nothing changes.
pub(super) fn delete_range<S: StateWrite>(
    changes: &mut Changes<'_, S>,
    delete: &DeleteRange,
) -> Result<DeletedRange, ApplyError<S::Error>> {
    let mut prev_kvs = Vec::new();
    let keys = if delete.prev_kv {
        scan_at(changes.state, &delete.range, At::Present, None, &mut |kv| {
            prev_kvs.push(kv.to_key_value());
            ControlFlow::Continue(())
        })?;
        prev_kvs.iter().map(|kv: &KeyValue| kv.key.clone()).collect()
    } else {
        live_keys(changes, &delete.range)?
    };
    changes.expect(keys.len());
    let mut deleted = 0;
    for key in keys {
        match changes.newest(&key)?.live {
            Some(live) => changes.delete(key, &live)?,
            // One key was not looked up before.
            None if matches!(delete.range, KeyRange::One(_)) => continue,
            None => return Err(ApplyError::Invariant("a live key is absent")),
        }
        deleted += 1;
    }
    Ok(DeletedRange { deleted, prev_kvs })
}

fn live_keys<S: StateWrite>(changes: &Changes<'_, S>, range: &KeyRange) -> Result<Vec<Bytes>, S::Error> {
    let mut keys = Vec::new();
    match range {
        KeyRange::One(key) => keys.push(key.clone()),
        KeyRange::Between(..) | KeyRange::From(_) => changes.state.scan_live(range, &mut |key| {
            keys.push(key);
            ControlFlow::Continue(())
        })?,
    }
    Ok(keys)
}
