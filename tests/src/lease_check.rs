//! What must be true of leases, whatever was killed, paused or restarted while they lived.
//!
//! - Never early: no lease ends, or is said to have ended, before the client's send time of its last acknowledged grant or
//!   keepalive plus its TTL. So no keepalive is acknowledged that was sent after the end, either.
//! - Never late without bound: a lease that nobody renews is gone by TTL × 1.01 plus the time without a working leader after
//!   it was due, plus one grace, plus a second. If all members were down at once, that time counts whenever it was.
//!
//! All times are of one machine's `CLOCK_BOOTTIME`, so clients and faults share it.

use std::fmt::Write as _;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::samples::percentile;

/// A reading of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The present.
    pub fn now() -> Moment {
        Moment(Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default())
    }

    /// A moment of a made-up history.
    pub fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    /// This much later.
    pub fn plus(self, time: Duration) -> Moment {
        Moment(self.0 + time)
    }

    /// This much earlier.
    pub fn minus(self, time: Duration) -> Moment {
        Moment(self.0.saturating_sub(time))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A request, from when it was sent until it was answered or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub sent: Moment,
    pub received: Moment,
}

/// What its holder and its observers know of one lease.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub id: i64,
    pub ttl: Duration,
    /// How its holder behaved, for reports.
    pub kind: &'static str,
    /// Acknowledged grant and keepalives, in order.
    pub acks: Vec<Span>,
    /// Keepalives of unknown fate, up to when they may have taken effect.
    pub unknown: Vec<Span>,
    /// The keepalive that was answered with a TTL of 0.
    pub told_gone: Option<Span>,
    /// When its key was first seen to be missing.
    pub gone: Option<Moment>,
    /// Whether its holder still wanted it when it ended.
    pub wanted: bool,
}

/// What the cluster promises.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// After a promotion, a pause or a gap.
    pub grace: Duration,
    /// What may come on top of all.
    pub slack: Duration,
    /// Whether outages are of all members at once: then nobody's clock went on, and they count before the due time too.
    pub all_down: bool,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub lives: usize,
    pub acks: usize,
    pub unknown: usize,
    /// Ends before the time that was promised.
    pub early: Vec<String>,
    /// Ends after the bound, or none at all.
    pub late: Vec<String>,
    /// How long after its last acknowledgement plus TTL × 1.01 each ended whose last renewal was acknowledged, without
    /// the time that had no leader.
    pub lateness: Vec<Duration>,
    /// Leases that ended although their holder went on to renew them: TTL and how often.
    pub lost: Vec<(Duration, usize)>,
}

impl Verdict {
    /// One paragraph for the reader.
    pub fn table(&self, title: &str) -> String {
        let mut lateness = self.lateness.clone();
        lateness.sort_unstable();
        let show = |percent| percentile(&lateness, percent).as_secs_f64();
        let mut text = format!(
            "{title}: {} leases lived and ended, {} acknowledged requests, {} of unknown fate\n  {} early, {} late; seconds \
             between due and gone, time without a leader taken off: median {:.2}, 99 % {:.2}, worst {:.2}",
            self.lives,
            self.acks,
            self.unknown,
            self.early.len(),
            self.late.len(),
            show(50),
            show(99),
            show(100),
        );
        for (ttl, count) in &self.lost {
            let _never_fails =
                write!(text, "\n  {count} of TTL {} s ended while their holders asked in vain", ttl.as_secs());
        }
        text
    }

    /// The findings that must not be.
    pub fn wrong(&self) -> Option<String> {
        let wrong: Vec<&String> = self.early.iter().chain(&self.late).collect();
        let shown: Vec<&str> = wrong.iter().take(10).map(|text| text.as_str()).collect();
        (!wrong.is_empty()).then(|| format!("{} leases ended wrongly:\n{}", wrong.len(), shown.join("\n")))
    }
}

/// Holds lives against the promises. `outages` are the times without a working leader, in order.
pub fn check(lives: &[Life], outages: &[(Moment, Moment)], promise: Promise) -> Verdict {
    let mut verdict = Verdict::default();
    for life in lives {
        verdict.lives += 1;
        verdict.acks += life.acks.len();
        verdict.unknown += life.unknown.len();
        if let Some(text) = early(life) {
            verdict.early.push(text);
        }
        check_end(life, outages, promise, &mut verdict);
        if life.wanted {
            match verdict.lost.iter_mut().find(|(ttl, _)| *ttl == life.ttl) {
                Some((_, count)) => *count += 1,
                None => verdict.lost.push((life.ttl, 1)),
            }
        }
    }
    verdict.lost.sort_unstable();
    verdict
}

fn early(life: &Life) -> Option<String> {
    let promised = life.acks.iter().map(|ack| ack.sent).max()?.plus(life.ttl);
    let ends =
        [life.gone.map(|gone| (gone, "was gone")), life.told_gone.map(|told| (told.received, "was said to be gone"))];
    let (end, how) = ends.into_iter().flatten().min_by_key(|(end, _)| *end)?;
    (end < promised).then(|| {
        let (id, kind, early) = (life.id, life.kind, promised.since(end));
        format!("lease {id} ({kind}, TTL {:?}) {how} {early:?} before its time was over", life.ttl)
    })
}

fn check_end(life: &Life, outages: &[(Moment, Moment)], promise: Promise, verdict: &mut Verdict) {
    let (id, kind, ttl) = (life.id, life.kind, life.ttl);
    let Some(gone) = life.gone else {
        verdict.late.push(format!("lease {id} ({kind}, TTL {ttl:?}) was not seen to end"));
        return;
    };
    let lifetime = ttl + ttl / 100;
    let acked = life.acks.iter().map(|ack| ack.received).max().unwrap_or_default();
    let perhaps = life.unknown.iter().map(|unknown| unknown.received).max().unwrap_or_default();
    let due = acked.max(perhaps).plus(lifetime);
    let counted_from = if promise.all_down { acked.max(perhaps) } else { due };
    let late = gone.since(due).saturating_sub(overlap(outages, counted_from, gone));
    if perhaps <= acked {
        verdict.lateness.push(late);
    }
    if late > promise.grace + promise.slack {
        verdict.late.push(format!("lease {id} ({kind}, TTL {ttl:?}) was gone {late:?} late, outages taken off"));
    }
}

/// How much of the time between two moments lies in spans.
fn overlap(spans: &[(Moment, Moment)], from: Moment, to: Moment) -> Duration {
    spans.iter().map(|(begin, end)| (*end).min(to).since((*begin).max(from))).sum()
}

/// The times without a working leader, from the writes that were acknowledged: what lies between two answers that are
/// further apart than a healthy cluster ever lets them be.
pub fn outages(mut answers: Vec<Moment>, healthy: Duration) -> Vec<(Moment, Moment)> {
    answers.sort_unstable();
    let gaps = answers.windows(2).map(|pair| (pair[0], pair[1]));
    gaps.filter(|(before, after)| after.since(*before) > healthy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISE: Promise =
        Promise { grace: Duration::from_millis(1000), slack: Duration::from_millis(1000), all_down: false };

    fn span(sent: u64, received: u64) -> Span {
        Span { sent: Moment::at(sent), received: Moment::at(received) }
    }

    /// A lease of ten seconds: granted, renewed once, gone.
    fn life(gone: u64) -> Life {
        Life {
            id: 7,
            ttl: Duration::from_secs(10),
            kind: "planted",
            acks: vec![span(0, 20), span(5000, 5030)],
            gone: Some(Moment::at(gone)),
            ..Life::default()
        }
    }

    fn found(life: Life, outages: &[(u64, u64)]) -> (usize, usize) {
        let outages: Vec<_> = outages.iter().map(|(from, to)| (Moment::at(*from), Moment::at(*to))).collect();
        let verdict = check(&[life], &outages, PROMISE);
        assert_eq!(verdict.wrong().is_some(), !verdict.early.is_empty() || !verdict.late.is_empty());
        (verdict.early.len(), verdict.late.len())
    }

    #[test]
    fn an_end_within_the_promises_is_right() {
        for gone in [15_000, 15_130, 17_130] {
            assert_eq!(found(life(gone), &[]), (0, 0), "gone at {gone}");
        }
        let verdict = check(&[life(15_230)], &[], PROMISE);
        assert_eq!(verdict.lateness, [Duration::from_millis(100)]);
    }

    #[test]
    fn an_early_end_is_found_to_the_millisecond() {
        assert_eq!(found(life(14_999), &[]), (1, 0));
        // The first to say so counts, be it another client or the answer to a keepalive.
        let told = Life { told_gone: Some(span(14_900, 14_999)), ..life(16_000) };
        assert_eq!(found(told, &[]), (1, 0));
        let told = Life { told_gone: Some(span(14_900, 15_000)), ..life(16_000) };
        assert_eq!(found(told, &[]), (0, 0));
    }

    #[test]
    fn a_keepalive_that_is_acknowledged_after_the_end_is_found() {
        let mut life = life(15_100);
        life.acks.push(span(15_200, 15_210));
        assert_eq!(found(life, &[]), (1, 0));
    }

    #[test]
    fn a_late_end_is_found_unless_there_was_no_leader_after_it_was_due() {
        assert_eq!(found(life(17_131), &[]), (0, 1));
        assert_eq!(found(life(17_131), &[(16_000, 16_001)]), (0, 0));
        assert_eq!(found(life(17_131), &[(9000, 15_130)]), (0, 1), "before it was due it does not count");
        assert_eq!(found(life(17_131), &[(9000, 15_131)]), (0, 0));
        assert_eq!(found(life(17_131), &[(17_131, 30_000)]), (0, 1), "nor after the end");
        assert_eq!(found(life(19_130), &[(15_200, 16_200), (17_000, 18_000)]), (0, 0));
        assert_eq!(found(life(19_131), &[(15_200, 16_200), (17_000, 18_000)]), (0, 1));
    }

    #[test]
    fn the_time_with_all_members_down_counts_whenever_it_was() {
        let outages = [(4000, 6030), (8000, 9000)].map(|(from, to)| (Moment::at(from), Moment::at(to)));
        let late = |gone, all_down| check(&[life(gone)], &outages, Promise { all_down, ..PROMISE }).late.len();
        assert_eq!((late(19_130, true), late(19_131, true)), (0, 1), "from the last acknowledgement on");
        assert_eq!((late(17_130, false), late(17_131, false)), (0, 1));
    }

    #[test]
    fn a_lease_that_never_ends_is_late() {
        assert_eq!(found(Life { gone: None, ..life(0) }, &[]), (0, 1));
    }

    #[test]
    fn a_keepalive_of_unknown_fate_may_have_worked_but_promises_nothing() {
        let perhaps = |gone| Life { unknown: vec![span(9000, 12_000)], ..life(gone) };
        assert_eq!(found(perhaps(24_100), &[]), (0, 0));
        assert_eq!(found(perhaps(24_101), &[]), (0, 1));
        assert_eq!(found(perhaps(15_000), &[]), (0, 0));
        assert!(check(&[perhaps(20_000)], &[], PROMISE).lateness.is_empty(), "it says nothing of lateness");
    }

    #[test]
    fn outages_are_the_gaps_between_answers() {
        let answers = [0, 20, 40, 1500, 1520, 60, 3000].map(Moment::at).to_vec();
        let found = outages(answers, Duration::from_millis(250));
        assert_eq!(found, [(60, 1500), (1520, 3000)].map(|(from, to)| (Moment::at(from), Moment::at(to))));
    }

    #[test]
    fn leases_lost_by_holders_who_wanted_them_are_counted_by_ttl() {
        let wanted = |secs| Life { ttl: Duration::from_secs(secs), wanted: true, ..life(60_000) };
        let verdict = check(&[wanted(8), wanted(2), wanted(8), life(15_000)], &[], PROMISE);
        assert_eq!(verdict.lost, [(Duration::from_secs(2), 1), (Duration::from_secs(8), 2)]);
    }
}
