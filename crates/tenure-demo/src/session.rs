//! One run of the demo from start to report: starts the nodes and the load, carries out orders, and checks.
//!
//! It knows no screen and no keys. News go out, orders come in, and the report is what it returns.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::audit::{self, Check, Report};
use crate::clock::Clock;
use crate::cluster::{self, Cluster};
use crate::controls::Controls;
use crate::ledger::Ledger;
use crate::limits::{CATCH_UP_PATIENCE, PAUSE_AFTER_FAILURE};
use crate::load::{Amount, Load, Names, Shared, Teller};
use crate::model::{Kind, News, Phase, Verb};
use crate::poller;
use crate::store::{Store, prefix_range, revision};

/// What the viewer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Do this to a node.
    Control(Verb, usize),
    /// Let a service stop renewing its lease.
    StopRenewing(usize),
    /// End the load and check.
    Finish,
}

/// Everything that a run needs.
#[derive(Debug)]
pub struct Session {
    pub store: Store,
    /// The nodes, if they are the demo's own.
    pub cluster: Option<Arc<Cluster>>,
    pub node_names: Vec<String>,
    pub amount: Amount,
    pub clock: Clock,
    pub teller: Teller,
}

impl Session {
    /// Runs to the report.
    pub async fn run(self, mut orders: mpsc::Receiver<Order>) -> anyhow::Result<Report> {
        let mut watching = self.watch_nodes();
        self.start_nodes().await?;
        let names = Names::new(rand::random());
        let ledger = Arc::new(Ledger::default());
        let shared =
            Shared { store: self.store.clone(), clock: self.clock, ledger, teller: self.teller.clone(), names };
        let began = self.first_revision(&shared).await?;
        self.teller.tell_surely(News::Phase(Phase::Running)).await;
        let mut load = Load::start(&shared, self.amount);
        let mut controls = self.cluster.clone().map(|cluster| Controls::new(cluster, self.teller.clone()));
        let finished = tokio::select! {
            error = watching_failed(&mut watching) => Err(error),
            result = self.obey(&mut orders, &mut load, &mut controls) => result,
        };
        finished?;
        let report = self.finish(&shared, load, controls, began).await?;
        watching.shutdown().await;
        Ok(report)
    }

    fn watch_nodes(&self) -> JoinSet<()> {
        let mut watching = JoinSet::new();
        for node in 0..self.store.len() {
            watching.spawn(poller::status_loop(self.store.clone(), self.teller.clone(), node));
        }
        if let Some(cluster) = &self.cluster {
            watching.spawn(poller::process_loop(Arc::clone(cluster), self.teller.clone(), self.store.len()));
        }
        watching
    }

    async fn start_nodes(&self) -> anyhow::Result<()> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        self.say(Kind::Command, format!("$ {}", cluster.start_line())).await;
        cluster.start().await?;
        self.say(Kind::Node, format!("{} nodes serve", self.store.len())).await;
        Ok(())
    }

    async fn say(&self, kind: Kind, text: String) {
        self.teller.tell_surely(News::Said { kind, text }).await;
    }

    /// The revision before the run's first write, which history is read from.
    async fn first_revision(&self, shared: &Shared) -> anyhow::Result<i64> {
        let deadline = self.clock.now() + CATCH_UP_PATIENCE;
        let mut node = 0;
        loop {
            match self.store.range(node, prefix_range(shared.names.root())).await {
                Ok(answer) => return Ok(revision(answer.header.as_ref())),
                Err(status) if self.clock.now() > deadline => {
                    bail!("the cluster does not answer: {}", status.message());
                }
                Err(_) => sleep(PAUSE_AFTER_FAILURE).await,
            }
            node = self.store.other(node);
        }
    }

    /// Carries out orders until the last one.
    async fn obey(
        &self,
        orders: &mut mpsc::Receiver<Order>,
        load: &mut Load,
        controls: &mut Option<Controls>,
    ) -> anyhow::Result<()> {
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                error = load.failed() => return Err(error),
                ended = script_ended(controls) => {
                    ended?;
                    continue;
                }
            };
            match order {
                Some(Order::Control(verb, node)) => {
                    // The keys that lead here are refused when the nodes are somebody else's.
                    if let Some(controls) = controls {
                        controls.begin(verb, node);
                    }
                }
                Some(Order::StopRenewing(service)) => load.stop_renewing(service).await,
                Some(Order::Finish) | None => return Ok(()),
            }
        }
    }

    /// Ends the load, brings all nodes back and reads back what was acknowledged.
    async fn finish(
        &self,
        shared: &Shared,
        mut load: Load,
        controls: Option<Controls>,
        began: i64,
    ) -> anyhow::Result<Report> {
        load.drain().await?;
        let drained = self.clock.now();
        self.teller.tell_surely(News::Phase(Phase::Checking)).await;
        if let Some(mut controls) = controls {
            controls.heal(self.store.len()).await.context("a node cannot be brought back for the check")?;
        }
        let mut report = Report::default();
        // The leases first: they are checked while their services still renew them.
        self.note(&mut report, audit::leases(shared).await).await;
        self.note(&mut report, audit::writes(shared, began).await).await;
        self.note(&mut report, audit::lock(shared, drained)).await;
        self.note(&mut report, audit::hashes(shared, &self.node_names).await).await;
        report.figures.extend(audit::latencies(shared));
        load.end().await;
        if self.cluster.is_none() {
            self.tidy_up(shared).await;
        }
        Ok(report)
    }

    async fn note(&self, report: &mut Report, check: Check) {
        let kind = if check.wrong.count() == 0 { Kind::Check } else { Kind::Problem };
        let word = if check.wrong.count() == 0 { "ok" } else { "WRONG" };
        self.say(kind, format!("{word}: {}", check.text)).await;
        report.checks.push(check);
    }

    /// A cluster that is somebody else's gets its space back. What fails here goes with the leases, or stays.
    async fn tidy_up(&self, shared: &Shared) {
        let leases: Vec<i64> = shared.ledger.leases().keys().copied().collect();
        for lease in leases {
            self.store.revoke(0, lease).await.ok();
        }
        self.store.delete_prefix(0, shared.names.root()).await.ok();
    }
}

async fn watching_failed(watching: &mut JoinSet<()>) -> anyhow::Error {
    match watching.join_next().await {
        Some(Err(error)) => anyhow::Error::new(error).context("a task that watches the nodes failed"),
        Some(Ok(())) | None => anyhow::anyhow!("a task that watches the nodes has ended"),
    }
}

async fn script_ended(controls: &mut Option<Controls>) -> anyhow::Result<()> {
    match controls {
        Some(controls) => controls.ended().await,
        None => std::future::pending().await,
    }
}

/// The names and endpoints of the demo's own nodes.
pub fn own_nodes(cluster: &Cluster) -> Vec<(String, String)> {
    cluster.endpoints().into_iter().enumerate().map(|(at, endpoint)| (cluster::name(at), endpoint)).collect()
}
