//! Runs the simulator: one seed with everything it has to say, or many, each in a process of its own.
//!
//! A process of its own makes a run repeatable to the last bit: whatever asks the operating system for random numbers,
//! hash maps and libraries included, is answered from the seed ([`entropy`]).

mod entropy;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Parser;
use tenure_core::planted;
use tenure_raft::runtime::life;
use tenure_sim::run::{Options, Report, run};
use tenure_sim::trace::Trace;
use tokio::time::Instant;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

mod batch;
mod prove;

/// Runs a cluster in one thread, with faults drawn from a seed, and checks that it keeps its promises.
#[derive(Debug, Parser)]
#[command(name = "tenure-sim", version)]
struct Args {
    /// The seed to run, with its trace on request; or the first of many
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, each in a process of its own
    #[arg(long)]
    seeds: Option<u64>,
    /// Runs at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Where failing seeds are noted, and found by later runs
    #[arg(long)]
    seeds_file: Option<PathBuf>,
    /// Run the seeds of the seeds file
    #[arg(long, requires = "seeds_file")]
    replay: bool,
    /// Run the seed twice, each time in a process of its own, and fail unless both runs are the same
    #[arg(long, conflicts_with_all = ["seeds", "replay"])]
    twice: bool,
    /// The number of members, in place of what the seed says
    #[arg(long)]
    members: Option<usize>,
    /// Seconds of faults, in place of what the seed says
    #[arg(long)]
    seconds: Option<u64>,
    /// Switch a planted bug on (of a simulator that was built with the feature `planted`)
    #[arg(long)]
    bug: Option<String>,
    /// List the planted bugs
    #[arg(long)]
    bugs: bool,
    /// Run seeds with each planted bug, or with the one named, until somebody notices who must
    #[arg(long)]
    prove: bool,
    /// How many seeds a planted bug may take
    #[arg(long, default_value_t = 120)]
    within: u64,
    /// Print what happened
    #[arg(long)]
    trace: bool,
    /// Print the members' logs (RUST_LOG chooses)
    #[arg(long)]
    log: bool,
}

/// Marks a line of the log with the simulated time since the first line, and the member that it comes from.
struct Whence;

impl FormatTime for Whence {
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        let now = Instant::now();
        let elapsed = now.duration_since(*FIRST.get_or_init(|| now)).as_secs_f64();
        match life::at_hand() {
            Some(life) => write!(line, "{elapsed:12.6} n{}", life.number()),
            None => write!(line, "{elapsed:12.6} --"),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.twice {
        return batch::twice(&args);
    }
    if args.bugs {
        return prove::list();
    }
    if args.prove {
        return prove::run(&args);
    }
    if args.seeds.is_some() || args.replay {
        return batch::run(&args);
    }
    if args.log {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_timer(Whence).with_writer(std::io::stderr).init();
    }
    if let Some(Err(error)) = args.bug.as_deref().map(planted::switch_on) {
        eprintln!("tenure-sim: {error}");
        return ExitCode::from(2);
    }
    entropy::seed(args.seed);
    // A thread that has not drawn anything yet.
    let Ok(report) = std::thread::spawn(move || one(&args)).join() else {
        return ExitCode::from(101);
    };
    println!("{report}");
    match (report.is_ok(), report.is_undecided()) {
        (false, _) => ExitCode::from(1),
        (true, true) => ExitCode::from(3),
        (true, false) => ExitCode::SUCCESS,
    }
}

fn one(args: &Args) -> Report {
    let home = std::env::temp_dir().join(format!("tenure-sim-{}", std::process::id()));
    std::fs::create_dir_all(&home).expect("a directory for the members' identities");
    let options = Options { seed: args.seed, faults_for: args.seconds.map(Duration::from_secs), members: args.members };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let report = runtime.expect("a runtime").block_on(async {
        let trace = Trace::begin();
        let report = run(options, &home, &trace).await;
        if args.trace {
            trace.lines().iter().for_each(|line| println!("{line}"));
        }
        report
    });
    if let Err(error) = std::fs::remove_dir_all(&home) {
        eprintln!("{}: {error}", home.display());
    }
    report
}
