//! Proof that the oracles and checkers see: each planted bug is let loose, seed after seed, until one of those notices who
//! must notice it.
//!
//! A run that breaks down instead (a panic, a hang) proves nothing, and is told. So is a seed at which somebody notices
//! something without the bug.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::Instant;

use tenure_core::planted::{self, NoSuchBug, Planted};

use super::Args;
use super::batch::{LOOK_EVERY, RUN_TIME_MAX, Running, start};

/// What a run came to.
enum Came {
    /// Who noticed; perhaps nobody.
    To(BTreeSet<String>),
    /// It broke down.
    Down(String),
}

/// What became of the search for a bug.
#[derive(Default)]
struct Search {
    /// The first seed at which somebody noticed who must, and all who noticed there.
    caught: Option<(u64, BTreeSet<String>)>,
    /// Who else noticed before, and at how many seeds.
    others: BTreeSet<String>,
    down: Vec<(u64, String)>,
}

/// Prints all bugs.
pub(super) fn list() -> ExitCode {
    for Planted { name, text, seen_by, .. } in &planted::ALL {
        println!("{name:<26}{text} (must be seen by: {})", seen_by.join(" or "));
    }
    ExitCode::SUCCESS
}

/// Looks for all bugs, or for the one that was named; fails if one is not noticed.
pub(super) fn run(args: &Args) -> ExitCode {
    match prove(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("tenure-sim: {error}");
            ExitCode::from(2)
        }
    }
}

fn prove(args: &Args) -> io::Result<bool> {
    if !planted::COMPILED_IN {
        return Err(io::Error::other(NoSuchBug::NotCompiledIn));
    }
    let wanted = |bug: &&Planted| args.bug.as_deref().is_none_or(|name| name == bug.name);
    let bugs: Vec<&Planted> = planted::ALL.iter().filter(wanted).collect();
    if bugs.is_empty() {
        return Err(io::Error::other(NoSuchBug::Unknown));
    }
    let mut all = true;
    for bug in bugs {
        let began = Instant::now();
        let search = search(args, bug)?;
        all &= tell(args, bug, &search, began.elapsed().as_secs());
        io::stdout().flush()?;
    }
    Ok(all)
}

/// Says how a search ended; whether as it must.
fn tell(args: &Args, bug: &Planted, search: &Search, seconds: u64) -> bool {
    let joined = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let name = bug.name;
    match &search.caught {
        Some((seed, by)) => {
            let seeds = seed - args.seed + 1;
            println!("{name:<26}caught: seeds {seeds}, by {} ({seconds} s; --seed {seed} --bug {name})", joined(by));
        }
        None => {
            let others = if search.others.is_empty() { "nobody".to_owned() } else { joined(&search.others) };
            let must = bug.seen_by.join(" or ");
            println!("{name:<26}NOT CAUGHT in {} seeds by {must}; noticed by {others} ({seconds} s)", args.within);
        }
    }
    for (seed, how) in &search.down {
        println!("{name:<26}broke down: {how} (--seed {seed} --bug {name})");
    }
    search.caught.is_some()
}

fn search(args: &Args, bug: &Planted) -> io::Result<Search> {
    let mut waiting: VecDeque<u64> = (args.seed..args.seed.saturating_add(args.within)).collect();
    let mut running: VecDeque<Running> = VecDeque::new();
    let mut search = Search::default();
    while search.caught.is_none() {
        while running.len() < args.jobs.max(1)
            && let Some(seed) = waiting.pop_front()
        {
            running.push_back(start(args, seed, Some(bug.name))?);
        }
        // In order, so that the number of seeds does not depend on which run was faster.
        let Some(first) = running.pop_front() else { break };
        let seed = first.seed;
        match wait(first)? {
            Came::To(by) if by.iter().any(|name| bug.seen_by.contains(&name.as_str())) => {
                // What somebody notices without the bug, too, says nothing about it.
                match wait(start(args, seed, None)?)? {
                    Came::To(without) if without.is_empty() => search.caught = Some((seed, by)),
                    Came::To(_) | Came::Down(_) => search.down.push((seed, "it is no better without the bug".into())),
                }
            }
            Came::To(by) => search.others.extend(by),
            Came::Down(how) => search.down.push((seed, how)),
        }
    }
    for mut run in running {
        run.child.kill()?;
        run.child.wait()?;
    }
    Ok(search)
}

/// What a stream of a run says, read on the way, so that the run never waits for a reader.
fn listen(stream: Option<impl io::Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is all there is.
        stream.map(|mut stream| stream.read_to_end(&mut bytes).ok());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(mut run: Running) -> io::Result<Came> {
    let (said, why) = (listen(run.child.stdout.take()), listen(run.child.stderr.take()));
    while run.child.try_wait()?.is_none() {
        if run.began.elapsed() > RUN_TIME_MAX {
            run.child.kill()?;
            run.child.wait()?;
            return Ok(Came::Down("hangs".to_owned()));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let status = run.child.wait()?;
    let (said, why) = (said.join().unwrap_or_default(), why.join().unwrap_or_default());
    if let Some(0 | 1 | 3) = status.code() {
        return Ok(Came::To(said.lines().filter_map(who_noticed).collect()));
    }
    let panic = why.lines().find(|line| line.contains("panicked")).unwrap_or("no word of it");
    Ok(Came::Down(format!("{status}: {panic}")))
}

/// The oracle or checker that a line of a report names, if it names one that found something. A watcher's number is
/// left out.
fn who_noticed(line: &str) -> Option<String> {
    let told = line.strip_prefix("  BROKEN ").or_else(|| line.strip_prefix("  Violation "))?;
    let name = told.split(':').next()?;
    Some(name.split(" (").next().unwrap_or(name).to_owned())
}
