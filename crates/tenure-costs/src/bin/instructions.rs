//! Counts the instructions of every piece and compares them with those in `instructions.txt`: `make instructions`.
//!
//! It runs itself under valgrind twice for each piece, once to prepare it and once to prepare and run it; the difference is
//! the piece's. That is nearly the same however busy the machine is. Another compiler, or another kind of processor, makes other
//! instructions of the same code: then they are printed and not compared.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use tenure_costs::{Piece, pieces};

/// Counts of one program differ by less than a tenth of a percent: tables of hashes fill differently in each process. The rest is
/// for processors that copy bytes with other instructions.
const TOLERANCE_PERCENT: u64 = 3;

const ABOUT: &str = "\
# Instructions of one operation, written by `make instructions WRITE=1` and compared by `make instructions`.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => compare(),
        ["--write"] => write(),
        ["--prepare", name] => work(name, false),
        ["--run", name] => work(name, true),
        _ => {
            println!("Usage: instructions [--write]");
            ExitCode::FAILURE
        }
    }
}

/// What runs under valgrind. It is not cleaned up: that would count.
fn work(name: &str, runs: bool) -> ExitCode {
    let Some(piece) = pieces().find(|piece| piece.name == name) else { return ExitCode::FAILURE };
    let mut run = (piece.prepare)();
    if runs {
        run();
    }
    std::mem::forget(run);
    ExitCode::SUCCESS
}

fn compare() -> ExitCode {
    if !has_valgrind() {
        return ExitCode::SUCCESS;
    }
    let expected = fs::read_to_string(file()).unwrap_or_default();
    let is_comparable = expected.lines().any(|line| line == made_by());
    if !is_comparable {
        println!("SKIPPED comparing: {} is not of {}", file().display(), made_by());
    }
    let mut is_well = true;
    for piece in pieces() {
        let Some(counted) = count(&piece) else { return ExitCode::FAILURE };
        let before = expected.lines().find_map(|line| line.strip_prefix(piece.name)?.strip_prefix(" = ")?.parse().ok());
        let verdict = verdict(counted, before);
        println!("{counted:>9}  {:<42} {verdict}", piece.name);
        is_well &= verdict.ends_with("well");
    }
    if is_well || !is_comparable {
        return ExitCode::SUCCESS;
    }
    println!(
        "More than {TOLERANCE_PERCENT} % from what is committed. If it is meant: make instructions WRITE=1, and say why."
    );
    ExitCode::FAILURE
}

fn verdict(counted: u64, before: Option<u64>) -> String {
    let Some(before) = before else { return "not in the file: NEW".into() };
    let difference = counted.abs_diff(before);
    let sign = if counted < before { '-' } else { '+' };
    let tenths = difference * 1000 / before.max(1);
    let word = match (difference * 100 > before * TOLERANCE_PERCENT, counted > before) {
        (false, _) => "well",
        (true, true) => "MORE",
        (true, false) => "LESS",
    };
    format!("{before:>9} before, {sign}{}.{} %: {word}", tenths / 10, tenths % 10)
}

fn write() -> ExitCode {
    if !has_valgrind() {
        return ExitCode::FAILURE;
    }
    let mut text = format!("{ABOUT}{}\n", made_by());
    for piece in pieces() {
        let Some(counted) = count(&piece) else { return ExitCode::FAILURE };
        text.push_str(&format!("{} = {counted}\n", piece.name));
    }
    print!("{text}");
    match fs::write(file(), text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}: {error}", file().display());
            ExitCode::FAILURE
        }
    }
}

/// Beside the crate's manifest, wherever this was built.
fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// What instructions depend on beside the source.
fn made_by() -> String {
    let version = Command::new("rustc").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    format!("{version}, {}", std::env::consts::ARCH)
}

fn has_valgrind() -> bool {
    let found = Command::new("valgrind").arg("--version").output();
    if found.is_err() {
        println!("SKIPPED: no instructions are counted, because valgrind is not installed");
    }
    found.is_ok()
}

/// The instructions of one operation.
fn count(piece: &Piece) -> Option<u64> {
    let counted = total("--run", piece)?.saturating_sub(total("--prepare", piece)?);
    Some((counted + piece.operations / 2) / piece.operations)
}

/// The instructions of a process, as the last line of cachegrind's report says: `==1== I   refs:      1,234`.
fn total(what: &str, piece: &Piece) -> Option<u64> {
    let own = std::env::current_exe().ok()?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    let output = valgrind.arg(own).args([what, piece.name]).output().ok()?;
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    let digits =
        report.lines().find_map(|line| line.split_once("refs:")).map(|(_, count)| count.trim().replace(',', ""));
    let total = digits.and_then(|digits| digits.parse().ok()).filter(|_| output.status.success());
    if total.is_none() {
        println!("valgrind failed at {:?}:\n{report}", piece.name);
    }
    total
}
