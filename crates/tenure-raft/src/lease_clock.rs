//! This node's reckoning of the replicated lease clock.
//!
//! The lease clock is a duration that only leaders advance. What is replicated is the largest reading that any leader put
//! into the log; between readings each node goes on by its own `CLOCK_BOOTTIME`. The rule that makes it safe to let
//! leases end by it is when a node starts to count anew: *at every reading that it applies*, from the largest reading
//! applied so far, be that ahead of its own reckoning or behind it, and whether the largest moved or not. It counts from
//! when that reading's entry *arrived* here, which is later than the reading was taken: counting from when it is applied
//! would be as safe, but the last entries before a leader's death are applied only when the next one leads, and every
//! change of leader would cost the time in between. An example, in seconds:
//!
//! ```text
//! n1 leads and is slow: it says 100 when n2 reckons 104.
//! A client renews a lease of 10 s through n1 at 100. The lease is due at 110.1.
//! n2 applies that entry: from its arrival on it reckons 100, too.
//! n1 dies, n2 leads, 6 s after the renewal. It reckons 106, and the lease stays.
//! Had n2 kept its 104, it would reckon 110 by then, and end the lease 4 s early.
//! ```
//!
//! A leader does not count anew at the readings of its own term: they are its own reckoning of a moment ago, and it would
//! lose what every commit takes. `docs/LEASES.md` has the whole argument.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tenure_core::Term;
use tenure_core::planted::{Bug, is_on};

use crate::runtime::BootInstant;

/// How old the last applied reading of a leader's own may be for [`LeaseClock::leading`], in milliseconds. Meanwhile two clocks
/// come apart by half a percent of it.
pub const OWN_READING_AGE_MAX_MS: u64 = 1000;

/// See the module's header.
#[derive(Debug)]
pub struct LeaseClock(Mutex<Reckoning>);

impl LeaseClock {
    /// The clock of a node whose state holds `clock_ms`.
    pub(crate) fn new(clock_ms: u64, now: BootInstant) -> LeaseClock {
        LeaseClock(Mutex::new(Reckoning::new(clock_ms, now)))
    }

    /// What the lease clock shows, in milliseconds.
    pub fn reading(&self, now: BootInstant) -> u64 {
        self.reckoning().reading(now)
    }

    /// What the clock shows to the leader of `term`, provided that a reading of its own was applied in that term, and
    /// not long ago.
    ///
    /// Then no clock that leases may end by is ahead of it, now or later: who leads next has applied that reading, too,
    /// and reckons on from its arrival. A leader that none of its own is known of may be behind the next one, by what
    /// the last reading of its predecessor took longer to itself.
    pub fn leading(&self, term: Term, now: BootInstant) -> Option<u64> {
        self.reckoning().leading(term, now)
    }

    /// When a reading was last applied here; the start of this node or its last snapshot if none was since.
    pub fn told_at(&self) -> BootInstant {
        self.reckoning().told_at
    }

    /// A reading for a group that this node proposes as the leader of `term`.
    pub(crate) fn hand_out(&self, term: Term, now: BootInstant) -> u64 {
        self.reckoning().hand_out(term, now)
    }

    /// An entry of `term` that carried a reading, and was here from `arrived` on, was applied now; the largest reading is
    /// `clock_ms` after it.
    pub(crate) fn told(&self, clock_ms: u64, term: Term, arrived: BootInstant, now: BootInstant) {
        self.reckoning().told(clock_ms, term, arrived, now);
    }

    /// The state was replaced by one that holds `clock_ms`.
    pub(crate) fn replaced(&self, clock_ms: u64, now: BootInstant) {
        self.reckoning().replaced(clock_ms, now);
    }

    fn reckoning(&self) -> MutexGuard<'_, Reckoning> {
        // Its fields are set without a panic in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock without its lock.
#[derive(Clone, Copy, Debug)]
struct Reckoning {
    base_ms: u64,
    base_at: BootInstant,
    told_at: BootInstant,
    /// The last term in which this node handed out readings. One is enough: when it hands out the first of a term, all
    /// entries of earlier terms are applied here.
    own_term: Option<Term>,
    /// The last reading of that term that was applied here, unless one of another term was since.
    own_told_ms: Option<u64>,
}

impl Reckoning {
    fn new(clock_ms: u64, now: BootInstant) -> Reckoning {
        Reckoning { base_ms: clock_ms, base_at: now, told_at: now, own_term: None, own_told_ms: None }
    }

    /// Rounded down, so that rounding never makes a node's clock run ahead of what it was told.
    fn reading(&self, now: BootInstant) -> u64 {
        let since = u64::try_from((now - self.base_at).as_millis()).unwrap_or(u64::MAX);
        self.base_ms.saturating_add(since)
    }

    fn leading(&self, term: Term, now: BootInstant) -> Option<u64> {
        let told_ms = self.own_told_ms.filter(|_| self.own_term == Some(term))?;
        let reading = self.reading(now);
        let age_ms = reading.checked_sub(told_ms)?;
        (age_ms <= OWN_READING_AGE_MAX_MS).then_some(reading)
    }

    fn hand_out(&mut self, term: Term, now: BootInstant) -> u64 {
        if self.own_term < Some(term) {
            (self.own_term, self.own_told_ms) = (Some(term), None);
        }
        if is_on(Bug::LeaseClockCountsTwice) {
            self.base_ms = self.reading(now);
        }
        self.reading(now)
    }

    fn told(&mut self, clock_ms: u64, term: Term, arrived: BootInstant, now: BootInstant) {
        self.told_at = now;
        if is_on(Bug::LeaseClockOnlyUpwards) && clock_ms <= self.reading(arrived) {
            return;
        }
        if self.own_term == Some(term) {
            self.own_told_ms = Some(clock_ms);
        } else {
            (self.base_ms, self.base_at, self.own_told_ms) = (clock_ms, arrived, None);
        }
    }

    fn replaced(&mut self, clock_ms: u64, now: BootInstant) {
        *self = Reckoning { own_term: self.own_term, ..Reckoning::new(clock_ms, now) };
    }
}

#[cfg(test)]
#[path = "lease_clock_tests.rs"]
mod tests;
