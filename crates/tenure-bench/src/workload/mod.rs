//! The workloads, one file each. Every file has what can be chosen, and how one operation of it goes.

mod failover;
mod fill;
mod lease_expire;
mod lease_grant;
mod lease_keepalive;
mod lease_revoke;
mod leases;
mod lock;
mod lock_api;
mod put;
mod range;
mod restart;
mod trigger;
mod txn;
mod watch;
mod watch_catch_up;
mod watch_latency;
mod watching;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::task::LocalSet;

pub use failover::Failover;
pub use lease_expire::LeaseExpire;
pub use lease_grant::LeaseGrant;
pub use lease_keepalive::LeaseKeepalive;
pub use lease_revoke::LeaseRevoke;
pub use lock::{Lock, LockApi};
pub use put::Put;
pub use range::Range;
pub use restart::Restart;
pub use trigger::Trigger;
pub use txn::{TxnMixed, TxnPut};
pub use watch::Watch;
pub use watch_catch_up::WatchCatchUp;
pub use watch_latency::WatchLatency;

use crate::drive::Scope;
use crate::failure::Error;
use crate::observer::Observer;
use crate::report::Report;
use crate::settings::Settings;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const DELETE_RANGE: &str = "/etcdserverpb.KV/DeleteRange";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// What a run does.
#[derive(Clone, Debug)]
pub enum Workload {
    Put(Put),
    Range(Range),
    TxnPut(TxnPut),
    TxnMixed(TxnMixed),
    LeaseGrant(LeaseGrant),
    LeaseKeepalive(LeaseKeepalive),
    LeaseExpire(LeaseExpire),
    LeaseRevoke(LeaseRevoke),
    Lock(Lock),
    Watch(Watch),
    WatchLatency(WatchLatency),
    WatchCatchUp(WatchCatchUp),
    Failover(Failover),
    Restart(Restart),
}

impl Workload {
    /// Whether a warm-up would use up or disturb what is measured.
    fn is_cold(&self) -> bool {
        matches!(
            self,
            Workload::LeaseExpire(_)
                | Workload::LeaseRevoke(_)
                | Workload::WatchCatchUp(_)
                | Workload::Failover(_)
                | Workload::Restart(_)
        )
    }
}

/// Runs a workload to its end, on the caller's thread, whose runtime must have IO and time.
pub async fn run(workload: &Workload, settings: &Settings, observer: Rc<dyn Observer>) -> Result<Report, Error> {
    // Boxed: what calls it would carry all of it.
    let local = LocalSet::new();
    Box::pin(local.run_until(run_local(workload, settings, observer))).await
}

async fn run_local(workload: &Workload, settings: &Settings, observer: Rc<dyn Observer>) -> Result<Report, Error> {
    let mut settings = settings.clone();
    if workload.is_cold() {
        settings.warm_up = Duration::ZERO;
    }
    if let Workload::Failover(_) = workload {
        // Every endpoint is probed.
        settings.connections = settings.connections.next_multiple_of(settings.endpoints.len().max(1));
    }
    if let Workload::Restart(restart) = workload {
        return restart.run(&settings, observer).await;
    }
    let scope = Rc::new(Scope::new(settings, observer).await?);
    // Boxed: their futures are of very different sizes.
    let running: Pin<Box<dyn Future<Output = Result<Report, Error>>>> = match workload.clone() {
        Workload::Put(put) => Box::pin(async move { put.run(&scope).await }),
        Workload::Range(range) => Box::pin(async move { range.run(&scope).await }),
        Workload::TxnPut(txn) => Box::pin(async move { txn.run(&scope).await }),
        Workload::TxnMixed(mixed) => Box::pin(async move { mixed.run(&scope).await }),
        Workload::LeaseGrant(grant) => Box::pin(async move { grant.run(&scope).await }),
        Workload::LeaseKeepalive(keepalive) => Box::pin(async move { keepalive.run(&scope).await }),
        Workload::LeaseExpire(expire) => Box::pin(async move { expire.run(&scope).await }),
        Workload::LeaseRevoke(revoke) => Box::pin(async move { revoke.run(&scope).await }),
        Workload::Lock(lock) => Box::pin(async move { lock.run(&scope).await }),
        Workload::Watch(watch) => Box::pin(async move { watch.run(&scope).await }),
        Workload::WatchLatency(watch) => Box::pin(async move { watch.run(&scope).await }),
        Workload::WatchCatchUp(watch) => Box::pin(async move { watch.run(&scope).await }),
        Workload::Failover(failover) => Box::pin(async move { failover.run(&scope).await }),
        Workload::Restart(_) => return Err(Error::Settings("restart has no connections yet".to_owned())),
    };
    running.await
}

/// Runs a workload on a thread of its own, and waits for it; for callers that have another kind of runtime.
pub fn run_on_thread<O: Observer + Send + 'static>(
    workload: Workload,
    settings: Settings,
    observer: O,
) -> Result<Report, Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let report = match runtime {
            Ok(runtime) => runtime.block_on(run(&workload, &settings, Rc::new(observer))),
            Err(error) => Err(Error::Local(format!("cannot start: {error}"))),
        };
        // Whoever waited is gone only if the process ends.
        let _told = sender.send(report);
    };
    let thread = thread::Builder::new().name("bench".to_owned()).spawn(work);
    let thread = thread.map_err(|error| Error::Local(format!("cannot start a thread: {error}")))?;
    let report = receiver.recv();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
    report.unwrap_or_else(|_| Err(Error::Local("the run ended without a report".to_owned())))
}
