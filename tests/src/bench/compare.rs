//! Rounds, clusters and works: who runs when.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tenure_bench::{Amount, Report, Settings, Silent};
use tokio::time::sleep;

use super::cost::{Cost, Meter};
use super::options::Options;
use super::sample::{Cell, Metric, Sample, float, sample};
use super::special;
use super::works::{At, Beside, Kind, Load, Rate, Special, Work, works};
use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::http1::metric;

/// What comes before a measurement.
const WARM_UP: Duration = Duration::from_secs(1);
/// Servers are idle when all together use less than this share of one core for so long, twice.
const IDLE_SHARE: f64 = 0.08;
const IDLE_WINDOW: Duration = Duration::from_millis(250);
const IDLE_PATIENCE: Duration = Duration::from_secs(20);
/// The memory of many keys does not differ from round to round, and loading them takes minutes.
const BIG_ROUNDS: usize = 1;
/// What a load needs before it is measured beside another: filling, and a warm-up.
const BESIDE_SECONDS: f64 = 2.0;
/// A request that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
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
    let works = options.chosen(works());
    ensure!(!works.is_empty(), "--works names no work; --list tells them");
    let programs = options.programs()?;
    let mut outcome = Outcome { works, programs, cells: Cells::new() };
    for round in 1..=options.rounds() {
        // What else the machine is doing: rates mean little beside other work, CPU for an operation still does.
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("round {round} of {}, load average {}", options.rounds(), load.split(' ').next().unwrap_or("unknown"));
        for at in 0..outcome.programs.len() {
            measure(&mut outcome, at, options, round).await?;
        }
    }
    Ok(outcome)
}

/// One program's part of a round: the loads on one cluster, the rest on clusters of their own.
async fn measure(outcome: &mut Outcome, program_at: usize, options: &Options, round: usize) -> Result<()> {
    let program = outcome.programs[program_at];
    let mut shared: Option<(Cluster, TempDir)> = None;
    for work_at in 0..outcome.works.len() {
        let work = outcome.works[work_at].clone();
        let measured = match &work.kind {
            Kind::Load(load) if load.tenure_only && program != Program::Tenured => continue,
            Kind::Special(Special::Big) if round > BIG_ROUNDS => continue,
            Kind::Special(special) => special::run(*special, program, options).await,
            Kind::Load(load) => {
                let reference = reference_rate(outcome);
                let cluster = shared_cluster(&mut shared, program, options).await?;
                run(cluster, load, options, reference).await
            }
            Kind::Beside(both) => {
                let cluster = shared_cluster(&mut shared, program, options).await?;
                beside(cluster, both, options).await
            }
        };
        outcome.note((work_at, program_at), measured);
    }
    match shared {
        Some((mut cluster, _)) => cluster.kill_all(),
        None => Ok(()),
    }
}

impl Outcome {
    fn note(&mut self, at: (usize, usize), measured: Result<Sample>) {
        let (label, program) = (self.works[at.0].label, self.programs[at.1].label());
        let cell = self.cells.entry(at).or_default();
        match measured {
            Ok(sample) => {
                println!("  {program:8} {label:56} {}", line(&sample));
                cell.samples.push(sample);
            }
            Err(error) => {
                println!("  {program:8} {label:56} FAILED: {error:#}");
                cell.failures.push(format!("{error:#}"));
            }
        }
    }
}

/// The cluster that all loads of a round share, started when the first needs it.
async fn shared_cluster<'a>(
    shared: &'a mut Option<(Cluster, TempDir)>,
    program: Program,
    options: &Options,
) -> Result<&'a mut Cluster> {
    if shared.is_none() {
        let folder = folder(options)?;
        *shared = Some((start(program, folder.path(), options).await?, folder));
    }
    shared.as_mut().map(|(cluster, _)| cluster).context("invariant: it was started above")
}

/// Where a cluster keeps its data while it lives.
pub fn folder(options: &Options) -> Result<TempDir> {
    Ok(match &options.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    })
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
    let settings = settings(cluster, load, options, leader, rate(load.rate, reference)?);
    let groups = if load.has_groups { groups(cluster).await } else { None };
    let meter = Rc::new(Meter::new(pids(cluster)?));
    let report = tenure_bench::run(&load.workload, &settings, meter.clone()).await?;
    succeeded(&report)?;
    let mut sample = sample(&report, meter.readings());
    if let Some((before, after)) = groups.zip(if load.has_groups { self::groups(cluster).await } else { None }) {
        sample.insert(Metric::PutsPerGroup, float(after.1 - before.1) / float((after.0 - before.0).max(1)));
    }
    if cluster.wait_leader(LEADER_PATIENCE).await? != leader {
        bail!("the leader moved during the run: its figures are not comparable");
    }
    Ok(sample)
}

fn settings(cluster: &Cluster, load: &Load, options: &Options, leader: usize, rate: Option<f64>) -> Settings {
    let seconds = Duration::from_secs_f64(options.seconds());
    Settings {
        endpoints: endpoints(cluster, load.at, leader),
        leader_only: false,
        clients: load.clients,
        connections: load.connections,
        amount: load.total.map_or(Amount::Time(seconds), Amount::Total),
        warm_up: WARM_UP.min(seconds),
        rate,
        patience: PATIENCE,
    }
}

/// Figures with failures in them mean nothing.
pub fn succeeded(report: &Report) -> Result<()> {
    match &report.first_error {
        Some(error) => bail!("{} of {} operations failed: {error}", report.failed, report.failed + report.operations),
        None => Ok(()),
    }
}

/// A load with writers beside it, and the same writers alone before.
async fn beside(cluster: &mut Cluster, both: &Beside, options: &Options) -> Result<Sample> {
    let Beside { main, writers } = both;
    let alone = run(cluster, writers, options, None).await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    settle(&pids(cluster)?).await?;
    let main_settings = settings(cluster, main, options, leader, None);
    let mut writers_settings = settings(cluster, writers, options, leader, rate(writers.rate, None)?);
    // Long enough for the list to be filled and read beside them.
    writers_settings.amount = Amount::Time(Duration::from_secs_f64(options.seconds() + BESIDE_SECONDS));
    let meter = Rc::new(Meter::new(pids(cluster)?));
    let (listed, written) = tokio::try_join!(
        tenure_bench::run(&main.workload, &main_settings, meter.clone()),
        tenure_bench::run(&writers.workload, &writers_settings, Rc::new(Silent)),
    )?;
    succeeded(&listed)?;
    succeeded(&written)?;
    let mut sample = sample(&listed, None);
    // Both share the process.
    sample.remove(&Metric::GeneratorCpuUs);
    if let Some(p99) = alone.get(&Metric::P99Ms) {
        sample.insert(Metric::WritersAloneP99Ms, *p99);
    }
    sample.insert(Metric::WritersP99Ms, written.latency.p99_ms);
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
