//! The engine: clients that do operations at a pace, first to warm up, then counted.
//!
//! A workload gives it clients and gets a report. A client is a value that does one operation at a time, so nothing is boxed
//! for an operation, and what a client keeps between operations needs no lock.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::Settings;
use crate::caller::Caller;
use crate::failure::{Code, Error, Failure};
use crate::histogram::rounded;
use crate::observer::{Observer, Progress};
use crate::pace::{Amount, Pace};
use crate::recorder::{Recorder, float, part, rate};
use crate::report::Report;
use crate::target::{self, within};

/// A client that failed waits: a refused connection fails in no time.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// One client of a workload.
pub(crate) trait Client {
    /// Does the operation of a number. Numbers rise over a run and are never used twice.
    async fn operate(&mut self, number: u64) -> Result<(), Failure>;
}

/// What a run works with.
pub(crate) struct Scope {
    pub settings: Settings,
    /// Whom it asks.
    pub endpoints: Vec<String>,
    pub callers: Vec<Caller>,
    pub recorder: Rc<Recorder>,
    pub observer: Rc<dyn Observer>,
}

impl Scope {
    pub(crate) async fn new(settings: Settings, observer: Rc<dyn Observer>) -> Result<Scope, Error> {
        settings.check()?;
        let endpoints = target::resolve(&settings.endpoints, settings.leader_only).await?;
        let callers = target::connect(&endpoints, settings.connections).await?;
        Ok(Scope { settings, endpoints, callers, recorder: Rc::new(Recorder::new()), observer })
    }

    /// The connection of a client.
    pub(crate) fn caller(&self, client: usize) -> Caller {
        self.callers[client % self.callers.len()].clone()
    }

    /// Warms up and measures.
    pub(crate) async fn measure<C: Client + 'static>(
        self: &Rc<Scope>,
        workload: &'static str,
        clients: Vec<C>,
    ) -> (Report, Vec<C>) {
        self.measure_with(workload, clients, async || {}).await
    }

    /// The same; the measurement ends when `settled` is over.
    pub(crate) async fn measure_with<C: Client + 'static>(
        self: &Rc<Scope>,
        workload: &'static str,
        clients: Vec<C>,
        settled: impl AsyncFnOnce(),
    ) -> (Report, Vec<C>) {
        let settings = &self.settings;
        let mut clients = clients;
        let mut first = 0;
        if !settings.warm_up.is_zero() {
            self.observer.stage("warming up");
            // At the rate of the run, or else the first second would pay for what piled up.
            let pace = Pace::new(0, Amount::Time(settings.warm_up), settings.rate);
            clients = self.drive(clients, &pace).await;
            first = pace.next();
        }
        let cpu = own_cpu();
        self.observer.begun();
        let started = Instant::now();
        self.recorder.begin(started);
        let pace = Pace::new(first, settings.amount, settings.rate);
        let reporter = spawn_local(progress_loop(self.clone(), pace.clone(), started));
        clients = self.drive(clients, &pace).await;
        settled().await;
        let elapsed = started.elapsed();
        let cpu = own_cpu().saturating_sub(cpu);
        self.observer.ended();
        reporter.abort();
        let mut report = self.report(workload, elapsed, cpu);
        report.missed = pace.missed();
        (report, clients)
    }

    /// Lets all clients work until the pace ends.
    async fn drive<C: Client + 'static>(self: &Rc<Scope>, clients: Vec<C>, pace: &Rc<Pace>) -> Vec<C> {
        let mut tasks = JoinSet::new();
        for client in clients {
            tasks.spawn_local(client_loop(client, pace.clone(), self.clone()));
        }
        let clock = pace.clone();
        let clock = spawn_local(async move { clock.release_loop().await });
        let mut clients = Vec::with_capacity(tasks.len());
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok(client) => clients.push(client),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        clock.abort();
        clients
    }

    /// What was recorded, as it is told.
    pub(crate) fn report(&self, workload: &'static str, elapsed: Duration, cpu: Duration) -> Report {
        let recorded = self.recorder.finish();
        let operations = recorded.whole.count();
        let sum = |pick: fn((u64, u64)) -> u64| self.callers.iter().map(|caller| pick(caller.bytes())).sum();
        Report {
            workload,
            endpoints: self.endpoints.clone(),
            clients: self.settings.clients,
            connections: self.callers.len(),
            rate_wanted: self.settings.rate,
            seconds: rounded(elapsed.as_secs_f64()),
            operations,
            rate: rate(operations, elapsed),
            latency: recorded.whole.summary(),
            parts: recorded.parts.iter().map(|(name, latencies)| (*name, part(latencies, elapsed))).collect(),
            figures: recorded.figures,
            missed: 0,
            failed: recorded.errors.values().sum(),
            errors: by_name(&recorded.errors),
            refused: by_name(&recorded.refused),
            first_error: recorded.first_failure.map(|failure| failure.to_string()),
            bytes_sent: sum(|(sent, _)| sent),
            bytes_received: sum(|(_, received)| received),
            generator_cpu_us: rounded(cpu.as_secs_f64() * 1e6 / float(operations.max(1))),
            worst_second: Report::worst(&recorded.by_second),
            by_second: recorded.by_second,
        }
    }

    /// Notes a failure, and tells the first.
    pub(crate) fn failed(&self, failure: &Failure) {
        if self.recorder.failure(failure) {
            self.observer.first_failure(failure);
        }
    }
}

fn by_name(counts: &BTreeMap<Code, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(code, count)| (code.to_string(), *count)).collect()
}

async fn client_loop<C: Client>(mut client: C, pace: Rc<Pace>, scope: Rc<Scope>) -> C {
    let patience = scope.settings.patience;
    while let Some(ticket) = pace.take().await {
        match within(patience, client.operate(ticket.number)).await {
            Ok(()) => scope.recorder.success(ticket.due),
            Err(failure) => {
                scope.failed(&failure);
                sleep(FAILURE_PAUSE).await;
            }
        }
    }
    client
}

/// Tells how far a run is, and hears whether it is to end.
async fn progress_loop(scope: Rc<Scope>, pace: Rc<Pace>, started: Instant) {
    let (total, time) = match scope.settings.amount {
        Amount::Total(total) => (Some(total), None),
        Amount::Time(time) => (None, Some(time)),
    };
    loop {
        sleep(PROGRESS_INTERVAL).await;
        let (operations, failed) = scope.recorder.counts();
        let latest = scope.recorder.latest_second().map(|second| (second.operations, second.p99_ms));
        let elapsed = started.elapsed();
        scope.observer.progress(&Progress { operations, failed, total, elapsed, time, latest });
        if scope.observer.is_stopped() {
            pace.stop();
        }
    }
}

/// CPU time of this process so far.
pub fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
