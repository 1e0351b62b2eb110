//! `lease-keepalive`: every client renews a lease of its own, again and again.
//!
//! etcd's clients have one stream for all their leases; many clients have many. Both are here: a stream for each lease, or
//! some that share them. On a shared stream, answers find their way back by the lease's id.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tenure_proto::etcdserverpb as pb;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

use super::LEASE_KEEP_ALIVE;
use super::leases::{grant_all, revoke_all};
use crate::caller::{Answers, Caller, Requests};
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::report::Report;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct LeaseKeepalive {
    pub ttl: Duration,
    /// Streams that the leases share; none for one each.
    pub streams: Option<usize>,
}

impl LeaseKeepalive {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let leases = grant_all(scope, scope.settings.clients, self.ttl).await?;
        let report = match self.streams {
            None => {
                let client = |(at, lease): (usize, &super::leases::Lease)| Alone {
                    caller: scope.caller(at),
                    lease: lease.id,
                    stream: None,
                };
                scope.measure("lease-keepalive", leases.iter().enumerate().map(client).collect()).await.0
            }
            Some(count) => {
                let streams: Vec<_> = (0..count.max(1)).map(|at| Rc::new(Shared::new(scope.caller(at)))).collect();
                let client = |(at, lease): (usize, &super::leases::Lease)| Sharing {
                    stream: streams[at % streams.len()].clone(),
                    lease: lease.id,
                };
                scope.measure("lease-keepalive", leases.iter().enumerate().map(client).collect()).await.0
            }
        };
        revoke_all(scope, &leases).await;
        Ok(report)
    }
}

/// A client with a stream of its own.
struct Alone {
    caller: Caller,
    lease: i64,
    stream: Option<(Requests, Answers)>,
}

impl Client for Alone {
    async fn operate(&mut self, _number: u64) -> Result<(), Failure> {
        // It is put back only if all went well: what comes late on a stream would be taken for the next answer.
        let (mut requests, mut answers) = match self.stream.take() {
            Some(stream) => stream,
            None => self.caller.stream(LEASE_KEEP_ALIVE).await?,
        };
        requests.send(&pb::LeaseKeepAliveRequest { id: self.lease })?;
        let answer = answers.next().await?.ok_or_else(|| Failure::answer("the stream has ended"))?;
        judge(&answer)?;
        self.stream = Some((requests, answers));
        Ok(())
    }
}

fn judge(answer: &pb::LeaseKeepAliveResponse) -> Result<(), Failure> {
    if answer.ttl > 0 { Ok(()) } else { Err(Failure::answer("the lease is gone")) }
}

/// A client that shares its stream.
struct Sharing {
    stream: Rc<Shared>,
    lease: i64,
}

struct Shared {
    caller: Caller,
    /// Held while it is opened, too: it is opened once.
    requests: tokio::sync::Mutex<Option<Requests>>,
    waiting: Rc<Waiting>,
    reader: RefCell<Option<JoinHandle<()>>>,
}

/// Who waits for an answer, by lease.
type Waiting = RefCell<HashMap<i64, oneshot::Sender<Result<pb::LeaseKeepAliveResponse, Failure>>>>;

impl Shared {
    fn new(caller: Caller) -> Shared {
        let (requests, reader) = (tokio::sync::Mutex::new(None), RefCell::new(None));
        Shared { caller, requests, waiting: Rc::default(), reader }
    }

    async fn send(&self, lease: i64) -> Result<(), Failure> {
        let mut slot = self.requests.lock().await;
        let is_read = self.reader.borrow().as_ref().is_some_and(|reader| !reader.is_finished());
        let requests = match slot.as_mut().filter(|_| is_read) {
            Some(requests) => requests,
            None => {
                let (requests, answers) = self.caller.stream(LEASE_KEEP_ALIVE).await?;
                self.reader.replace(Some(spawn_local(read_loop(answers, self.waiting.clone()))));
                slot.insert(requests)
            }
        };
        requests.send(&pb::LeaseKeepAliveRequest { id: lease })
    }
}

impl Client for Sharing {
    async fn operate(&mut self, _number: u64) -> Result<(), Failure> {
        let (sender, receiver) = oneshot::channel();
        self.stream.waiting.borrow_mut().insert(self.lease, sender);
        self.stream.send(self.lease).await?;
        let answer = receiver.await.map_err(|_| Failure::answer("the stream has ended"))?;
        judge(&answer?)
    }
}

async fn read_loop(mut answers: Answers, waiting: Rc<Waiting>) {
    let failure = loop {
        match answers.next::<pb::LeaseKeepAliveResponse>().await {
            Ok(Some(answer)) => {
                if let Some(waiter) = waiting.borrow_mut().remove(&answer.id) {
                    // Who no longer waits has failed already.
                    let _late = waiter.send(Ok(answer));
                }
            }
            Ok(None) => break Failure::answer("the stream has ended"),
            Err(failure) => break failure,
        }
    };
    for (_, waiter) in waiting.borrow_mut().drain() {
        let _late = waiter.send(Err(failure.clone()));
    }
}
