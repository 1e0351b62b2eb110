//! Was any lease ended that its owner could rely on, and do the others live?
//!
//! A lease must live for its whole time after the last acknowledged renewal was sent. One whose owner got no renewal
//! acknowledged in all that time, because too many nodes were down, may be gone: that is told, and not held against the
//! cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::audit::Findings;
use crate::clock::Moment;
use crate::ledger::LeaseRecord;

/// What the store says of a lease and its key, at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Living {
    /// When that was known.
    pub(crate) at: Moment,
    /// Whether the lease lives.
    pub(crate) lease: bool,
    /// Whether the key is there, attached to this lease.
    pub(crate) key: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct LeasesVerdict {
    /// Leases that are renewed and live, with their keys.
    pub(crate) kept: usize,
    /// Leases that nobody renewed and that ended.
    pub(crate) ran_out: usize,
    /// The shortest and the longest time from when they were due until it was seen.
    pub(crate) lateness: Option<(Duration, Duration)>,
    /// Leases that nobody renews and that are still to end.
    pub(crate) to_end: usize,
    /// Leases that ended because no renewal was acknowledged in their time.
    pub(crate) lost_in_outage: usize,
    pub(crate) wrong: Findings,
}

/// Compares the ledger with what the store says of those leases that should live.
pub(crate) fn leases(records: &BTreeMap<i64, LeaseRecord>, living: &BTreeMap<i64, Living>) -> LeasesVerdict {
    let mut verdict = LeasesVerdict::default();
    for (lease, record) in records {
        match record.ended {
            Some(ended) => verdict.ended(record, ended),
            None if record.stopped.is_some() => verdict.to_end += 1,
            // A registration that was under way at the end promised nothing yet.
            None if !record.registered => {}
            None => verdict.should_live(record, living.get(lease).copied()),
        }
    }
    verdict
}

impl LeasesVerdict {
    fn ended(&mut self, record: &LeaseRecord, ended: Moment) {
        let deadline = record.terms.borrow().deadline();
        if ended < deadline {
            let early = (deadline - ended).as_secs_f64();
            self.wrong.add(format!("the lease of {} ended {early:.3} s before its time", record.key));
        } else if record.stopped.is_some() {
            let late = ended.saturating_sub(record.terms.borrow().overdue_from());
            self.ran_out += 1;
            let (shortest, longest) = self.lateness.unwrap_or((late, late));
            self.lateness = Some((shortest.min(late), longest.max(late)));
        } else {
            self.lost_in_outage += 1;
        }
    }

    fn should_live(&mut self, record: &LeaseRecord, living: Option<Living>) {
        let key = &record.key;
        match living {
            Some(Living { lease: true, key: true, .. }) => self.kept += 1,
            Some(Living { lease: true, key: false, .. }) => {
                self.wrong.add(format!("{key} is gone, but its lease lives"));
            }
            Some(Living { lease: false, at, .. }) if !record.terms.borrow().is_good(at) => self.lost_in_outage += 1,
            Some(Living { lease: false, .. }) => self.wrong.add(format!("the lease of {key} is gone before its time")),
            None => self.wrong.add(format!("nothing could be learnt of the lease of {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::load::LeaseTerms;

    const fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    /// A lease that is due at 20.
    fn record(stopped: Option<u64>, ended: Option<u64>) -> LeaseRecord {
        let terms = LeaseTerms::granted(at(10), Duration::from_secs(10));
        LeaseRecord {
            service: 0,
            key: "svc".to_owned(),
            terms: watch::channel(terms).1,
            registered: true,
            stopped: stopped.map(at),
            ended: ended.map(at),
        }
    }

    fn judge(record: LeaseRecord, living: Option<Living>) -> LeasesVerdict {
        leases(&BTreeMap::from([(7, record)]), &living.map(|living| (7, living)).into_iter().collect())
    }

    fn only_finding(verdict: &LeasesVerdict) -> String {
        assert_eq!(verdict.wrong.count(), 1, "{verdict:?}");
        verdict.wrong.texts().next().unwrap().to_owned()
    }

    #[test]
    fn an_end_before_the_acknowledged_time_is_found_whoever_renews() {
        for stopped in [None, Some(11)] {
            let verdict = judge(record(stopped, Some(19)), None);
            assert_eq!(only_finding(&verdict), "the lease of svc ended 1.000 s before its time");
        }
    }

    #[test]
    fn an_end_after_its_time_is_fine_and_measured() {
        let verdict = judge(record(Some(11), Some(21)), None);
        assert_eq!((verdict.wrong.count(), verdict.ran_out, verdict.lateness), (0, 1, Some((at(1), at(1)))));
        let verdict = judge(record(None, Some(21)), None);
        assert_eq!((verdict.wrong.count(), verdict.lost_in_outage), (0, 1));
    }

    #[test]
    fn a_renewed_lease_must_live_with_its_key() {
        let living = |lease, key| Some(Living { at: at(15), lease, key });
        assert_eq!(judge(record(None, None), living(true, true)).kept, 1);
        assert_eq!(only_finding(&judge(record(None, None), living(true, false))), "svc is gone, but its lease lives");
        let gone = "the lease of svc is gone before its time";
        assert_eq!(only_finding(&judge(record(None, None), living(false, false))), gone);
        assert!(only_finding(&judge(record(None, None), None)).starts_with("nothing could be learnt"));
    }
}
