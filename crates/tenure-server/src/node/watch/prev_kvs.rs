//! What keys were before an event, read once for all watchers of it.
//!
//! Looked for where it is cheapest: among the recent events, among what was read for others, then in the history. Once the
//! revision before the event is compacted it is left out, even if it is at hand: what a member tells must not depend on
//! what it happens to remember.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tenure_core::EventId;
use tenure_core::outcome::KeyValue;
use tenure_core::planted::{Bug, is_on};
use tenure_core::range::{key_at, prev_kv, prev_kv_is_compacted};
use tenure_core::row::EventRow;
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;

use super::hub::Shared;
use super::limits::PREV_KVS_BYTES_MAX;

/// Values read before, by the event that wrote them; the oldest go first.
#[derive(Debug, Default)]
pub(super) struct PrevKvs(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    values: HashMap<EventId, KeyValue>,
    order: VecDeque<EventId>,
    bytes: usize,
}

/// What a kept value weighs beside its key and value.
const OVERHEAD_BYTES: usize = size_of::<KeyValue>() + 2 * size_of::<EventId>();

fn weight(kv: &KeyValue) -> usize {
    kv.key.len() + kv.value.len() + OVERHEAD_BYTES
}

impl PrevKvs {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A value is in whole or not at all.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: EventId) -> Option<KeyValue> {
        self.kept().values.get(&id).cloned()
    }

    fn keep(&self, id: EventId, kv: &KeyValue) {
        let mut kept = self.kept();
        if kept.values.insert(id, kv.clone()).is_some() {
            return;
        }
        kept.bytes += weight(kv);
        kept.order.push_back(id);
        while kept.bytes > PREV_KVS_BYTES_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            if let Some(kv) = kept.values.remove(&oldest) {
                kept.bytes -= weight(&kv);
            }
        }
    }
}

/// Whether an event replaced or deleted something: what makes a key has version 1, even if a tombstone was there before.
pub(super) fn may_have_prev_kv(event: &EventRow) -> bool {
    event.previous.is_some() && event.meta.version != 1
}

/// What the key of an event was before it.
pub(super) fn find_prev_kv(hub: &Shared, view: &StateView, event: &EventRow) -> Result<Option<KeyValue>, StorageError> {
    let Some(id) = event.previous.filter(|_| may_have_prev_kv(event)) else { return Ok(None) };
    if prev_kv_is_compacted(view, event) {
        return Ok(None);
    }
    if is_on(Bug::WrongPrevKv) {
        return key_at(view, &event.key, event.meta.modified.revision);
    }
    if let Some(previous) = hub.recent_event(id).filter(|previous| previous.key == event.key) {
        return Ok(Some(KeyValue::of(previous.key, &previous.meta, previous.value)));
    }
    if let Some(kv) = hub.prev_kvs.get(id) {
        return Ok(Some(kv));
    }
    let found = prev_kv(view, event)?;
    if let Some(kv) = &found {
        hub.prev_kvs.keep(id, kv);
    }
    Ok(found)
}
