//! The state machine of a session: what its holder may believe, from what was acknowledged and what time it is.
//!
//! It is pure: whoever calls it says what time it is. Every question begins with [`Standing::look`], so that a process that was
//! stopped finds out at its first question, before any timer has fired.

use std::time::Duration;

use super::state::{LostReason, SessionState};
use super::terms::Terms;
use crate::clock::Instant;

/// See the module's header.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    terms: Terms,
    /// When the last renewal was sent that was acknowledged, or the grant.
    anchor: Instant,
    /// Until when the lease is certain. It never moves back.
    deadline: Instant,
    state: SessionState,
}

impl Standing {
    /// A lease that was granted, by a request that was sent then.
    pub(crate) fn granted(terms: Terms, sent: Instant, now: Instant) -> Standing {
        let deadline = sent + terms.certain();
        let mut standing = Standing { terms, anchor: sent, deadline, state: SessionState::Safe { until: deadline } };
        standing.look(now);
        standing
    }

    pub(crate) fn terms(&self) -> Terms {
        self.terms
    }

    pub(crate) fn anchor(&self) -> Instant {
        self.anchor
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// As of the last look.
    pub(crate) fn state(&self) -> SessionState {
        self.state
    }

    /// When it changes if nothing happens; never, once it is final.
    pub(crate) fn changes_at(&self) -> Option<Instant> {
        match self.state {
            SessionState::Safe { .. } => Some(self.overdue_at().min(self.deadline)),
            SessionState::Jeopardy { .. } => Some(self.deadline),
            SessionState::Lost { .. } | SessionState::Closed => None,
        }
    }

    /// Takes note of the time, and says whether that changed the state.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        if self.state.is_final() {
            return false;
        }
        if now >= self.deadline {
            let reason = LostReason::DeadlinePassed { last_ack: self.anchor };
            self.state = SessionState::Lost { reason, at: self.deadline };
            return true;
        }
        let overdue_at = self.overdue_at();
        if now >= overdue_at && self.state.is_safe() {
            self.state = SessionState::Jeopardy { since: overdue_at, until: self.deadline };
            return true;
        }
        false
    }

    /// A renewal that was sent then was acknowledged with this TTL. An acknowledgement that is read after the deadline is too
    /// late: the holder may have been told already.
    pub(crate) fn acknowledged(&mut self, sent: Instant, ttl: Duration, now: Instant) -> bool {
        let is_changed = self.look(now);
        if self.state.is_final() || sent <= self.anchor {
            return is_changed;
        }
        self.anchor = sent;
        if ttl < self.terms.ttl {
            self.terms.interval = self.terms.interval.min(ttl / 3);
        }
        self.terms.ttl = ttl;
        self.deadline = self.deadline.max(sent + self.terms.certain_for(ttl));
        let was = self.state;
        self.state = match was {
            // An answer that came so late that the next one is overdue already.
            SessionState::Jeopardy { since, .. } if now >= self.overdue_at() => {
                SessionState::Jeopardy { since, until: self.deadline }
            }
            _ => SessionState::Safe { until: self.deadline },
        };
        self.look(now);
        is_changed || was != self.state
    }

    /// A server said that there is no such lease. It never ends one early, so before its time somebody revoked it.
    pub(crate) fn not_found(&mut self, now: Instant) -> bool {
        let is_early = now < self.anchor + self.terms.ttl;
        self.lose(if is_early { LostReason::Revoked } else { LostReason::Expired }, now)
    }

    /// It is over, for this reason, unless it was over before.
    pub(crate) fn lose(&mut self, reason: LostReason, now: Instant) -> bool {
        if self.look(now) && self.state.is_final() {
            return true;
        }
        self.end(SessionState::Lost { reason, at: now })
    }

    /// Its holder ends it.
    pub(crate) fn close(&mut self, now: Instant) -> bool {
        if self.look(now) && self.state.is_final() {
            return true;
        }
        self.end(SessionState::Closed)
    }

    fn end(&mut self, state: SessionState) -> bool {
        let is_changed = !self.state.is_final();
        if is_changed {
            self.state = state;
        }
        is_changed
    }

    fn overdue_at(&self) -> Instant {
        self.anchor + self.terms.overdue_after()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::terms::Asked;

    const TTL: Duration = Duration::from_secs(10);

    fn at(ms: u64) -> Instant {
        Instant::since_origin(Duration::from_millis(ms))
    }

    fn terms(ttl: Duration) -> Terms {
        Asked { ttl, margin: None, interval: None, is_margin_skipped: true }.check().unwrap()
    }

    fn standing() -> Standing {
        Standing::granted(terms(TTL), at(0), at(5))
    }

    #[test]
    fn the_deadline_counts_from_the_sending_of_the_last_acknowledged_renewal() {
        let mut standing = standing();
        assert_eq!(standing.state(), SessionState::Safe { until: at(8900) });
        // Sent at 3 s, and answered much later: the answer's arrival does not count.
        assert!(standing.acknowledged(at(3000), TTL, at(4900)));
        assert_eq!(standing.state(), SessionState::Safe { until: at(11_900) });
    }

    #[test]
    fn an_overdue_renewal_is_jeopardy_and_an_acknowledgement_ends_it() {
        let mut standing = standing();
        // A third of the TTL, and a sixth for a try; rounded down to a nanosecond before five seconds.
        let overdue = Instant::since_origin(Duration::from_nanos(4_999_999_999));
        assert_eq!(standing.changes_at(), Some(overdue));
        assert!(!standing.look(at(4999)));
        assert!(standing.look(at(5100)));
        assert_eq!(standing.state(), SessionState::Jeopardy { since: overdue, until: at(8900) });
        assert!(!standing.look(at(8899)));
        assert!(standing.acknowledged(at(5000), TTL, at(8899)));
        assert_eq!(standing.state(), SessionState::Safe { until: at(13_900) });
    }

    #[test]
    fn what_is_lost_stays_lost_whatever_is_acknowledged_later() {
        let mut standing = standing();
        // The process was stopped, and the answer is the first thing that it sees.
        assert!(standing.acknowledged(at(8000), TTL, at(8900)));
        let lost = SessionState::Lost { reason: LostReason::DeadlinePassed { last_ack: at(0) }, at: at(8900) };
        assert_eq!(standing.state(), lost);
        assert!(!standing.acknowledged(at(8890), TTL, at(8901)));
        assert!(!standing.close(at(9000)) && !standing.not_found(at(9000)));
        assert_eq!((standing.state(), standing.changes_at()), (lost, None));
    }

    #[test]
    fn a_lease_that_is_gone_early_was_revoked_and_else_it_expired() {
        let mut early = standing();
        assert!(early.not_found(at(4000)));
        assert_eq!(early.state(), SessionState::Lost { reason: LostReason::Revoked, at: at(4000) });
        // The deadline comes before the end of the TTL, so it is what a late answer finds.
        let mut late = standing();
        assert!(late.not_found(at(20_000)));
        assert!(matches!(late.state(), SessionState::Lost { reason: LostReason::DeadlinePassed { .. }, .. }));
    }

    #[test]
    fn an_answer_out_of_order_moves_nothing_back() {
        let mut standing = standing();
        assert!(standing.acknowledged(at(4000), TTL, at(4500)));
        assert!(!standing.acknowledged(at(3000), TTL, at(4600)));
        // Nor does a shorter TTL than before: what was promised stands.
        assert!(!standing.acknowledged(at(4100), Duration::from_secs(2), at(4700)));
        assert_eq!(standing.deadline(), at(12_900));
    }

    #[test]
    fn a_ttl_that_the_server_raised_is_adopted() {
        let mut standing = standing();
        assert!(standing.acknowledged(at(3000), TTL * 2, at(3100)));
        assert_eq!(standing.deadline(), at(3000 + 19_800 - 1000));
    }

    #[test]
    fn a_grant_that_was_answered_after_its_deadline_is_lost() {
        assert!(Standing::granted(terms(TTL), at(0), at(9000)).state().is_final());
    }

    proptest! {
        /// Whatever is acknowledged and whenever somebody looks: after the deadline of what was acknowledged before it,
        /// nothing but Lost; before it, never Lost by itself; and the deadline is within the TTL of the last sending.
        #[test]
        fn the_deadline_decides_and_nothing_else(
            steps in prop::collection::vec((0u64..6000, 0u64..4000, any::<bool>()), 1..60),
        ) {
            let mut standing = standing();
            let (mut now, mut last_sent, mut is_over) = (5, 0, false);
            for (wait, ago, is_acknowledged) in steps {
                now += wait;
                let deadline = standing.deadline();
                is_over |= at(now) >= deadline;
                if is_acknowledged {
                    let sent = now.saturating_sub(ago);
                    standing.acknowledged(at(sent), TTL, at(now));
                    if !is_over { last_sent = last_sent.max(sent); }
                } else {
                    standing.look(at(now));
                }
                prop_assert_eq!(standing.state().is_final(), is_over);
                prop_assert_eq!(standing.deadline(), at(last_sent + 8900));
                if !is_over {
                    let is_overdue = now >= last_sent + 5000;
                    prop_assert_eq!(standing.state().is_safe(), !is_overdue);
                }
            }
        }
    }
}
