//! The simulator as a program: a seed repeats to the last line, and planted bugs are noticed by those who must.
//!
//! Built with the feature `planted`, and in the profile `sim`: `make test-sim` runs it.

use std::process::{Command, Output};

fn simulate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tenure-sim")).args(args).output().expect("the simulator runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_seed_gives_the_same_run_twice_and_no_violation() {
    let run = || simulate(&["--seed", "1", "--members", "3", "--seconds", "3"]);
    let (first, second) = (run(), run());
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    assert!(said(&first).contains(", trace "), "{}", said(&first));
    assert_eq!(said(&first), said(&second));
}

#[test]
fn a_planted_bug_is_noticed() {
    for bug in ["run-reads-past-itself", "wrong-prev-kv"] {
        let args = ["--prove", "--bug", bug, "--within", "10"];
        let output = simulate(&args);
        assert_eq!(output.status.code(), Some(0), "{}{}", said(&output), String::from_utf8_lossy(&output.stderr));
        assert!(said(&output).contains(": seeds "), "{}", said(&output));
    }
}

#[test]
fn a_bug_that_is_unknown_is_refused() {
    let output = simulate(&["--bug", "no-such-bug"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty(), "{}", said(&output));
}
