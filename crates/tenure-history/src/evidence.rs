//! What the answers of a history say about single keys at single revisions, gathered before the search.
//!
//! A gap in the acked revisions is some write of unknown outcome, or a lease's end. Which one? Mostly the answers tell:
//!
//! ```text
//! revision 7 is nobody's; unknown: put a=x, put b=y
//! a later read says   a (create 3, mod 7, version 4)   → it was put a=x
//! or it says, at 9,   b (create 2, mod 2, version 1)   → it was not put b=y: b did not change in (2, 9]
//! or, at 9,           a (create 3, mod 8, version 5)   → two puts of a in (6, 8], one was acked, so one is still wanted
//! ```
//!
//! Everything here follows from answers, so whatever it refutes is impossible; but it only prunes and sorts, the search
//! decides. One fact per key suffices to judge a change at revision r: the first at or after r.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::history::Operation;
use crate::ids::{LeaseId, Revision};
use crate::model::Change;
use crate::request::{KeyRange, Request, TxnOp};
use crate::response::{Body, KeyValue, RangeBody};
use crate::view::View;

/// A key as an answer showed it at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fact {
    at: Revision,
    shown: Option<Shown>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    create: Revision,
    modified: Revision,
    version: i64,
}

/// How well a change fits what the answers say; better ones are smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// An answer shows exactly this change.
    Shown,
    /// Some change of this kind must happen, at the latest at this revision.
    Wanted(Revision),
    /// No answer speaks of it.
    Silent,
    /// It is possible only if another unseen change follows.
    Unlikely,
    /// A watcher says that it was something else.
    Denied,
}

/// Ranges looked through for one key: what is further away decides little, and a history may be full of them.
const WIDE_LOOKED_AT_MAX: usize = 64;

/// See the module's header.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    facts: HashMap<Bytes, Vec<Fact>>,
    /// Key-values that were shown, by the revision that made them.
    pins: HashMap<Revision, Vec<KeyValue>>,
    /// Keys that were shown as created, by the revision that created them.
    created: HashMap<Revision, HashSet<Bytes>>,
    /// Revisions of acked puts, by key.
    puts: HashMap<Bytes, Vec<Revision>>,
    /// Revisions that may delete something.
    may_delete: Vec<Revision>,
    /// Ranges that were shown whole: a key of theirs that was not shown was not there.
    wide: Vec<Wide>,
    leases: HashMap<LeaseId, Vec<(i64, LeaseFact)>>,
    /// Leases that somebody asked for and may have been granted.
    maybe_granted: HashSet<LeaseId>,
}

/// What an answer says about a lease: at twice the revision for what stands between two revisions, one less for what
/// makes a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LeaseFact {
    Lives,
    Granted,
}

#[derive(Debug)]
struct Wide {
    at: Revision,
    range: KeyRange,
    shown: HashSet<Bytes>,
}

impl Evidence {
    /// Notes what an acked operation says; `bumped` if it made the revision of its header.
    pub(crate) fn note(&mut self, operation: &Operation, bumped: bool, view: &View) {
        let Some(response) = operation.response() else { return };
        let before = if bumped { response.revision.previous() } else { response.revision };
        self.note_leases(&operation.request, &response.body, response.revision);
        match (&operation.request, &response.body) {
            (Request::Range(range), Body::Range(body)) => {
                let old = range.revision > Revision(0);
                let at = if old { range.revision } else { before };
                self.note_range(&range.keys, body, at, view);
            }
            (Request::Put(put), Body::Put { prev_kv }) => {
                self.note_put(&put.key, response.revision);
                match prev_kv {
                    Some(kv) => self.note_kvs(core::slice::from_ref(kv), before, view),
                    None if put.prev_kv => self.note_fact(&put.key, before, None, view),
                    None => {}
                }
            }
            (Request::DeleteRange(delete), Body::DeleteRange { prev_kvs, deleted }) => {
                let body = RangeBody { kvs: prev_kvs.clone(), count: *deleted, more: false };
                self.note_range(&delete.keys, &body, before, view);
                let gone = RangeBody::default();
                self.note_range(&delete.keys, &gone, response.revision, view);
            }
            (Request::Txn(txn), Body::Txn { succeeded, responses }) => {
                self.note_txn(txn.branch(*succeeded), responses, response.revision, bumped, view);
            }
            _ => {}
        }
    }

    fn note_txn(&mut self, ops: &[TxnOp], bodies: &[Body], at: Revision, bumped: bool, view: &View) {
        for (op, body) in ops.iter().zip(bodies) {
            match (op, body) {
                // Inside a writing transaction a read may show the transaction's own writes: no fact about a revision.
                (TxnOp::Range(range), Body::Range(body)) if !bumped && range.revision <= Revision(0) => {
                    self.note_range(&range.keys, body, at, view);
                }
                (TxnOp::Put(put), _) => self.note_put(&put.key, at),
                (TxnOp::Txn(nested), Body::Txn { succeeded, responses }) => {
                    self.note_txn(nested.branch(*succeeded), responses, at, bumped, view);
                }
                _ => {}
            }
        }
    }

    fn note_leases(&mut self, request: &Request, body: &Body, at: Revision) {
        match (request, body) {
            (Request::Put(put), _) => self.note_lives(put.lease, at),
            (Request::LeaseRevoke { id }, _) => self.note_lives(*id, at),
            (Request::Txn(txn), Body::Txn { succeeded, responses }) => {
                for (op, body) in txn.branch(*succeeded).iter().zip(responses) {
                    match op {
                        TxnOp::Put(put) => self.note_lives(put.lease, at),
                        TxnOp::Txn(nested) => self.note_leases(&Request::Txn(nested.clone()), body, at),
                        TxnOp::Range(_) | TxnOp::DeleteRange(_) => {}
                    }
                }
            }
            (_, Body::LeaseGrant { id, .. }) => {
                self.leases.entry(*id).or_default().push((at.0.saturating_mul(2), LeaseFact::Granted));
            }
            _ => {}
        }
    }

    fn note_lives(&mut self, lease: LeaseId, at: Revision) {
        if lease.is_some() {
            let place = at.0.saturating_mul(2).saturating_sub(1);
            self.leases.entry(lease).or_default().push((place, LeaseFact::Lives));
        }
    }

    /// Notes a grant of unknown outcome.
    pub(crate) fn note_maybe_granted(&mut self, lease: LeaseId) {
        self.maybe_granted.insert(lease);
    }

    fn note_range(&mut self, range: &KeyRange, body: &RangeBody, at: Revision, view: &View) {
        self.note_kvs(&body.kvs, at, view);
        if i64::try_from(body.kvs.len()) != Ok(body.count) {
            return;
        }
        match range.single() {
            Some(key) if body.count == 0 => self.note_fact(key, at, None, view),
            Some(_) => {}
            None => {
                let shown = body.kvs.iter().map(|kv| kv.key.clone()).collect();
                self.wide.push(Wide { at, range: range.clone(), shown });
            }
        }
    }

    fn note_kvs(&mut self, kvs: &[KeyValue], at: Revision, view: &View) {
        for kv in kvs.iter().filter(|kv| view.sees(&kv.key)) {
            let shown = Shown { create: kv.create, modified: kv.modified, version: kv.version };
            self.note_fact(&kv.key, at, Some(shown), view);
            self.note_pin(kv.clone());
        }
    }

    fn note_fact(&mut self, key: &Bytes, at: Revision, shown: Option<Shown>, view: &View) {
        if view.sees(key) {
            self.facts.entry(key.clone()).or_default().push(Fact { at, shown });
        }
    }

    /// A key-value that was seen: its revision made exactly it.
    fn note_pin(&mut self, kv: KeyValue) {
        self.created.entry(kv.create).or_default().insert(kv.key.clone());
        let pins = self.pins.entry(kv.modified).or_default();
        if !pins.contains(&kv) {
            pins.push(kv);
        }
    }

    fn note_put(&mut self, key: &Bytes, at: Revision) {
        self.puts.entry(key.clone()).or_default().push(at);
    }

    /// Notes a revision in which a key may have been deleted.
    pub(crate) fn note_may_delete(&mut self, at: Revision) {
        self.may_delete.push(at);
    }

    /// Must be called once everything is noted.
    pub(crate) fn seal(&mut self) {
        for facts in self.facts.values_mut() {
            facts.sort_unstable();
            facts.dedup();
        }
        self.puts.values_mut().for_each(|revisions| revisions.sort_unstable());
        self.may_delete.sort_unstable();
        self.leases.values_mut().for_each(|facts| facts.sort_unstable());
        self.wide.sort_by_key(|wide| wide.at);
    }

    /// Whether a revision made of these changes contradicts a key-value that was shown of it.
    pub(crate) fn contradicts_pins(&self, at: Revision, changes: &[Change]) -> bool {
        let made = |pin: &KeyValue| changes.iter().any(|change| change.kv.as_ref() == Some(pin));
        let creates = |key: &Bytes| {
            let is_it = |kv: &KeyValue| kv.key == *key && kv.create == at;
            changes.iter().any(|change| change.kv.as_ref().is_some_and(is_it))
        };
        self.pins.get(&at).is_some_and(|pins| !pins.iter().all(made))
            || self.created.get(&at).is_some_and(|keys| !keys.iter().all(creates))
    }

    /// How the changes fit, or nothing if they are impossible in this revision.
    pub(crate) fn fit(&self, at: Revision, changes: &[Change]) -> Option<Fit> {
        if self.contradicts_pins(at, changes) {
            return None;
        }
        let mut best = Fit::Unlikely;
        for change in changes {
            best = best.min(self.fit_one(at, change)?);
        }
        Some(best)
    }

    /// How a lease's end fits that makes this revision.
    pub(crate) fn fit_end(&self, at: Revision, lease: LeaseId, changes: &[Change]) -> Option<Fit> {
        let of_keys = self.fit(at, changes)?;
        let facts = self.leases.get(&lease).map_or(&[][..], |facts| facts);
        let later = facts.partition_point(|(place, _)| *place < at.0.saturating_mul(2));
        match facts.get(later) {
            None => Some(of_keys),
            Some((place, LeaseFact::Granted)) => Some(of_keys.min(Fit::Wanted(Revision(place / 2)))),
            // It lives later: only a grant that nobody was told of can have come between.
            Some((_, LeaseFact::Lives)) => self.maybe_granted.contains(&lease).then_some(Fit::Unlikely),
        }
    }

    fn fit_one(&self, at: Revision, change: &Change) -> Option<Fit> {
        let Some(fact) = self.first_fact(&change.key, at) else { return Some(Fit::Silent) };
        match (&change.kv, fact.shown) {
            (Some(kv), Some(shown)) => self.fit_put(at, kv, shown),
            (Some(_), None) => self.may_be_deleted(at, fact.at).then_some(Fit::Unlikely),
            (None, Some(shown)) => (shown.create > at).then_some(Fit::Wanted(shown.create)),
            (None, None) => Some(Fit::Wanted(fact.at)),
        }
    }

    /// The first that is known of a key at or after a revision.
    fn first_fact(&self, key: &Bytes, at: Revision) -> Option<Fact> {
        let fact = self.facts.get(key).and_then(|facts| first_from(facts, at)).copied();
        let from = self.wide.partition_point(|wide| wide.at < at);
        let until = fact.map_or(Revision(i64::MAX), |fact| fact.at);
        let wide = self.wide[from..].iter().take(WIDE_LOOKED_AT_MAX).take_while(|wide| wide.at < until);
        let absent = wide.filter(|wide| wide.range.contains(key)).find(|wide| !wide.shown.contains(key));
        absent.map(|wide| Fact { at: wide.at, shown: None }).or(fact)
    }

    fn fit_put(&self, at: Revision, kv: &KeyValue, shown: Shown) -> Option<Fit> {
        if shown.modified < at {
            return None;
        }
        if shown.modified == at {
            return Some(Fit::Shown);
        }
        if shown.create > at {
            return self.may_be_deleted(at, shown.create).then_some(Fit::Unlikely);
        }
        let to_come = shown.version - kv.version;
        let acked = self.puts_within(&kv.key, at, shown.modified);
        let possible = kv.create == shown.create && to_come >= acked && to_come > 0;
        possible.then_some(Fit::Wanted(shown.modified))
    }

    fn may_be_deleted(&self, after: Revision, to: Revision) -> bool {
        let from = self.may_delete.partition_point(|at| *at <= after);
        self.may_delete.get(from).is_some_and(|at| *at <= to)
    }

    fn puts_within(&self, key: &Bytes, after: Revision, to: Revision) -> i64 {
        let Some(puts) = self.puts.get(key) else { return 0 };
        let count = puts.partition_point(|at| *at <= to) - puts.partition_point(|at| *at <= after);
        i64::try_from(count).unwrap_or(i64::MAX)
    }
}

fn first_from(facts: &[Fact], at: Revision) -> Option<&Fact> {
    facts.get(facts.partition_point(|fact| fact.at < at))
}
