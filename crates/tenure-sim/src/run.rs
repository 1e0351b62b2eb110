//! A run: members are started, clients work while things go wrong, everything heals, the cluster must serve again, and
//! then all that was seen is judged.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tenure_history::contest::Contests;
use tenure_history::lease::Bounds;
use tenure_history::request::{KeyRange, Range, Request};
use tenure_history::response::Outcome;
use tenure_history::run::{Findings, Run, Status, Watcher};
use tenure_history::{History, Initial, Moment, NodeId, Operation, Revision};
use tenure_raft::RaftNode;
use tenure_workload::client::Client;
use tenure_workload::derive;
use tenure_workload::recorder::{Recorder, Seen, Watched};
use tenure_workload::settle::settle;
use tenure_workload::stage::{Phase, Stage};
use tenure_workload::workloads::{Holding, Tasks, Workload};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::clients::SimConnect;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::nemesis::{Kind, Nemesis};
use crate::net::Net;
use crate::oracles::progress::Progress;
use crate::oracles::{Breach, Counts, Witness};
use crate::trace::Trace;

/// How often the witness looks and faults are dealt with.
const TICK: Duration = Duration::from_millis(20);

/// Healed and started, a cluster must serve within this: a member waits out one leader lease, then an election follows,
/// perhaps a second one, and clients come back from their pauses.
const SERVES_WITHIN: Duration = Duration::from_secs(15);

/// What clients began must be over by then: the longest lease, which lasts a minute, and their patience.
const FINISHES_WITHIN: Duration = Duration::from_secs(90);

/// The first start of all members.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// Members' numbers in their second life begin here, in their third at twice this.
const LIFE: u32 = 1000;

/// What a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// All chance comes from it.
    pub seed: u64,
    /// How long things go wrong; drawn from the seed if none.
    pub faults_for: Option<Duration>,
    /// The number of members; drawn from the seed if none.
    pub members: Option<usize>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// How many members there were.
    pub members: usize,
    /// Over everything that happened.
    pub hash: String,
    /// Lines of the trace.
    pub lines: u64,
    /// Simulated time.
    pub lasted: Duration,
    /// The longest that it stood still although a leader worked.
    pub stall: Duration,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u32>,
    /// What the witness looked at.
    pub counts: Counts,
    /// Operations asked and answered.
    pub operations: (usize, usize),
    /// What it found.
    pub breaches: Vec<Breach>,
    /// What the checkers of histories found.
    pub findings: Findings,
}

impl Report {
    /// Whether no promise was broken.
    pub fn is_ok(&self) -> bool {
        self.breaches.is_empty() && self.findings.all.iter().all(|finding| finding.status != Status::Violation)
    }

    /// Whether a search gave up.
    pub fn is_undecided(&self) -> bool {
        self.findings.all.iter().any(|finding| finding.status == Status::Undecided)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: u32 = self.faults.values().sum();
        let (asked, answered) = self.operations;
        write!(
            f,
            "seed {} members {} simulated {:.1} s, {faults} faults, {asked} operations, {answered} answered, {} terms, \
             {} runs applied, {} states compared, {} leases ended, {} queues of up to {} contenders, longest stall {:.2} s, trace {} of {} lines",
            self.seed,
            self.members,
            self.lasted.as_secs_f64(),
            self.counts.terms,
            self.counts.runs,
            self.counts.compared,
            self.counts.leases,
            self.counts.lock_queues,
            self.counts.lock_waiters_max,
            self.stall.as_secs_f64(),
            self.hash,
            self.lines
        )?;
        for Breach { oracle, text } in &self.breaches {
            write!(f, "\n  BROKEN {oracle}: {text}")?;
        }
        for finding in self.findings.all.iter().filter(|finding| finding.status != Status::Ok) {
            write!(f, "\n  {:?} {}: {}", finding.status, finding.checker, finding.summary)?;
            for line in &finding.evidence {
                write!(f, "\n      {line}")?;
            }
        }
        Ok(())
    }
}

/// Carries out a run on the calling runtime, which must be a current-thread one with paused time.
pub async fn run(options: Options, home: &Path, trace: &Trace) -> Report {
    let seed = options.seed;
    let mut dice = Dice::new(seed, "run");
    let members = options.members.unwrap_or_else(|| *dice.pick(&[3, 3, 3, 5, 5, 7]));
    let drawn = dice.millis(8_000, 25_000);
    // Its clock and the trace's begin at the same moment.
    let recorder = Arc::new(Recorder::default());
    let witness = Arc::new(Witness::new(trace));
    let net = Net::new(seed);
    let cluster = Cluster::new(seed, members, home, &net, &witness);
    let mut director = Director {
        trace: trace.clone(),
        witness,
        cluster,
        nemesis: Nemesis::new(seed, trace),
        outages: Outages::default(),
        progress: Progress::default(),
        calm_from: None,
    };
    director.begin().await;
    let connect = Arc::new(SimConnect::new(&net, members));
    let stage = Arc::new(Stage::new(connect, recorder.clone(), seed, 0, Revision(1)));
    let mut tasks = Tasks::default();
    Workload::start_observers(&stage, &mut tasks.watchers);
    for workload in Workload::ALL {
        workload.start(&stage, &Arc::default(), &mut tasks);
    }
    Workload::start_holders(&stage, 1, &Holding::LONG, &mut tasks);
    director.suffer(options.faults_for.unwrap_or(drawn)).await;
    director.recover(&stage).await;
    director.calm_from = Some(trace.moment());
    director.finish(&stage, tasks).await;
    director.outages.end(Moment::NEVER);
    director.judge(&options, &stage, recorder.take())
}

/// When nobody could have served.
#[derive(Debug, Default)]
struct Outages {
    over: Vec<(Moment, Moment)>,
    /// Those in which a member was down: whoever led next may have lost that time.
    stood: Vec<(Moment, Moment)>,
    since: Option<Moment>,
    somebody_down: bool,
}

impl Outages {
    fn note(&mut self, now: Moment, cluster: &Cluster) {
        self.somebody_down |= cluster.up().count() < cluster.size();
        match (cluster.is_heard(), self.since) {
            (false, None) => self.since = Some(now),
            (true, Some(_)) => self.end(now),
            (false, Some(_)) => {}
            (true, None) => self.somebody_down = false,
        }
    }

    fn end(&mut self, now: Moment) {
        if let Some(since) = self.since.take() {
            self.over.push((since, now));
            self.stood.extend(std::mem::take(&mut self.somebody_down).then_some((since, now)));
        }
    }
}

struct Director {
    trace: Trace,
    witness: Arc<Witness>,
    cluster: Cluster,
    nemesis: Nemesis,
    outages: Outages,
    progress: Progress,
    /// When everything had healed and every member served.
    calm_from: Option<Moment>,
}

impl Director {
    /// Holds all that clients saw against the promises.
    fn judge(self, options: &Options, stage: &Stage, mut seen: Seen) -> Report {
        settle(&mut seen, &Initial { revision: stage.first, ..Initial::default() });
        let (trace, members) = (&self.trace, self.cluster.size());
        let mut run = Run::default();
        derive::add(&mut run, &seen.operations);
        let mut operations: Vec<_> = seen.operations.into_iter().map(|recorded| recorded.operation).collect();
        operations.sort_by_key(|operation| (operation.called, operation.client));
        operations.iter().for_each(|operation| trace.note(operation));
        operations.iter_mut().for_each(|operation| self.name_life(operation));
        self.witness.judge_histories(&operations);
        let answered = operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Ok(_))).count();
        let figures = (operations.len(), answered);
        let last = match stage.phase() {
            Phase::Over(last) => Some(last),
            Phase::Work | Phase::Finish => None,
        };
        let watcher = |(number, Watched { spec, steps, .. })| Watcher { name: format!("{number}"), spec, steps, last };
        let run = Run {
            history: History::of(operations),
            watchers: seen.watched.into_iter().enumerate().map(watcher).collect(),
            holds: seen.holds,
            uses: seen.uses,
            contests: Contests { calm_from: self.calm_from, ..seen.contests },
            bounds: Bounds { outages: self.outages.over, stood: self.outages.stood, ..Bounds::default() },
            ..run
        };
        let findings = run.check();
        for finding in &findings.all {
            trace.note(format_args!("{}: {:?}, {}", finding.checker, finding.status, finding.summary));
        }
        Report {
            seed: options.seed,
            members,
            hash: trace.hash(),
            lines: trace.count(),
            lasted: trace.now(),
            stall: self.progress.longest,
            faults: self.nemesis.done,
            counts: self.witness.counts(),
            operations: figures,
            breaches: self.witness.breaches(),
            findings,
        }
    }

    /// A member is another one after each start: it applies its log anew, so what it serves without a quorum may go back.
    fn name_life(&self, operation: &mut Operation) {
        let (Some(node), Some(returned)) = (operation.node, operation.returned) else { return };
        let Some(began) = self.cluster.nodes.get(node.0 as usize).map(|node| &node.began) else { return };
        let life = |at: Moment| u32::try_from(began.iter().filter(|began| **began <= at).count()).unwrap_or(u32::MAX);
        let (first, last) = (life(operation.called), life(returned));
        operation.node = (first == last).then_some(NodeId(node.0 + last.saturating_mul(LIFE)));
    }

    fn broken(&self, oracle: &'static str, text: impl Into<String>) {
        self.witness.note(Breach { oracle, text: text.into() });
    }

    async fn begin(&mut self) {
        self.cluster.nodes.iter_mut().for_each(crate::node::SimNode::start);
        if !self.cluster.all_up(STARTS_WITHIN).await {
            self.broken("liveness", format!("not all members take part {STARTS_WITHIN:?} after the first start"));
        }
    }

    /// One tick: looks, and notes who failed by itself.
    async fn tick(&mut self) {
        sleep(TICK).await;
        self.outages.note(self.trace.moment(), &self.cluster);
        self.witness.look(&self.cluster).await;
        for (place, error) in self.cluster.end_failed().await {
            self.broken("members last", format!("n{} failed by itself: {error}", place + 1));
        }
    }

    /// Whether the cluster moves while clients write.
    fn look_at_progress(&mut self) {
        let applied = |(place, raft): (usize, RaftNode)| {
            let status = self.cluster.nodes[place].enter(|| raft.status())?;
            Some(status.applied.0)
        };
        let furthest = self.cluster.up().filter_map(applied).max().unwrap_or(0);
        let found = self.progress.look(self.trace.moment(), self.cluster.works(), furthest);
        found.into_iter().for_each(|breach| self.witness.note(breach));
    }

    /// Lets things go wrong for a while.
    async fn suffer(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.tick().await;
            self.look_at_progress();
            self.nemesis.act(&mut self.cluster).await;
        }
        self.trace.note("everything heals");
        self.nemesis.end(&mut self.cluster).await;
    }

    /// Waits until every member serves reads and writes again.
    async fn recover(&mut self, stage: &Arc<Stage>) {
        let mut probes = JoinSet::new();
        for member in 0..self.cluster.size() {
            let mut client = Client::new(stage, Workload::Ending, stage.new_client());
            client.stay_at(member);
            probes.spawn(async move { while !matches!(client.ask(read_all()).await, Outcome::Ok(_)) {} });
        }
        let until = Instant::now() + SERVES_WITHIN;
        while !probes.is_empty() {
            if Instant::now() > until {
                let text = format!("{} members do not serve {SERVES_WITHIN:?} after everything healed", probes.len());
                return self.broken("liveness", text);
            }
            self.tick().await;
            // Members that had failed because of what was done to their disks are started again here.
            self.cluster.nodes.iter_mut().filter(|node| !node.is_running()).for_each(crate::node::SimNode::start);
            while probes.try_join_next().is_some() {}
        }
    }

    /// Lets the clients finish and the watchers see everything.
    async fn finish(&mut self, stage: &Arc<Stage>, tasks: Tasks) {
        stage.set_phase(Phase::Finish);
        self.all_done("clients", tasks.clients).await;
        let mut client = Client::new(stage, Workload::Ending, stage.new_client());
        let last = timeout(SERVES_WITHIN, async {
            loop {
                if let Outcome::Ok(response) = client.ask(read_all()).await {
                    return response.revision;
                }
            }
        });
        match last.await {
            Ok(last) => stage.set_phase(Phase::Over(last)),
            Err(_) => self.broken("liveness", "no linearizable read at the end"),
        }
        self.all_done("watchers", tasks.watchers).await;
        self.tick().await;
    }

    async fn all_done(&mut self, who: &str, mut tasks: JoinSet<anyhow::Result<()>>) {
        let until = Instant::now() + FINISHES_WITHIN;
        while !tasks.is_empty() {
            if Instant::now() > until {
                return self
                    .broken("liveness", format!("{} {who} are not done after {FINISHES_WITHIN:?}", tasks.len()));
            }
            self.tick().await;
            while let Some(ended) = tasks.try_join_next() {
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => self.broken("watch guarantees", format!("{who}: {error:#}")),
                    Err(error) => self.broken("clients", error.to_string()),
                }
            }
        }
    }
}

fn read_all() -> Request {
    Request::Range(Range { keys: KeyRange::all(), ..Range::default() })
}
