//! How long a check of a large history takes, and how much memory: `cargo run --release --example measure [operations [keys [leases]]]`.

#![expect(clippy::print_stdout, reason = "an example that tells figures")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the generator of the tests, with small numbers"
)]

use std::time::Instant;

use tenure_history::linearize::{Options, linearize};
use tenure_history::{History, Verdict};

#[path = "../tests/it/generate.rs"]
mod generate;

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let operations = arguments.next().unwrap_or(100_000);
    let keys = arguments.next().unwrap_or(200);
    let leases = arguments.next().unwrap_or(40);
    let shape = generate::Shape {
        clients: 48,
        operations,
        keys: u32::try_from(keys).unwrap_or(200),
        values: 1_000_000,
        leases: i64::try_from(leases).unwrap_or(40),
        unknown_percent: 2,
        compactions: false,
        expiries_per_mille: 2,
    };
    for seed in 1..=3 {
        let (history, _) = generate::history(seed, shape);
        let text = history.to_json_lines().unwrap_or_default();
        println!(
            "seed {seed}: {} operations, {} MiB of JSON lines, memory {} MiB",
            operations,
            text.len() >> 20,
            memory_mib()
        );
        measure("as it ran", &history);
        let mut broken = history;
        if let Some(at) = generate::spoil(&mut broken) {
            println!("  made stale: {}", broken.operations[at]);
            measure("with a stale read", &broken);
        }
    }
}

fn measure(what: &str, history: &History) {
    for serializable in [false, true] {
        let options = Options { serializable, ..Options::default() };
        let from = Instant::now();
        let verdict = linearize(history, &options);
        let took = from.elapsed();
        let lines = verdict.violation().map_or(0, |violation| violation.evidence.len());
        println!("  {what}, serializable {serializable}: {took:.2?}, memory peak {} MiB, {lines} lines", peak_mib());
        match verdict {
            Verdict::Ok(_) | Verdict::Undecided(_) => println!("    {verdict}"),
            Verdict::Violation(violation) => println!("    {}: {}", violation.promise, violation.detail),
        }
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
