//! The load: a writer, services and contenders for a lock, each an ordinary client of the cluster.

mod contender;
mod keeper;
mod names;
mod observer;
mod renewals;
mod services;
mod writer;

pub use names::Names;
pub use renewals::LeaseTerms;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::ledger::Ledger;
use crate::limits::{CONTROL_QUEUE, DRAIN_PATIENCE, LANES};
use crate::model::News;
use crate::store::Store;

/// Tasks that share the services between them, each with a keeper of its own.
const SERVICE_GROUPS: usize = 4;

/// The way of news to the screen. It never waits: see [`crate::limits::NEWS_QUEUE`].
#[derive(Clone, Debug)]
pub struct Teller {
    news: mpsc::Sender<News>,
    missed: Arc<AtomicU64>,
}

impl Teller {
    /// News go into `news`.
    pub fn new(news: mpsc::Sender<News>) -> Self {
        Self { news, missed: Arc::new(AtomicU64::new(0)) }
    }

    /// Tells it if there is room.
    pub fn tell(&self, news: News) {
        if self.news.try_send(news).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells it when there is room: for the few news that all others depend on.
    pub async fn tell_surely(&self, news: News) {
        // Nobody listens any more only when the demo is being given up.
        self.news.send(news).await.ok();
    }

    /// How many news found no room.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// What every task of the load has.
#[derive(Clone, Debug)]
pub struct Shared {
    pub store: Store,
    pub clock: Clock,
    pub ledger: Arc<Ledger>,
    pub teller: Teller,
    pub names: Names,
}

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    pub services: usize,
    pub lease_ttl_secs: i64,
    pub contenders: usize,
    pub writes_per_second: u32,
}

/// The running load.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    /// What ends when the checks begin.
    passing: JoinSet<()>,
    /// What goes on during them: the services, whose leases are being checked, and those who watch.
    lasting: JoinSet<()>,
    stop_renewing: Vec<mpsc::Sender<usize>>,
}

impl Load {
    /// Starts all of it.
    pub fn start(shared: &Shared, amount: Amount) -> Self {
        let (stop, stopping) = watch::channel(false);
        let mut passing = JoinSet::new();
        let mut lasting = JoinSet::new();
        let spread = |number: usize| number % shared.store.len();

        let pause = Duration::from_secs(1) * u32::try_from(LANES).unwrap_or(1) / amount.writes_per_second.max(1);
        for lane in 0..LANES {
            passing.spawn(writer::lane_loop(shared.clone(), lane, spread(lane), pause, stopping.clone()));
        }
        for number in 0..amount.contenders {
            let contender = contender::Contender::new(
                shared.clone(),
                number,
                spread(number),
                amount.lease_ttl_secs,
                stopping.clone(),
            );
            passing.spawn(contender.run());
        }

        let mut stop_renewing = Vec::new();
        let mut endings = Vec::new();
        for group in 0..SERVICE_GROUPS {
            let (stops, taken) = mpsc::channel(CONTROL_QUEUE);
            let (ended, seen) = mpsc::channel(CONTROL_QUEUE);
            stop_renewing.push(stops);
            endings.push(ended);
            let members = (group..amount.services).step_by(SERVICE_GROUPS).collect();
            let group = services::Group::new(shared.clone(), spread(group), amount.lease_ttl_secs, members);
            lasting.spawn(group.run(taken, seen));
        }
        lasting.spawn(observer::services_loop(shared.clone(), spread(1), endings));
        lasting.spawn(observer::lock_loop(shared.clone(), spread(2)));
        Self { stop, passing, lasting, stop_renewing }
    }

    /// Lets a service stop renewing its lease.
    pub async fn stop_renewing(&self, service: usize) {
        if let Some(group) = self.stop_renewing.get(service % SERVICE_GROUPS) {
            // A group that has ended has panicked, and `failed` tells of it.
            group.send(service).await.ok();
        }
    }

    /// Waits until a task panics, which none should.
    pub async fn failed(&mut self) -> anyhow::Error {
        loop {
            let ended = tokio::select! {
                Some(ended) = self.passing.join_next() => ended,
                Some(ended) = self.lasting.join_next() => ended,
                else => return anyhow::anyhow!("all tasks of the load have ended"),
            };
            if let Err(error) = ended {
                return anyhow::Error::new(error).context("a task of the load failed");
            }
        }
    }

    /// Ends the writer and the contenders, and waits for their last answers.
    pub async fn drain(&mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        let all = async {
            while let Some(ended) = self.passing.join_next().await {
                ended?;
            }
            anyhow::Ok(())
        };
        if let Ok(ended) = tokio::time::timeout(DRAIN_PATIENCE, all).await {
            ended?;
        }
        // What is cut off here has a request under way; the ledger has it as unknown.
        self.passing.shutdown().await;
        Ok(())
    }

    /// Ends the services too.
    pub async fn end(mut self) {
        self.lasting.shutdown().await;
    }
}
