//! What a watch does when the history that it needs is compacted, if it was asked to: it lists the keys at one revision, tells how
//! that state differs from what it told before, and goes on from the next revision.
//!
//! To tell which keys are gone it has to know which there were. So a watch of this kind remembers the keys, without their values:
//! those that there were when it began, and since then what its own events say. If the keys at its start cannot be listed any more,
//! there is nothing to tell the difference from, and the first list is told as it is.

use std::collections::HashSet;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::mvccpb::event::EventType;
use tenure_proto::mvccpb::{Event, KeyValue};

use super::error::WatchError;
use crate::call::What;
use crate::client::Client;
use crate::error::{Error, Refusal};
use crate::ids::Revision;

/// Keys of one request. The rest is asked for at the same revision.
const PAGE_KEYS_MAX: i64 = 1000;
/// How often a list is begun anew because its own revision was compacted while it was read.
const LISTS_MAX: u32 = 10;
/// Between attempts while no member answers. Each takes as long as any request may.
const PAUSE: Duration = Duration::from_millis(250);

/// What is listed, as the store knows it.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) client: Client,
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
    pub(super) bytes_max: usize,
}

/// All keys of a range at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Listed {
    pub(super) revision: Revision,
    pub(super) kvs: Vec<KeyValue>,
}

impl Listing {
    /// The present state, read linearizably. Waits for as long as no member answers.
    pub(super) async fn now(&self) -> Result<Listed, WatchError> {
        let clock = self.client.clock().clone();
        let mut compactions = 0;
        loop {
            match self.at(None, false).await {
                Err(WatchError::Failed(error)) if error.is_retryable() => clock.sleep(PAUSE).await,
                Err(error) if error.refusal() == Some(Refusal::Compacted) && compactions < LISTS_MAX => {
                    compactions += 1;
                }
                other => return other,
            }
        }
    }

    /// The names of the keys that there are at a revision, or now; none if that cannot be known. Returns the revision, too.
    pub(super) async fn keys_at(
        &self,
        revision: Option<Revision>,
    ) -> Result<Option<(Revision, HashSet<Bytes>)>, WatchError> {
        match self.at(revision, true).await {
            Ok(listed) => {
                Ok(Some((listed.revision, listed.kvs.into_iter().map(|kv| Bytes::copy_from_slice(&kv.key)).collect())))
            }
            Err(error) if matches!(error.refusal(), Some(Refusal::Compacted | Refusal::FutureRevision)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn at(&self, revision: Option<Revision>, keys_only: bool) -> Result<Listed, WatchError> {
        let mut listed = Listed { revision: revision.unwrap_or_default(), kvs: Vec::new() };
        let mut key = self.key.clone();
        let mut bytes = 0usize;
        loop {
            let page = self.page(key, listed.revision, keys_only).await?;
            let header = page.header.ok_or_else(|| Error::nonsense("a member", "a list without a header"))?;
            if listed.revision == Revision::NONE {
                listed.revision = Revision(header.revision);
            }
            bytes += page.kvs.iter().map(|kv| size_of::<KeyValue>() + kv.key.len() + kv.value.len()).sum::<usize>();
            if bytes > self.bytes_max {
                return Err(WatchError::TooLarge { revision: listed.revision });
            }
            listed.kvs.extend(page.kvs);
            match listed.kvs.last() {
                Some(last) if page.more => key = after(&last.key),
                _ => return Ok(listed),
            }
        }
    }

    async fn page(&self, key: Bytes, revision: Revision, keys_only: bool) -> Result<pb::RangeResponse, Error> {
        let request = pb::RangeRequest {
            key,
            range_end: self.range_end.clone(),
            limit: PAGE_KEYS_MAX,
            revision: revision.0,
            keys_only,
            ..pb::RangeRequest::default()
        };
        let page = |link| {
            let request = request.clone();
            async move { KvClient::new(link).max_decoding_message_size(usize::MAX).range(request).await }
        };
        self.client.call(What::read("list after compaction"), page).await
    }
}

/// The first key after this one.
fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// The keys that a watch knows to be there.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Option<HashSet<Bytes>>);

impl Known {
    pub(super) fn new(keys: Option<HashSet<Bytes>>) -> Known {
        Known(keys)
    }

    /// Takes note of an event that is told.
    pub(super) fn note(&mut self, event: &Event) {
        let (Some(keys), Some(kv)) = (&mut self.0, &event.kv) else { return };
        if is_delete(event) {
            keys.remove(&kv.key);
        } else if !keys.contains(&kv.key) {
            // In memory of its own: the message that it came in may be far larger.
            keys.insert(Bytes::copy_from_slice(&kv.key));
        }
    }

    /// The events that lead from what was told up to a revision to what was listed, and whether they are all that there is.
    pub(super) fn difference(&mut self, told: Revision, listed: Listed) -> (Vec<Event>, bool) {
        let revision = listed.revision;
        let there: HashSet<Bytes> = listed.kvs.iter().map(|kv| Bytes::copy_from_slice(&kv.key)).collect();
        let put = |kv: KeyValue| Event { kv: Some(kv), ..Event::default() };
        let Some(keys) = self.0.replace(there) else { return (listed.kvs.into_iter().map(put).collect(), true) };
        let there = self.0.as_ref();
        let mut gone: Vec<Bytes> =
            keys.into_iter().filter(|key| there.is_none_or(|there| !there.contains(key))).collect();
        gone.sort();
        let deleted = |key: Bytes| Event {
            r#type: EventType::Delete.into(),
            kv: Some(KeyValue { key, mod_revision: revision.0, ..KeyValue::default() }),
            ..Event::default()
        };
        let mut changed: Vec<KeyValue> = listed.kvs.into_iter().filter(|kv| kv.mod_revision > told.0).collect();
        // As they happened, with the deletes, of which nobody knows when they did, at the end.
        changed.sort_by_key(|kv| kv.mod_revision);
        (changed.into_iter().map(put).chain(gone.into_iter().map(deleted)).collect(), false)
    }
}

pub(super) fn is_delete(event: &Event) -> bool {
    event.r#type == i32::from(EventType::Delete)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn kv(key: &str, mod_revision: i64) -> KeyValue {
        KeyValue { key: key.to_owned().into(), mod_revision, ..KeyValue::default() }
    }

    fn put(key: &str, revision: i64) -> Event {
        Event { kv: Some(kv(key, revision)), ..Event::default() }
    }

    fn delete(key: &str, revision: i64) -> Event {
        Event { r#type: EventType::Delete.into(), ..put(key, revision) }
    }

    #[test]
    fn what_is_listed_first_is_told_as_it_is_and_later_as_a_difference() {
        let mut known = Known::new(None);
        let listed = Listed { revision: Revision(9), kvs: vec![kv("a", 3), kv("b", 8)] };
        assert_eq!(known.difference(Revision(5), listed), (vec![put("a", 3), put("b", 8)], true));
        let listed = Listed { revision: Revision(20), kvs: vec![kv("b", 8), kv("c", 12)] };
        assert_eq!(known.difference(Revision(9), listed), (vec![put("c", 12), delete("a", 20)], false));
    }

    proptest! {
        #[test]
        fn events_and_differences_lead_to_the_state_of_the_store(
            changes in proptest::collection::vec((0..6usize, any::<bool>()), 1..80),
            gaps in proptest::collection::btree_set((0..80usize, 0..80usize), 0..4),
        ) {
            const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
            let mut store: BTreeMap<&str, i64> = [("a", 1), ("b", 1)].into();
            let names = |store: &BTreeMap<&str, i64>| store.keys().map(|key| Bytes::from((*key).to_owned())).collect();
            let mut known = Known::new(Some(names(&store)));
            let mut view = store.clone();
            let mut told = Revision(1);
            let is_in_gap = |place: usize| gaps.iter().any(|(from, to)| (*from..*to).contains(&place));
            for (place, (key, is_put)) in changes.iter().enumerate() {
                let revision = i64::try_from(place).expect("small") + 2;
                let key = KEYS[*key];
                let event = if *is_put {
                    store.insert(key, revision);
                    put(key, revision)
                } else if store.remove(key).is_some() {
                    delete(key, revision)
                } else {
                    continue;
                };
                if is_in_gap(place) {
                    continue;
                }
                let events = if told.0 + 1 < revision {
                    let kvs = store.iter().map(|(key, revision)| kv(key, *revision)).collect();
                    known.difference(told, Listed { revision: Revision(revision), kvs }).0
                } else {
                    known.note(&event);
                    vec![event]
                };
                told = Revision(revision);
                for event in &events {
                    let kv = event.kv.as_ref().expect("a key");
                    let key = *KEYS.iter().find(|key| key.as_bytes() == kv.key).expect("one of ours");
                    if is_delete(event) {
                        prop_assert!(view.remove(key).is_some(), "{key} was not there");
                    } else {
                        view.insert(key, kv.mod_revision);
                    }
                }
                prop_assert_eq!(&view, &store);
            }
        }
    }
}
