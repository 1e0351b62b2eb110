//! Native locks as the services ask for them: to acquire, which may take a while, and to look at.
//!
//! An acquire that has to wait becomes a task, which owns all that it takes: its place among those that wait here, its
//! deadline, and the far end of what the client reads. When the client goes away before it is told that it holds the lock,
//! the request is cancelled, by the attach number of this try, so that one that took it over elsewhere is not touched.
//! What was granted stays granted.

mod detail;
mod hub;
mod why;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenure_core::command::{Command, LockAcquire, LockCancel, LockRequest};
use tenure_core::lock::{Contender, lock_key, read};
use tenure_core::outcome::{LockAnswer, Outcome, Refusal, Response};
use tenure_core::planted::{Bug, is_on};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Revision};
use tenure_raft::runtime;
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Node, RequestError};
use hub::{Underway, Waiting};

pub use detail::{LOCKS_PER_PAGE_MAX, LockDetail, LockStanding, LockSummary};
pub use hub::LockHub;
pub use why::{LockTransition, LockWhy, TRANSITIONS_MAX};

/// What one acquire tells: that it waits, and that it waits no more.
const STEPS_MAX: usize = 2;

/// How soon a cancel is tried again, and how often. Then the request's lease has to end it.
const CANCEL_RETRY: Duration = Duration::from_millis(100);
const CANCEL_TRIES_MAX: usize = 100;

/// An acquire, and until when it may wait.
#[derive(Clone, Debug)]
pub struct LockWanted {
    /// What is wanted.
    pub acquire: LockAcquire,
    /// None: for as long as the lease lives.
    pub wait: Option<Duration>,
}

/// What an acquire tells its client.
#[derive(Clone, Debug)]
pub enum LockStep {
    /// It waits.
    Waiting {
        /// How many contenders are ahead, if it has just joined.
        ahead: Option<u64>,
        /// The oldest contender.
        holder: Option<LockDetail>,
        /// The store's revision.
        revision: Revision,
    },
    /// It holds the lock. Nothing follows.
    Granted {
        /// The fencing token.
        token: Revision,
        /// The lock's key.
        key: Bytes,
        /// How often it is held.
        holds: u32,
        /// The store's revision.
        revision: Revision,
    },
    /// It would have to wait. Nothing follows.
    Busy {
        /// The oldest contender.
        holder: Option<LockDetail>,
        /// The store's revision.
        revision: Revision,
    },
}

/// How an acquire ended without the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockUngranted {
    /// As other requests end.
    Failed(RequestError),
    /// Its time was over; it is finished.
    TimeOver,
    /// Its key was taken away while it waited.
    TakenAway,
}

impl From<RequestError> for LockUngranted {
    fn from(error: RequestError) -> LockUngranted {
        LockUngranted::Failed(error)
    }
}

/// What an acquire tells, to read. Dropping it cancels the acquire if it waits.
pub type LockSteps = mpsc::Receiver<Result<LockStep, LockUngranted>>;

/// What became of an acquire when its entry was applied.
pub enum LockAcquired {
    /// It holds the lock, or will not.
    Ended(Result<LockStep, LockUngranted>),
    /// It waits.
    Waits(LockSteps),
}

impl Node {
    /// Takes a lock, or begins to wait for it, here until `stop`. Dropping it cancels the acquire; `stop` does not: its client
    /// asks again elsewhere.
    pub async fn acquire_lock(
        &self,
        wanted: LockWanted,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> LockAcquired {
        let Some(underway) = self.shared.locks.begin() else {
            return LockAcquired::Ended(Err(RequestError::TooManyRequests.into()));
        };
        let deadline = wanted.wait.map(|wait| Instant::now() + wait);
        let key = lock_key(&wanted.acquire.name, wanted.acquire.request.lease);
        let acquiring =
            Arc::new(Acquiring { node: self.clone(), acquire: wanted.acquire, deadline, key, _underway: underway });
        let mut begun = Begun(Some(acquiring.clone()));
        let joined = acquiring.join().await;
        begun.0 = None;
        match joined {
            Ok(Joined::Ended(step)) => LockAcquired::Ended(Ok(step)),
            Ok(Joined::Waits { waiting, ahead }) => {
                let (tell, steps) = mpsc::channel(STEPS_MAX);
                // It ends with the lock, with its client, with its deadline, or with the request's lease.
                drop(runtime::spawn(async move { acquiring.wait(waiting, tell, ahead, stop).await }));
                LockAcquired::Waits(steps)
            }
            Err(ungranted) => LockAcquired::Ended(Err(ungranted)),
        }
    }
}

/// An acquire of which the client knows nothing yet.
struct Begun(Option<Arc<Acquiring>>);

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(acquiring) = self.0.take() {
            // Its entry may be applied at any time. It ends with the cancel, or after some tries.
            drop(runtime::spawn(async move { acquiring.cancel().await }));
        }
    }
}

/// An acquire on its way.
struct Acquiring {
    node: Node,
    acquire: LockAcquire,
    deadline: Option<Instant>,
    key: Bytes,
    /// Until all tasks of it have ended.
    _underway: Underway,
}

/// What an acquire's entry did.
enum Joined {
    Ended(LockStep),
    Waits { waiting: Waiting, ahead: Option<u64> },
}

/// What a view says of a request.
enum Stands {
    Granted { token: Revision, holds: u32 },
    Waits,
    Gone { lease_lives: bool },
}

type Tell = mpsc::Sender<Result<LockStep, LockUngranted>>;

impl Acquiring {
    async fn join(&self) -> Result<Joined, LockUngranted> {
        if is_on(Bug::LockAnsweredEarly) {
            let view = self.node.shared.raft.view();
            if let Ok(Stands::Granted { token, holds }) = self.stands(&view) {
                let revision = view.meta().revision;
                return Ok(Joined::Ended(LockStep::Granted { token, key: self.key.clone(), holds, revision }));
            }
        }
        let Outcome { revision, result } = self.node.write(&Command::LockAcquire(self.acquire.clone())).await?;
        match result {
            Ok(Response::LockAcquire(LockAnswer::Granted { token, holds })) => {
                Ok(Joined::Ended(LockStep::Granted { token, key: self.key.clone(), holds, revision }))
            }
            Ok(Response::LockAcquire(LockAnswer::Busy)) => {
                let holder = self.node.lock_holder(&self.acquire.name)?;
                Ok(Joined::Ended(LockStep::Busy { holder, revision }))
            }
            Ok(Response::LockAcquire(LockAnswer::Queued { ahead })) => {
                // What happened in between, the view tells.
                Ok(Joined::Waits { waiting: self.node.shared.locks.join(self.key.clone()), ahead })
            }
            Ok(_) => Err(RequestError::Storage.into()),
            Err(refusal) => Err(RequestError::from(refusal).into()),
        }
    }

    /// Waits for the grant, the client's going away, the deadline or the end of the key.
    async fn wait(&self, mut waiting: Waiting, tell: Tell, ahead: Option<u64>, stop: impl Future<Output = ()>) {
        let ended = tokio::select! {
            biased;
            ended = self.waited(&mut waiting, &tell, ahead) => ended,
            () = stop => Err(RequestError::Stopped.into()),
        };
        let is_granted = matches!(ended, Ok(LockStep::Granted { .. }));
        // A client that has gone does not want to know of anything but this, and will not by this try.
        if tell.send(ended).await.is_err() && is_granted {
            self.cancel().await;
        }
    }

    async fn waited(&self, waiting: &mut Waiting, tell: &Tell, ahead: Option<u64>) -> Result<LockStep, LockUngranted> {
        let holder = self.node.lock_holder(&self.acquire.name)?;
        let revision = self.node.shared.raft.view().meta().revision;
        // Whether the client is still there, it is asked when there is something to lose.
        drop(tell.send(Ok(LockStep::Waiting { ahead, holder, revision })).await);
        loop {
            let view = self.node.shared.raft.view();
            match self.stands(&view) {
                Ok(Stands::Waits) => {}
                Ok(Stands::Granted { token, holds }) => {
                    let revision = view.meta().revision;
                    return Ok(LockStep::Granted { token, key: self.key.clone(), holds, revision });
                }
                Ok(Stands::Gone { .. }) if is_on(Bug::LockGrantOfGoneKey) => {
                    let (token, now) = (revision, view.meta().revision);
                    return Ok(LockStep::Granted { token, key: self.key.clone(), holds: 1, revision: now });
                }
                Ok(Stands::Gone { lease_lives: true }) => return Err(LockUngranted::TakenAway),
                Ok(Stands::Gone { lease_lives: false }) => {
                    return Err(RequestError::from(Refusal::LeaseNotFound).into());
                }
                Err(error) => return Err(self.node.storage_failed(&error).into()),
            }
            // It keeps a snapshot of the engine.
            drop(view);
            tokio::select! {
                () = waiting.changed() => {}
                () = tell.closed() => {
                    if !is_on(Bug::LockGhostOfStream) {
                        self.cancel().await;
                    }
                    return Err(RequestError::Stopped.into());
                }
                () = until(self.deadline) => {
                    let ended = self.cancel().await;
                    return Err(if ended { LockUngranted::TimeOver } else { RequestError::Timeout.into() });
                }
            }
        }
    }

    fn stands(&self, view: &StateView) -> Result<Stands, StorageError> {
        let LockRequest { lease, number, .. } = self.acquire.request;
        let of_lease = StateRead::lease(view, lease)?;
        let gone = Ok(Stands::Gone { lease_lives: of_lease.is_some() });
        let Some(meta) = view.current_meta(&self.key)?.filter(|meta| meta.lease == lease) else { return gone };
        let contender = read::contender(view, &self.acquire.name, meta.create, &self.key)?;
        let Some(Contender { granted, native: Some(native) }) = contender else { return gone };
        // The lease may be another one by now, of the same id.
        let is_same = of_lease.is_some_and(|lease| lease.incarnation == native.incarnation);
        if !is_same || !native.requests.iter().any(|request| request.number == number) {
            return gone;
        }
        let holds = u32::try_from(native.requests.len()).unwrap_or(u32::MAX);
        Ok(granted.map_or(Stands::Waits, |_| Stands::Granted { token: meta.create, holds }))
    }

    /// Ends the request, as far as this try of it goes. Answers whether that is certain.
    async fn cancel(&self) -> bool {
        let LockAcquire { name, request, .. } = &self.acquire;
        let cancel = Command::LockCancel(LockCancel { name: name.clone(), request: *request });
        for _ in 0..CANCEL_TRIES_MAX {
            match self.node.write(&cancel).await.map(|outcome| outcome.result) {
                // Nothing of this try is left; without a lease neither.
                Ok(Ok(_) | Err(Refusal::LeaseNotFound)) => return true,
                Ok(Err(_)) | Err(RequestError::Refused(_)) => return false,
                Err(RequestError::Stopped | RequestError::Storage) => return false,
                Err(RequestError::Timeout | RequestError::LeaderLost | RequestError::TooManyRequests) => {
                    tokio::time::sleep(CANCEL_RETRY).await;
                }
            }
        }
        false
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The lease of a request for a lock, if somebody is asked about it.
pub(super) fn lease_left_ms(view: &StateView, lease: LeaseId, reading: u64) -> Result<u64, StorageError> {
    if !lease.is_some() {
        return Ok(0);
    }
    let row = StateRead::lease(view, lease)?;
    Ok(row.map_or(0, |row| super::LeaseInfo::new(lease, &row, reading).left_ms))
}
