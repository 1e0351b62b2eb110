//! How long a check of a large history takes, and how much memory: `cargo run --release --example measure [operations [keys [leases]]]`.

#![expect(clippy::print_stdout, reason = "an example that tells figures")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the generator of the tests, with small numbers"
)]

use std::time::Instant;

use tenure_history::linearize::{Options, linearize_seen};
use tenure_history::request::KeyRange;
use tenure_history::seen::Seen;
use tenure_history::watch::Spec;
use tenure_history::{History, Verdict};

#[path = "../tests/it/workload.rs"]
mod workload;

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let operations = arguments.next().unwrap_or(100_000);
    let keys = arguments.next().unwrap_or(200);
    let leases = arguments.next().unwrap_or(40);
    let shape = workload::Workload {
        operations,
        keys: u32::try_from(keys).unwrap_or(200),
        leases: leases > 0,
        ..workload::Workload::REAL
    };
    for seed in 1..=3 {
        let (history, store) = workload::history(seed, shape);
        let unknown = history.operations.iter().filter(|op| op.outcome == tenure_history::response::Outcome::Unknown);
        println!("{} unknown", unknown.count());
        let text = history.to_json_lines().unwrap_or_default();
        println!(
            "seed {seed}: {} operations, {} MiB of JSON lines, memory {} MiB",
            operations,
            text.len() >> 20,
            memory_mib()
        );
        let steps = workload::watch_all(&store, shape.keys, &|_| false);
        let spec = Spec { keys: KeyRange::all(), puts: true, deletes: true, prev_kv: false };
        let seen = [Seen::of(&spec, &steps)];
        measure("as it ran, with a watcher", &history, &seen);
        measure("as it ran", &history, &[]);
        let mut broken = history;
        if let Some(at) = workload::spoil(&mut broken) {
            println!("  made stale: {}", broken.operations[at]);
            measure("with a stale read", &broken, &[]);
        }
    }
}

fn measure(what: &str, history: &History, seen: &[Seen]) {
    let from = Instant::now();
    let verdict = linearize_seen(history, &Options::default(), seen);
    let took = from.elapsed();
    let lines = verdict.violation().map_or(0, |violation| violation.evidence.len());
    println!("  {what}: {took:.2?}, memory peak {} MiB, {lines} lines", peak_mib());
    match verdict {
        Verdict::Ok(_) | Verdict::Undecided(_) => println!("    {verdict}"),
        Verdict::Violation(violation) => println!("    {}: {}", violation.promise, violation.detail),
    }
}

fn memory_mib() -> u64 {
    status("VmRSS:")
}

fn peak_mib() -> u64 {
    status("VmHWM:")
}

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0) >> 10
}
