//! Who waits for whom: the search for a cycle in which a request is the youngest, and what makes a cycle certain. Nothing here asks anybody.
//!
//! What is followed is entries of queues, not sessions, in two kinds of steps:
//!
//! ```text
//! lock a:  s1 holds, s2 waits         s2's entry of a ──must see go──▶ s1's entry of a
//! lock b:  s2 holds, s1 waits         s1's entry of a ──is let go after──▶ s1's entry of b ──must see go──▶ s2's entry of b
//! ```
//!
//! 1. *An entry that waits must see those go that are ahead of it and exclude it.* Those that hold a lock are a front of its queue that may
//!    hold together (`docs/LOCKS.md`, rule 2), so nobody holds before every entry ahead that it can never hold together with is gone. Whom
//!    it can hold together with is no obstacle, even if at present too many do: of a semaphore's holders one excludes another only if
//!    the permits of these two alone are too many.
//! 2. *An entry that holds is let go after what its session waits for.* That is so if the session is one task, and only then.
//!
//! Every step has to be made by somebody before the one behind it can go on, so a way back to what the own session holds is a deadlock, and
//! there is none that is none. Only native requests are taken for waiting: a key that somebody wrote under a lock's name need not be one.
//!
//! **The youngest looks for the cycle.** A wait is followed only if it began before the own one. A session that waits takes and asks for nothing
//! meanwhile, so a cycle closes with the last wait of it, and each cycle has exactly one request that can find it.
//!
//! **Certainty.** The queues are read one after the other, so what was found may never have been at one moment. But an entry that has come
//! to wait neither comes back nor waits again once that is over: its create revision is its own. A step that is there at two times was there
//! in between. If all of a cycle is read again after all of it was read, and is the same, there was a moment at which all of it was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tenure_proto::tenure::v1 as pb;

use super::mode::Mode;
use super::token::contender_suffix;
use crate::ids::{LeaseId, Revision};

/// How many waits a cycle may have.
pub(super) const WAITS_MAX: usize = 16;

/// A contender in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As the store knows it.
    pub(super) key: Bytes,
    pub(super) token: Revision,
    pub(super) lease: LeaseId,
    /// None if it is one that this client does not know.
    pub(super) mode: Option<Mode>,
    pub(super) is_native: bool,
    pub(super) holds: bool,
    pub(super) owner: String,
}

impl Entry {
    pub(super) fn from_wire(contender: pb::LockContender) -> Entry {
        let pb::LockContender { key, token, lease, native, holds_lock, owner, mode, .. } = contender;
        let (token, lease) = (Revision(token), LeaseId(lease));
        Entry { key, token, lease, mode: Mode::from_wire(mode), is_native: native, holds: holds_lock, owner }
    }

    /// Whether somebody waits by it, surely.
    fn waits(&self) -> bool {
        self.is_native && !self.holds
    }

    /// Whether it is the session's of its lease. What was written onto another lease by hand, or stays for its delay, is nobody's.
    fn is_its_leases(&self) -> bool {
        !self.lease.is_none() && self.key.ends_with(&contender_suffix(self.lease))
    }

    /// Whether they never hold one lock together.
    fn excludes(&self, other: &Entry) -> bool {
        matches!((self.mode, other.mode), (Some(mine), Some(its)) if mine.excludes(its))
    }
}

/// One wait of a cycle: an entry, and one ahead of it that has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// As the store knows it.
    pub(super) lock: Bytes,
    pub(super) waiter: Entry,
    pub(super) ahead: Entry,
}

impl Wait {
    /// Whether it is there in this later reading of the lock's queue.
    pub(super) fn is_in(&self, queue: &[Entry]) -> bool {
        let place = |entry| queue.iter().position(|other| other == entry);
        matches!((place(&self.ahead), place(&self.waiter)), (Some(ahead), Some(waiter)) if ahead < waiter)
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Tell by [`Search::learn`] what this lease may wait for.
    Ask(LeaseId),
    /// This is a cycle, if it is there still.
    Found(Vec<Wait>),
    Nothing,
}

/// An entry that the own request has to see go, or that is before such a one.
#[derive(Debug)]
struct Reached {
    lock: Bytes,
    place: usize,
    /// From which one; none is the own request.
    from: Option<usize>,
    /// How many waits lead here.
    waits: usize,
}

/// The search for a way back to the own session, in the order of its length. See the module's header.
#[derive(Debug)]
pub(super) struct Search {
    own: LeaseId,
    /// Of the own request. Younger ones are not followed.
    token: Revision,
    queues: BTreeMap<Bytes, Vec<Entry>>,
    /// Where leases wait.
    waiting: BTreeMap<LeaseId, Vec<(Bytes, usize)>>,
    /// Leases of which is known all that will be.
    known: BTreeSet<LeaseId>,
    /// Leases whose waits were reached.
    followed: BTreeSet<LeaseId>,
    reached: Vec<Reached>,
    seen: BTreeSet<(Bytes, usize)>,
    next: usize,
}

impl Search {
    /// From the own request in this queue; none if it is not there, or waits no more.
    pub(super) fn new(own: LeaseId, key: &[u8], lock: Bytes, queue: Vec<Entry>) -> Option<Search> {
        let place = queue.iter().position(|entry| entry.key == key && entry.lease == own && entry.waits())?;
        let mut search = Search {
            own,
            token: queue[place].token,
            queues: BTreeMap::new(),
            waiting: BTreeMap::new(),
            known: BTreeSet::new(),
            followed: BTreeSet::new(),
            reached: Vec::new(),
            seen: BTreeSet::new(),
            next: 0,
        };
        search.read(lock.clone(), queue);
        search.reach(lock, place, None, 0);
        Some(search)
    }

    /// The token of the own request.
    pub(super) fn token(&self) -> Revision {
        self.token
    }

    /// Whether this queue was read.
    pub(super) fn has_read(&self, lock: &Bytes) -> bool {
        self.queues.contains_key(lock)
    }

    /// The queues in which a lease may wait. Nothing more will be known of it.
    pub(super) fn learn(&mut self, lease: LeaseId, queues: Vec<(Bytes, Vec<Entry>)>) {
        self.known.insert(lease);
        for (lock, queue) in queues {
            self.read(lock, queue);
        }
    }

    pub(super) fn step(&mut self) -> Step {
        while let Some(Reached { lock, place, waits, .. }) = self.reached.get(self.next) {
            let (lock, place, waits) = (lock.clone(), *place, *waits);
            let Some(entry) = self.queues.get(&lock).and_then(|queue| queue.get(place)) else { break };
            if entry.holds && entry.is_its_leases() {
                let lease = entry.lease;
                if lease == self.own {
                    return Step::Found(self.way());
                }
                if !self.known.contains(&lease) && !self.waiting.contains_key(&lease) {
                    return Step::Ask(lease);
                }
                self.follow_session(lease, waits);
            } else if entry.waits() && waits < WAITS_MAX {
                self.follow_queue(&lock, place, waits);
            }
            self.next += 1;
        }
        Step::Nothing
    }

    fn read(&mut self, lock: Bytes, queue: Vec<Entry>) {
        if self.has_read(&lock) {
            return;
        }
        for (place, entry) in queue.iter().enumerate().filter(|(_, entry)| entry.waits()) {
            self.waiting.entry(entry.lease).or_default().push((lock.clone(), place));
        }
        self.queues.insert(lock, queue);
    }

    /// What a session waits for that holds something.
    fn follow_session(&mut self, lease: LeaseId, waits: usize) {
        if !self.followed.insert(lease) {
            return;
        }
        for (lock, place) in self.waiting.get(&lease).cloned().unwrap_or_default() {
            if self.queues[&lock][place].token < self.token {
                self.reach(lock, place, Some(self.next), waits);
            }
        }
    }

    /// Whom an entry that waits must see go.
    fn follow_queue(&mut self, lock: &Bytes, place: usize, waits: usize) {
        let queue = &self.queues[lock];
        let excluding = (0..place).filter(|ahead| queue[*ahead].excludes(&queue[place]));
        for ahead in excluding.collect::<Vec<_>>() {
            self.reach(lock.clone(), ahead, Some(self.next), waits + 1);
        }
    }

    fn reach(&mut self, lock: Bytes, place: usize, from: Option<usize>, waits: usize) {
        if self.seen.insert((lock.clone(), place)) {
            self.reached.push(Reached { lock, place, from, waits });
        }
    }

    /// The waits from the own request to the entry that is next.
    fn way(&self) -> Vec<Wait> {
        let (mut way, mut at) = (Vec::new(), &self.reached[self.next]);
        while let Some(from) = at.from {
            let before = &self.reached[from];
            let entry = |reached: &Reached| self.queues[&reached.lock][reached.place].clone();
            let (waiter, ahead) = (entry(before), entry(at));
            // From what a session holds to what it waits for is no wait.
            if waiter.waits() {
                way.push(Wait { lock: at.lock.clone(), waiter, ahead });
            }
            at = before;
        }
        way.reverse();
        way
    }
}
