//! `lease-expire`: how late leases end that nobody renews.
//!
//! Each lease has a key, and a watch sees it go. A lease promises its TTL from the moment at which the client knows of
//! it, so lateness counts from there. A key that goes before the TTL is over, counted from when the grant was *sent*, is a
//! broken promise, and is counted as early.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::mvccpb::event::EventType;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::PUT;
use super::leases::grant;
use super::watching::{judge, open};
use crate::caller::{Answers, Caller};
use crate::drive::{Scope, own_cpu};
use crate::failure::{Error, Failure};
use crate::keys::Keys;
use crate::recorder::float;
use crate::report::Report;
use crate::target::within;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct LeaseExpire {
    /// One for each lease.
    pub keys: Keys,
    /// Servers raise what is less than they can keep.
    pub ttl: Duration,
}

/// When a lease may end and when it is due.
#[derive(Clone, Copy, Debug)]
struct Due {
    not_before: Instant,
    at: Instant,
}

/// Those that are still there, by key.
type Alive = Rc<RefCell<HashMap<Bytes, Due>>>;

impl LeaseExpire {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let total = scope.settings.total("lease-expire")?.min(self.keys.count);
        let watch = pb::WatchCreateRequest {
            key: self.keys.prefix_start(),
            range_end: self.keys.prefix_end(),
            ..pb::WatchCreateRequest::default()
        };
        let opened = within(scope.settings.patience, open(&scope.caller(0), vec![watch])).await;
        let (_requests, answers) = opened.map_err(Error::preparing("opening a watch"))?;
        let alive = Alive::default();
        let (cpu, started) = (own_cpu(), Instant::now());
        scope.observer.begun();
        scope.recorder.begin(started);
        scope.observer.stage("granting leases");
        self.grant(scope, total, &alive).await?;
        scope.observer.stage("waiting for the ends");
        let last = alive.borrow().values().map(|due| due.at).max().unwrap_or(started);
        let patience = last.saturating_duration_since(Instant::now()) + scope.settings.patience;
        let seen = within(patience, watch_ends(answers, scope, &alive)).await;
        if let Err(failure) = seen {
            (0..alive.borrow().len()).for_each(|_| scope.failed(&failure));
        }
        scope.observer.ended();
        Ok(scope.report("lease-expire", started.elapsed(), own_cpu().saturating_sub(cpu)))
    }

    /// Grants all leases, each with its key, by all clients at once.
    async fn grant(&self, scope: &Scope, total: u64, alive: &Alive) -> Result<(), Error> {
        let clients = scope.settings.clients;
        let mut tasks = JoinSet::new();
        for at in 0..clients {
            let (caller, keys, alive) = (scope.caller(at), self.keys.clone(), alive.clone());
            let (ttl, patience) = (self.ttl, scope.settings.patience);
            tasks.spawn_local(async move {
                for index in (at as u64..total).step_by(clients) {
                    let key = keys.at(index);
                    let due = within(patience, grant_one(&caller, key.clone(), ttl)).await?;
                    alive.borrow_mut().insert(key, due);
                }
                Ok::<(), Failure>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            if let Ok(granted) = done {
                granted.map_err(Error::preparing("granting leases"))?;
            }
        }
        Ok(())
    }
}

async fn grant_one(caller: &Caller, key: Bytes, ttl: Duration) -> Result<Due, Failure> {
    let sent = Instant::now();
    let lease = grant(caller, ttl).await?;
    let known = Instant::now();
    let put = pb::PutRequest { key, lease: lease.id, ..pb::PutRequest::default() };
    caller.call::<pb::PutResponse>(PUT, &put).await?;
    Ok(Due { not_before: sent + lease.ttl, at: known + lease.ttl })
}

/// Notes every end, until none is left.
async fn watch_ends(mut answers: Answers, scope: &Scope, alive: &Alive) -> Result<(), Failure> {
    let mut early = 0;
    scope.recorder.figure("early", 0.0);
    while !alive.borrow().is_empty() {
        let answer = answers.next::<pb::WatchResponse>().await?;
        let answer = answer.ok_or_else(|| Failure::answer("a watch stream has ended"))?;
        judge(&answer)?;
        let now = Instant::now();
        let deleted = answer.events.iter().filter(|event| event.r#type() == EventType::Delete);
        for kv in deleted.filter_map(|event| event.kv.as_ref()) {
            let Some(due) = alive.borrow_mut().remove(&kv.key) else { continue };
            scope.recorder.took(now.saturating_duration_since(due.at), now);
            if now < due.not_before {
                early += 1;
                scope.recorder.figure("early", float(early));
            }
        }
    }
    Ok(())
}
