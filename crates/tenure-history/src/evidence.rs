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

mod deletions;
mod leases;

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use deletions::Deletions;
use leases::Leases;

use crate::history::Operation;
use crate::ids::{LeaseId, Revision};
use crate::model::{Change, Store};
use crate::request::{Compare, KeyRange, Relation, Request, Target, TxnOp};
use crate::response::{Body, KeyValue, RangeBody};
use crate::view::View;

pub(crate) use leases::Clock;

/// A key as an answer showed it at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fact {
    at: Revision,
    shown: Option<Shown>,
}

/// A key that is there, and what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    create: Option<Revision>,
    modified: Option<Revision>,
    version: Option<i64>,
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
/// The same for facts about one key that do not tell when it was made or changed.
const FACTS_LOOKED_AT_MAX: usize = 64;

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
    deletions: Deletions,
    /// Ranges that were shown whole: a key of theirs that was not shown was not there.
    wide: Vec<Wide>,
    leases: Leases,
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
                if let (Some(key), true) = (delete.keys.single(), *deleted > 0 && prev_kvs.is_empty()) {
                    self.note_fact(key, before, Some(Shown::default()), view);
                }
                let gone = RangeBody::default();
                self.note_range(&delete.keys, &gone, response.revision, view);
            }
            (Request::Txn(txn), Body::Txn { succeeded, responses }) => {
                if *succeeded {
                    txn.compares.iter().for_each(|compare| self.note_compare(compare, before, view));
                }
                self.note_txn(txn.branch(*succeeded), responses, response.revision, bumped, view);
            }
            _ => {}
        }
    }

    /// Notes a compare that held.
    fn note_compare(&mut self, compare: &Compare, at: Revision, view: &View) {
        let (Some(key), Relation::Equal) = (compare.keys.single(), compare.relation) else { return };
        let some = |revision: Revision| (revision > Revision(0)).then_some(revision);
        let shown = match compare.target {
            Target::Create(revision) => some(revision).map(|create| Shown { create: Some(create), ..Shown::default() }),
            Target::Mod(revision) => some(revision).map(|at| Shown { modified: Some(at), ..Shown::default() }),
            Target::Version(version) => (version > 0).then_some(Shown { version: Some(version), ..Shown::default() }),
            Target::Value(_) => Some(Shown::default()),
            // An absent key has no lease either.
            Target::Lease(lease) if lease.is_some() => Some(Shown::default()),
            Target::Lease(_) => return,
        };
        self.note_fact(key, at, shown, view);
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

    /// Notes what an operation says about leases.
    pub(crate) fn note_leases(&mut self, operation: &Operation, clock: &Clock) {
        self.leases.note(operation, clock);
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
            let shown = Shown { create: Some(kv.create), modified: Some(kv.modified), version: Some(kv.version) };
            self.note_fact(&kv.key, at, Some(shown), view);
            // It was that from its last modification on, made by its creation, and absent before.
            self.note_fact(&kv.key, kv.modified, Some(shown), view);
            let first = Shown { create: Some(kv.create), modified: Some(kv.create), version: Some(1) };
            self.note_fact(&kv.key, kv.create, Some(first), view);
            self.note_fact(&kv.key, kv.create.previous(), None, view);
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
        if kv.lease.is_some() {
            self.deletions.note_leased(&kv.key);
        }
        self.created.entry(kv.create).or_default().insert(kv.key.clone());
        let pins = self.pins.entry(kv.modified).or_default();
        if !pins.contains(&kv) {
            pins.push(kv);
        }
    }

    fn note_put(&mut self, key: &Bytes, at: Revision) {
        self.puts.entry(key.clone()).or_default().push(at);
    }

    /// Notes what an operation may delete, at its revision if that is known.
    pub(crate) fn note_deletions(&mut self, request: &Request, at: Option<Revision>) {
        self.deletions.note(request, at);
    }

    /// Notes a key that was there before the history.
    pub(crate) fn note_initial(&mut self, kv: &KeyValue) {
        if kv.lease.is_some() {
            self.deletions.note_leased(&kv.key);
        }
    }

    /// Notes a revision that nobody claims.
    pub(crate) fn note_gap(&mut self, at: Revision) {
        self.deletions.note_gap(at);
    }

    /// Must be called once everything is noted.
    pub(crate) fn seal(&mut self) {
        for facts in self.facts.values_mut() {
            facts.sort_unstable();
            facts.dedup();
        }
        self.puts.values_mut().for_each(|revisions| revisions.sort_unstable());
        self.deletions.seal();
        self.leases.seal();
        self.wide.sort_by_key(|wide| wide.at);
    }

    /// The last revision, no later than `now`, at which an answer shows a key just as a store has it.
    pub(crate) fn agreed(&self, key: &Bytes, now: Revision, store: &Store) -> Revision {
        let Some(facts) = self.facts.get(key) else { return Revision(0) };
        let until = facts.partition_point(|fact| fact.at <= now);
        let agrees = |fact: &&Fact| match (store.get_at(key, fact.at), fact.shown) {
            (None, None) => true,
            (Some(kv), Some(shown)) => {
                shown.create == Some(kv.create)
                    && shown.modified == Some(kv.modified)
                    && shown.version == Some(kv.version)
            }
            _ => false,
        };
        facts[..until].iter().rev().take(FACTS_LOOKED_AT_MAX).find(agrees).map_or(Revision(0), |fact| fact.at)
    }

    /// The keys that a revision is known to have made something of.
    pub(crate) fn pinned_keys(&self, at: Revision) -> impl Iterator<Item = &Bytes> {
        let created = self.created.get(&at).into_iter().flatten();
        self.pins(at).iter().map(|kv| &kv.key).chain(created)
    }

    /// The key-values that a revision is known to have made.
    pub(crate) fn pins(&self, at: Revision) -> &[KeyValue] {
        self.pins.get(&at).map_or(&[], |pins| pins)
    }

    /// The revisions of which something is known that they made.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = Revision> {
        self.pins.keys().copied()
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
        let (of_keys, of_lease) = (self.fit(at, changes)?, self.leases.fit_end(at, lease)?);
        let unlikely = of_lease == Fit::Unlikely;
        Some(if unlikely { of_keys.max(of_lease) } else { of_keys.min(of_lease) })
    }

    fn fit_one(&self, at: Revision, change: &Change) -> Option<Fit> {
        let first = self.first_fact(&change.key, at);
        let told = self.first_told(&change.key, at);
        match &change.kv {
            Some(kv) => self.fit_put(at, kv, first, told),
            None => self.fit_delete(at, &change.key, first, told),
        }
    }

    fn fit_delete(&self, at: Revision, key: &Bytes, first: Option<Fact>, told: Option<(Fact, Shown)>) -> Option<Fit> {
        let create = told.and_then(|(_, shown)| shown.create);
        if create.is_some_and(|create| create <= at) {
            return None;
        }
        match first {
            None => Some(Fit::Silent),
            Some(Fact { shown: None, at }) => Some(Fit::Wanted(at)),
            Some(Fact { shown: Some(shown), at: there }) => Some(match shown.create {
                // It is made anew, so it must end before.
                Some(create) => Fit::Wanted(create),
                None if self.puts_within(key, at, there) > 0 => Fit::Silent,
                None => Fit::Unlikely,
            }),
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

    /// The first at or after a revision that shows when a key was made or changed.
    fn first_told(&self, key: &Bytes, at: Revision) -> Option<(Fact, Shown)> {
        let facts = self.facts.get(key)?;
        let later = facts.get(facts.partition_point(|fact| fact.at < at)..)?.iter().take(FACTS_LOOKED_AT_MAX);
        let mut told = later.filter_map(|fact| Some((*fact, fact.shown?)));
        told.find(|(_, shown)| shown.create.is_some() || shown.modified.is_some())
    }

    fn fit_put(&self, at: Revision, kv: &KeyValue, first: Option<Fact>, told: Option<(Fact, Shown)>) -> Option<Fit> {
        if let Some(Fact { shown: None, at: absent }) = first {
            return self.fit_short_life(at, &kv.key, absent);
        }
        let Some((_, shown)) = told else { return Some(self.fit_creation(at, kv, first)) };
        if shown.modified.is_some_and(|modified| modified < at) {
            return None;
        }
        if shown.modified == Some(at) {
            return Some(Fit::Shown);
        }
        let (Some(create), Some(modified), Some(version)) = (shown.create, shown.modified, shown.version) else {
            return Some(self.fit_creation(at, kv, first));
        };
        if create > at {
            let life = self.fit_short_life(at, &kv.key, create)?;
            return Some(self.fit_creation(at, kv, first).min(life));
        }
        let to_come = version - kv.version;
        let acked = self.puts_within(&kv.key, at, modified);
        let possible = kv.create == create && to_come >= acked && to_come > 0;
        possible.then_some(Fit::Wanted(modified))
    }

    /// How a put fits that must be deleted again by some revision.
    fn fit_short_life(&self, at: Revision, key: &Bytes, gone: Revision) -> Option<Fit> {
        if self.deletions.is_deleted(key, at, gone) {
            return Some(Fit::Silent);
        }
        self.deletions.may_delete(key, at, gone).then_some(Fit::Unlikely)
    }

    /// How a put fits of which nothing more is known than that the key is there at some later revision: if it makes the key,
    /// and no acked put does so until then, it is wanted.
    fn fit_creation(&self, at: Revision, kv: &KeyValue, first: Option<Fact>) -> Fit {
        match first {
            Some(Fact { at: there, shown: Some(_) })
                if kv.version == 1 && self.puts_within(&kv.key, at, there) == 0 =>
            {
                Fit::Wanted(there)
            }
            Some(_) | None => Fit::Silent,
        }
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
