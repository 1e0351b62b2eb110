//! Did any lease end early, or late, or come back?
//!
//! Judged by what clients sent and received, and when; and by the known order of the writes. For each time that a lease was
//! granted (ids may be used again):
//!
//! - Never early: nobody saw it gone, by an answer or by a revision that its end made, before TTL after the *sending* of its
//!   last acked grant or renewal. A revocation that somebody asked for may end it at any time after that request was sent.
//! - Never late without bound: nobody saw it alive later than the last instant at which it can have been renewed + TTL and
//!   margin + the time without a working leader after that + one grace + a second (design, "Never late without bound"). A
//!   leader that works for less than its grace and a second ends nothing, so its time counts as time without one.
//! - Never back: no renewal is acked that was sent after somebody saw the lease gone, or under the revision of its end.
//! - A time to live is no longer than the TTL, and no shorter than what the owner can be sure of.

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::history::{History, Operation};
use crate::ids::{LeaseId, Moment, Revision};
use crate::request::Request;
use crate::response::{Body, Outcome, Refusal};
use crate::truth::{Cause, Truth};
use crate::verdict::{Verdict, Violation};

const CHECKER: &str = "leases";

/// The bounds, and what the run knows of its leaders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// By how many percent a lease may outlive its TTL: the clock margin, and what its last renewal may have counted for.
    pub margin_percent: u64,
    /// One grace: the election timeout.
    pub grace: Duration,
    /// What else an end may take.
    pub slack: Duration,
    /// Intervals without a working leader.
    pub outages: Vec<(Moment, Moment)>,
    /// Those of them in which the lease clock may have stood, because whoever led next had been down. They count whenever
    /// they are, not only after a lease was due.
    pub stood: Vec<(Moment, Moment)>,
    /// How long after its client gave up a renewal of unknown outcome may still take effect.
    pub unknown_settles: Duration,
    /// Leases that nothing is held against: somebody put a clock ahead by which they were measured.
    pub exempt: BTreeSet<LeaseId>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            margin_percent: 2,
            grace: Duration::from_secs(1),
            slack: Duration::from_secs(1),
            outages: Vec::new(),
            stood: Vec::new(),
            unknown_settles: Duration::from_secs(7),
            exempt: BTreeSet::new(),
        }
    }
}

impl Bounds {
    /// When nobody could end a lease that was due: no leader worked, or one that had not worked long enough and did not go on
    /// for long enough. Some may be empty.
    fn lost_since(&self, due: Moment) -> Vec<(Moment, Moment)> {
        let mut outages = self.outages.clone();
        outages.sort_unstable();
        let (mut lost, mut worked_from) = (Vec::new(), Moment(0));
        for (from, to) in outages {
            let ended_by = due.max(worked_from.after(self.grace)).after(self.slack);
            let began = if from < ended_by { worked_from } else { from };
            lost.push((began.max(due), to));
            worked_from = worked_from.max(to);
        }
        lost
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leases that were granted.
    pub granted: usize,
    /// Renewals that were acked.
    pub renewals: usize,
    /// Leases that somebody saw gone.
    pub ended: usize,
    /// Leases whose end was held against the latest instant allowed.
    pub bounded: usize,
    /// Times to live that were asked for.
    pub times_to_live: usize,
    /// Leases that were left out.
    pub exempt: usize,
}

/// Checks all leases of a history.
pub fn check(history: &History, truth: &Truth, bounds: &Bounds) -> Verdict<Counts> {
    let told = Told::of(history);
    let mut counts = Counts::default();
    for life in lives(history, truth) {
        if bounds.exempt.contains(&life.id) {
            counts.exempt += 1;
            continue;
        }
        counts.granted += 1;
        counts.renewals += life.renewals.len().saturating_sub(1);
        counts.times_to_live += life.times_to_live.len();
        let gone = life.gone(&told);
        counts.ended += usize::from(gone.is_some());
        let found = life.early(gone.as_ref()).or_else(|| life.back(gone.as_ref())).or_else(|| life.implausible());
        if let Some(violation) = found {
            return Verdict::Violation(Box::new(violation));
        }
        match life.late(&told, bounds) {
            Late::Violation(violation) => return Verdict::Violation(violation),
            Late::InTime => counts.bounded += 1,
            Late::Unbounded => {}
        }
    }
    Verdict::Ok(counts)
}

/// Until when a lease must live, by what its owner was told.
pub(crate) struct Sure<'a> {
    /// The revision of its grant.
    pub(crate) granted: Revision,
    /// TTL after the sending of `by`.
    pub(crate) until: Moment,
    /// The last acked grant or renewal.
    pub(crate) by: &'a Operation,
}

/// For each lease, and each time that it was granted in order, until when it had to live.
pub(crate) fn sure_until<'a>(history: &'a History, truth: &Truth) -> BTreeMap<LeaseId, Vec<Sure<'a>>> {
    let mut all: BTreeMap<LeaseId, Vec<Sure<'a>>> = BTreeMap::new();
    for life in lives(history, truth) {
        let Some(granted) = life.renewals[0].response().map(|response| response.revision) else { continue };
        let (until, by) = life.sure_until(Moment::NEVER);
        all.entry(life.id).or_default().push(Sure { granted, until, by });
    }
    all
}

/// One time that a lease was granted.
struct Life<'a> {
    id: LeaseId,
    ttl_secs: u64,
    /// The grant, then the acked renewals.
    renewals: Vec<&'a Operation>,
    /// Renewals of unknown outcome.
    unknown: Vec<&'a Operation>,
    /// The first revocation that somebody asked for.
    revoked: Option<&'a Operation>,
    times_to_live: Vec<&'a Operation>,
    /// Answers that say the lease is not there.
    missed: Vec<&'a Operation>,
    /// The revision that its end made.
    end: Option<Revision>,
    /// Whether it has keys after the last known revision.
    has_keys: bool,
    /// Whether only this life of the lease can be meant: no other grant may overlap it.
    alone: bool,
}

/// The first proof that a lease is gone.
struct Gone<'a> {
    at: Moment,
    proof: &'a Operation,
}

enum Late {
    InTime,
    Unbounded,
    Violation(Box<Violation>),
}

/// When revisions were seen: by the earliest return, and by the latest call of an answer from before them.
pub(crate) struct Told<'a> {
    by_revision: Vec<(Revision, &'a Operation)>,
    /// For each place, the earliest return from there on.
    reached: Vec<&'a Operation>,
    /// For each place, the latest linearizable call up to there.
    not_passed: Vec<Option<&'a Operation>>,
}

impl<'a> Told<'a> {
    pub(crate) fn of(history: &'a History) -> Told<'a> {
        let exact = |operation: &&Operation| {
            !matches!(operation.request, Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. })
        };
        let answered = history.operations.iter().filter(exact);
        let mut by_revision: Vec<(Revision, &Operation)> =
            answered.filter_map(|operation| Some((operation.response()?.revision, operation))).collect();
        by_revision.sort_by_key(|(revision, _)| *revision);
        let mut reached: Vec<&Operation> = Vec::new();
        for (_, operation) in by_revision.iter().rev() {
            let earliest = reached.last().copied().filter(|earliest| earliest.returned <= operation.returned);
            reached.push(earliest.unwrap_or(operation));
        }
        reached.reverse();
        let mut not_passed: Vec<Option<&Operation>> = Vec::new();
        for (_, operation) in &by_revision {
            let latest = not_passed.last().copied().flatten();
            let counts = !operation.request.is_serializable()
                && latest.is_none_or(|latest: &Operation| latest.called < operation.called);
            not_passed.push(if counts { Some(operation) } else { latest });
        }
        Told { by_revision, reached, not_passed }
    }

    /// The first answer that shows this revision passed.
    pub(crate) fn reached(&self, revision: Revision) -> Option<&'a Operation> {
        self.reached.get(self.by_revision.partition_point(|(at, _)| *at < revision)).copied()
    }

    /// The last call of a linearizable operation that did not see this revision yet.
    pub(crate) fn not_passed(&self, revision: Revision) -> Option<&'a Operation> {
        let later = self.by_revision.partition_point(|(at, _)| *at < revision);
        self.not_passed.get(later.checked_sub(1)?).copied().flatten()
    }
}

fn lives<'a>(history: &'a History, truth: &Truth) -> Vec<Life<'a>> {
    let mut by_lease: BTreeMap<LeaseId, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        let granted = operation.response().and_then(|response| match response.body {
            Body::LeaseGrant { id, .. } => Some(id),
            _ => None,
        });
        if let Some(id) = granted.or(operation.request.lease()).filter(|id| id.is_some()) {
            by_lease.entry(id).or_default().push(operation);
        }
    }
    let ends = truth.between(truth.initial(), truth.revision()).filter_map(|(at, made)| match made.cause {
        Cause::Expired(lease) => Some((lease, at)),
        Cause::Operation(_) | Cause::Other => None,
    });
    let ends: Vec<(LeaseId, Revision)> = ends.collect();
    by_lease.into_iter().flat_map(|(id, operations)| lives_of(id, operations, &ends, truth)).collect()
}

fn lives_of<'a>(
    id: LeaseId,
    mut operations: Vec<&'a Operation>,
    ends: &[(LeaseId, Revision)],
    truth: &Truth,
) -> Vec<Life<'a>> {
    operations.sort_by_key(|operation| operation.called);
    let is_grant = |operation: &&&Operation| {
        matches!(operation.request, Request::LeaseGrant { .. })
            && matches!(operation.outcome, Outcome::Ok(_) | Outcome::Unknown)
    };
    let grants: Vec<&Operation> = operations.iter().filter(is_grant).copied().collect();
    let mut lives = Vec::new();
    for (at, grant) in grants.iter().enumerate() {
        let Some(response) = grant.response() else { continue };
        let Body::LeaseGrant { ttl_secs, .. } = response.body else { continue };
        let next = grants.get(at + 1);
        let until = next.map_or(Moment::NEVER, |next| next.called);
        let until_revision = next.and_then(|next| next.response()).map_or(Revision(i64::MAX), |next| next.revision);
        // Overlapping grants of one id leave it open which of them a renewal renewed.
        let alone = (at == 0 || grants[at - 1].deadline() < grant.called) && grant.returned < Some(until);
        let mut life = Life {
            id,
            ttl_secs: u64::try_from(ttl_secs).unwrap_or(0),
            renewals: vec![*grant],
            unknown: Vec::new(),
            revoked: None,
            times_to_live: Vec::new(),
            missed: Vec::new(),
            end: ends
                .iter()
                .find(|(lease, end)| *lease == id && *end > response.revision && *end <= until_revision)
                .map(|end| end.1),
            has_keys: next.is_none() && truth.present_keys_of(id) > 0,
            alone,
        };
        // What has no known end may reach into any later life.
        let within = |operation: &&&Operation| match operation.outcome {
            Outcome::Unknown => operation.called < until,
            Outcome::Ok(_) | Outcome::Refused(_) | Outcome::Failed(_) => {
                operation.called >= grant.called && operation.deadline() < until
            }
        };
        let after = |operation: &&&Operation| Some(operation.called) > grant.returned;
        operations.iter().filter(within).for_each(|operation| life.add(operation, after(&operation)));
        lives.push(life);
    }
    lives.retain(|life| life.alone);
    lives
}

impl<'a> Life<'a> {
    /// Sorts in what somebody did with the lease; `after` its grant was acked.
    fn add(&mut self, operation: &'a Operation, after: bool) {
        match (&operation.request, &operation.outcome) {
            (Request::LeaseKeepAlive { .. }, Outcome::Ok(response)) => match response.body {
                Body::LeaseKeepAlive { ttl_secs } if ttl_secs > 0 => self.renewals.push(operation),
                _ if after => self.missed.push(operation),
                _ => {}
            },
            (Request::LeaseKeepAlive { .. }, Outcome::Unknown) => self.unknown.push(operation),
            (Request::LeaseRevoke { .. }, Outcome::Ok(_) | Outcome::Unknown) => {
                self.revoked = self.revoked.or(Some(operation));
            }
            (Request::LeaseRevoke { .. }, Outcome::Refused(Refusal::LeaseNotFound)) if after => {
                self.missed.push(operation);
            }
            (Request::LeaseTimeToLive { .. }, Outcome::Ok(response)) => match response.body {
                Body::LeaseTimeToLive { ttl_secs: -1, .. } if after => self.missed.push(operation),
                Body::LeaseTimeToLive { ttl_secs: -1, .. } => {}
                _ => self.times_to_live.push(operation),
            },
            _ => {}
        }
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_secs)
    }

    /// Until when the lease must live, by the acked renewals that were sent before `sent_before`.
    fn sure_until(&self, sent_before: Moment) -> (Moment, &'a Operation) {
        let sent = self.renewals.iter().filter(|renewal| renewal.called <= sent_before);
        let last = sent.max_by_key(|renewal| renewal.called).unwrap_or(&self.renewals[0]);
        (last.called.after(self.ttl()), last)
    }

    fn gone(&self, told: &Told<'a>) -> Option<Gone<'a>> {
        let by_revision = self.end.and_then(|end| told.reached(end));
        let proofs = by_revision.into_iter().chain(self.missed.iter().copied());
        let proof = proofs.min_by_key(|proof| proof.returned)?;
        Some(Gone { at: proof.returned?, proof })
    }

    fn early(&self, gone: Option<&Gone<'a>>) -> Option<Violation> {
        let gone = gone?;
        if self.revoked.is_some_and(|revoked| revoked.called < gone.at) {
            return None;
        }
        let (sure, last) = self.sure_until(gone.at);
        let detail = || format!("lease {} must live until {sure} and was gone at {}", self.id, gone.at);
        (gone.at < sure).then(|| violation("never early", detail(), &[last, gone.proof]))
    }

    fn back(&self, gone: Option<&Gone<'a>>) -> Option<Violation> {
        if let Some(gone) = gone
            && let Some(renewal) = self.renewals.iter().find(|renewal| renewal.called > gone.at)
        {
            let detail = format!("lease {} was renewed after somebody saw it gone", self.id);
            return Some(violation("never back", detail, &[gone.proof, renewal]));
        }
        let end = self.end?;
        let passed = |renewal: &&&Operation| renewal.response().is_some_and(|response| response.revision >= end);
        let renewal = self.renewals.iter().find(passed)?;
        let detail = format!("a renewal of lease {} is answered past revision {end}, which ended it", self.id);
        Some(violation("never back", detail, &[renewal]))
    }

    fn implausible(&self) -> Option<Violation> {
        self.times_to_live.iter().find_map(|asked| {
            let Body::LeaseTimeToLive { ttl_secs, granted_secs, .. } = asked.response()?.body else { return None };
            let granted = i64::try_from(self.ttl_secs).ok()?;
            let (sure, last) = self.sure_until(Moment(0).max(asked.called));
            let acked_before = last.returned <= Some(asked.called);
            let least = sure.since(asked.returned?).as_secs();
            let too_short = acked_before && i64::try_from(least).is_ok_and(|least| ttl_secs < least - 1);
            let wrong = granted_secs != granted || ttl_secs > granted + granted / 100 + 1 || too_short;
            let detail = || format!("lease {} of {granted}s, sure to live until {sure}", self.id);
            wrong.then(|| violation("plausible time to live", detail(), &[last, asked]))
        })
    }

    fn late(&self, told: &Told<'a>, bounds: &Bounds) -> Late {
        let renewed = self.renewals.iter().filter_map(|renewal| renewal.returned);
        let settled =
            |unknown: &&Operation| unknown.returned.map_or(Moment::NEVER, |at| at.after(bounds.unknown_settles));
        let last = renewed.chain(self.unknown.iter().map(settled)).max().unwrap_or(Moment::NEVER);
        if last == Moment::NEVER {
            return Late::Unbounded;
        }
        let margin = self.ttl() * u32::try_from(bounds.margin_percent).unwrap_or(u32::MAX) / 100;
        let due = last.after(self.ttl()).after(margin);
        let end = self.end.or(self.has_keys.then_some(Revision(i64::MAX)));
        let seen = end.and_then(|end| told.not_passed(end)).into_iter();
        let Some(alive) = seen.chain(self.times_to_live.iter().copied()).max_by_key(|alive| alive.called) else {
            return Late::Unbounded;
        };
        let before_due = bounds.stood.iter().map(|(from, to)| ((*from).max(last), *to));
        let lost: Vec<(Moment, Moment)> =
            before_due.chain(bounds.lost_since(due)).filter(|(from, to)| from < to).collect();
        let latest = due.after(without_leader(&lost, last, alive.called)).after(bounds.grace).after(bounds.slack);
        if alive.called <= latest {
            return Late::InTime;
        }
        let detail = format!("lease {} must be gone by {latest} and was not at {}", self.id, alive.called);
        let renewal = self.renewals.iter().max_by_key(|renewal| renewal.returned).unwrap_or(&self.renewals[0]);
        Late::Violation(Box::new(violation("never late", detail, &[renewal, alive])))
    }
}

/// The time without a working leader between two instants. Intervals that overlap count once.
fn without_leader(outages: &[(Moment, Moment)], from: Moment, to: Moment) -> Duration {
    let mut outages: Vec<(Moment, Moment)> =
        outages.iter().map(|(start, end)| ((*start).max(from), (*end).min(to))).collect();
    outages.sort_unstable();
    let (mut total, mut until) = (Duration::ZERO, from);
    for (start, end) in outages {
        total += end.since(start.max(until));
        until = until.max(end);
    }
    total
}

fn violation(promise: &'static str, detail: String, operations: &[&Operation]) -> Violation {
    let evidence = operations.iter().map(ToString::to_string).collect();
    Violation { checker: CHECKER, promise, detail, evidence }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { granted, renewals, ended, bounded, times_to_live, exempt } = self;
        write!(
            f,
            "{granted} leases granted, {renewals} renewals acked, {ended} leases seen gone, {bounded} held against the \
             latest end, {times_to_live} times to live"
        )?;
        if *exempt > 0 { write!(f, "; {exempt} leases left out whose clock was put ahead") } else { Ok(()) }
    }
}
