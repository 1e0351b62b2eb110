//! docs/benchmarks.md, and the figures of all rounds as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::compare::Outcome;
use super::options::Options;
use super::sample::Cell;
use super::table::tables;
use crate::binaries::Program;

/// One work of one program.
#[derive(Debug, Serialize)]
struct Row<'a> {
    work: &'a str,
    label: &'a str,
    program: &'a str,
    #[serde(flatten)]
    cell: &'a Cell,
}

/// Every figure of every round.
pub fn json(outcome: &Outcome) -> Result<String> {
    let row = |((work, program), cell): (&(usize, usize), &'_ Cell)| -> Result<String> {
        let (work, program) = (&outcome.works[*work], outcome.programs[*program].label());
        Ok(serde_json::to_string(&Row { work: work.name, label: work.label, program, cell })?)
    };
    let rows = outcome.cells.iter().map(row).collect::<Result<Vec<_>>>()?;
    Ok(format!("[\n{}\n]\n", rows.join(",\n")))
}

/// Writes docs/benchmarks.md.
pub fn write(outcome: &Outcome, options: &Options) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package lies in the repository")?;
    let path = path.join("docs/benchmarks.md");
    fs::write(&path, document(outcome, options)).with_context(|| format!("cannot write {}", path.display()))
}

fn document(outcome: &Outcome, options: &Options) -> String {
    let mut text = format!(
        "# Benchmarks\n\n\
         Written by `make bench`. Three members of each program on one machine, which the load generator shares with them, \
         so rates are capped by its CPU, too: the CPU of the servers for one operation is the figure that shows the program. \
         Every program has a fresh cluster in every round, rounds alternate, and the servers are idle before every load. \
         Figures are medians of {} rounds of {} s each, in brackets the lowest and the highest; CPU, memory and bytes \
         written are those of all three members together. Both sync every write to disk before they acknowledge it.\n\n\
         ```\n{}\n```\n\n",
        options.rounds(),
        options.seconds(),
        commands(options)
    );
    for (name, words) in surroundings(&outcome.programs) {
        // A String takes whatever is written to it.
        let _written = writeln!(text, "- {name}: {words}");
    }
    text.push('\n');
    text.push_str(&tables(outcome));
    text.push_str(
        "\nIn a closed loop, clients ask again when they are answered. In an open loop, operations are due at a fixed rate, \
         and a latency counts from when its operation was due. The works are in `tests/src/bench/works.rs`; `tenurectl bench` \
         runs any of the loads by itself: [TENURECTL.md](TENURECTL.md#benchmarks).\n",
    );
    text
}

/// What was run, without the folders of this machine.
fn commands(options: &Options) -> String {
    let mut line = format!("make bench BENCH_ARGS='--rounds {} --seconds {}", options.rounds(), options.seconds());
    for (name, values) in [("works", &options.works), ("programs", &options.programs)] {
        if !values.is_empty() {
            let _written = write!(line, " --{name} {}", values.join(","));
        }
    }
    if options.quick {
        line.push_str(" --quick");
    }
    if !options.flags.is_empty() {
        let _written = write!(line, " --flags \"{}\"", options.flags);
    }
    line.push('\'');
    line
}

fn surroundings(programs: &[Program]) -> Vec<(String, String)> {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = first_line(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default());
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d"]));
    let mut found = vec![("date".to_owned(), date), ("machine".to_owned(), format!("{cores} cores, Linux {kernel}"))];
    for program in programs {
        let version = program.path().map(|path| output(Command::new(path).arg("--version"))).unwrap_or_default();
        found.push((program.label().to_owned(), version));
    }
    found
}

fn output(command: &mut Command) -> String {
    command.output().map(|output| first_line(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::compare::Cells;
    use crate::bench::sample::{Metric, Sample};
    use crate::bench::works::works;
    use clap::Parser as _;

    fn outcome() -> Outcome {
        let cell = Cell { samples: vec![Sample::from([(Metric::Rate, 10.0)])], failures: vec!["slow".to_owned()] };
        Outcome { works: works()[..1].to_vec(), programs: vec![], cells: Cells::from([((0, 0), cell)]) }
    }

    #[test]
    fn the_document_says_how_it_was_made() {
        let options = Options::parse_from(["bench", "--rounds", "3", "--works", "put,range", "--flags", "--x=y"]);
        let text = document(&Outcome { cells: Cells::new(), ..outcome() }, &options);
        assert!(
            text.contains("make bench BENCH_ARGS='--rounds 3 --seconds 5 --works put,range --flags \"--x=y\"'"),
            "{text}"
        );
        assert!(text.contains("medians of 3 rounds") && text.contains("cores, Linux "), "{text}");
    }

    #[test]
    fn the_json_has_every_round() {
        let outcome = Outcome { programs: vec![Program::Etcd], ..outcome() };
        let text = json(&outcome).unwrap();
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&rows[0]["work"], &rows[0]["samples"][0]["rate"]), (&"put-1000".into(), &10.0.into()));
        assert_eq!(rows[0]["failures"][0], "slow");
    }
}
