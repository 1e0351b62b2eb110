//! Many seeds: each in a process of its own, a few at a time, each with a limit on the time it takes.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::Args;

/// A run that takes longer hangs.
pub(super) const RUN_TIME_MAX: Duration = Duration::from_secs(300);
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A seed's run, in a process of its own.
pub(super) struct Running {
    pub(super) seed: u64,
    pub(super) child: Child,
    pub(super) began: Instant,
}

#[derive(Default)]
struct Tally {
    fine: u64,
    undecided: u64,
    failed: Vec<u64>,
    busy: Duration,
}

/// Runs them all; fails if one fails.
pub(super) fn run(args: &Args) -> ExitCode {
    match run_all(args) {
        Ok(tally) if tally.failed.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("tenure-sim: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs a seed twice and compares what the two say, a hash of all that happened included.
pub(super) fn twice(args: &Args) -> ExitCode {
    let run = || -> io::Result<String> {
        let output = start(args, args.seed, args.bug.as_deref())?.child.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    match (run(), run()) {
        (Ok(first), Ok(second)) if first == second && !first.is_empty() => {
            print!("twice the same: {first}");
            ExitCode::SUCCESS
        }
        (Ok(first), Ok(second)) => {
            print!("seed {} does not repeat:\n{first}{second}", args.seed);
            ExitCode::from(1)
        }
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("tenure-sim: {error}");
            ExitCode::from(2)
        }
    }
}

fn run_all(args: &Args) -> io::Result<Tally> {
    let mut waiting: VecDeque<u64> = match (&args.seeds_file, args.replay) {
        (Some(file), true) => noted(file)?.into_iter().collect(),
        _ => (args.seed..args.seed.saturating_add(args.seeds.unwrap_or(1))).collect(),
    };
    let (count, began) = (waiting.len(), Instant::now());
    let mut running: Vec<Running> = Vec::new();
    let mut tally = Tally::default();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < args.jobs.max(1)
            && let Some(seed) = waiting.pop_front()
        {
            running.push(start(args, seed, args.bug.as_deref())?);
        }
        std::thread::sleep(LOOK_EVERY);
        let mut still = Vec::new();
        for mut run in running {
            if run.child.try_wait()?.is_none() && run.began.elapsed() < RUN_TIME_MAX {
                still.push(run);
            } else {
                end(args, run, &mut tally)?;
            }
        }
        running = still;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{count} seeds in {seconds:.0} s: {} without a violation, {} undecided, {} failed; {:.2} s each",
        tally.fine,
        tally.undecided,
        tally.failed.len(),
        tally.busy.as_secs_f64() / count.max(1) as f64
    );
    Ok(tally)
}

/// Starts the run of a seed, with a planted bug or without.
pub(super) fn start(args: &Args, seed: u64, bug: Option<&str>) -> io::Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--seed").arg(seed.to_string());
    if let Some(bug) = bug {
        command.arg("--bug").arg(bug);
    }
    for (name, value) in [("--members", args.members.map(|members| members as u64)), ("--seconds", args.seconds)] {
        if let Some(value) = value {
            command.arg(name).arg(value.to_string());
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(Running { seed, child: command.spawn()?, began: Instant::now() })
}

fn end(args: &Args, mut run: Running, tally: &mut Tally) -> io::Result<()> {
    let hangs = run.child.try_wait()?.is_none();
    if hangs {
        run.child.kill()?;
    }
    tally.busy += run.began.elapsed();
    let output = run.child.wait_with_output()?;
    let code = output.status.code();
    match code {
        Some(0) => tally.fine += 1,
        Some(3) => tally.undecided += 1,
        _ => {
            tally.failed.push(run.seed);
            if let Some(file) = &args.seeds_file {
                note(file, run.seed)?;
            }
        }
    }
    if code != Some(0) {
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{}: make sim SEED={}", if hangs { "hangs" } else { "to repeat it" }, run.seed);
        io::stdout().flush()?;
    }
    Ok(())
}

/// The seeds of a file: one a line, what follows it is for people.
fn noted(file: &Path) -> io::Result<BTreeSet<u64>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect())
}

fn note(file: &Path, seed: u64) -> io::Result<()> {
    if noted(file)?.contains(&seed) {
        return Ok(());
    }
    let mut file = fs::OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(file, "{seed}")
}
