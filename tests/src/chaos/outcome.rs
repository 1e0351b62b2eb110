//! What a run comes to: its record for the report, whether it is void, and the lines that a person reads at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use tenure_history::Moment;
use tenure_history::report::{Check, CheckOutcome, Conclusion, Counts, KindSummary, RunRecord};
use tenure_history::run::{Finding, Status};

use super::faults::Kind;
use tenure_workload::workloads::Workload;

/// The process's exit status.
pub const EXIT_HELD: u8 = 0;
pub const EXIT_VIOLATED: u8 = 1;
pub const EXIT_VOID: u8 = 3;
pub const EXIT_UNDECIDED: u8 = 4;

/// The exit status of a conclusion.
pub fn exit_status(conclusion: Conclusion) -> u8 {
    match conclusion {
        Conclusion::Held => EXIT_HELD,
        Conclusion::Violated => EXIT_VIOLATED,
        Conclusion::Void => EXIT_VOID,
        Conclusion::Undecided => EXIT_UNDECIDED,
    }
}

/// What each checker makes sure of, by the first word of its finding.
const PROMISES: [(&str, &str); 19] = [
    ("linearizability", "One order of all operations explains every answer."),
    ("reads", "No read is older than what somebody was told before, nor than what one client saw at one member."),
    ("watch", "Watchers get every event once, in order, whole revisions, with the right previous values."),
    ("leases", "No lease ends early, late beyond the bound, or comes back."),
    ("locks", "No two clients know at one time that they hold a lock; tokens rise."),
    (
        "lock-turns",
        "Who is granted a lock natively is in the front of its queue: in order, alone or as many as may share.",
    ),
    ("lock-sessions", "No grant is told whose key or lease has gone."),
    ("lock-requests", "A request for a lock that is over stays so; a retry keeps its place."),
    ("lock-ghosts", "No key of a contender is left of a request that is over."),
    ("lock-wakeups", "Who is next is told so."),
    ("lock-delays", "The lock of a holder that expires stays taken for the delay that it asked for."),
    ("lock-writes", "Guards let in holders and nobody else."),
    ("append", "Every acked append stands in its list once."),
    ("queue", "Every item comes out once, oldest first, and none is lost."),
    ("liveness", "After the faults every member serves, clients finish and all leases end."),
    ("hashes", "All members hold the same."),
    ("processes", "No member ends without a reason; one that was wiped refuses to run."),
    ("elections", "No term has two leaders."),
    ("history", "What was recorded can be judged."),
];

/// What is promised by a checker.
pub fn promise(checker: &str) -> &'static str {
    let word = checker.split(' ').next().unwrap_or(checker);
    PROMISES.iter().find(|(name, _)| *name == word).map_or("", |(_, promise)| promise)
}

/// One check for each checker, of its findings in all rounds: the first that is wrong, else all counts.
pub fn checks(rounds: &[Vec<Finding>]) -> Vec<Check> {
    let mut order: Vec<&str> = Vec::new();
    let mut by_checker: BTreeMap<&str, Vec<(usize, &Finding)>> = BTreeMap::new();
    for (round, findings) in rounds.iter().enumerate() {
        for finding in findings {
            let word = finding.checker.split(' ').next().unwrap_or(&finding.checker);
            if !order.contains(&word) {
                order.push(word);
            }
            by_checker.entry(word).or_default().push((round, finding));
        }
    }
    let worst = |status: Status| match status {
        Status::Violation => 0,
        Status::Undecided => 1,
        Status::Unchecked => 2,
        Status::Ok => 3,
    };
    let mut checks = Vec::new();
    for word in order {
        let findings = &by_checker[word];
        let wrong = findings.iter().filter(|(_, finding)| finding.status != Status::Ok);
        match wrong.min_by_key(|(_, finding)| worst(finding.status)) {
            Some((round, finding)) => {
                let mut check = Check::of_finding(promise(word), finding);
                if rounds.len() > 1 {
                    check.name = format!("{} (round {})", check.name, round + 1);
                }
                checks.push(check);
            }
            None => {
                let each = |(round, finding): &(usize, &Finding)| match rounds.len() {
                    1 => finding.summary.clone(),
                    _ => format!("round {}: {}", round + 1, finding.summary),
                };
                let counts = findings.iter().map(each).collect::<Vec<_>>().join("\n");
                let outcome = CheckOutcome::Ok { counts };
                checks.push(Check { name: word.to_owned(), promise: promise(word).to_owned(), outcome });
            }
        }
    }
    checks
}

/// Why the run shows nothing, if so.
pub fn void(
    record: &RunRecord,
    workloads: &[Workload],
    kinds: &[Kind],
    load: Duration,
    strict: bool,
) -> Option<String> {
    for workload in workloads {
        let answered = record.workloads.iter().find(|found| found.name == workload.name());
        let answered = answered.map_or(0, |found| found.totals().acked);
        let least = u64::try_from(workload.answered_min_per_minute()).unwrap_or(u64::MAX) * load.as_secs() / 60;
        if answered < least {
            return Some(format!("{workload} had only {answered} operations answered, not {least}"));
        }
    }
    for kind in kinds {
        if !record.kinds.iter().any(|found| found.kind == kind.name() && found.injected > 0) {
            return Some(format!("{kind} was asked for and never happened"));
        }
    }
    let skipped = record.skipped.first().filter(|_| strict);
    skipped.map(|skipped| format!("{} was left out: {}", skipped.what, skipped.reason))
}

/// The end of a run as text.
pub fn summary(record: &RunRecord) -> String {
    let row = |name: &str, counts: [String; 5]| {
        let cells: Vec<String> = counts.iter().map(|count| format!(" {count:>8}")).collect();
        format!("{name:<10}{}", cells.concat())
    };
    let numbers = |counts: Counts| {
        [counts.tried, counts.acked, counts.refused, counts.failed, counts.unknown].map(|count| count.to_string())
    };
    let mut lines = vec![row("workload", ["tried", "acked", "refused", "failed", "unknown"].map(str::to_owned))];
    lines.extend(record.workloads.iter().map(|workload| row(&workload.name, numbers(workload.totals()))));
    lines.push(row("all", numbers(record.totals())));
    lines.push(format!("\n{:<18} {:>8} {:>8}  longest time without an acked write", "fault", "times", "noticed"));
    for KindSummary { kind, injected, noticed, longest_gap } in &record.kinds {
        lines.push(format!("{kind:<18} {injected:>8} {noticed:>8}  {}", seconds(*longest_gap)));
    }
    lines.push(String::new());
    lines.extend(record.skipped.iter().map(|skipped| format!("left out: {}: {}", skipped.what, skipped.reason)));
    lines.extend(record.figures.iter().map(|figure| format!("{}: {}", figure.name, figure.value)));
    lines.extend(record.checks.iter().map(check_text));
    lines.join("\n")
}

fn check_text(check: &Check) -> String {
    match &check.outcome {
        CheckOutcome::Ok { counts } if counts.contains('\n') => {
            format!("ok         {}: in all {} rounds", check.name, counts.lines().count())
        }
        CheckOutcome::Ok { counts } => format!("ok         {}: {counts}", check.name),
        CheckOutcome::Violation { promise, detail, evidence, .. } => {
            let lines: Vec<String> = evidence.iter().map(|line| format!("\n    {line}")).collect();
            format!("VIOLATION  {}: {promise}: {detail}{}", check.name, lines.concat())
        }
        CheckOutcome::Undecided { detail, .. } => format!("UNDECIDED  {}: {detail}", check.name),
        CheckOutcome::Void { reason } => format!("VOID       {}: {reason}", check.name),
        CheckOutcome::Skipped { reason } => format!("not made   {}: {reason}", check.name),
    }
}

fn seconds(moment: Moment) -> String {
    if moment == Moment(0) { "-".to_owned() } else { format!("{:.2} s", Duration::from_nanos(moment.0).as_secs_f64()) }
}

#[cfg(test)]
mod tests {
    use tenure_history::report::End;
    use tenure_history::report::{Fault, Measured, Sampler, Skipped};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A run of a minute with this many acked operations of the mix and one leader killed.
    fn record(acked: u64) -> RunRecord {
        let mut record = RunRecord::new("chaos", 7, "make chaos");
        record.faults.push(Fault::new("kill-leader", "n1", Moment(1)..Moment(2), ""));
        let mut sampler = Sampler::default();
        let mix = sampler.workload("mix", "");
        for at in 0..acked {
            let called = Moment(at * 1_000_000);
            sampler.note(mix, Measured { called, returned: Some(called), end: End::Acked, write: true });
        }
        record.take(&sampler, Moment(0)..Moment(60_000_000_000), Duration::from_millis(300));
        record
    }

    #[test]
    fn a_run_with_enough_work_and_all_faults_is_not_void() {
        assert_eq!(void(&record(900), &[Workload::Mix], &[Kind::KillLeader], MINUTE, true), None);
    }

    #[test]
    fn a_run_with_too_little_work_or_without_an_asked_fault_is_void() {
        let why = void(&record(700), &[Workload::Mix], &[Kind::KillLeader], MINUTE, true).unwrap();
        assert!(why.contains("mix had only 700"), "{why}");
        let why = void(&record(900), &[Workload::Mix, Workload::Queue], &[Kind::KillLeader], MINUTE, true).unwrap();
        assert!(why.contains("queue had only 0"), "{why}");
        let why = void(&record(900), &[Workload::Mix], &[Kind::KillLeader, Kind::Wipe], MINUTE, true).unwrap();
        assert!(why.contains("wipe was asked for"), "{why}");
    }

    #[test]
    fn what_is_left_out_makes_a_strict_run_void_alone() {
        let mut record = record(900);
        record.skipped.push(Skipped { what: "disk-full".into(), reason: "no fault port".into() });
        assert_eq!(void(&record, &[Workload::Mix], &[], MINUTE, false), None);
        assert!(void(&record, &[Workload::Mix], &[], MINUTE, true).unwrap().contains("disk-full"));
    }

    #[test]
    fn one_bad_round_makes_the_check_and_says_which() {
        let finding =
            |status| Finding { checker: "leases".into(), status, summary: "never early: x".into(), evidence: vec![] };
        let checks = checks(&[vec![finding(Status::Ok)], vec![finding(Status::Violation)], vec![finding(Status::Ok)]]);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].name, "leases (round 2)");
        assert!(matches!(checks[0].outcome, CheckOutcome::Violation { .. }));
    }

    #[test]
    fn every_checker_has_a_promise_and_conclusions_differ_in_their_exit_status() {
        assert!(!promise("watch (observer 1, all)").is_empty());
        let all = [Conclusion::Held, Conclusion::Violated, Conclusion::Void, Conclusion::Undecided].map(exit_status);
        assert_eq!(all, [0, 1, 3, 4]);
    }
}
