//! Laws: what really ran is accepted; what no order explains is rejected; and a checker that tries everything agrees.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tenure_history::linearize::{Options, linearize};
use tenure_history::{History, Verdict, reads};

use crate::generate::{Shape, history, spoil};
use crate::{brute, mutate};

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
