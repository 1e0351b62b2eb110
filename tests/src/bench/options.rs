//! The command line of the comparison.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

use super::works::Work;
use crate::binaries::Program;

/// Compares etcd and Tenure under the same loads, three members each, and prints a table.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", about, long_about = None)]
pub struct Options {
    /// Works to run, by name or by the begin of their names [default: all; --list tells them]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub works: Vec<String>,
    /// Print the names of the works
    #[arg(long)]
    pub list: bool,
    /// How often every work runs on every program
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// What is compared: etcd, etcd37, tenured [default: etcd37 or else etcd, and tenured]
    #[arg(long, value_delimiter = ',', value_name = "PROGRAMS")]
    pub programs: Vec<String>,
    /// How long each load is measured
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// One short round with little data: shows that everything works, and measures nothing
    #[arg(long)]
    pub quick: bool,
    /// Where the clusters keep their data [default: the system's folder for temporary files]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// More flags for tenured, separated by blanks
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub flags: String,
    /// Write docs/benchmarks.md
    #[arg(long)]
    pub write: bool,
    /// Write all figures of all rounds to a file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Options {
    /// What is compared, in the order in which it runs.
    pub fn programs(&self) -> Result<Vec<Program>> {
        if self.programs.is_empty() {
            let etcd = if Program::Etcd37.path().is_ok() { Program::Etcd37 } else { Program::Etcd };
            etcd.path()?;
            return Ok(vec![etcd, Program::Tenured]);
        }
        self.programs.iter().map(|name| program(name)).collect()
    }

    /// Rounds that are run.
    pub fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    /// How long a load is measured, in seconds.
    pub fn seconds(&self) -> f64 {
        if self.quick { 1.0 } else { self.seconds.max(0.1) }
    }

    /// Which of the works are wanted.
    pub fn chosen(&self, works: Vec<Work>) -> Vec<Work> {
        // A whole name is not meant as the begin of others.
        let is_name: Vec<bool> = self.works.iter().map(|wanted| works.iter().any(|work| work.name == wanted)).collect();
        let wants = |name: &str| {
            let mut wanted = self.works.iter().zip(&is_name);
            wanted.any(|(wanted, is_name)| if *is_name { name == wanted } else { name.starts_with(wanted.as_str()) })
        };
        works.into_iter().filter(|work| self.works.is_empty() || wants(work.name)).collect()
    }
}

fn program(name: &str) -> Result<Program> {
    let program = match name {
        "etcd" => Program::Etcd,
        "etcd37" => Program::Etcd37,
        "tenured" => Program::Tenured,
        other => bail!("--programs {other}: etcd, etcd37 or tenured"),
    };
    program.path()?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::works::works;

    #[test]
    fn works_are_chosen_by_their_names_or_the_begin_of_them() {
        let chosen = |line: &[&str]| -> Vec<&str> {
            let options = Options::parse_from([&["bench"], line].concat());
            options.chosen(works()).iter().map(|work| work.name).collect()
        };
        assert_eq!(chosen(&[]).len(), works().len());
        assert_eq!(chosen(&["--works", "put-1000"]), ["put-1000"]);
        assert_eq!(
            chosen(&["--works", "put-1000-,lock-native"]),
            ["put-1000-all", "lock-native-1000", "lock-native-1"]
        );
        assert!(chosen(&["--works", "nothing"]).is_empty());
    }

    #[test]
    fn a_quick_run_is_one_round() {
        assert_eq!(Options::parse_from(["bench", "--quick", "--rounds", "9"]).rounds(), 1);
    }
}
