//! What is known of how well an endpoint works: pure bookkeeping, which is told what happened and when.
//!
//! Two things are kept apart. A *score* says which of several working endpoints is the better one; it moves slowly and excludes none. The
//! *circuit* says whether an endpoint is used at all: some failures in a row open it, and a probe, not a request, closes it again.

use std::time::Duration;

use crate::clock::Instant;

/// So many failures in a row open the circuit.
const FAILURES_MAX: u32 = 3;
/// How much of a latency goes into the average. Slower latencies count at once, as a peak.
const LATENCY_WEIGHT: f64 = 0.2;
/// How much of the failures' share each outcome changes.
const FAILURE_WEIGHT: f64 = 0.1;
/// What an endpoint without any failed request among its last would have to be worse by, to be as bad as one where all failed.
const FAILURE_PENALTY: f64 = 50.0;
/// What latency counts as until there is one: a fast one, so that a new endpoint is tried.
const LATENCY_UNKNOWN: Duration = Duration::from_micros(500);
/// How long a member counts as leaderless that said so, unless a probe knows better.
pub(super) const LEADERLESS: Duration = Duration::from_secs(1);

/// How a request at an endpoint ended, as far as that says something of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered, be it with a refusal, in that time.
    Answered(Duration),
    /// The member knows no leader.
    Leaderless,
    /// The member failed it in a way that another might not.
    Failed,
}

/// See the module's header.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    latency_secs: Option<f64>,
    failures_share: f64,
    failures_in_a_row: u32,
    leaderless_until: Option<Instant>,
}

impl Health {
    /// Takes note of an outcome, and tells whether it opens the circuit.
    pub(super) fn note(&mut self, outcome: Outcome, now: Instant) -> bool {
        match outcome {
            Outcome::Answered(latency) => {
                let latency = latency.as_secs_f64();
                let average = self.latency_secs.unwrap_or(latency);
                self.latency_secs = Some(average + (latency - average) * LATENCY_WEIGHT);
                self.failures_share *= 1.0 - FAILURE_WEIGHT;
                self.failures_in_a_row = 0;
                self.leaderless_until = None;
                false
            }
            // It is no fault of the member, which answers well: it is passed over until it knows one again.
            Outcome::Leaderless => {
                self.leaderless_until = Some(now + LEADERLESS);
                false
            }
            Outcome::Failed => {
                self.failures_share += (1.0 - self.failures_share) * FAILURE_WEIGHT;
                self.failures_in_a_row += 1;
                self.failures_in_a_row >= FAILURES_MAX
            }
        }
    }

    /// A probe answered: what failed in a row is of the past.
    pub(super) fn revived(&mut self) {
        self.failures_in_a_row = 0;
    }

    pub(super) fn is_leaderless(&self, now: Instant) -> bool {
        self.leaderless_until.is_some_and(|until| now < until)
    }

    /// How bad the endpoint is, with so many requests under way at it.
    pub(super) fn score(&self, under_way: u32) -> f64 {
        let latency = self.latency_secs.unwrap_or_else(|| LATENCY_UNKNOWN.as_secs_f64());
        // A latency of nothing would make any number of failures look good.
        let latency = latency.max(1e-6);
        latency * (1.0 + FAILURE_PENALTY * self.failures_share) * f64::from(under_way.saturating_add(1))
    }
}

/// How long to leave alone what failed so many times in a row: double the time from failure to failure, between the first and the
/// longest, less up to half of it by chance.
pub(crate) fn backoff([first, longest]: [Duration; 2], failures: u32, random: u64) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1).min(20)).unwrap_or(u32::MAX));
    let span = doubled.min(longest);
    let half = span / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
    half + Duration::from_nanos(random.checked_rem(nanos.saturating_add(1)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    const NOW: Instant = Instant::ORIGIN;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn failures_in_a_row_open_the_circuit_and_an_answer_between_does_not_let_them() {
        let mut health = Health::default();
        assert!(!health.note(Outcome::Failed, NOW) && !health.note(Outcome::Failed, NOW));
        assert!(!health.note(Outcome::Answered(ms(1)), NOW));
        assert!(!health.note(Outcome::Failed, NOW) && !health.note(Outcome::Failed, NOW));
        assert!(health.note(Outcome::Failed, NOW), "the third in a row");
        health.revived();
        assert!(!health.note(Outcome::Failed, NOW), "a probe was answered since");
    }

    #[test]
    fn slower_busier_and_failing_endpoints_have_a_worse_score() {
        let mut fast = Health::default();
        let mut slow = Health::default();
        fast.note(Outcome::Answered(ms(1)), NOW);
        slow.note(Outcome::Answered(ms(5)), NOW);
        assert!(fast.score(0) < slow.score(0));
        assert!(fast.score(9) > slow.score(0), "what is under way counts");
        fast.note(Outcome::Failed, NOW);
        assert!(fast.score(0) > slow.score(0), "failures count");
        for _ in 0..100 {
            fast.note(Outcome::Answered(ms(1)), NOW);
        }
        assert!(fast.score(0) < slow.score(0), "and are forgotten");
    }

    #[test]
    fn a_member_without_leader_is_passed_over_until_it_answers_or_for_a_while() {
        let mut health = Health::default();
        assert!(!health.note(Outcome::Leaderless, NOW), "that is not its failure");
        assert!(health.is_leaderless(NOW) && !health.is_leaderless(NOW + LEADERLESS));
        health.note(Outcome::Answered(ms(1)), NOW);
        assert!(!health.is_leaderless(NOW));
    }

    proptest! {
        /// Whatever happens, the score is a number that can be compared.
        #[test]
        fn scores_are_finite_and_positive(outcomes in proptest::collection::vec((0..3_u8, any::<u32>()), 0..200), under_way in any::<u32>()) {
            let mut health = Health::default();
            for (kind, latency) in outcomes {
                let outcome = match kind {
                    0 => Outcome::Failed,
                    1 => Outcome::Leaderless,
                    _ => Outcome::Answered(Duration::from_micros(latency.into())),
                };
                health.note(outcome, NOW);
            }
            let score = health.score(under_way);
            assert!(score.is_finite() && score > 0.0);
        }

        #[test]
        fn backoff_doubles_within_its_bounds(failures in any::<u32>(), random in any::<u64>()) {
            let span = backoff([ms(50), ms(5000)], failures, random);
            let doubled = ms(50) * 2_u32.pow(failures.saturating_sub(1).min(10));
            let whole = doubled.min(ms(5000));
            assert!(span >= whole / 2 && span <= whole, "{span:?} of {whole:?}");
        }
    }
}
