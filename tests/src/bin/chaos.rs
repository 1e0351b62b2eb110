//! `make chaos`: real servers under work and faults, judged; `--help` has the choices, tests/src/chaos/ how it works.
//!
//! It ends with 0 if every promise held, 1 if one is broken, 3 if the run shows nothing (too little work, a fault that never
//! happened), 4 if a checker could not decide, and 70 if the harness itself failed.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line")]

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tenure_history::report::Conclusion;
use tenure_tests::chaos::faults::Kind;
use tenure_tests::chaos::outcome::{exit_status, summary};
use tenure_tests::chaos::run::{REPORT, run};
use tenure_tests::chaos::settings::{Profile, Settings};
use tenure_workload::workloads::Workload;
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};

/// What `sysexits.h` calls an internal error.
const EXIT_HARNESS: u8 = 70;

/// Start real servers, let clients work, break things by a script, and check that every promise held.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long: smoke takes 2 minutes, standard 20, soak as many as --minutes says
    #[arg(long, value_enum, default_value = "smoke")]
    profile: Chosen,
    /// Another length, in minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Repeats the faults and choices of the run that printed it; random if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Members of the cluster
    #[arg(long, default_value = "3", value_parser = ["3", "5"])]
    nodes: String,
    /// Where to write; what is there is deleted. By default `chaos` in the target directory
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only these kinds of faults
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// Only these workloads
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// So many more clients, each of which holds a lease and does nothing else
    #[arg(long, default_value_t = 0)]
    leases: usize,
    /// So many more clients that contend for locks, half of them natively, the others by etcd's recipe and service
    #[arg(long, default_value_t = 0)]
    contenders: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Chosen {
    Smoke,
    Standard,
    Soak,
}

impl Arguments {
    fn settings(&self) -> Result<Settings> {
        let profile = match self.profile {
            Chosen::Smoke => Profile::Smoke,
            Chosen::Standard => Profile::Standard,
            Chosen::Soak => Profile::Soak,
        };
        // Short enough to be typed again.
        let seed = self.seed.unwrap_or_else(|| rand::random::<u64>() % 1_000_000);
        let minutes = self.minutes.unwrap_or(profile.minutes());
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let (kinds, workloads) = (&self.faults, &self.workloads);
        Ok(Settings {
            profile,
            length: Duration::from_secs(60 * minutes),
            seed,
            nodes: self.nodes.parse()?,
            out: self.out.clone().unwrap_or_else(|| target.join("chaos")),
            kinds: if kinds.is_empty() { Kind::ALL.to_vec() } else { kinds.clone() },
            workloads: if workloads.is_empty() { Workload::ALL.to_vec() } else { workloads.clone() },
            leases: self.leases,
            contenders: self.contenders,
            strict: env::var_os("CI").is_some(),
            command: self.command(profile, seed),
        })
    }

    /// What to type to repeat the run.
    fn command(&self, profile: Profile, seed: u64) -> String {
        let mut words = vec![format!("--profile {} --seed {seed}", profile.name())];
        words.extend(self.minutes.map(|minutes| format!("--minutes {minutes}")));
        words.extend((self.nodes != "3").then(|| format!("--nodes {}", self.nodes)));
        words.extend((self.leases > 0).then(|| format!("--leases {}", self.leases)));
        words.extend((self.contenders > 0).then(|| format!("--contenders {}", self.contenders)));
        let list = |names: Vec<&str>| names.join(",");
        let faults = list(self.faults.iter().map(|kind| kind.name()).collect());
        words.extend((!faults.is_empty()).then(|| format!("--faults {faults}")));
        let workloads = list(self.workloads.iter().map(|workload| workload.name()).collect());
        words.extend((!workloads.is_empty()).then(|| format!("--workloads {workloads}")));
        format!("make chaos CHAOS_ARGS='{}'", words.join(" "))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Dropped when somebody ends it, the run takes its servers with it.
    let ended = tokio::select! {
        ended = chaos(&arguments) => ended,
        signal = signalled() => signal.and_then(|()| Err(anyhow::anyhow!("ended by a signal"))),
    };
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("the harness failed: {error:#}");
            ExitCode::from(EXIT_HARNESS)
        }
    }
}

async fn signalled() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = ctrl_c() => Ok(interrupted?),
        _ = terminate.recv() => Ok(()),
    }
}

async fn chaos(arguments: &Arguments) -> Result<u8> {
    let settings = arguments.settings()?;
    println!("seed {}: {} minutes on {} members", settings.seed, settings.length.as_secs() / 60, settings.nodes);
    let record = run(&settings).await?;
    println!("{}", summary(&record));
    println!("report: {}", settings.out.join(REPORT).display());
    println!("again:  {}", record.command);
    match (record.conclusion(), &record.void) {
        (Conclusion::Held, _) => println!("every promise held"),
        (Conclusion::Violated, _) => println!("A PROMISE IS BROKEN"),
        (Conclusion::Undecided, _) => println!("a checker could not decide"),
        (Conclusion::Void, reason) => println!("the run shows nothing: {}", reason.as_deref().unwrap_or("no checks")),
    }
    Ok(exit_status(record.conclusion()))
}
