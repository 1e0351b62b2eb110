//! Locks at a rate, handed on, and in crowds, for `make scenarios`: Tenure's own beside etcd's service.
//!
//! Programs take turns on fresh clusters, because a machine's speed drifts. Figures are medians of the rounds.
//! `TENURE_CHAOS_ROUNDS` (3) changes how many there are.

#![expect(clippy::print_stdout, reason = "the figures are the product")]

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::lease_scale::programs;
use tenure_tests::lock_scale::seat::{CONTESTANTS, Service};
use tenure_tests::lock_scale::{hand_off, median, pairs, succession};
use tenure_tests::scenario::{self, Scenario};

/// What is compared: Tenure's own locks, with etcd's service of etcd.
const NATIVE: (&str, &str) = ("tenured", "native");
const REFERENCE: (&str, &str) = ("etcd", "v3lock");

/// Against etcd: how much faster locks that nobody else wants must be, and how much sooner they must be held.
const RATE_MIN: f64 = 3.0;
const ACQUIRE_P99_MAX: f64 = 0.4;
/// Against etcd: how much sooner the next one must hold a lock that a hundred want.
const HAND_OFF_P50_MAX: f64 = 0.5;
/// Entries of the log for a hand-off; the lease clock has some of its own.
const HAND_OFF_ENTRIES_MAX: f64 = 1.1;
/// How much later the next one may hold a lock that ten thousand want, against one that ten want.
const CROWD_P99_MAX: f64 = 1.5;

/// How long the lease of an elected leader lives, how much longer it may take until all know the next, and how long that
/// may take once one resigns.
const TTL: Duration = Duration::from_secs(3);
const DEATH_MORE_MS_MAX: f64 = 1000.0;
const RESIGNED_MS_MAX: f64 = 50.0;

type Medians = BTreeMap<(&'static str, &'static str), Vec<f64>>;

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("chaos_lock_scale", test, body);
}

fn rounds() -> Result<usize> {
    match env::var("TENURE_CHAOS_ROUNDS") {
        Err(_) => Ok(3),
        Ok(text) => text.parse().with_context(|| format!("TENURE_CHAOS_ROUNDS={text} is not a number")),
    }
}

/// Runs all contestants in turn, some rounds, and gives the medians of what each round measured.
async fn medians<Round: Future<Output = Result<Vec<f64>>>>(
    scenario: &Scenario,
    what: &str,
    names: &[&str],
    round_of: impl Fn(PathBuf, (Program, Service)) -> Round,
) -> Result<Medians> {
    let known = programs();
    let mut all: BTreeMap<(&str, &str), Vec<Vec<f64>>> = BTreeMap::new();
    for round in 1..=rounds()? {
        for contestant in CONTESTANTS.into_iter().filter(|(program, _)| known.contains(program)) {
            let label = (contestant.0.label(), contestant.1.label());
            let home = scenario.home.join(format!("{what}-{round}-{}", label.1));
            let figures = round_of(home, contestant).await.with_context(|| format!("{what}, {label:?}"))?;
            println!("{what} | {} | {} | round {round} | {}", label.0, label.1, told(names, &figures));
            all.entry(label).or_default().push(figures);
        }
    }
    let mut medians = Medians::new();
    for (label, rounds) in all {
        let of = |at: usize| median(rounds.iter().filter_map(|figures| figures.get(at).copied()).collect());
        let figures: Vec<f64> = (0..names.len()).map(of).collect();
        println!("{what} | {} | {} | median | {}", label.0, label.1, told(names, &figures));
        medians.insert(label, figures);
    }
    Ok(medians)
}

fn told(names: &[&str], figures: &[f64]) -> String {
    let each = names.iter().zip(figures).map(|(name, figure)| format!("{figure:.3} {name}"));
    each.collect::<Vec<_>>().join(", ")
}

/// A figure of Tenure's own locks, as a multiple of etcd's; none if there is no etcd.
fn ratio(medians: &Medians, at: usize) -> Option<f64> {
    Some(medians.get(&NATIVE)?.get(at)? / medians.get(&REFERENCE)?.get(at)?)
}

async fn uncontended(scenario: Scenario, size: pairs::Size) -> Result<()> {
    let what = format!("{} clients", size.clients);
    let names = ["pairs/s", "ms p50", "ms p99", "µs of server CPU", "µs of client CPU", "entries"];
    let medians = medians(&scenario, &what, &names, |home, contestant| async move {
        let figures = pairs::run(&home, contestant, size).await?;
        let pairs::Figures { rate, p50_ms, p99_ms, server_us, client_us, entries } = figures;
        Ok(vec![rate, p50_ms, p99_ms, server_us, client_us, entries])
    });
    let medians = medians.await?;
    let (Some(rate), Some(p99)) = (ratio(&medians, 0), ratio(&medians, 2)) else { return Ok(()) };
    println!("{what} | {rate:.2} × the rate, {p99:.2} × the p99");
    ensure!(rate >= RATE_MIN, "{rate:.2} times etcd's rate, less than {RATE_MIN}");
    ensure!(p99 <= ACQUIRE_P99_MAX, "{p99:.2} times etcd's p99, more than {ACQUIRE_P99_MAX}");
    Ok(())
}

#[test]
fn one_client_locks_and_unlocks() {
    run("one_client_locks_and_unlocks", |scenario| async move {
        uncontended(scenario, pairs::Size { clients: 1, connections: 1, pairs: 2000 }).await
    });
}

#[test]
fn a_thousand_clients_lock_and_unlock() {
    run("a_thousand_clients_lock_and_unlock", |scenario| async move {
        uncontended(scenario, pairs::Size { clients: 1000, connections: 100, pairs: 30_000 }).await
    });
}

async fn hand_offs(home: PathBuf, contestant: (Program, Service), size: hand_off::Size) -> Result<Vec<f64>> {
    let hand_off::Figures { p50_ms, p99_ms, server_us, entries, memory } =
        hand_off::run(&home, contestant, size).await?;
    Ok(vec![p50_ms, p99_ms, server_us, entries, memory])
}

const HAND_OFF_NAMES: [&str; 5] = ["ms p50", "ms p99", "µs of server CPU", "entries", "B per waiter"];

#[test]
fn a_lock_that_a_hundred_want_is_handed_on() {
    run("a_lock_that_a_hundred_want_is_handed_on", |scenario| async move {
        let size = hand_off::Size { waiters: 100, hand_offs: 3000 };
        let medians =
            medians(&scenario, "100 waiters", &HAND_OFF_NAMES, |home, who| hand_offs(home, who, size)).await?;
        let entries = medians.get(&NATIVE).and_then(|figures| figures.get(3)).context("Tenure's own")?;
        ensure!(*entries <= HAND_OFF_ENTRIES_MAX, "{entries:.2} entries for a hand-off");
        let Some(p50) = ratio(&medians, 0) else { return Ok(()) };
        println!("100 waiters | {p50:.2} × the p50");
        ensure!(p50 <= HAND_OFF_P50_MAX, "{p50:.2} times etcd's p50, more than {HAND_OFF_P50_MAX}");
        Ok(())
    });
}

#[test]
fn a_lock_that_ten_thousand_want_is_handed_on_as_fast() {
    run("a_lock_that_ten_thousand_want_is_handed_on_as_fast", |scenario| async move {
        let who = (Program::Tenured, Service::Native);
        let mut ratios = Vec::new();
        for round in 1..=rounds()? {
            let mut p99 = Vec::new();
            for waiters in [10, 10_000] {
                let size = hand_off::Size { waiters, hand_offs: 3000 };
                let home = scenario.home.join(format!("{waiters}-{round}"));
                let figures = hand_offs(home, who, size).await?;
                println!("{waiters} waiters | round {round} | {}", told(&HAND_OFF_NAMES, &figures));
                p99.push(figures[1]);
            }
            ratios.push(p99[1] / p99[0]);
        }
        let slower = median(ratios);
        println!("10,000 waiters | {slower:.2} × the p99 of 10");
        ensure!(slower <= CROWD_P99_MAX, "{slower:.2} times as slow among ten thousand, more than {CROWD_P99_MAX}");
        Ok(())
    });
}

#[test]
fn leaders_follow_each_other() {
    run("leaders_follow_each_other", |scenario| async move {
        for program in programs() {
            let size = succession::Size { ttl: TTL, rounds: 20 };
            let figures = succession::run(&scenario.home, program, size).await?;
            let succession::Figures { after_death_ms, earliest_ms, resigned_p50_ms, resigned_max_ms } = figures;
            println!(
                "election | {} | {earliest_ms:.0} to {after_death_ms:.0} ms after the last renewal of one that died, \
                 {resigned_p50_ms:.1} ms after a resignation, {resigned_max_ms:.1} at most",
                program.label()
            );
            if program == Program::Tenured {
                let ttl_ms = TTL.as_secs_f64() * 1e3;
                ensure!(earliest_ms >= ttl_ms, "a leader was replaced {earliest_ms:.0} ms after a renewal");
                ensure!(after_death_ms <= ttl_ms + DEATH_MORE_MS_MAX, "the next leader after {after_death_ms:.0} ms");
                ensure!(resigned_max_ms <= RESIGNED_MS_MAX, "the next leader after {resigned_max_ms:.1} ms");
            }
        }
        Ok(())
    });
}
