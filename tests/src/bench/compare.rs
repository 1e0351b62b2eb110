//! Rounds, clusters and works: who runs when.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tenure_bench::{Amount, Settings};
use tokio::time::sleep;

use super::cost::{Cost, Meter};
use super::options::Options;
use super::sample::{Cell, Metric, Sample, float, sample};
use super::works::{At, Load, Rate, Work, works};
use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::http1::metric;

/// What comes before a measurement.
const WARM_UP: Duration = Duration::from_secs(1);
/// Servers are idle when all together use less than this share of one core for so long, twice.
const IDLE_SHARE: f64 = 0.08;
const IDLE_WINDOW: Duration = Duration::from_millis(250);
const IDLE_PATIENCE: Duration = Duration::from_secs(20);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Neither program is to be stopped by its size limit; etcd's own is 2 GiB.
pub const QUOTA: &str = "--quota-backend-bytes=8589934592";

/// All cells, by the work's place and the program's.
pub type Cells = BTreeMap<(usize, usize), Cell>;

/// What was compared, and how it went.
#[derive(Debug)]
pub struct Outcome {
    pub works: Vec<Work>,
    pub programs: Vec<Program>,
    pub cells: Cells,
}

/// Runs all rounds.
pub async fn compare(options: &Options) -> Result<Outcome> {
    let works: Vec<Work> = works().into_iter().filter(|work| options.wants(work.name)).collect();
    ensure!(!works.is_empty(), "--works names no work; --list tells them");
    let programs = options.programs()?;
    let mut outcome = Outcome { works, programs, cells: Cells::new() };
    for round in 1..=options.rounds() {
        // What else the machine is doing: rates mean little beside other work, CPU for an operation still does.
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("round {round} of {}, load average {}", options.rounds(), load.split(' ').next().unwrap_or("unknown"));
        for at in 0..outcome.programs.len() {
            measure(&mut outcome, at, options).await?;
        }
    }
    Ok(outcome)
}

/// One program's part of a round.
async fn measure(outcome: &mut Outcome, program_at: usize, options: &Options) -> Result<()> {
    let program = outcome.programs[program_at];
    let folder = match &options.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut cluster = start(program, folder.path(), options).await?;
    for work_at in 0..outcome.works.len() {
        let work = outcome.works[work_at].clone();
        if work.load.tenure_only && program != Program::Tenured {
            continue;
        }
        let reference = reference_rate(outcome);
        let measured = run(&mut cluster, &work.load, options, reference).await;
        let cell = outcome.cells.entry((work_at, program_at)).or_default();
        match measured {
            Ok(sample) => {
                println!("  {:8} {:52} {}", program.label(), work.label, line(&sample));
                cell.samples.push(sample);
            }
            Err(error) => {
                println!("  {:8} {:52} FAILED: {error:#}", program.label(), work.label);
                cell.failures.push(format!("{error:#}"));
            }
        }
    }
    cluster.kill_all()
}

/// Three members of a program.
pub async fn start(program: Program, home: &Path, options: &Options) -> Result<Cluster> {
    let mut flags = vec![QUOTA];
    if program == Program::Tenured {
        flags.extend(options.flags.split_whitespace());
    }
    let mut cluster = Cluster::with_flags(program, 3, home, &flags)?;
    cluster.start_all().await.with_context(|| format!("starting {}", program.label()))?;
    Ok(cluster)
}

/// What the first program did in the work that others go by, in this run so far.
fn reference_rate(outcome: &Outcome) -> Option<f64> {
    let work = outcome.works.iter().position(|work| work.name == "put-1000")?;
    Some(outcome.cells.get(&(work, 0))?.spread(Metric::Rate)?.median)
}

/// One load on a cluster that is idle.
pub async fn run(cluster: &mut Cluster, load: &Load, options: &Options, reference: Option<f64>) -> Result<Sample> {
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    settle(&pids(cluster)?).await?;
    let seconds = Duration::from_secs_f64(options.seconds());
    let settings = Settings {
        endpoints: endpoints(cluster, load.at, leader),
        leader_only: false,
        clients: load.clients,
        connections: load.connections,
        amount: Amount::Time(seconds),
        warm_up: WARM_UP.min(seconds),
        rate: rate(load.rate, reference)?,
        patience: PATIENCE,
    };
    let groups = if load.has_groups { groups(cluster).await } else { None };
    let meter = Rc::new(Meter::new(pids(cluster)?));
    let report = tenure_bench::run(&load.workload, &settings, meter.clone()).await?;
    if let Some(error) = &report.first_error {
        bail!("{} of {} operations failed: {error}", report.failed, report.failed + report.operations);
    }
    let mut sample = sample(&report, meter.readings());
    if let Some((before, after)) = groups.zip(if load.has_groups { self::groups(cluster).await } else { None }) {
        sample.insert(Metric::PutsPerGroup, float(after.1 - before.1) / float((after.0 - before.0).max(1)));
    }
    if cluster.wait_leader(LEADER_PATIENCE).await? != leader {
        bail!("the leader moved during the run: its figures are not comparable");
    }
    Ok(sample)
}

/// The ids of the processes of all members.
pub fn pids(cluster: &Cluster) -> Result<Vec<u32>> {
    cluster.nodes.iter().filter(|node| node.is_started()).map(crate::node::Node::pid).collect()
}

/// Host and port of those that are asked.
pub fn endpoints(cluster: &Cluster, at: At, leader: usize) -> Vec<String> {
    let of = |node: &crate::node::Node| format!("127.0.0.1:{}", node.client_port);
    match at {
        At::Leader => vec![of(&cluster.nodes[leader])],
        At::All => cluster.nodes.iter().map(of).collect(),
    }
}

fn rate(rate: Rate, reference: Option<f64>) -> Result<Option<f64>> {
    Ok(match rate {
        Rate::Closed => None,
        Rate::Fixed(rate) => Some(rate),
        Rate::OfReference(share) => Some(share * reference.context("it needs the work put-1000 in the same run")?),
    })
}

/// Groups of writes that all members proposed, and the writes in them, if the program counts them.
async fn groups(cluster: &Cluster) -> Option<(u64, u64)> {
    if cluster.program != Program::Tenured {
        return None;
    }
    let mut sums = (0, 0);
    for node in &cluster.nodes {
        sums.0 += metric(node.client_port, "tenure_proposals_total").await.ok()?;
        sums.1 += metric(node.client_port, "tenure_proposed_commands_total").await.ok()?;
    }
    Some(sums)
}

/// Waits until servers have nothing left to do, so that a work does not pay for the one before it.
pub async fn settle(pids: &[u32]) -> Result<()> {
    let deadline = Instant::now() + IDLE_PATIENCE;
    let mut quiet = 0;
    let mut before = (Instant::now(), Cost::of(pids));
    while quiet < 2 {
        sleep(IDLE_WINDOW).await;
        let now = (Instant::now(), Cost::of(pids));
        let share = now.1.cpu_since(&before.1).as_secs_f64() / (now.0 - before.0).as_secs_f64();
        quiet = if share < IDLE_SHARE { quiet + 1 } else { 0 };
        before = now;
        if Instant::now() > deadline {
            println!("  the servers are still busy after {IDLE_PATIENCE:?}, with {:.0} % of a core", share * 100.0);
            return Ok(());
        }
    }
    Ok(())
}

/// A sample in a few words.
fn line(sample: &Sample) -> String {
    let figures = sample.iter().map(|(metric, figure)| format!("{} {}", super::table::figure(*figure), metric.title()));
    figures.collect::<Vec<_>>().join(", ")
}
