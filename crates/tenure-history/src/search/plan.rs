//! What the search looks up: every operation's kind, the events in time, who claims which revision.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::evidence::{Clock, Evidence};
use crate::history::{Initial, Operation};
use crate::ids::{LeaseId, Moment, Revision};
use crate::model::hash_of;
use crate::request::{Put, Request, TxnOp};
use crate::response::{Body, Outcome, Refusal};
use crate::seen::Seen;
use crate::view::View;

/// How an operation is tied to the revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It made this revision.
    Write(Revision),
    /// It saw the keys at exactly this revision and changed nothing.
    Slot(Revision),
    /// A grant or compaction: it took effect at exactly this revision without making one.
    Silent(Revision),
    /// A revocation answered at this revision: it made it, or the lease had no keys.
    Revoke(Revision),
    /// It says something about leases or counters, but not at which revision.
    Floating,
    /// It may have happened.
    Unknown,
}

/// Who made a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Operation(usize),
    /// An acked write outside the view.
    Other,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) at: Moment,
    pub(crate) is_return: bool,
    pub(crate) operation: usize,
}

/// See the module's header.
pub(crate) struct Plan<'a> {
    pub(crate) initial: &'a Initial,
    pub(crate) view: View,
    pub(crate) operations: Vec<&'a Operation>,
    pub(crate) kinds: Vec<Kind>,
    /// A number for each operation, for the hash of the set of those placed.
    pub(crate) marks: Vec<u128>,
    pub(crate) events: Vec<Event>,
    /// The place of each operation's call among the events.
    pub(crate) called_at: Vec<usize>,
    pub(crate) claims: HashMap<Revision, Claim>,
    /// Operations that are tied to a revision without surely making it.
    pub(crate) slots: HashMap<Revision, Vec<usize>>,
    /// Writes of unknown outcome, by their call.
    pub(crate) unknowns: Vec<usize>,
    /// Grants and acked revocations of each lease.
    pub(crate) of_lease: HashMap<LeaseId, Vec<usize>>,
    pub(crate) compactions: Vec<usize>,
    /// Acked revocations, by the revision that they may have made.
    pub(crate) revocations: HashMap<Revision, Vec<usize>>,
    /// Revisions that later reads ask for.
    pub(crate) read_later: HashSet<Revision>,
    pub(crate) evidence: Evidence,
    /// Writes of unknown outcome that must have made this revision: an answer shows what it made, and nobody else puts that.
    pub(crate) reserved: HashMap<usize, Revision>,
    /// What watchers saw.
    pub(crate) seen: &'a [Seen],
    /// Two acked writes with one revision, if there are.
    pub(crate) claimed_twice: Option<(usize, usize)>,
}

impl<'a> Plan<'a> {
    /// Plans for the operations that the view shows, of those that `include` lets in.
    pub(crate) fn new(
        initial: &'a Initial,
        operations: &'a [Operation],
        view: View,
        include: &dyn Fn(&Operation) -> bool,
    ) -> Plan<'a> {
        let mut plan = Plan {
            initial,
            view,
            operations: Vec::new(),
            kinds: Vec::new(),
            marks: Vec::new(),
            events: Vec::new(),
            called_at: Vec::new(),
            claims: HashMap::new(),
            slots: HashMap::new(),
            unknowns: Vec::new(),
            of_lease: HashMap::new(),
            compactions: Vec::new(),
            revocations: HashMap::new(),
            read_later: HashSet::new(),
            evidence: Evidence::default(),
            reserved: HashMap::new(),
            seen: &[],
            claimed_twice: None,
        };
        for operation in operations.iter().filter(|operation| include(operation)) {
            plan.add(operation);
        }
        plan.sort_events();
        let moment = |at: &usize| plan.called_at[*at];
        plan.unknowns.sort_by_key(moment);
        plan.note_deletions();
        if plan.view.is_all() {
            plan.note_leases();
        }
        plan.evidence.seal();
        plan.reserve();
        plan
    }

    /// Gives the search what watchers saw as advice.
    pub(crate) fn advise(&mut self, seen: &'a [Seen]) {
        self.seen = seen;
    }

    fn add(&mut self, operation: &'a Operation) {
        let Some(kind) = self.kind(operation) else { return };
        let at = self.operations.len();
        if let Kind::Write(revision) = kind {
            let shown = shows(&self.view, &operation.request);
            let claim = if shown { Claim::Operation(at) } else { Claim::Other };
            if let Some(Claim::Operation(other)) = self.claims.insert(revision, claim) {
                self.claimed_twice.get_or_insert((other, at));
            }
        }
        if !shows(&self.view, &operation.request) {
            return;
        }
        self.evidence.note(operation, matches!(kind, Kind::Write(_)), &self.view);
        match kind {
            Kind::Slot(revision) | Kind::Silent(revision) => self.slots.entry(revision).or_default().push(at),
            Kind::Revoke(revision) => {
                self.slots.entry(revision).or_default().push(at);
                self.revocations.entry(revision).or_default().push(at);
            }
            Kind::Unknown => self.add_unknown(operation, at),
            Kind::Write(_) | Kind::Floating => {}
        }
        self.index(operation, at, kind);
        self.operations.push(operation);
        self.kinds.push(kind);
        self.marks.push(hash_of(&("operation", at)));
    }

    fn add_unknown(&mut self, operation: &Operation, at: usize) {
        if matches!(operation.request, Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_)) {
            self.unknowns.push(at);
        }
    }

    fn index(&mut self, operation: &Operation, at: usize, kind: Kind) {
        match (&operation.request, kind) {
            (Request::LeaseGrant { id, .. }, Kind::Silent(_) | Kind::Unknown) => {
                let id = granted(operation).unwrap_or(*id);
                self.of_lease.entry(id).or_default().push(at);
            }
            (Request::LeaseRevoke { id }, Kind::Revoke(_)) => self.of_lease.entry(*id).or_default().push(at),
            (Request::Compact { .. }, Kind::Silent(_) | Kind::Unknown) => self.compactions.push(at),
            (Request::Range(range), _) if range.revision > Revision(0) => {
                self.read_later.insert(range.revision);
            }
            (Request::Txn(txn), _) => txn.each_op(&mut |op| {
                if let TxnOp::Range(range) = op
                    && range.revision > Revision(0)
                {
                    self.read_later.insert(range.revision);
                }
            }),
            _ => {}
        }
    }

    /// How an operation is tied, or nothing if it says nothing.
    fn kind(&self, operation: &Operation) -> Option<Kind> {
        let below = |revision: Revision| revision > Revision(0) && revision < self.initial.revision;
        if let Request::Range(range) = &operation.request
            && below(range.revision)
        {
            return None;
        }
        match &operation.outcome {
            Outcome::Failed(_) => None,
            Outcome::Unknown => match operation.request {
                // An end needs no help from an unknown revocation: leases may end by themselves at any time. The id
                // that an unknown grant was given by the store is known to nobody.
                Request::LeaseRevoke { .. } | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => None,
                Request::LeaseGrant { id, .. } if !id.is_some() => None,
                Request::Range(_) => None,
                _ => Some(Kind::Unknown),
            },
            // These depend on how far one node is, or on the request alone.
            Outcome::Refused(refusal) => {
                let says_something = !operation.request.is_serializable() && *refusal != Refusal::DuplicateKey;
                // A narrow view shows neither leases nor compactions.
                let says_something = says_something && self.view.is_all();
                says_something.then_some(Kind::Floating)
            }
            Outcome::Ok(response) => match &response.body {
                Body::LeaseKeepAlive { .. } | Body::LeaseTimeToLive { .. } => Some(Kind::Floating),
                Body::LeaseGrant { .. } | Body::Compact => Some(Kind::Silent(response.revision)),
                Body::LeaseRevoke => Some(Kind::Revoke(response.revision)),
                // From before the history began, if it did not begin with a fresh store.
                _ if operation.request.is_serializable()
                    && response.revision < self.initial.revision
                    && self.initial.revision > Revision::FRESH =>
                {
                    None
                }
                body if body.changed_keys() == Some(true) => Some(Kind::Write(response.revision)),
                _ => Some(Kind::Slot(response.revision)),
            },
        }
    }

    /// Calls stand before returns at the same instant: such operations overlap.
    fn sort_events(&mut self) {
        for (at, operation) in self.operations.iter().enumerate() {
            // What a node shows of the past may be read at any time after it.
            let called = if operation.request.is_serializable() { Moment(0) } else { operation.called };
            self.events.push(Event { at: called, is_return: false, operation: at });
            if self.kinds[at] != Kind::Unknown {
                self.events.push(Event { at: operation.deadline(), is_return: true, operation: at });
            }
        }
        self.events.sort_by_key(|event| (event.at, event.is_return));
        self.called_at = vec![0; self.operations.len()];
        for (place, event) in self.events.iter().enumerate().filter(|(_, event)| !event.is_return) {
            self.called_at[event.operation] = place;
        }
    }

    fn reserve(&mut self) {
        let mut puts: HashMap<(Bytes, Bytes), Vec<usize>> = HashMap::new();
        for at in self.unknowns.iter().copied() {
            each_put(&self.operations[at].request, &mut |put| {
                puts.entry((put.key.clone(), put.value.clone())).or_default().push(at);
            });
        }
        let mut twice = HashSet::new();
        let first = self.initial.revision;
        let unclaimed = |revision: &Revision| *revision > first && !self.claims.contains_key(revision);
        for revision in self.evidence.pinned().filter(unclaimed) {
            for pin in self.evidence.pins(revision) {
                let made = puts.get(&(pin.key.clone(), pin.value.clone())).map_or(&[][..], |puts| puts);
                if let [only] = *made
                    && self.reserved.insert(only, revision).is_some_and(|other| other != revision)
                {
                    twice.insert(only);
                }
            }
        }
        // Nobody can make two revisions: the search will find out.
        self.reserved.retain(|at, _| !twice.contains(at));
    }

    fn note_leases(&mut self) {
        let exact = self.operations.iter().zip(&self.kinds).filter_map(|(operation, kind)| {
            let (Kind::Write(at) | Kind::Slot(at) | Kind::Silent(at) | Kind::Revoke(at)) = *kind else { return None };
            (!operation.request.is_serializable()).then_some((operation.called, operation.deadline(), at))
        });
        let clock = Clock::new(&exact.collect::<Vec<_>>());
        for operation in &self.operations {
            self.evidence.note_leases(operation, &clock);
        }
    }

    fn note_deletions(&mut self) {
        for (operation, kind) in self.operations.iter().zip(&self.kinds) {
            match kind {
                Kind::Write(at) => self.evidence.note_deletions(&operation.request, Some(*at)),
                Kind::Unknown => self.evidence.note_deletions(&operation.request, None),
                Kind::Slot(_) | Kind::Silent(_) | Kind::Revoke(_) | Kind::Floating => {}
            }
        }
        for kv in &self.initial.kvs {
            self.evidence.note_initial(kv);
        }
        let last = self.claims.keys().chain(self.slots.keys()).max().copied().unwrap_or(self.initial.revision);
        for revision in (self.initial.revision.0 + 1..=last.0).map(Revision) {
            if !self.claims.contains_key(&revision) {
                self.evidence.note_gap(revision);
            }
        }
    }
}

/// The lease that an operation was granted.
pub(crate) fn granted(operation: &Operation) -> Option<LeaseId> {
    match &operation.response()?.body {
        Body::LeaseGrant { id, .. } => Some(*id),
        _ => None,
    }
}

/// Calls `visit` for every put of a request, on whatever path.
pub(crate) fn each_put(request: &Request, visit: &mut dyn FnMut(&Put)) {
    match request {
        Request::Put(put) => visit(put),
        Request::Txn(txn) => txn.each_op(&mut |op| {
            if let TxnOp::Put(put) = op {
                visit(put);
            }
        }),
        _ => {}
    }
}

/// The keys that a request may put, with the leases that it attaches.
pub(crate) fn puts_of(request: &Request) -> Vec<(Bytes, LeaseId)> {
    let mut puts = Vec::new();
    each_put(request, &mut |put| puts.push((put.key.clone(), put.lease)));
    puts
}

/// Whether the view shows the request. A narrow one shows no leases and no compactions.
fn shows(view: &View, request: &Request) -> bool {
    if view.is_all() {
        return true;
    }
    match request {
        Request::Range(range) => view.touches(&range.keys),
        Request::Put(put) => view.sees(&put.key),
        Request::DeleteRange(delete) => view.touches(&delete.keys),
        Request::Txn(txn) => {
            let mut shown = false;
            txn.each_op(&mut |op| {
                shown |= match op {
                    TxnOp::Range(range) => view.touches(&range.keys),
                    TxnOp::Put(put) => view.sees(&put.key),
                    TxnOp::DeleteRange(delete) => view.touches(&delete.keys),
                    TxnOp::Txn(_) => false,
                };
            });
            txn.each_compare(&mut |compare| shown |= view.touches(&compare.keys));
            shown
        }
        Request::Compact { .. }
        | Request::LeaseGrant { .. }
        | Request::LeaseKeepAlive { .. }
        | Request::LeaseRevoke { .. }
        | Request::LeaseTimeToLive { .. } => false,
    }
}
