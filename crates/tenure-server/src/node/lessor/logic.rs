//! What the lessor of a leader decides, without a clock, a task or a log: it is told the time, what was applied, and how its
//! revokes fared, and says what to revoke.
//!
//! All times are readings of the lease clock in milliseconds, which on a leader goes on evenly. The rules, from the design:
//!
//! - A revoke names the incarnation and the renewals that it is about, and is made again until the lease is gone or was
//!   renewed. None is made for a lease whose renewal is under way.
//! - Nothing is revoked while no quorum is heard, nor while an alarm forbids it.
//! - After a promotion, after such a pause, and after a gap in the lessor's own looking, nothing is revoked for a grace:
//!   clients renew after an outage that is not theirs.
//!
//! A lease is in one of three places: filed in a slot of time, overdue, or in a flight (a group of revokes on its way):
//!
//! ```text
//! granted ──▶ filed ──slot over, due──▶ overdue ──revokes()──▶ in flight ──applied──▶ gone
//!               ▲ └──slot over, renewed: filed anew             │
//!               └────────── renewed ◀── overdue ◀──landed, still there
//! ```

use std::collections::{BTreeSet, HashMap};

use tenure_core::LeaseId;
use tenure_core::apply::ends_ms;
use tenure_core::command::{ExpiryGuard, LeaseRevoke};
use tenure_core::planted::{Bug, is_on};
use tenure_core::row::{Incarnation, LeaseRow};

use super::tally::Tally;
use super::timers::{Slot, Timers};

/// Revokes of one group, each an operation and revision of its own. Applying so many, with a key each, takes about 2 ms.
pub(super) const REVOKES_PER_FLIGHT_MAX: usize = 256;

/// Flights at once: one is applied while the next is synced.
pub(super) const FLIGHTS_MAX: usize = 2;

/// The time for which a full flight counts: on average there is no more than one in it. As fast as they can, flights take
/// all of a small machine, and whoever writes meanwhile waits several times as long as usual; so paced, 25,600 leases a
/// second, they take about half of it.
const FLIGHT_MS: u64 = 10;

/// How far flights may catch up after the lessor was late: so that the pace is kept although it wakes up in whole milliseconds.
const CATCH_UP_MS: u64 = 2 * FLIGHT_MS;

/// How long to wait when a flight did not end what it was to end: consensus is losing its leader, or an alarm forbids it.
const RETRY_MS: u64 = 100;

/// How many leases that are due are looked at in one turn: a few milliseconds' worth. Of those whose renewals are under way
/// there may be any number after an outage.
const LOOKS_PER_TURN_MAX: usize = 4096;

/// For how long a lease whose renewal is under way is set aside. A renewal that comes to nothing makes its end so much later.
const ASIDE_MS: u64 = 100;

/// A void entry of the timers costs little, but there must not be more of them than this beside twice the leases.
const VOID_TIMERS_MIN: usize = 4096;

/// A group of revokes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    /// Tells flights apart.
    pub(super) number: u64,
    /// In the order of their due times.
    pub(super) revokes: Vec<LeaseRevoke>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Filed(Slot),
    Overdue,
    InFlight(u64),
}

#[derive(Clone, Copy, Debug)]
struct Timed {
    incarnation: Incarnation,
    renewals: u64,
    due_ms: u64,
    place: Place,
}

/// See the module's header. Made at a promotion, dropped when it ends.
#[derive(Debug)]
pub(super) struct Lessor {
    grace_ms: u64,
    leases: HashMap<LeaseId, Timed>,
    timers: Timers,
    /// Leases that are due and in no flight, the one longest due first.
    overdue: BTreeSet<(u64, LeaseId)>,
    /// Those of them that were being renewed when they were looked at.
    aside: BTreeSet<(u64, LeaseId)>,
    aside_until_ms: u64,
    /// Leases in flights, likewise.
    in_flight: BTreeSet<(u64, LeaseId)>,
    flights: HashMap<u64, Vec<LeaseId>>,
    next_flight: u64,
    looked_ms: u64,
    paused: bool,
    /// Nothing is revoked before.
    hold_until_ms: u64,
    retry_at_ms: u64,
    /// No flight leaves before: the pace.
    paced_until_ms: u64,
    /// What happened since it was last taken.
    pub(super) tally: Tally,
}

impl Lessor {
    /// Takes over at `now_ms`.
    pub(super) fn promote(rows: Vec<(LeaseId, LeaseRow)>, now_ms: u64, grace_ms: u64) -> Lessor {
        let mut lessor = Lessor {
            grace_ms,
            leases: HashMap::new(),
            timers: Timers::default(),
            overdue: BTreeSet::new(),
            aside: BTreeSet::new(),
            aside_until_ms: 0,
            in_flight: BTreeSet::new(),
            flights: HashMap::new(),
            next_flight: 0,
            looked_ms: now_ms,
            paused: false,
            hold_until_ms: now_ms.saturating_add(grace_ms),
            retry_at_ms: 0,
            paced_until_ms: 0,
            tally: Tally::default(),
        };
        lessor.reload(rows);
        lessor
    }

    /// Starts over from the lease table, because changes were missed. Flights go on and keep their places, but no lease
    /// waits for them: what was in one may be revoked twice, which does no harm.
    pub(super) fn reload(&mut self, rows: Vec<(LeaseId, LeaseRow)>) {
        self.leases = HashMap::with_capacity(rows.len());
        self.timers = Timers::default();
        self.overdue.clear();
        self.aside.clear();
        self.in_flight.clear();
        for (id, row) in rows {
            if is_on(Bug::ForgottenLeases) && ends_ms(&row) <= self.looked_ms {
                continue;
            }
            let clock_ms = if is_on(Bug::ResetAtPromotion) { self.looked_ms } else { row.clock_ms };
            self.file(id, &LeaseRow { clock_ms, ..row });
        }
    }

    /// A lease was granted, renewed or ended (`None`).
    pub(super) fn changed(&mut self, id: LeaseId, row: Option<LeaseRow>, now_ms: u64) {
        let known = self.leases.get(&id).copied();
        match (known, row) {
            (None, None) => {}
            (None, Some(row)) => {
                self.tally.granted += 1;
                self.tally.renewed += row.renewals;
                self.file(id, &row);
            }
            (Some(known), None) => {
                self.ended(id, &known, now_ms);
                self.drop_void_timers();
            }
            (Some(known), Some(row)) if known.incarnation != row.incarnation => {
                self.ended(id, &known, now_ms);
                self.tally.granted += 1;
                self.tally.renewed += row.renewals;
                self.file(id, &row);
                self.drop_void_timers();
            }
            (Some(known), Some(row)) => self.renewed(id, &known, &row),
        }
    }

    fn renewed(&mut self, id: LeaseId, known: &Timed, row: &LeaseRow) {
        self.tally.renewed += row.renewals.saturating_sub(known.renewals);
        if let Place::Filed(_) = known.place {
            // Stays where it is filed, and is filed by its new time when that slot is over.
            let timed = Timed { renewals: row.renewals, due_ms: ends_ms(row), ..*known };
            self.leases.insert(id, timed);
        } else {
            self.unlist(id, known);
            self.file(id, row);
        }
    }

    fn ended(&mut self, id: LeaseId, known: &Timed, now_ms: u64) {
        self.leases.remove(&id);
        self.unlist(id, known);
        // What is overdue when it ends was ended for that: hardly a client revokes in just that moment.
        if let Place::Filed(_) = known.place {
            self.tally.revoked += 1;
        } else {
            self.tally.expired(now_ms.saturating_sub(known.due_ms));
        }
    }

    fn file(&mut self, id: LeaseId, row: &LeaseRow) {
        let due_ms = ends_ms(row);
        let slot = Slot::of(due_ms);
        let place = Place::Filed(slot);
        let timed = Timed { incarnation: row.incarnation, renewals: row.renewals, due_ms, place };
        self.leases.insert(id, timed);
        self.timers.file(slot, id);
    }

    /// Takes a lease off the lists of those that are due.
    fn unlist(&mut self, id: LeaseId, known: &Timed) {
        match known.place {
            Place::Filed(_) => {}
            Place::Overdue => {
                if !self.overdue.remove(&(known.due_ms, id)) {
                    self.aside.remove(&(known.due_ms, id));
                }
            }
            Place::InFlight(_) => drop(self.in_flight.remove(&(known.due_ms, id))),
        }
    }

    /// Leases that are granted and revoked leave void entries, in slots that may be years ahead.
    fn drop_void_timers(&mut self) {
        if self.timers.filed() <= 2 * self.leases.len() + VOID_TIMERS_MIN {
            return;
        }
        self.timers = Timers::default();
        for (id, timed) in &mut self.leases {
            if let Place::Filed(slot) = &mut timed.place {
                *slot = Slot::of(timed.due_ms);
                self.timers.file(*slot, *id);
            }
        }
    }

    /// Time has come to `now_ms`, and revokes could be carried out or not. To be called again and again.
    pub(super) fn look(&mut self, now_ms: u64, able: bool) {
        let gap = now_ms.saturating_sub(self.looked_ms) > self.grace_ms && !is_on(Bug::StaleLessor);
        self.looked_ms = now_ms;
        if gap || (self.paused && able) {
            self.hold_until_ms = now_ms.saturating_add(self.grace_ms);
        }
        self.paused = !able;
        while let Some((slot, ids)) = self.timers.open(now_ms) {
            for id in ids {
                self.look_at(slot, id, now_ms);
            }
        }
    }

    fn look_at(&mut self, slot: Slot, id: LeaseId, now_ms: u64) {
        let Some(timed) = self.leases.get_mut(&id).filter(|timed| timed.place == Place::Filed(slot)) else { return };
        if timed.due_ms <= now_ms {
            timed.place = Place::Overdue;
            self.overdue.insert((timed.due_ms, id));
        } else {
            let slot = Slot::of(timed.due_ms);
            timed.place = Place::Filed(slot);
            self.timers.file(slot, id);
        }
    }

    /// What to revoke now, for each flight that there is room for. Each must be reported with [`Lessor::landed`].
    ///
    /// `are_renewing` is asked about a few leases at a time, because renewals wait while it looks.
    pub(super) fn revokes(
        &mut self,
        now_ms: u64,
        are_renewing: impl Fn(&[(u64, LeaseId)]) -> Vec<bool>,
    ) -> Vec<Flight> {
        let mut flights = Vec::new();
        if now_ms >= self.aside_until_ms {
            self.overdue.append(&mut self.aside);
            self.aside_until_ms = now_ms.saturating_add(ASIDE_MS);
        }
        if self.paused || now_ms < self.hold_until_ms.max(self.retry_at_ms) {
            return flights;
        }
        let mut looks = LOOKS_PER_TURN_MAX;
        while self.flights.len() < FLIGHTS_MAX && now_ms >= self.paced_until_ms {
            let chosen = self.choose(&mut looks, &are_renewing);
            if chosen.is_empty() {
                break;
            }
            flights.push(self.take_off(&chosen));
            self.pace(chosen.len(), now_ms);
        }
        flights
    }

    /// A flight of so many has left. A small one counts for nothing: leases that end one by one are ended at once.
    fn pace(&mut self, revokes: usize, now_ms: u64) {
        let counts_ms = (revokes as u64).saturating_mul(FLIGHT_MS) / REVOKES_PER_FLIGHT_MAX as u64;
        let from_ms = self.paced_until_ms.max(now_ms.saturating_sub(CATCH_UP_MS));
        self.paced_until_ms = from_ms.saturating_add(counts_ms);
    }

    /// Takes a flight's worth of leases that nobody renews off the list, and sets aside those that are in the way.
    fn choose(
        &mut self,
        looks: &mut usize,
        are_renewing: impl Fn(&[(u64, LeaseId)]) -> Vec<bool>,
    ) -> Vec<(u64, LeaseId)> {
        let mut chosen = Vec::new();
        while *looks > 0 && chosen.len() < REVOKES_PER_FLIGHT_MAX {
            let count = (REVOKES_PER_FLIGHT_MAX - chosen.len()).min(*looks);
            let first: Vec<_> = std::iter::from_fn(|| self.overdue.pop_first()).take(count).collect();
            if first.is_empty() {
                break;
            }
            *looks -= first.len();
            for (entry, renewing) in first.iter().zip(are_renewing(&first)) {
                if renewing {
                    self.aside.insert(*entry);
                } else {
                    chosen.push(*entry);
                }
            }
        }
        chosen
    }

    fn take_off(&mut self, chosen: &[(u64, LeaseId)]) -> Flight {
        let number = self.next_flight;
        self.next_flight += 1;
        let mut revokes = Vec::with_capacity(chosen.len());
        for entry @ (_, id) in chosen {
            self.in_flight.insert(*entry);
            if let Some(timed) = self.leases.get_mut(id) {
                timed.place = Place::InFlight(number);
                let guard = ExpiryGuard { incarnation: timed.incarnation, renewals: timed.renewals };
                revokes.push(LeaseRevoke { id: *id, expiry: Some(guard), by: None });
            }
        }
        self.flights.insert(number, chosen.iter().map(|(_, id)| *id).collect());
        Flight { number, revokes }
    }

    /// A flight was applied, refused or lost. What it did must have been told before with [`Lessor::changed`]: what is
    /// still there is revoked again.
    pub(super) fn landed(&mut self, number: u64, now_ms: u64) {
        let Some(ids) = self.flights.remove(&number) else { return };
        for id in ids {
            let Some(timed) = self.leases.get_mut(&id).filter(|timed| timed.place == Place::InFlight(number)) else {
                continue;
            };
            timed.place = Place::Overdue;
            self.in_flight.remove(&(timed.due_ms, id));
            self.overdue.insert((timed.due_ms, id));
            self.retry_at_ms = now_ms.saturating_add(RETRY_MS);
        }
    }

    /// When to look again at the latest, if anything is to be waited for. What lands and what allows revokes again is told,
    /// so it is not waited for here.
    pub(super) fn next_look_ms(&self) -> Option<u64> {
        let may_send = !self.paused && self.flights.len() < FLIGHTS_MAX;
        let not_before = self.hold_until_ms.max(self.retry_at_ms).max(self.paced_until_ms);
        let overdue = (may_send && !self.overdue.is_empty()).then_some(not_before);
        let aside = (may_send && !self.aside.is_empty()).then_some(not_before.max(self.aside_until_ms));
        self.timers.next_ms().into_iter().chain(overdue).chain(aside).min()
    }

    /// How many leases there are.
    pub(super) fn live(&self) -> usize {
        self.leases.len()
    }

    /// How long the lease that is due for longest has been so.
    pub(super) fn oldest_overdue_ms(&self, now_ms: u64) -> u64 {
        let oldest = [&self.overdue, &self.aside, &self.in_flight].into_iter().filter_map(BTreeSet::first).min();
        oldest.map_or(0, |(due_ms, _)| now_ms.saturating_sub(*due_ms))
    }
}

#[cfg(test)]
#[path = "logic_tests.rs"]
mod tests;
