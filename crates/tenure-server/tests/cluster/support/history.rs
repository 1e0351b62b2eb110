//! What clients asked for and were told, and whether a state is a possible result of it: the oracle of these tests.
//!
//! A request is recorded with the changes that it makes in one revision; all values are different, so a revision tells
//! whose it is. A request that got no answer may have happened, once, or not at all. A state must hold exactly: what was
//! acknowledged, at the revisions that the clients were told, and of the rest whole requests or nothing; and everything
//! that can be derived from these changes (versions, creation, the keys of a lease, every old revision) must agree.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tenure_core::command::{Command, KeyRange, LeaseGrant, LeaseRevoke, Range};
use tenure_core::hash::{HashKv, hash_kv};
use tenure_core::outcome::{KeyValue, Outcome};
use tenure_core::range::read_range;
use tenure_core::row::{EventRow, LeaseHolder, RevokedBy};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Revision};
use tenure_server::node::{Node, RequestError};
use tenure_storage::state_view::StateView;

/// The change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: Bytes,
    /// The value and lease put, or nothing for a delete.
    pub(crate) put: Option<(Bytes, LeaseId)>,
}

/// A command and the changes that it makes, in order.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) changes: Vec<Change>,
}

/// What became of a request as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Acked(Revision),
    /// Surely not done.
    Refused,
    Unknown(RequestError),
}

/// Old revisions that one check reads, evenly spaced if there are more: all would take time by the square.
const REVISIONS_READ: i64 = 6;

/// See the module's header.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Known>);

#[derive(Clone, Debug, Default)]
struct Known {
    /// The changes of each revision that is known to be.
    revisions: BTreeMap<Revision, Vec<Change>>,
    /// Requests without an answer.
    open: Vec<Option<Request>>,
    /// The highest revision that any client was told.
    told: Revision,
    compacted: Revision,
    /// Leases that are known to be granted (true) or revoked (false). Each id is granted once.
    leases: BTreeMap<LeaseId, bool>,
    acked: usize,
}

impl History {
    /// Sends a request and records what came of it.
    pub(crate) async fn write(&self, node: &Node, request: Request) -> Fate {
        let place = self.asked(&request);
        match node.write(&request.command).await {
            Ok(outcome) => self.answered(place, &request, &outcome),
            Err(RequestError::Refused(_) | RequestError::TooManyRequests) => {
                self.known().open[place] = None;
                Fate::Refused
            }
            Err(error) => Fate::Unknown(error),
        }
    }

    /// A history that starts as this one and goes on by itself.
    pub(crate) fn fork(&self) -> History {
        History(Mutex::new(self.known().clone()))
    }

    /// How many requests were acknowledged.
    pub(crate) fn acked(&self) -> usize {
        self.known().acked
    }

    /// The highest revision that a client was told.
    pub(crate) fn told(&self) -> Revision {
        self.known().told
    }

    /// The command of a request that gets no answer, for who goes past the queue.
    pub(crate) fn command_without_answer(&self, request: &Request) -> Bytes {
        self.asked(request);
        request.command.encode()
    }

    fn asked(&self, request: &Request) -> usize {
        let mut known = self.known();
        known.open.push(Some(request.clone()));
        known.open.len() - 1
    }

    fn answered(&self, place: usize, request: &Request, outcome: &Outcome) -> Fate {
        let mut known = self.known();
        known.open[place] = None;
        known.told = known.told.max(outcome.revision);
        if outcome.result.is_err() {
            return Fate::Refused;
        }
        known.acked += 1;
        if !request.changes.is_empty() {
            let taken = known.revisions.insert(outcome.revision, request.changes.clone());
            assert!(taken.is_none(), "revision {} was given to two clients", outcome.revision);
        }
        known.done(&request.command);
        Fate::Acked(outcome.revision)
    }

    /// Holds a state against the history. From then on, requests without an answer that the state shows count as done.
    pub(crate) fn check(&self, view: &StateView) -> Result<HashKv, String> {
        let mut known = self.known();
        let meta = view.meta();
        if meta.revision < known.told {
            return Err(format!("the revision fell from {} to {}", known.told, meta.revision));
        }
        if meta.compacted.0.max(0) < known.compacted.0 {
            return Err(format!("the compaction fell from {} to {}", known.compacted, meta.compacted));
        }
        known.settle(view)?;
        let oldest = meta.compacted.0.max(1);
        let stride = (meta.revision.0 - oldest) / REVISIONS_READ + 1;
        for back in 0..=(meta.revision.0 - oldest) / stride {
            known.check_range(view, Revision(meta.revision.0 - back * stride))?;
        }
        known.check_leases(view)?;
        let hash = || hash_kv(view, Revision(0)).map_err(|error| error.to_string())?.map_err(|error| error.to_string());
        let (first, second) = (hash()?, hash()?);
        if first == second { Ok(first) } else { Err(format!("two hashes of one state differ: {first:?}, {second:?}")) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn done(&mut self, command: &Command) {
        match command {
            Command::Compact(revision) => self.compacted = self.compacted.max(*revision),
            Command::LeaseGrant(grant) => drop(self.leases.insert(grant.id, true)),
            Command::LeaseRevoke(revoke) => drop(self.leases.insert(revoke.id, false)),
            _ => {}
        }
    }

    /// Finds out whose every revision of the state is.
    fn settle(&mut self, view: &StateView) -> Result<(), String> {
        let (compacted, last) = (view.meta().compacted, view.meta().revision);
        let mut found: BTreeMap<Revision, Vec<EventRow>> = BTreeMap::new();
        let first = Revision(compacted.0.max(1) + 1);
        view.scan_events(first, last, &mut |event| {
            found.entry(event.meta.modified.revision).or_default().push(event);
            ControlFlow::Continue(())
        })
        .map_err(|error| error.to_string())?;
        for revision in (first.0..=last.0).map(Revision) {
            let Some(events) = found.remove(&revision) else { return Err(format!("revision {revision} is missing")) };
            self.settle_revision(revision, &events)?;
        }
        match self.revisions.last_key_value() {
            Some((newest, _)) if *newest > last => Err(format!("acknowledged revision {newest} is missing")),
            _ => Ok(()),
        }
    }

    fn settle_revision(&mut self, revision: Revision, events: &[EventRow]) -> Result<(), String> {
        let changes: Vec<Change> = events.iter().map(change_of).collect();
        let places = events.iter().map(|event| event.meta.modified.sub);
        if !places.eq(0..u32::try_from(events.len()).expect("few")) {
            return Err(format!("the places within revision {revision} have gaps"));
        }
        if let Some(expected) = self.revisions.get(&revision) {
            if *expected == changes {
                return Ok(());
            }
            return Err(format!("revision {revision} was acknowledged as {expected:?} and is {changes:?}"));
        }
        let asked = |request: &&mut Option<Request>| request.as_ref().is_some_and(|asked| asked.changes == changes);
        let Some(request) = self.open.iter_mut().find(asked).and_then(Option::take) else {
            return Err(format!("revision {revision} is nobody's, or somebody's twice or in part: {changes:?}"));
        };
        self.revisions.insert(revision, changes);
        self.done(&request.command);
        Ok(())
    }

    /// The keys as they must be at a revision.
    fn keys_at(&self, revision: Revision) -> BTreeMap<Bytes, KeyValue> {
        let mut keys: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        for (modified, change) in
            self.revisions.range(..=revision).flat_map(|(at, changes)| changes.iter().map(move |change| (*at, change)))
        {
            let Some((value, lease)) = &change.put else {
                keys.remove(&change.key);
                continue;
            };
            let (create, version) = keys.get(&change.key).map_or((modified, 1), |kv| (kv.create, kv.version + 1));
            let (key, value, lease) = (change.key.clone(), value.clone(), *lease);
            keys.insert(key.clone(), KeyValue { key, value, create, modified, version, lease });
        }
        keys
    }

    fn check_range(&self, view: &StateView, revision: Revision) -> Result<(), String> {
        let found = read_range(view, &everything(revision))
            .map_err(|error| error.to_string())?
            .map_err(|refusal| format!("revision {revision} cannot be read: {refusal}"))?;
        let expected: Vec<KeyValue> = self.keys_at(revision).into_values().collect();
        if found.kvs == expected && found.count == i64::try_from(expected.len()).expect("few") {
            return Ok(());
        }
        let differs = found.kvs.iter().find(|kv| !expected.contains(kv));
        let misses = expected.iter().find(|kv| !found.kvs.contains(kv));
        Err(format!("at revision {revision}: is, but should not be: {differs:?}; should be, but is not: {misses:?}"))
    }

    fn check_leases(&self, view: &StateView) -> Result<(), String> {
        let keys = self.keys_at(view.meta().revision);
        for (id, granted) in &self.leases {
            let is = view.lease(*id).map_err(|error| error.to_string())?.is_some();
            if is != *granted {
                return Err(format!("lease {id}: granted {granted}, there {is}"));
            }
            let mut attached = Vec::new();
            let scan = view.scan_lease_keys(*id, &mut |key| {
                attached.push(key);
                ControlFlow::Continue(())
            });
            scan.map_err(|error| error.to_string())?;
            let expected: Vec<Bytes> = keys.values().filter(|kv| kv.lease == *id).map(|kv| kv.key.clone()).collect();
            if attached != expected {
                return Err(format!("lease {id} has {attached:?} instead of {expected:?}"));
            }
        }
        Ok(())
    }
}

impl Request {
    pub(crate) fn grant(id: LeaseId) -> Request {
        Request {
            command: Command::LeaseGrant(LeaseGrant { id, ttl_ms: 60_000, holder: LeaseHolder::default() }),
            changes: Vec::new(),
        }
    }

    /// Revokes a lease that holds these keys.
    pub(crate) fn revoke(id: LeaseId, keys: &[&str]) -> Request {
        let changes = keys.iter().map(|key| Change { key: bytes(key), put: None }).collect();
        Request {
            command: Command::LeaseRevoke(LeaseRevoke { id, expiry: None, by: Some(RevokedBy::default()) }),
            changes,
        }
    }

    pub(crate) fn compact(revision: Revision) -> Request {
        Request { command: Command::Compact(revision), changes: Vec::new() }
    }
}

/// Everything at a revision; 0 for now.
pub(crate) fn everything(revision: Revision) -> Range {
    range(KeyRange::From(Bytes::new()), revision)
}

/// A range without any option.
pub(crate) fn range(range: KeyRange, revision: Revision) -> Range {
    Range { revision, ..Range::of(range) }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn change_of(event: &EventRow) -> Change {
    let put = (!event.meta.is_tombstone()).then(|| (event.value.clone(), event.meta.lease));
    Change { key: event.key.clone(), put }
}
