//! What answers say about leases: when one lives, and when it is gone.
//!
//! Instants are counted in places: twice the revision for what stands between that revision and the next, one less for what
//! makes it. A renewal or a refusal names no revision; it stands somewhere between the revision that everybody had been told
//! of before its call and the first that was told after its return, so what it says is said of some place in an interval.

use std::collections::{HashMap, HashSet};

use super::Fit;
use crate::history::Operation;
use crate::ids::{LeaseId, Moment, Revision};
use crate::request::{Request, TxnOp};
use crate::response::{Body, Outcome, Refusal};

/// An interval of places, both ends included.
type Places = (i64, i64);

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: HashMap<LeaseId, Lease>,
}

#[derive(Debug, Default)]
struct Lease {
    /// The places of its grants.
    grants: Vec<i64>,
    /// It lives somewhere in each of these.
    lives: Vec<Places>,
    /// It does not, somewhere in each of these.
    gone: Vec<Places>,
    /// Whether somebody asked for it and may have been granted it.
    maybe_granted: bool,
}

/// Which revisions an operation can have stood between, by its instants.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// Returns in ascending order, with the highest revision told up to each.
    told: Vec<(Moment, Revision)>,
    /// Calls in ascending order, with the lowest revision told to any called from there on.
    asked: Vec<(Moment, Revision)>,
}

impl Clock {
    /// From every operation that took effect at exactly its revision: its call, its return, the revision.
    pub(crate) fn new(exact: &[(Moment, Moment, Revision)]) -> Clock {
        let mut told: Vec<(Moment, Revision)> = exact.iter().map(|(_, returned, at)| (*returned, *at)).collect();
        told.sort_unstable();
        let mut highest = Revision(0);
        for (_, revision) in &mut told {
            highest = highest.max(*revision);
            *revision = highest;
        }
        let mut asked: Vec<(Moment, Revision)> = exact.iter().map(|(called, _, at)| (*called, *at)).collect();
        asked.sort_unstable();
        let mut lowest = Revision(i64::MAX / 4);
        for (_, revision) in asked.iter_mut().rev() {
            lowest = lowest.min(*revision);
            *revision = lowest;
        }
        Clock { told, asked }
    }

    fn places(&self, called: Moment, returned: Moment) -> Places {
        let before = self.told.partition_point(|(at, _)| *at < called);
        let lowest = before.checked_sub(1).map_or(Revision(0), |at| self.told[at].1);
        let after = self.asked.partition_point(|(at, _)| *at <= returned);
        let highest = self.asked.get(after).map_or(Revision(i64::MAX / 4), |(_, revision)| *revision);
        (between(lowest), between(highest))
    }
}

/// The place between a revision and the next.
fn between(revision: Revision) -> i64 {
    revision.0.saturating_mul(2)
}

/// The place at which a revision is made.
fn making(revision: Revision) -> i64 {
    between(revision).saturating_sub(1)
}

impl Leases {
    /// Notes what an operation says.
    pub(super) fn note(&mut self, operation: &Operation, clock: &Clock) {
        match &operation.outcome {
            Outcome::Ok(response) => self.note_answer(operation, &response.body, response.revision, clock),
            Outcome::Refused(Refusal::LeaseNotFound) => {
                // Which of several is missing is not said.
                if let [lease] = *distinct(asked_leases(&operation.request)) {
                    let places = window(operation, clock);
                    self.of(lease).gone.push(places);
                }
            }
            Outcome::Refused(Refusal::LeaseExists) => {
                if let Some(lease) = operation.request.lease() {
                    let places = window(operation, clock);
                    self.of(lease).lives.push(places);
                }
            }
            Outcome::Unknown => {
                if let Request::LeaseGrant { id, .. } = operation.request {
                    self.of(id).maybe_granted = true;
                }
            }
            Outcome::Refused(_) | Outcome::Failed(_) => {}
        }
    }

    fn note_answer(&mut self, operation: &Operation, body: &Body, at: Revision, clock: &Clock) {
        match (&operation.request, body) {
            (_, Body::LeaseGrant { id, .. }) => self.of(*id).grants.push(between(at)),
            (Request::LeaseKeepAlive { id }, Body::LeaseKeepAlive { ttl_secs }) => {
                self.note_life(*id, *ttl_secs > 0, window(operation, clock));
            }
            (Request::LeaseTimeToLive { id, .. }, Body::LeaseTimeToLive { ttl_secs, .. }) => {
                self.note_life(*id, *ttl_secs != -1, window(operation, clock));
            }
            // Its last moment: if it made no revision then it stands after the making of this one.
            (Request::LeaseRevoke { id }, _) => self.note_life(*id, true, (making(at), between(at))),
            (request, _) => {
                for lease in attached(request, body) {
                    self.note_life(lease, true, (making(at), making(at)));
                }
            }
        }
    }

    fn note_life(&mut self, lease: LeaseId, lives: bool, places: Places) {
        if lease.is_some() {
            let of = self.of(lease);
            if lives { of.lives.push(places) } else { of.gone.push(places) }
        }
    }

    fn of(&mut self, lease: LeaseId) -> &mut Lease {
        self.leases.entry(lease).or_default()
    }

    /// Must be called once everything is noted.
    pub(super) fn seal(&mut self) {
        for lease in self.leases.values_mut() {
            lease.grants.sort_unstable();
            lease.lives.sort_unstable();
            lease.gone.sort_unstable();
        }
    }

    /// How the end of a lease that lives fits that makes this revision, or nothing if it is impossible.
    pub(super) fn fit_end(&self, at: Revision, lease: LeaseId) -> Option<Fit> {
        let Some(lease) = self.leases.get(&lease) else { return Some(Fit::Silent) };
        let place = making(at);
        let later = lease.grants.partition_point(|grant| *grant < place);
        let next_grant = lease.grants.get(later).copied();
        let from = lease.lives.partition_point(|(low, _)| *low < place);
        let before_grant = |(_, high): &&Places| next_grant.is_none_or(|grant| *high < grant);
        if lease.lives[from..].iter().take(LOOKED_AT_MAX).any(|places| before_grant(&places)) {
            // It lives later: only a grant that nobody was told of can have come between.
            return lease.maybe_granted.then_some(Fit::Unlikely);
        }
        let last_grant = later.checked_sub(1).map_or(0, |last| lease.grants[last]);
        let from = lease.gone.partition_point(|(low, _)| *low < last_grant);
        let due = lease.gone[from..].iter().filter(|(_, high)| *high >= place).map(|(_, high)| *high).min();
        let due = due.into_iter().chain(next_grant).min();
        Some(due.map_or(Fit::Silent, |due| Fit::Wanted(Revision(due / 2))))
    }
}

/// Answers about one lease that are looked at: what is further away decides little.
const LOOKED_AT_MAX: usize = 64;

fn window(operation: &Operation, clock: &Clock) -> Places {
    clock.places(operation.called, operation.deadline())
}

fn distinct(leases: Vec<LeaseId>) -> Box<[LeaseId]> {
    leases.into_iter().collect::<HashSet<_>>().into_iter().collect()
}

/// The leases that must live for a request to be carried out, on whatever path.
fn asked_leases(request: &Request) -> Vec<LeaseId> {
    let mut leases = Vec::new();
    match request {
        Request::Put(put) => leases.push(put.lease),
        Request::Txn(txn) => txn.each_op(&mut |op| {
            if let TxnOp::Put(put) = op {
                leases.push(put.lease);
            }
        }),
        Request::LeaseRevoke { id } => leases.push(*id),
        _ => {}
    }
    leases.retain(|lease| lease.is_some());
    leases
}

/// The leases that an answered request attached.
fn attached(request: &Request, body: &Body) -> Vec<LeaseId> {
    match (request, body) {
        (Request::Put(put), _) => vec![put.lease],
        (Request::Txn(txn), Body::Txn { succeeded, responses }) => {
            let ops = txn.branch(*succeeded).iter().zip(responses);
            ops.flat_map(|(op, body)| match op {
                TxnOp::Put(put) => vec![put.lease],
                TxnOp::Txn(nested) => attached(&Request::Txn(nested.clone()), body),
                TxnOp::Range(_) | TxnOp::DeleteRange(_) => Vec::new(),
            })
            .collect()
        }
        _ => Vec::new(),
    }
}
