//! When to renew which lease, and what an answer means: the keeper's rules, without its stream.
//!
//! A lease is good until its time to live has passed since the last acknowledged request was sent. It is renewed after a
//! third of that. One renewal per lease is in flight at a time, so an answer always belongs to the request before it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::limits::STREAM_SILENCE_MAX;

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// When the last acknowledged grant or renewal was sent.
    pub sent: Moment,
    /// When the last renewal was sent, whether it was answered or not: it may have taken effect.
    pub asked: Moment,
    pub ttl: Duration,
    /// When a renewal was told that the lease is gone.
    pub gone: Option<Moment>,
}

impl LeaseTerms {
    /// A lease that was granted upon a request of this moment.
    pub fn granted(sent: Moment, ttl: Duration) -> Self {
        Self { sent, asked: sent, ttl, gone: None }
    }

    /// Until when the lease cannot end.
    pub fn deadline(&self) -> Moment {
        self.sent + self.ttl
    }

    /// From when on it is overdue, whatever became of a renewal that was not answered.
    pub fn overdue_from(&self) -> Moment {
        self.sent.max(self.asked) + self.ttl
    }

    /// Whether its owner may rely on it.
    pub fn is_good(&self, now: Moment) -> bool {
        self.gone.is_none() && now < self.deadline()
    }
}

#[derive(Clone, Copy, Debug)]
struct Renewal {
    terms: LeaseTerms,
    in_flight: Option<Moment>,
    /// It is not renewed any more; only the answer to the last renewal is waited for.
    is_last: bool,
}

/// The leases of one keeper.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    leases: BTreeMap<i64, Renewal>,
}

impl Renewals {
    /// Renews this lease from now on.
    pub(crate) fn keep(&mut self, lease: i64, terms: LeaseTerms) {
        self.leases.insert(lease, Renewal { terms, in_flight: None, is_last: false });
    }

    /// Leaves this lease to its end. An answer that is still to come counts.
    pub(crate) fn stop(&mut self, lease: i64) {
        if let Some(renewal) = self.leases.get_mut(&lease) {
            renewal.is_last = true;
        }
        self.forget_stopped();
    }

    fn forget_stopped(&mut self) {
        self.leases.retain(|_, renewal| !renewal.is_last || renewal.in_flight.is_some());
    }

    /// What is known of a lease that is kept.
    pub(crate) fn terms(&self, lease: i64) -> Option<LeaseTerms> {
        self.leases.get(&lease).map(|renewal| renewal.terms)
    }

    /// The leases whose renewal is to be sent now; each counts as sent.
    pub(crate) fn due(&mut self, now: Moment) -> Vec<i64> {
        let mut due = Vec::new();
        for (lease, renewal) in &mut self.leases {
            if renewal.in_flight.is_none() && !renewal.is_last && now >= renewal.terms.sent + renewal.terms.ttl / 3 {
                renewal.in_flight = Some(now);
                renewal.terms.asked = now;
                due.push(*lease);
            }
        }
        due
    }

    /// The renewal was not sent after all.
    pub(crate) fn unsent(&mut self, lease: i64) {
        if let Some(renewal) = self.leases.get_mut(&lease) {
            renewal.in_flight = None;
        }
    }

    /// An answer came. Nothing is known of the lease if it is not kept any more.
    pub(crate) fn answered(&mut self, now: Moment, lease: i64, ttl: Duration) -> Option<LeaseTerms> {
        let renewal = self.leases.get_mut(&lease)?;
        let sent = renewal.in_flight.take()?;
        if ttl.is_zero() {
            let gone = LeaseTerms { gone: Some(now), ..renewal.terms };
            self.leases.remove(&lease);
            return Some(gone);
        }
        renewal.terms = LeaseTerms { sent, ttl, ..renewal.terms };
        let terms = renewal.terms;
        self.forget_stopped();
        Some(terms)
    }

    /// Whether a renewal has been waiting for so long that another node should be asked.
    pub(crate) fn is_unheard(&self, now: Moment) -> bool {
        let unheard = |renewal: &Renewal| renewal.in_flight.is_some_and(|sent| now >= sent + STREAM_SILENCE_MAX);
        self.leases.values().any(unheard)
    }

    /// A new stream is used: no answer comes to what was asked on the old one.
    pub(crate) fn reopened(&mut self) {
        for renewal in self.leases.values_mut() {
            renewal.in_flight = None;
        }
        self.forget_stopped();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    const fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn one() -> Renewals {
        let mut renewals = Renewals::default();
        renewals.keep(7, LeaseTerms::granted(at(0), TTL));
        renewals
    }

    #[test]
    fn a_lease_is_renewed_after_a_third_of_its_time_and_counts_from_the_sending() {
        let mut renewals = one();
        assert!(renewals.due(Duration::from_millis(2_999)).is_empty());
        assert_eq!(renewals.due(at(3)), [7]);
        assert!(renewals.due(at(4)).is_empty(), "one renewal at a time");
        let terms = renewals.answered(at(5), 7, TTL).unwrap();
        assert_eq!(terms.deadline(), at(12), "sent at 3, whenever the answer came");
        assert!(terms.is_good(Duration::from_millis(11_999)) && !terms.is_good(at(12)));
    }

    #[test]
    fn a_silent_node_is_left_and_the_renewal_sent_again_at_once() {
        let mut renewals = one();
        assert_eq!(renewals.due(at(3)), [7]);
        assert!(!renewals.is_unheard(at(4)));
        assert!(renewals.is_unheard(at(5)));
        renewals.reopened();
        assert_eq!(renewals.due(at(5)), [7]);
        assert_eq!(renewals.answered(at(6), 7, TTL).unwrap().sent, at(5));
        assert_eq!(renewals.answered(at(6), 7, TTL), None, "an answer that nobody asked for extends nothing");
    }

    #[test]
    fn the_answer_to_the_last_renewal_counts_and_so_may_one_that_never_came() {
        let mut renewals = one();
        assert_eq!(renewals.due(at(3)), [7]);
        renewals.stop(7);
        let terms = renewals.answered(at(4), 7, TTL).unwrap();
        assert_eq!((terms.deadline(), terms.overdue_from()), (at(12), at(12)));
        assert!(renewals.due(at(8)).is_empty() && renewals.terms(7).is_none());

        let mut renewals = one();
        assert_eq!(renewals.due(at(3)), [7]);
        let terms = renewals.terms(7).unwrap();
        assert_eq!((terms.deadline(), terms.overdue_from()), (at(9), at(12)));
        renewals.stop(7);
        renewals.reopened();
        assert!(renewals.terms(7).is_none());
    }

    #[test]
    fn a_lease_that_is_gone_is_renewed_no_more() {
        let mut renewals = one();
        assert_eq!(renewals.due(at(3)), [7]);
        let terms = renewals.answered(at(3), 7, Duration::ZERO).unwrap();
        assert_eq!((terms.gone, terms.is_good(at(3))), (Some(at(3)), false));
        assert!(renewals.due(at(9)).is_empty());
    }
}
