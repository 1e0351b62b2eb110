//! What became of the contenders' requests that were not answered, as the observers saw it.
//!
//! A contender leaves many requests of unknown outcome behind, most of which have the same effect: whoever cancelled, its
//! key is gone. Hundreds of contenders would leave the search for an order of all writes too many ways to try. But the
//! observers are told of every revision, and what a request changes and compares is its contender's key alone. So
//!
//! - a request can have made an event only if it does just that, if what it compares held before, and if nobody had been
//!   told of the event's revision when it was called;
//! - of several that can have made it, the one with the most compares is taken, then the earliest: the others can do
//!   whatever it could have done, so if there is an order in which one of them made the event, there is one in which this
//!   one did;
//! - what made no event did nothing that anybody saw, unless a watcher was told of its key after the observers had left.
//!
//! It is the same with the end of a lease that can have made an event: the lease may as well end right after it.
//!
//! If the observers are wrong, no order of the writes explains the answers that others got; and if a revision is missing,
//! nothing is settled. Only keys under `lock/` and `guarded/` are looked at, which nobody else writes.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use tenure_history::request::{Compare, Relation, Request, Target, TxnOp};
use tenure_history::response::{Body, KeyValue, Outcome, Response};
use tenure_history::watch::{Event, Step};
use tenure_history::{Initial, LeaseId, Moment, Operation, Revision};

use crate::recorder::{Recorded, Seen, Watched};
use crate::workloads::Workload;

const PREFIXES: [&[u8]; 2] = [b"lock/", b"guarded/"];

/// What a revision did, by key; none if it deleted it.
type Changes = BTreeMap<Bytes, Option<KeyValue>>;

/// The contested keys as they are at some revision.
type Keys = HashMap<Bytes, KeyValue>;

/// Settles what the contenders do not know, in a store that was like this when they began.
pub fn settle(seen: &mut Seen, initial: &Initial) {
    let Some(revisions) = observed(seen, initial.revision) else { return };
    let last = revisions.keys().next_back().copied().unwrap_or(initial.revision);
    let (told, claimed) = (told_by(seen), claimed(&seen.operations));
    let mut open = open(&seen.operations);
    let mut keys: Keys = initial.kvs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
    for (revision, changes) in revisions {
        let Some(at) = told.range(revision..).next().map(|(_, at)| *at) else { continue };
        if let Some((key, kv)) = changes.first_key_value().filter(|_| changes.len() == 1)
            && !claimed.contains(&(revision, key.clone()))
            && let Some(places) = open.get_mut(key)
        {
            let made = |place: &usize| is_made_by(kv.as_ref(), at, &seen.operations[*place].operation, &keys);
            if let Some(first) = places.iter().position(made) {
                complete(&mut seen.operations[places.remove(first)].operation, revision, at);
            }
        }
        for (key, kv) in changes {
            match kv {
                Some(kv) => drop(keys.insert(key, kv)),
                None => drop(keys.remove(&key)),
            }
        }
    }
    let late: HashSet<Bytes> =
        events(seen).filter(|event| event.kv.modified > last).map(|event| event.kv.key.clone()).collect();
    open.retain(|key, _| !late.contains(key));
    for place in open.into_values().flatten() {
        seen.operations[place].operation.outcome = Outcome::Failed("no observer saw it done".to_owned());
    }
}

fn is_contested(key: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// What every revision did; none if the observers missed one that somebody was told of.
fn observed(seen: &Seen, first: Revision) -> Option<BTreeMap<Revision, Changes>> {
    let mut revisions: BTreeMap<Revision, Changes> = BTreeMap::new();
    let observers = seen.watched.iter().filter(|watched| watched.observer);
    for event in observers.flat_map(told_to).filter(|event| event.kv.modified > first) {
        let kv = (!event.delete).then(|| event.kv.clone());
        revisions.entry(event.kv.modified).or_default().insert(event.kv.key.clone(), kv);
    }
    let answered = |recorded: &Recorded| recorded.operation.response().map(|response| response.revision);
    let last = seen.operations.iter().filter_map(answered).max().unwrap_or(first);
    let mut next = first.next();
    for revision in revisions.keys() {
        if *revision != next {
            return None;
        }
        next = next.next();
    }
    (next > last).then_some(revisions)
}

fn events(seen: &Seen) -> impl Iterator<Item = &Event> {
    seen.watched.iter().flat_map(told_to)
}

fn told_to(watched: &Watched) -> impl Iterator<Item = &Event> {
    watched.steps.iter().flat_map(|step| match step {
        Step::Message { events, .. } => events.as_slice(),
        _ => &[],
    })
}

/// When anybody was first told of a revision, or of a later one: a revision was made before that. The moments rise.
fn told_by(seen: &Seen) -> BTreeMap<Revision, Moment> {
    let mut told: BTreeMap<Revision, Moment> = BTreeMap::new();
    let mut note = |revision: Revision, at: Moment| {
        let known = told.entry(revision).or_insert(at);
        *known = (*known).min(at);
    };
    for operation in seen.operations.iter().map(|recorded| &recorded.operation) {
        if let (Some(response), Some(at)) = (operation.response(), operation.returned) {
            note(response.revision, at);
        }
    }
    for step in seen.watched.iter().flat_map(|watched| &watched.steps) {
        if let Step::Message { at, revision, events, .. } = step {
            note(*revision, *at);
            events.iter().for_each(|event| note(event.kv.modified, *at));
        }
    }
    let mut earliest = Moment::NEVER;
    for at in told.values_mut().rev() {
        earliest = earliest.min(*at);
        *at = earliest;
    }
    told
}

/// What answered requests did themselves. The end of a lease is not among it: its answer may name a revision that another
/// made.
fn claimed(operations: &[Recorded]) -> HashSet<(Revision, Bytes)> {
    let claim = |recorded: &Recorded| {
        let Outcome::Ok(Response { revision, body }) = &recorded.operation.outcome else { return None };
        let did = !matches!(body, Body::Txn { succeeded: false, .. } | Body::DeleteRange { deleted: 0, .. });
        let change = changed(&recorded.operation.request).filter(|_| did)?;
        Some((*revision, change.key.clone()))
    };
    operations.iter().filter_map(claim).collect()
}

/// The contenders' requests of unknown outcome that are on contested keys alone, by the key that they change: those with the
/// most compares first, then the earliest.
fn open(operations: &[Recorded]) -> HashMap<Bytes, Vec<usize>> {
    let mut open: HashMap<Bytes, Vec<usize>> = HashMap::new();
    for (place, recorded) in operations.iter().enumerate() {
        let Recorded { workload: Workload::Locks, operation } = recorded else { continue };
        let (Some(change), Outcome::Unknown) = (changed(&operation.request), &operation.outcome) else { continue };
        if is_contested(change.key) && change.compares.iter().all(|compare| held(compare, &Keys::new()).is_some()) {
            open.entry(change.key.clone()).or_default().push(place);
        }
    }
    let compares = |operation: &Operation| changed(&operation.request).map_or(0, |change| change.compares.len());
    for places in open.values_mut() {
        places.sort_by_key(|place| {
            let operation = &operations[*place].operation;
            (usize::MAX - compares(operation), operation.called)
        });
    }
    open
}

/// What a request does to the one key that it changes.
struct Change<'o> {
    key: &'o Bytes,
    /// None if it deletes it.
    put: Option<(&'o Bytes, LeaseId)>,
    compares: &'o [Compare],
}

fn changed(request: &Request) -> Option<Change<'_>> {
    match request {
        Request::Put(put) => Some(Change { key: &put.key, put: Some((&put.value, put.lease)), compares: &[] }),
        Request::DeleteRange(delete) => Some(Change { key: delete.keys.single()?, put: None, compares: &[] }),
        Request::Txn(txn) => {
            let (key, put) = match (&txn.success[..], &txn.failure[..]) {
                ([TxnOp::Put(put)], []) => (&put.key, Some((&put.value, put.lease))),
                ([TxnOp::DeleteRange(delete)], []) => (delete.keys.single()?, None),
                _ => return None,
            };
            Some(Change { key, put, compares: &txn.compares })
        }
        _ => None,
    }
}

/// Whether a compare holds; none if that cannot be told from the contested keys.
fn held(compare: &Compare, keys: &Keys) -> Option<bool> {
    let key = compare.keys.single().filter(|key| is_contested(key))?;
    let kv = keys.get(key);
    match (&compare.target, compare.relation) {
        (Target::Create(create), Relation::Equal) => Some(kv.map(|kv| kv.create).unwrap_or_default() == *create),
        (Target::Lease(lease), Relation::Equal) => Some(kv.map(|kv| kv.lease).unwrap_or_default() == *lease),
        _ => None,
    }
}

/// Whether a request can have done this to the key that it changes, before `at`, when the keys were like that.
fn is_made_by(kv: Option<&KeyValue>, at: Moment, operation: &Operation, keys: &Keys) -> bool {
    let Some(change) = changed(&operation.request) else { return false };
    let does = match (change.put, kv) {
        (Some((value, lease)), Some(kv)) => *value == kv.value && lease == kv.lease,
        (None, None) => true,
        _ => false,
    };
    let may = || change.compares.iter().all(|compare| held(compare, keys) == Some(true));
    operation.called <= at && does && may()
}

fn complete(operation: &mut Operation, revision: Revision, at: Moment) {
    let puts = changed(&operation.request).is_some_and(|change| change.put.is_some());
    let body = if puts { Body::Put { prev_kv: None } } else { Body::DeleteRange { deleted: 1, prev_kvs: Vec::new() } };
    let body = match operation.request {
        Request::Txn(_) => Body::Txn { succeeded: true, responses: vec![body] },
        _ => body,
    };
    operation.outcome = Outcome::Ok(Response { revision, body });
    operation.returned = Some(at);
    // Nobody was answered by a member.
    operation.node = None;
}

#[cfg(test)]
mod tests {
    use tenure_history::request::{DeleteRange, KeyRange, Put, Txn};
    use tenure_history::watch::Spec;
    use tenure_history::{ClientId, NodeId};

    use super::*;

    fn unknown(called: u64, request: Request) -> Recorded {
        let operation = Operation::invoke(ClientId(1), Some(NodeId(1)), Moment(called), request);
        let operation = operation.complete(Moment(called + 1), Outcome::Unknown);
        Recorded { workload: Workload::Locks, operation }
    }

    fn put(key: &'static str, lease: i64) -> Request {
        Request::Put(Put { key: key.into(), lease: LeaseId(lease), ..Put::default() })
    }

    fn delete(key: &'static str) -> Request {
        Request::DeleteRange(DeleteRange { keys: KeyRange::one(key), prev_kv: false })
    }

    fn event(key: &'static str, revision: i64, lease: i64, delete: bool) -> Event {
        let (modified, lease) = (Revision(revision), LeaseId(lease));
        let kv = KeyValue { key: key.into(), create: modified, modified, lease, ..KeyValue::default() };
        Event { delete, kv, prev_kv: None }
    }

    fn seen(operations: Vec<Recorded>, events: Vec<Event>) -> Seen {
        let message = |event: Event| {
            let at = Moment(event.kv.modified.0.unsigned_abs() * 100);
            Step::Message { at, revision: event.kv.modified, fragment: false, events: vec![event] }
        };
        let spec = Spec { keys: KeyRange::all(), puts: true, deletes: true, prev_kv: false };
        let steps = events.into_iter().map(message).collect();
        Seen { operations, watched: vec![Watched { spec, steps, observer: true }], ..Seen::default() }
    }

    fn revisions(seen: &Seen) -> Vec<Option<i64>> {
        seen.operations
            .iter()
            .map(|recorded| match &recorded.operation.outcome {
                Outcome::Ok(response) => Some(response.revision.0),
                Outcome::Failed(_) => None,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn the_earliest_that_can_have_done_it_did_it_and_the_rest_did_nothing() {
        let operations = vec![
            unknown(50, delete("lock/0/1")),
            unknown(10, put("lock/0/1", 1)),
            unknown(20, delete("lock/0/1")),
            unknown(10, put("lock/0/2", 2)),
            unknown(9_000, put("lock/0/1", 1)),
        ];
        let events = vec![event("lock/0/1", 2, 1, false), event("x", 3, 0, false), event("lock/0/1", 4, 0, true)];
        let mut seen = seen(operations, events);
        settle(&mut seen, &Initial::default());
        assert_eq!(revisions(&seen), [None, Some(2), Some(4), None, None]);
        let settled = &seen.operations[1].operation;
        assert_eq!((settled.returned, settled.node), (Some(Moment(200)), None));
    }

    fn answered(called: u64, request: Request, revision: i64, body: Body) -> Recorded {
        let mut recorded = unknown(called, request);
        recorded.operation.outcome = Outcome::Ok(Response { revision: Revision(revision), body });
        recorded
    }

    #[test]
    fn what_somebody_knows_to_have_done_is_nobody_elses() {
        let deleted = Body::DeleteRange { deleted: 1, prev_kvs: Vec::new() };
        let operations = vec![
            unknown(10, delete("lock/0/1")),
            answered(350, delete("lock/0/1"), 3, deleted),
            unknown(10, delete("x")),
        ];
        let events = vec![event("lock/0/1", 2, 1, false), event("lock/0/1", 3, 0, true), event("x", 4, 0, true)];
        let mut seen = seen(operations, events);
        settle(&mut seen, &Initial::default());
        assert_eq!(seen.operations.pop().map(|recorded| recorded.operation.outcome), Some(Outcome::Unknown));
        assert_eq!(revisions(&seen), [None, Some(3)]);
    }

    #[test]
    fn what_was_called_when_somebody_knew_of_the_revision_did_not_make_it() {
        for (called, made) in [(250, Some(3)), (252, None)] {
            let revoke = answered(250, Request::LeaseRevoke { id: LeaseId(1) }, 3, Body::LeaseRevoke);
            let events = vec![event("lock/0/1", 2, 1, false), event("lock/0/1", 3, 0, true)];
            let mut seen = seen(vec![unknown(called, delete("lock/0/1")), revoke], events);
            settle(&mut seen, &Initial::default());
            assert_eq!(revisions(&seen), [made, Some(3)]);
        }
    }

    #[test]
    fn a_transaction_did_only_what_its_compares_let_it_do() {
        let compare = |target| Compare { keys: KeyRange::one("lock/0/1"), relation: Relation::Equal, target };
        let ends = |lease: i64, created: i64| {
            let then = TxnOp::DeleteRange(DeleteRange { keys: KeyRange::one("lock/0/1"), prev_kv: false });
            let compares = vec![compare(Target::Create(Revision(created))), compare(Target::Lease(LeaseId(lease)))];
            Request::Txn(Txn { compares, success: vec![then], failure: Vec::new() })
        };
        let requests = [delete("lock/0/1"), ends(0, 2), ends(1, 2), ends(1, 3), ends(1, 2)];
        let operations = requests.into_iter().zip(10..).map(|(request, called)| unknown(called, request)).collect();
        let mut seen = seen(operations, vec![event("lock/0/1", 2, 1, false), event("lock/0/1", 3, 0, true)]);
        settle(&mut seen, &Initial::default());
        assert_eq!(revisions(&seen), [None, None, Some(3), None, None]);
    }

    #[test]
    fn what_ends_with_others_was_not_made_by_a_request_for_one() {
        let both = [event("lock/0/1", 4, 0, true), event("lock/0/2", 4, 0, true)];
        let one = event("lock/0/1", 2, 1, false);
        let events = [one, event("lock/0/2", 3, 1, false)].into_iter().chain(both).collect();
        let mut seen = seen(vec![unknown(10, delete("lock/0/1"))], events);
        settle(&mut seen, &Initial::default());
        assert_eq!(revisions(&seen), [None]);
    }

    #[test]
    fn what_a_watcher_saw_when_the_observers_had_left_is_not_settled() {
        let mut seen = seen(vec![unknown(10, delete("lock/0/1"))], vec![event("lock/0/1", 2, 1, false)]);
        let mut late = seen.watched[0].clone();
        late.observer = false;
        let gone = event("lock/0/1", 3, 0, true);
        late.steps =
            vec![Step::Message { at: Moment(300), revision: Revision(3), fragment: false, events: vec![gone] }];
        seen.watched.push(late);
        settle(&mut seen, &Initial::default());
        assert_eq!(seen.operations[0].operation.outcome, Outcome::Unknown);
    }

    #[test]
    fn nothing_is_settled_by_observers_who_missed_something() {
        for (second, is_settled) in [(3, true), (4, false)] {
            let events = vec![event("lock/0/1", 2, 1, false), event("x", second, 0, false)];
            let mut seen = seen(vec![unknown(10, put("lock/0/1", 1))], events);
            settle(&mut seen, &Initial::default());
            assert_eq!(seen.operations[0].operation.outcome != Outcome::Unknown, is_settled);
        }
    }
}
