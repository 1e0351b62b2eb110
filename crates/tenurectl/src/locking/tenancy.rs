//! How a lease stands, as far as its holder can know it by its own clock.
//!
//! The server promises not to end a lease before (the holder's clock when it sent the last renewal that was acknowledged) +
//! TTL, if their clocks' rates agree within half a percent (docs/LEASES.md). So a holder that keeps to that moment, less a
//! margin, is never surprised, whatever the network does.

use std::time::Duration;

use super::BootTime;

/// A lease is renewed when a third of it has passed.
const RENEWALS_PER_TTL: u32 = 3;
/// What is left of the time when the holder is told to hurry, as a part of the TTL: a third, so that two renewals failed.
const JEOPARDY_PER_TTL: u32 = 3;
/// What is given away at the end of the TTL, as a part of it. A quarter of it covers the clocks' rates; the rest is for this
/// process, which has to be woken and to send a signal.
const MARGIN_PER_TTL: u32 = 50;
/// For the shortest TTLs, because being woken takes its time on a busy machine, whatever the TTL.
const MARGIN_MIN: Duration = Duration::from_millis(50);
/// How long one try to renew may take, as a part of the TTL, so that three fit between the first renewal and the jeopardy.
const TRIES_PER_TTL: u32 = 10;
/// Below this a busy server looks like a dead one.
const TRY_MIN: Duration = Duration::from_millis(500);

/// How sure it is that the lease is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is time to renew it more than once.
    Safe,
    /// Renewals are overdue. It is there, and what depends on it has to come to an end.
    Jeopardy,
    /// It may be gone.
    Over,
}

/// See the module's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tenancy {
    ttl: Duration,
    /// When the last renewal that was acknowledged was sent.
    renewed: BootTime,
}

impl Tenancy {
    /// A lease of that TTL whose grant was sent then.
    pub(crate) fn new(ttl: Duration, sent: BootTime) -> Tenancy {
        Tenancy { ttl, renewed: sent }
    }

    /// A renewal that was sent then is acknowledged.
    pub(crate) fn acknowledged(&mut self, sent: BootTime) {
        self.renewed = self.renewed.max(sent);
    }

    /// When it is to be renewed next.
    pub(crate) fn renew_at(&self) -> BootTime {
        self.renewed.plus(self.ttl / RENEWALS_PER_TTL)
    }

    /// For how long to wait for an answer to one renewal.
    pub(crate) fn try_patience(&self) -> Duration {
        (self.ttl / TRIES_PER_TTL).max(TRY_MIN)
    }

    /// Until when it is certain that it is there.
    pub(crate) fn deadline(&self) -> BootTime {
        let margin = (self.ttl / MARGIN_PER_TTL).max(MARGIN_MIN);
        self.renewed.plus(self.ttl.saturating_sub(margin))
    }

    fn jeopardy_at(&self) -> BootTime {
        self.renewed.plus(self.ttl - self.ttl / JEOPARDY_PER_TTL)
    }

    pub(crate) fn standing(&self, now: BootTime) -> Standing {
        if now >= self.deadline() {
            Standing::Over
        } else if now >= self.jeopardy_at() {
            Standing::Jeopardy
        } else {
            Standing::Safe
        }
    }

    /// When it stands worse than now, if nothing happens.
    pub(crate) fn worsens_at(&self, now: BootTime) -> BootTime {
        match self.standing(now) {
            Standing::Safe => self.jeopardy_at(),
            Standing::Jeopardy | Standing::Over => self.deadline(),
        }
    }

    /// For how long it has not been renewed.
    pub(crate) fn age(&self, now: BootTime) -> Duration {
        now.since(self.renewed)
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::super::boot_time::testing::at_ms;
    use super::*;

    #[test]
    fn a_lease_is_safe_then_in_jeopardy_then_over() {
        let tenancy = Tenancy::new(Duration::from_secs(9), at_ms(1000));
        assert_eq!(tenancy.renew_at(), at_ms(4000));
        assert_eq!(tenancy.deadline(), at_ms(9820));
        for (now, standing) in [
            (1000, Standing::Safe),
            (6999, Standing::Safe),
            (7000, Standing::Jeopardy),
            (9819, Standing::Jeopardy),
            (9820, Standing::Over),
            (1_000_000, Standing::Over),
            // A clock that stands still, or is asked late, does no harm.
            (0, Standing::Safe),
        ] {
            assert_eq!(tenancy.standing(at_ms(now)), standing, "{now}");
        }
        assert_eq!(tenancy.worsens_at(at_ms(2000)), at_ms(7000));
        assert_eq!(tenancy.worsens_at(at_ms(8000)), at_ms(9820));
    }

    #[test]
    fn what_counts_is_when_a_renewal_was_sent_and_not_when_it_was_answered() {
        let mut tenancy = Tenancy::new(Duration::from_secs(9), at_ms(1000));
        assert_eq!(tenancy.standing(at_ms(8000)), Standing::Jeopardy);
        // Sent at 4000, answered at 8000.
        tenancy.acknowledged(at_ms(4000));
        assert_eq!(tenancy.standing(at_ms(8000)), Standing::Safe);
        assert_eq!(tenancy.standing(at_ms(10_000)), Standing::Jeopardy);
        assert_eq!(tenancy.age(at_ms(10_000)), Duration::from_secs(6));
        // An answer that comes out of order takes nothing away.
        tenancy.acknowledged(at_ms(2000));
        assert_eq!(tenancy.age(at_ms(10_000)), Duration::from_secs(6));
    }

    #[test]
    fn three_renewals_can_fail_before_the_jeopardy() {
        for secs in [10, 60, 3600] {
            let tenancy = Tenancy::new(Duration::from_secs(secs), at_ms(0));
            assert!(tenancy.renew_at().plus(tenancy.try_patience() * 3) < tenancy.jeopardy_at(), "{secs}");
        }
    }

    #[test]
    fn the_margin_is_larger_than_what_clocks_may_differ_by() {
        for ms in [1000, 2000, 10_000, 3_600_000] {
            let tenancy = Tenancy::new(Duration::from_millis(ms), at_ms(0));
            let end = at_ms(ms);
            assert!(end.since(tenancy.deadline()) >= Duration::from_millis(ms / 50), "{ms}");
            assert!(tenancy.jeopardy_at() < tenancy.deadline(), "{ms}");
        }
    }
}
