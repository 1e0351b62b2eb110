//! `lock`: a lock taken and let go, by one of three ways. An operation is both; its parts tell them apart.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::leases::{grant_all, revoke_all};
use super::lock_api::Seat;
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::recorder::Recorder;
use crate::report::Report;

/// By which way a lock is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockApi {
    /// etcd's lock service: the server waits.
    #[default]
    V3lock,
    /// What etcd's client libraries do: a transaction, a watch if somebody else is first, a delete.
    Recipe,
    /// Tenure's own service, `tenure.v1.Locks`.
    Native,
}

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Lock {
    pub api: LockApi,
    /// How many locks there are; none for one for each client. Fewer than clients make them wait for each other.
    pub locks: Option<usize>,
    /// What the names begin with.
    pub prefix: String,
    /// Of the clients' leases, which are not renewed: longer than the run.
    pub ttl: Duration,
}

struct Locker {
    seat: Seat,
    recorder: Rc<Recorder>,
}

impl Lock {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let leases = grant_all(scope, scope.settings.clients, self.ttl).await?;
        let locks = self.locks.unwrap_or(leases.len()).max(1);
        let client = |(at, lease): (usize, &super::leases::Lease)| {
            let name = format!("{}{:06}", self.prefix, at % locks);
            let seat = Seat::new(scope.caller(at), self.api, name, lease.id)?;
            Ok(Locker { seat, recorder: scope.recorder.clone() })
        };
        let clients = leases.iter().enumerate().map(client).collect::<Result<Vec<_>, Failure>>();
        let mut clients = clients.map_err(Error::preparing("preparing"))?;
        if self.api == LockApi::Native {
            // One try tells whether the server has the service at all.
            if let Some(first) = clients.first_mut() {
                first.operate(0).await.map_err(needs_tenure)?;
            }
        }
        let (report, _) = scope.measure("lock", clients).await;
        revoke_all(scope, &leases).await;
        Ok(report)
    }
}

fn needs_tenure(failure: Failure) -> Error {
    if failure.is_unimplemented() {
        return Error::Settings("native locks need Tenure: this server has no tenure.v1.Locks".to_owned());
    }
    Error::Preparation { doing: "trying a lock", failure }
}

impl Client for Locker {
    async fn operate(&mut self, _number: u64) -> Result<(), Failure> {
        let started = Instant::now();
        let held = self.seat.lock().await?;
        self.recorder.part("lock", started);
        let started = Instant::now();
        self.seat.unlock(held).await?;
        self.recorder.part("unlock", started);
        Ok(())
    }
}
