//! The workloads, one file each. Every file has what can be chosen, and how one operation of it goes.

mod fill;
mod lease_keepalive;
mod leases;
mod lock;
mod lock_api;
mod put;
mod range;
mod watch;
mod watching;

use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use tokio::task::LocalSet;

pub use lease_keepalive::LeaseKeepalive;
pub use lock::{Lock, LockApi};
pub use put::Put;
pub use range::Range;
pub use watch::Watch;

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
    LeaseKeepalive(LeaseKeepalive),
    Lock(Lock),
    Watch(Watch),
}

/// Runs a workload to its end, on the caller's thread, whose runtime must have IO and time.
pub async fn run(workload: &Workload, settings: &Settings, observer: Rc<dyn Observer>) -> Result<Report, Error> {
    LocalSet::new().run_until(run_local(workload, settings, observer)).await
}

async fn run_local(workload: &Workload, settings: &Settings, observer: Rc<dyn Observer>) -> Result<Report, Error> {
    let scope = Rc::new(Scope::new(settings, observer).await?);
    match workload {
        Workload::Put(put) => put.run(&scope).await,
        Workload::Range(range) => range.run(&scope).await,
        Workload::LeaseKeepalive(keepalive) => keepalive.run(&scope).await,
        Workload::Lock(lock) => lock.run(&scope).await,
        Workload::Watch(watch) => watch.run(&scope).await,
    }
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
