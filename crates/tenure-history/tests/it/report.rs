//! The record of a run: what becomes of single operations, and what the page makes of it all.

use std::time::Duration;

use tenure_history::report::{
    Check, CheckOutcome, Conclusion, Counts, End, Fault, Measured, RecordError, RunRecord, Sampler,
};
use tenure_history::request::Request;
use tenure_history::response::{Outcome, Refusal};
use tenure_history::verdict::{Verdict, Violation};
use tenure_history::{ClientId, LeaseId, Moment, Operation};

fn ms(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

fn put(called: u64, returned: u64) -> Measured {
    Measured { called: ms(called), returned: Some(ms(returned)), end: End::Acked, write: true }
}

#[test]
fn samples_count_what_began_and_what_ended_in_their_time() {
    let mut sampler = Sampler::default();
    let kv = sampler.workload("kv", "puts");
    let reads = sampler.workload("reads", "gets");
    assert_eq!(sampler.workload("kv", "again"), kv);
    sampler.note(kv, put(10, 20));
    sampler.note(kv, put(120, 260));
    sampler.note(kv, Measured { end: End::Refused, ..put(130, 131) });
    sampler.note(kv, Measured { end: End::Failed, ..put(130, 150) });
    sampler.note(kv, Measured { end: End::Unknown, returned: None, ..put(300, 0) });
    sampler.note(reads, Measured { write: false, ..put(1_000, 1_001) });
    assert_eq!(sampler.period(), ms(125));
    let workloads = sampler.workloads();
    let counts = |at: usize| workloads[0].samples[at].counts;
    assert_eq!(counts(0), Counts { tried: 2, acked: 1, ..Counts::default() });
    assert_eq!(counts(1), Counts { tried: 2, refused: 1, failed: 1, ..Counts::default() });
    assert_eq!(counts(2), Counts { tried: 1, acked: 1, unknown: 1, ..Counts::default() });
    assert_eq!(workloads[0].totals(), Counts { tried: 5, acked: 2, refused: 1, failed: 1, unknown: 1 });
    assert_eq!(workloads[0].latency().count(), 3, "what failed has no latency");
    assert_eq!(workloads[0].latency().max_us(), 140_000);
    assert_eq!(workloads[1].samples.len(), 1, "periods in which nothing happened are left out");
    assert_eq!(workloads[1].samples[0].at, ms(1_000));
}

#[test]
fn the_order_of_operations_makes_no_difference_and_long_runs_stay_small() {
    let hours = 6 * 3_600 * 1_000;
    let operations: Vec<Measured> = (0..50_000).map(|n| put(n * hours / 50_000, n * hours / 50_000 + n % 97)).collect();
    let sampled = |order: &mut dyn Iterator<Item = &Measured>| {
        let mut sampler = Sampler::default();
        let kv = sampler.workload("kv", "puts");
        order.for_each(|operation| sampler.note(kv, *operation));
        (sampler.period(), sampler.workloads(), sampler.gaps(ms(0)..ms(hours), Duration::from_millis(400)))
    };
    let forwards = sampled(&mut operations.iter());
    assert_eq!(forwards, sampled(&mut operations.iter().rev()));
    assert_eq!(forwards.0, ms(16_000));
    assert!(forwards.1[0].samples.len() <= 1_500);
    assert_eq!(forwards.1[0].totals().acked, 50_000);

    let mut sampler = Sampler::default();
    let kv = sampler.workload("kv", "puts");
    sampler.note(kv, Measured { called: Moment::NEVER, returned: Some(Moment::NEVER), end: End::Acked, write: true });
    assert_eq!(sampler.workloads()[0].totals().acked, 1, "a broken clock does not break the report");
}

#[test]
fn gaps_are_exact_and_bounded_by_the_load() {
    let mut sampler = Sampler::default();
    let kv = sampler.workload("kv", "puts");
    for at in [900, 1_000, 1_100, 3_000, 3_299, 3_599, 9_000] {
        sampler.note(kv, put(at - 50, at));
    }
    sampler.note(kv, Measured { write: false, ..put(1_950, 2_000) });
    sampler.note(kv, Measured { end: End::Unknown, ..put(2_050, 2_100) });
    let gaps = |from, to| {
        let gaps = sampler.gaps(ms(from)..ms(to), Duration::from_millis(300));
        gaps.iter().map(|gap| (gap.begin.0 / 1_000_000, gap.end.0 / 1_000_000)).collect::<Vec<_>>()
    };
    assert_eq!(gaps(800, 4_000), [(1_100, 3_000), (3_299, 3_599), (3_599, 4_000)]);
    assert_eq!(gaps(500, 1_200), [(500, 900)]);
    assert_eq!(gaps(4_000, 5_000), [(4_000, 5_000)]);
    assert_eq!(gaps(5_000, 5_000), []);
}

#[test]
fn a_run_concludes_with_the_worst_that_it_says() {
    let ok = || Check::of("reads", "fresh", &Verdict::Ok(3));
    let check = |outcome| Check { outcome, ..ok() };
    let mut record = RunRecord::new("chaos", 1, "make chaos");
    assert_eq!(record.conclusion(), Conclusion::Void, "nothing was checked");
    record.checks.push(check(CheckOutcome::Skipped { reason: "no locks".into() }));
    assert_eq!(record.conclusion(), Conclusion::Void, "nothing was checked yet");
    record.checks.push(ok());
    assert_eq!(record.conclusion(), Conclusion::Held);
    record.checks.push(check(CheckOutcome::Undecided { detail: "too many".into(), span: None }));
    assert_eq!(record.conclusion(), Conclusion::Undecided);
    record.void = Some("40 operations".into());
    assert_eq!(record.conclusion(), Conclusion::Void);
    let violation = Violation {
        checker: "reads",
        promise: "stale read",
        detail: "a".into(),
        evidence: vec![format!("put {} – {}", ms(1_500), ms(1_600))],
    };
    record.checks.push(Check::of("reads", "fresh", &Verdict::<u64>::Violation(Box::new(violation))));
    assert_eq!(record.conclusion(), Conclusion::Violated);
    let span = match &record.checks.last().unwrap().outcome {
        CheckOutcome::Violation { span, .. } => *span,
        other => panic!("{other:?}"),
    };
    assert_eq!(span, Some((ms(1_500), ms(1_600))));
}

#[test]
fn a_record_comes_back_from_json_and_another_version_is_refused() {
    let mut record = RunRecord::new("chaos", u64::MAX, "make chaos");
    let mut sampler = Sampler::default();
    let kv = sampler.workload("kv", "puts");
    sampler.note(kv, put(0, 10));
    record.faults.push(Fault::new("kill", "n1", ms(10)..ms(500), "SIGKILL"));
    record.take(&sampler, ms(0)..ms(1_000), Duration::from_millis(300));
    assert_eq!(record.gaps.len(), 1);
    record.take_rounds(&sampler, &[ms(0)..ms(200), ms(5_000)..ms(6_000)], Duration::from_millis(300));
    assert_eq!((record.gaps[0].begin, record.gaps.len()), (ms(5_000), 1), "between rounds nobody writes");
    let text = record.to_json().unwrap();
    assert_eq!(RunRecord::from_json(&text).unwrap(), record);
    let other = text.replace("\"version\":1", "\"version\":2");
    assert!(matches!(RunRecord::from_json(&other), Err(RecordError::Version(2))));
    assert!(matches!(RunRecord::from_json("{}"), Err(RecordError::Json(_))));
}

#[test]
fn operations_of_a_history_count_by_what_their_client_knows() {
    let revoke = Operation {
        client: ClientId(1),
        node: None,
        called: ms(0),
        returned: Some(ms(5)),
        request: Request::LeaseRevoke { id: LeaseId(3) },
        outcome: Outcome::Refused(Refusal::LeaseNotFound),
    };
    let mut sampler = Sampler::default();
    let leases = sampler.workload("leases", "");
    sampler.note_operation(leases, &revoke);
    let totals = sampler.workloads()[0].totals();
    assert_eq!((totals.tried, totals.refused, totals.acked), (1, 1, 0));
    let gaps = sampler.gaps(ms(0)..ms(1_000), Duration::from_millis(300));
    assert_eq!(gaps.len(), 1, "a refusal is no acked write");
}
