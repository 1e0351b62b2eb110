//! What a watcher is given.

use bytes::Bytes;
use tenure_proto::mvccpb;
use tenure_proto::mvccpb::event::EventType;

use crate::ids::Revision;
use crate::kv::KeyValue;
use crate::namespace::Namespace;

/// Some whole revisions, or a sign.
///
/// A program that only wants events reads [`WatchBatch::events`] and ignores the rest: a sign has none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchBatch {
    /// What it is.
    pub kind: BatchKind,
    /// Everything up to this revision has been given with this batch. A watch that is opened from the next one goes on
    /// where this one is, without a gap and without a repetition.
    pub revision: Revision,
    /// The events, in order: by revision, and within one as the server has them. All of a revision's are in one batch.
    pub events: Vec<WatchEvent>,
}

impl WatchBatch {
    /// The batch's revisions, each with its events.
    ///
    /// ```
    /// # fn f(batch: tenure_client::watch::WatchBatch) {
    /// for (revision, events) in batch.revisions() {
    ///     println!("{revision}: {} keys", events.len());
    /// }
    /// # }
    /// ```
    pub fn revisions(&self) -> impl Iterator<Item = (Revision, &[WatchEvent])> {
        let chunks = self.events.chunk_by(|one, other| one.kv.mod_revision == other.kv.mod_revision);
        chunks.filter_map(|events| Some((events.first()?.kv.mod_revision, events)))
    }
}

impl<'a> IntoIterator for &'a WatchBatch {
    type Item = &'a WatchEvent;
    type IntoIter = std::slice::Iter<'a, WatchEvent>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.iter()
    }
}

impl IntoIterator for WatchBatch {
    type Item = WatchEvent;
    type IntoIter = std::vec::IntoIter<WatchEvent>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.into_iter()
    }
}

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchKind {
    /// What happened, revision by revision.
    Changes,
    /// History was compacted before it could be told, so the keys were listed instead, all at [`WatchBatch::revision`].
    /// The events lead from the state after the last batch to that one, and leave out what was between. A deleted key's
    /// event bears that revision, because nobody knows when it was deleted, and no event tells a previous value.
    Relisted {
        /// The first revision that could still be watched from, as the server told it; 0 if it did not.
        compacted: Revision,
        /// There was no earlier state to tell the difference from: the events are all keys that there are, and what the
        /// program knows of other keys in the range is no longer so.
        is_complete: bool,
    },
    /// Nothing happened up to [`WatchBatch::revision`] that was not told. Only if asked for
    /// ([`Watch::progress`](super::Watch::progress)).
    Progress,
    /// The connection was lost, and the watch goes on with another one. Nothing is missing.
    Reconnected,
    /// The program was slow to read, and what it could not hold is fetched again. Nothing is missing.
    Lagged,
}

/// A key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchEvent {
    /// How.
    pub kind: EventKind,
    /// The key as it is from [`KeyValue::mod_revision`] on. Of a deleted one, only key and revision are told.
    pub kv: KeyValue,
    /// What it was before, if that was asked for, existed, and is not compacted.
    pub prev: Option<KeyValue>,
}

impl WatchEvent {
    /// The key, without the client's namespace.
    pub fn key(&self) -> &Bytes {
        &self.kv.key
    }

    /// Whether the key was put: created or changed.
    pub fn is_put(&self) -> bool {
        self.kind == EventKind::Put
    }

    /// Whether the key was created by this.
    pub fn is_create(&self) -> bool {
        self.is_put() && self.kv.create_revision == self.kv.mod_revision
    }

    /// As it came; none if it is of another namespace.
    pub(super) fn from_wire(event: mvccpb::Event, namespace: &Namespace) -> Option<WatchEvent> {
        let kind = if event.r#type == i32::from(EventType::Delete) { EventKind::Delete } else { EventKind::Put };
        let kv = KeyValue::from_wire(event.kv?, namespace)?;
        let prev = event.prev_kv.and_then(|prev| KeyValue::from_wire(prev, namespace));
        Some(WatchEvent { kind, kv, prev })
    }
}

/// How a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It was put.
    Put,
    /// It was deleted, by a request or with its lease.
    Delete,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_falls_into_its_revisions() {
        let event = |revision| WatchEvent {
            kind: EventKind::Put,
            kv: KeyValue { mod_revision: Revision(revision), ..KeyValue::default() },
            prev: None,
        };
        let events = [4, 4, 5, 7].map(event).to_vec();
        let batch = WatchBatch { kind: BatchKind::Changes, revision: Revision(7), events };
        let counts: Vec<(i64, usize)> =
            batch.revisions().map(|(revision, events)| (revision.0, events.len())).collect();
        assert_eq!(counts, [(4, 2), (5, 1), (7, 1)]);
    }
}
