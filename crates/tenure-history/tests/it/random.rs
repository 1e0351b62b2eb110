//! Laws: what really ran is accepted; what no order explains is rejected; and a checker that tries everything agrees.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tenure_history::linearize::{Options, linearize, linearize_seen};
use tenure_history::request::KeyRange;
use tenure_history::seen::Seen;
use tenure_history::watch::{self, Spec};
use tenure_history::{History, Revision, Verdict, reads};

use crate::fault::FAULTS;

use crate::generate::{Shape, history};
use crate::workload::{Workload, spoil, watch_all};
use crate::{brute, mutate, workload};

const SERIALIZABLE: Options = Options { steps_max: 1_000_000, serializable: true };

fn show(history: &History) -> String {
    history.operations.iter().map(|operation| format!("{operation}\n")).collect()
}

/// How many histories to make; `HISTORY_SEEDS` asks for more than a test has time for.
fn seeds(usual: u64) -> u64 {
    std::env::var("HISTORY_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(usual)
}

#[test]
fn histories_that_really_ran_are_accepted() {
    for seed in 0..seeds(60) {
        let shape = Shape { clients: 8, operations: 300, keys: 6, values: 50, leases: 3, ..Shape::TINY };
        let shape = Shape { unknown_percent: (seed % 4) as u32 * 5, ..shape };
        let (history, _) = history(seed, shape);
        for options in [SERIALIZABLE, Options { serializable: false, ..SERIALIZABLE }] {
            let verdict = linearize(&history, &options);
            assert!(verdict.is_ok(), "HISTORY_SEEDS={}: seed {seed}: {verdict}", seed + 1);
        }
    }
}

fn tiny(seed: u64) -> Shape {
    Shape {
        clients: 2 + (seed / 7 % 3) as u32,
        operations: 4 + (seed / 11 % 5) as usize,
        leases: (seed / 13 % 3) as i64,
        keys: 1 + (seed / 17 % 3) as u32,
        unknown_percent: (seed / 19 % 4) as u32 * 15,
        ..Shape::TINY
    }
}

#[test]
fn tiny_histories_are_judged_as_by_trying_every_order() {
    let (mut good, mut bad, mut skipped) = (0, [0; mutate::KINDS], 0);
    for seed in 0..seeds(4_000) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut history, _) = history(seed, tiny(seed));
        let kind = seed as usize % (mutate::KINDS + 1);
        if kind < mutate::KINDS && !mutate::mutate(&mut history, kind, &mut rng) {
            continue;
        }
        if history.validate().is_err() {
            continue;
        }
        let Some(expected) = brute::linearizable(&history, true) else {
            skipped += 1;
            continue;
        };
        let verdict = linearize(&history, &SERIALIZABLE);
        assert!(!matches!(verdict, Verdict::Undecided(_)), "seed {seed}: {verdict}");
        let shown = show(&history);
        assert_eq!(verdict.is_ok(), expected, "HISTORY_SEEDS={}: kind {kind}: {verdict}\n{shown}", seed + 1);
        if expected { good += 1 } else { bad[kind] += 1 }
    }
    assert!(good > 1_000, "{good}");
    assert!(bad.iter().all(|bad| *bad > 10), "{bad:?}");
    assert!(skipped < good / 10, "{skipped}");
}

#[test]
fn a_stale_read_late_in_a_history_is_never_accepted() {
    let mut spoiled = 0;
    for seed in 0..seeds(20) {
        let shape = Shape { clients: 8, operations: 400, keys: 4, values: 50, unknown_percent: 5, ..Shape::TINY };
        let (mut history, _) = history(seed, shape);
        // A few are no lie: nobody had been told of what came between yet.
        let spoilt = spoil(&mut history).is_some();
        history.operations.retain(|operation| !operation.request.is_serializable());
        if spoilt && reads::check(&history).violation().is_some() {
            spoiled += 1;
            let verdict = linearize(&history, &Options::default());
            assert!(verdict.violation().is_some(), "HISTORY_SEEDS={}: {verdict}", seed + 1);
        }
    }
    assert!(spoiled > 10, "{spoiled}");
}

/// A tenth of a real run, with what makes it hard: bursts of unknown outcomes, and leases that end.
const SHORT: Workload = Workload { operations: 10_000, failover_every: 2_000, ..Workload::REAL };

#[test]
fn runs_with_failovers_and_leases_that_end_are_decided() {
    for seed in 0..seeds(2) {
        let (history, _) = workload::history(seed, SHORT);
        let verdict = linearize(&history, &Options::default());
        assert!(verdict.is_ok(), "HISTORY_SEEDS={}: {verdict}", seed + 1);
    }
}

#[test]
fn a_watcher_over_everything_decides_every_revision_but_those_that_it_missed() {
    let spec = Spec { keys: KeyRange::all(), puts: true, deletes: true, prev_kv: false };
    for seed in 0..seeds(2) {
        let (history, store) = workload::history(seed, SHORT);
        let missing = |revision: Revision| revision.0 % 1_000 > 900;
        let steps = watch_all(&store, SHORT.keys, &missing);
        let seen = [Seen::of(&spec, &steps)];
        let verdict = linearize_seen(&history, &Options::default(), &seen);
        let Verdict::Ok(found) = verdict else { panic!("HISTORY_SEEDS={}: {verdict}", seed + 1) };
        let verdict = watch::check(&found.truth, &spec, &steps, None);
        assert!(verdict.is_ok(), "HISTORY_SEEDS={}: {verdict}", seed + 1);
    }
}

#[test]
fn one_fault_in_a_run_is_found() {
    let mut missed = Vec::new();
    for seed in 0..seeds(8) {
        let fault = FAULTS[seed as usize % FAULTS.len()];
        let (mut history, store) =
            workload::history(seed, Workload { operations: 1_500, failover_every: 500, ..SHORT });
        let seen = [Seen::of(
            &Spec { keys: KeyRange::all(), puts: true, deletes: true, prev_kv: false },
            &watch_all(&store, SHORT.keys, &|_| false),
        )];
        assert!(fault.plant(&mut history), "{fault:?}");
        if linearize_seen(&history, &Options::default(), &seen).violation().is_none() {
            missed.push((seed, fault));
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}
