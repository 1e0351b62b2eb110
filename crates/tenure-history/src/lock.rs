//! Did two clients ever know to hold one lock at the same time, and did an old fencing token pass after a newer one?
//!
//! A client knows that it holds a lock from the moment its acquire returns until it calls release or the safe end of its
//! lease ([`safe_end`]), whichever comes first; after that it may only hope. So the intervals in which clients *know* never
//! overlap, whatever pauses and partitions do, while what clients *hope* may: against that there are fencing tokens.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::History;
use crate::ids::{ClientId, LeaseId, Moment, Revision};
use crate::response::Body;
use crate::verdict::{Verdict, Violation};

const CHECKER: &str = "locks";

/// By what a lock is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// By puts and reads, as etcd's clients do it.
    #[default]
    Recipe,
    /// By etcd's lock service.
    Service,
    /// By Tenure's own.
    Native,
}

/// How a lock is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// By one at a time.
    #[default]
    Alone,
    /// Together with others that want it so.
    Readers,
    /// Together with others, as long as the permits suffice.
    Permits {
        /// How many are wanted.
        taken: u32,
        /// How many there are.
        limit: u32,
    },
}

impl Share {
    /// Whether one that wants the lock so may join those that have it, who are not all.
    pub(crate) fn joins(self, others: impl Iterator<Item = Share>) -> bool {
        let mut sum = 0;
        for other in others {
            match (self, other) {
                (Share::Readers, Share::Readers) => {}
                (Share::Permits { .. }, Share::Permits { taken, .. }) => sum += taken,
                _ => return false,
            }
        }
        match self {
            Share::Permits { taken, limit } => sum.saturating_add(taken) <= limit,
            Share::Alone | Share::Readers => true,
        }
    }
}

/// One time that a client held a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Which lock.
    pub lock: String,
    /// Who.
    pub client: ClientId,
    /// By which lease.
    pub lease: LeaseId,
    /// By what.
    #[serde(default)]
    pub way: Way,
    /// How.
    #[serde(default)]
    pub share: Share,
    /// The fencing token: the create revision of the lock key.
    pub token: Revision,
    /// When acquire was called.
    pub called: Moment,
    /// When it returned.
    pub acquired: Moment,
    /// Until when the client knew: its call of release, or its lease's safe end if that was earlier.
    pub until: Moment,
}

/// One use of a resource that the lock guards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Which lock guards it.
    pub lock: String,
    /// Who.
    pub client: ClientId,
    /// With which token.
    pub token: Revision,
    /// When it was called.
    pub called: Moment,
    /// When it returned.
    pub returned: Moment,
    /// Whether the resource let it pass.
    pub accepted: bool,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Locks.
    pub locks: usize,
    /// Times that a lock was held: by the recipe, by etcd's service, natively.
    pub holds: [usize; 3],
    /// Times that it went from one owner to another.
    pub handovers: usize,
    /// Uses of guarded resources that passed.
    pub accepted: usize,
    /// Uses that were fenced off.
    pub fenced: usize,
}

/// The instant until which the owner of a lease can be sure that it lives: TTL after it *sent* the last grant or renewal
/// that was acked before the end known so far, and never longer ago than `from`.
pub fn safe_end(history: &History, lease: LeaseId, from: Moment) -> Moment {
    let acked = history.operations.iter().filter_map(|operation| {
        let (id, ttl_secs) = match &operation.response()?.body {
            Body::LeaseGrant { id, ttl_secs } => (*id, *ttl_secs),
            Body::LeaseKeepAlive { ttl_secs } => (operation.request.lease()?, *ttl_secs),
            _ => return None,
        };
        let ttl = Duration::from_secs(u64::try_from(ttl_secs).ok().filter(|ttl| *ttl > 0)?);
        (id == lease).then_some((operation.returned?, operation.called.after(ttl)))
    });
    let mut acked: Vec<(Moment, Moment)> = acked.collect();
    acked.sort_unstable();
    let known = acked.iter().take_while(|(returned, _)| *returned <= from).map(|(_, end)| *end).max();
    let Some(mut end) = known else { return from };
    for (returned, later) in acked.iter().filter(|(returned, _)| *returned > from) {
        if *returned > end {
            break;
        }
        end = end.max(*later);
    }
    end
}

/// Checks all holds and uses of a run.
pub fn check(holds: &[Hold], uses: &[Use]) -> Verdict<Counts> {
    let mut counts = Counts::default();
    let mut by_lock: BTreeMap<&str, Vec<&Hold>> = BTreeMap::new();
    for hold in holds {
        by_lock.entry(&hold.lock).or_default().push(hold);
        counts.holds[hold.way as usize] += 1;
    }
    counts.locks = by_lock.len();
    for holds in by_lock.values_mut() {
        holds.sort_by_key(|hold| (hold.acquired, hold.until));
        let found = overlap(holds).or_else(|| falling_token(holds));
        if let Some(violation) = found {
            return violation;
        }
        counts.handovers += holds.windows(2).filter(|pair| pair[0].lease != pair[1].lease).count();
    }
    if let Some(violation) = passed_late(uses) {
        return violation;
    }
    counts.accepted = uses.iter().filter(|used| used.accepted).count();
    counts.fenced = uses.len() - counts.accepted;
    Verdict::Ok(counts)
}

/// Owners at once that may not be, of holds by the instant of their acquisition.
fn overlap(holds: &[&Hold]) -> Option<Verdict<Counts>> {
    let mut owners: Vec<&Hold> = Vec::new();
    for hold in holds.iter().filter(|hold| hold.until > hold.acquired) {
        owners.retain(|earlier| earlier.until > hold.acquired);
        let is_other = |earlier: &&&Hold| (earlier.client, earlier.lease) != (hold.client, hold.lease);
        let others: BTreeMap<LeaseId, &Hold> =
            owners.iter().filter(is_other).map(|earlier| (earlier.lease, *earlier)).collect();
        if !hold.share.joins(others.values().map(|other| other.share)) {
            let until = others.values().map(|other| other.until).min().unwrap_or(hold.until).min(hold.until);
            let (from, count) = (hold.acquired, others.len() + 1);
            let all: Vec<&Hold> = others.into_values().chain([*hold]).collect();
            let bound = all.iter().all(|hold| matches!(hold.share, Share::Permits { .. }));
            let promise = if bound { "semaphore bound" } else { "mutual exclusion" };
            let detail = format!("{count} owners of {} from {from} to {until}", hold.lock);
            return Some(violation(promise, detail, &all));
        }
        owners.push(hold);
    }
    None
}

/// A token that is not above one that was given before its acquire was called, or that two owners share.
fn falling_token(holds: &[&Hold]) -> Option<Verdict<Counts>> {
    let mut by_call: Vec<&Hold> = holds.to_vec();
    by_call.sort_by_key(|hold| hold.called);
    let mut given = holds.iter().peekable();
    let mut highest: Option<&Hold> = None;
    for hold in by_call {
        while let Some(earlier) = given.next_if(|earlier| earlier.acquired < hold.called) {
            highest = highest.filter(|highest| highest.token >= earlier.token).or(Some(earlier));
        }
        if let Some(earlier) = highest
            && earlier.token >= hold.token
            && (earlier.client, earlier.lease) != (hold.client, hold.lease)
        {
            let detail = format!("token {} after {}", hold.token, earlier.token);
            return Some(violation("tokens rise", detail, &[earlier, hold]));
        }
    }
    let mut owners: BTreeMap<Revision, &Hold> = BTreeMap::new();
    for hold in holds {
        let first = owners.entry(hold.token).or_insert(hold);
        if (first.client, first.lease) != (hold.client, hold.lease) {
            let detail = format!("two owners were given token {}", hold.token);
            return Some(violation("tokens rise", detail, &[first, hold]));
        }
    }
    None
}

/// An accepted use with an older token than one that was accepted before it was called.
fn passed_late(uses: &[Use]) -> Option<Verdict<Counts>> {
    let mut by_lock: BTreeMap<&str, Vec<&Use>> = BTreeMap::new();
    for used in uses.iter().filter(|used| used.accepted) {
        by_lock.entry(&used.lock).or_default().push(used);
    }
    for uses in by_lock.values() {
        let mut by_call = uses.clone();
        by_call.sort_by_key(|used| used.called);
        let mut by_return = uses.clone();
        by_return.sort_by_key(|used| used.returned);
        let mut returned = by_return.into_iter().peekable();
        let mut newest: Option<&Use> = None;
        for used in by_call {
            while let Some(earlier) = returned.next_if(|earlier| earlier.returned < used.called) {
                newest = newest.filter(|newest| newest.token >= earlier.token).or(Some(earlier));
            }
            if let Some(newer) = newest
                && newer.token > used.token
            {
                let detail = format!("token {} was let in after {}", used.token, newer.token);
                let lines = vec![newer.to_string(), used.to_string()];
                return Some(Violation::verdict(CHECKER, "fencing", detail, lines));
            }
        }
    }
    None
}

fn violation(promise: &'static str, detail: String, holds: &[&Hold]) -> Verdict<Counts> {
    Violation::verdict(CHECKER, promise, detail, holds.iter().map(ToString::to_string).collect())
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Alone => f.write_str("alone"),
            Share::Readers => f.write_str("shared"),
            Share::Permits { taken, limit } => write!(f, "{taken} of {limit} permits"),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hold { lock, client, lease, way, share, token, called, acquired, until } = self;
        write!(
            f,
            "client {client} asked for {lock} at {called} and held it {acquired} – {until} (token {token}, lease {lease}, {way:?}, {share})"
        )
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Use { lock, client, token, called, returned, accepted } = self;
        let end = if *accepted { "passed" } else { "was fenced off" };
        write!(f, "client {client} {called} – {returned} used what {lock} guards with token {token} and {end}")
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { locks, holds: [recipe, service, native], handovers, accepted, fenced } = self;
        let holds = recipe + service + native;
        write!(
            f,
            "{locks} locks held {holds} times ({native} natively, {service} by v3lock, {recipe} by the recipe) with {handovers} \
             handovers; {accepted} guarded uses passed, {fenced} were fenced off"
        )
    }
}
