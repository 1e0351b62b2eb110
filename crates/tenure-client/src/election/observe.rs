//! Seeing who leads.
//!
//! The candidates are listed once and then followed by a watch, so no change is missed between the two, and the next leader is
//! known without asking. The oldest key leads, by its create revision: neither the key that was written last nor the first by name.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};

use crate::client::Client;
use crate::error::Error;
use crate::ids::{LeaseId, Revision};
use crate::kv::{KeyRange, KeyValue};
use crate::watch::{WatchError, WatchEvent, Watcher};

/// Between lists that fail.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// Its key, within the client's namespace.
    pub key: Bytes,
    /// What it proclaims.
    pub value: Bytes,
    /// Its fencing token: the create revision of its key.
    pub token: Revision,
    /// Its lease.
    pub lease: LeaseId,
    /// The revision of what it proclaims.
    pub proclaimed: Revision,
}

impl From<&KeyValue> for Leader {
    fn from(kv: &KeyValue) -> Leader {
        Leader {
            key: kv.key.clone(),
            value: kv.value.clone(),
            token: kv.create_revision,
            lease: kv.lease,
            proclaimed: kv.mod_revision,
        }
    }
}

/// Those who lead, one after the other. Made by [`Election::observe`](super::Election::observe).
///
/// It tells who leads at first, and then each change: another leader, another value, and `None` when nobody leads. It goes on
/// over changes of endpoints with nothing missed; only what is compacted before it could be read is told by its outcome alone.
pub struct Observer {
    client: Client,
    range: KeyRange,
    watcher: Option<Watcher>,
    candidates: Candidates,
    /// What is to be told, and was told last.
    untold: VecDeque<Option<Leader>>,
    told: Option<Option<Leader>>,
}

impl Observer {
    pub(super) fn new(client: Client, range: KeyRange) -> Observer {
        let (candidates, untold) = (Candidates::default(), VecDeque::new());
        Observer { client, range, watcher: None, candidates, untold, told: None }
    }

    /// Who leads, when that is known or changes; `None` if nobody does.
    ///
    /// # Errors
    ///
    /// What the watch ended with, if that is for good: the client was closed, or a server refuses it.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Leader>, WatchError> {
        loop {
            while let Some(leader) = self.untold.pop_front() {
                if self.told.as_ref() != Some(&leader) {
                    self.told = Some(leader.clone());
                    return Ok(leader);
                }
            }
            match self.watcher.as_mut() {
                None => self.begin().await?,
                Some(watcher) => match watcher.next().await {
                    Ok(batch) => {
                        for (_, events) in batch.revisions() {
                            self.candidates.change(events);
                            self.untold.push_back(self.candidates.leader());
                        }
                    }
                    // Listed anew.
                    Err(WatchError::Compacted { .. }) => self.watcher = None,
                    Err(error) => return Err(error),
                },
            }
        }
    }

    async fn begin(&mut self) -> Result<(), WatchError> {
        let listed = loop {
            match self.client.get(self.range.clone()).await {
                Ok(listed) => break listed,
                Err(error) if error.is_retryable() => {
                    let clock = self.client.clock();
                    clock.sleep(clock.between(PAUSE[0], PAUSE[1])).await;
                }
                Err(Error::Closed) => return Err(WatchError::Closed),
                Err(error) => return Err(error.into()),
            }
        };
        let from = listed.header.revision.next();
        let watcher = match Box::pin(self.client.watch(self.range.clone()).from(from).open()).await {
            Ok(watcher) => watcher,
            // Compacted or not reached: listed anew.
            Err(WatchError::Compacted { .. }) => return Ok(()),
            Err(WatchError::Failed(error)) if error.is_retryable() => return Ok(()),
            Err(error) => return Err(error),
        };
        self.candidates = Candidates::of(listed.kvs);
        self.untold.push_back(self.candidates.leader());
        self.watcher = Some(watcher);
        Ok(())
    }

    /// The same as a stream. An error is its last item.
    pub fn into_stream(self) -> impl Stream<Item = Result<Option<Leader>, WatchError>> + Send {
        let told: BoxStream<'static, _> = stream::unfold(Some(self), |observer| async move {
            let mut observer = observer?;
            match observer.next().await {
                Ok(leader) => Some((Ok(leader), Some(observer))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed();
        told
    }
}

/// All that stand, the oldest first.
#[derive(Debug, Default)]
struct Candidates {
    by_age: BTreeMap<Revision, BTreeMap<Bytes, KeyValue>>,
    ages: HashMap<Bytes, Revision>,
}

impl Candidates {
    fn of(kvs: Vec<KeyValue>) -> Candidates {
        let mut candidates = Candidates::default();
        kvs.into_iter().for_each(|kv| candidates.put(kv));
        candidates
    }

    fn change(&mut self, events: &[WatchEvent]) {
        for event in events {
            if event.is_put() {
                self.put(event.kv.clone());
            } else {
                self.remove(event.key());
            }
        }
    }

    fn put(&mut self, kv: KeyValue) {
        self.remove(&kv.key);
        self.ages.insert(kv.key.clone(), kv.create_revision);
        self.by_age.entry(kv.create_revision).or_default().insert(kv.key.clone(), kv);
    }

    fn remove(&mut self, key: &Bytes) {
        let Some(age) = self.ages.remove(key) else { return };
        if let Some(same_age) = self.by_age.get_mut(&age) {
            same_age.remove(key);
            if same_age.is_empty() {
                self.by_age.remove(&age);
            }
        }
    }

    fn leader(&self) -> Option<Leader> {
        self.by_age.values().next().and_then(|same_age| same_age.values().next()).map(Leader::from)
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Observer").field("told", &self.told).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::EventKind;

    fn kv(key: &str, created: i64, modified: i64) -> KeyValue {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::from(modified.to_string()));
        let (create_revision, mod_revision) = (Revision(created), Revision(modified));
        KeyValue { key, value, create_revision, mod_revision, version: 1, lease: LeaseId(5) }
    }

    fn event(kind: EventKind, kv: KeyValue) -> WatchEvent {
        WatchEvent { kind, kv, prev: None }
    }

    fn leads(candidates: &Candidates) -> Option<String> {
        candidates.leader().map(|leader| String::from_utf8_lossy(&leader.key).into_owned())
    }

    #[test]
    fn the_oldest_leads_and_not_who_wrote_last_or_is_first_by_name() {
        let mut candidates = Candidates::of(vec![kv("e/a", 9, 9), kv("e/b", 3, 3), kv("e/c", 5, 20)]);
        assert_eq!(leads(&candidates).as_deref(), Some("e/b"));
        candidates.change(&[event(EventKind::Put, kv("e/c", 5, 21))]);
        assert_eq!(leads(&candidates).as_deref(), Some("e/b"));
        candidates.change(&[event(EventKind::Delete, kv("e/b", 0, 22))]);
        assert_eq!(leads(&candidates).as_deref(), Some("e/c"));
    }

    #[test]
    fn nobody_leads_when_the_last_key_is_gone_and_a_key_that_comes_again_is_young() {
        let mut candidates = Candidates::of(vec![kv("e/a", 3, 3)]);
        candidates.change(&[event(EventKind::Delete, kv("e/a", 0, 4))]);
        assert_eq!(leads(&candidates), None);
        candidates.change(&[event(EventKind::Put, kv("e/b", 5, 5))]);
        candidates.change(&[event(EventKind::Put, kv("e/a", 6, 6))]);
        assert_eq!(leads(&candidates).as_deref(), Some("e/b"));
    }
}
