//! Locks and elections by etcd's layout, as the services `v3lockpb` and `v3electionpb` offer them.
//!
//! Both are contests of keys under a name; the oldest create revision is the first, holds the lock, leads. Whoever writes
//! such a key contends, so these services, etcd's recipes in clients and plain puts are in one queue:
//!
//! ```text
//! a Lock by lease 2f   one transaction: put jobs/2f unless it is there   → revision 10, behind jobs/1c of revision 7
//!                      wait here for the deletion of jobs/1c, or of jobs/2f
//! jobs/1c is deleted   look at a state that is sure to be the newest: jobs/2f is there since revision 10, nothing is older
//!                      → answered. Had jobs/2f been gone, or made anew: an error, at once
//! ```
//!
//! Each call waits for one key, so a release wakes one call, and waiting costs the log nothing. A wait ends by the client's
//! deadline and by nothing else: it outlasts changes of leader, times without one, compaction and a full store. What a
//! call leaves that ends early is in `claim` and `caretaker`.

mod caretaker;
mod claim;
mod election;
mod fates;
mod names;
mod observer;
mod places;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tenure_core::command::{Command, KeyRange, LeaseGrant};
use tenure_core::outcome::Refusal;
use tenure_core::row::LeaseHolder;
use tenure_core::{LeaseId, Revision};
use tenure_storage::state_view::StateView;
use tokio::time::{MissedTickBehavior, interval};

use super::watch::{Changes, Kinds};
use super::{Node, RequestError, pick_lease_id};
use claim::Held;
use names::Contest;
use places::{Place, Standing};

pub(in crate::node) use caretaker::Caretaker;
pub use election::LeaderKey;
pub use fates::Fates;
pub use observer::{Observed, Observer};
pub(in crate::node) use places::Places;

use caretaker::Left;

/// The TTL of a lease that is made for a call that brings none: etcd's.
const OWN_LEASE_TTL: Duration = Duration::from_secs(60);

/// Such a lease is renewed while its call waits, this often in a TTL: nobody else knows of it.
const RENEWALS_PER_TTL: u32 = 3;

/// The pause before a state is asked for again that could not be had.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Deletes and nothing else.
const DELETES: Kinds = Kinds { puts: false, deletes: true };

/// Who wants to hold a lock or to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The lock's or election's name.
    pub name: Bytes,
    /// The lease to do it by; none to have one made.
    pub lease: LeaseId,
    /// What a campaign proclaims. A lock has none.
    pub value: Option<Bytes>,
}

/// A lock that is held, an election that is won.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Won {
    /// The key by which it is.
    pub key: Bytes,
    /// Its create revision.
    pub create: Revision,
    /// Its lease.
    pub lease: LeaseId,
    /// The store's revision once the key had been written.
    pub registered: Revision,
    /// The revision of the state that showed the key to be the first.
    pub seen: Revision,
}

/// Why a contest is not won, or not led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContestError {
    /// The request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The key is gone, with its lease or without.
    #[error("the key is gone")]
    Lost,
}

/// How much is under way in contests. One per process.
#[derive(Debug, Default)]
pub struct ContestCounters {
    /// Lock and Campaign calls that are not answered yet.
    pub calls: AtomicUsize,
    /// Keys and leases of calls that ended early which are still to be removed, or may still come to be.
    pub left: AtomicUsize,
}

/// Something that is counted until it ends.
struct Counted<'c>(&'c AtomicUsize);

impl<'c> Counted<'c> {
    fn new(counter: &'c AtomicUsize) -> Counted<'c> {
        counter.fetch_add(1, Ordering::Relaxed);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A lease made for one call, which ends with it unless it is kept.
struct MadeLease {
    id: Option<LeaseId>,
    care: Caretaker,
}

impl Drop for MadeLease {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.care.leave(Left::Lease(id));
        }
    }
}

impl Node {
    /// Contends, and returns once the contest is won. Ended before, by `stop`, by an error or by being dropped, it leaves no
    /// key behind that it made. A client that hears an error finds none any more, unless a time-out left the write open.
    pub async fn contend(&self, wish: Wish, stop: impl Future<Output = ()>) -> Result<Won, ContestError> {
        let _counted = Counted::new(&self.shared().contests.calls);
        let mut made = match wish.lease {
            LeaseId::NONE => Some(self.make_lease().await?),
            _ => None,
        };
        let own = made.as_ref().and_then(|made| made.id);
        let lease = own.unwrap_or(wish.lease);
        let (claim, outcome) = self.register(Contest::new(wish.name), lease, wish.value.as_ref()).await?;
        let Some(held) = claim.held().cloned() else { return Err(RequestError::Stopped.into()) };
        let won = tokio::select! {
            biased;
            won = self.win(&held, own) => won,
            () = stop => Err(RequestError::Stopped.into()),
        };
        match won {
            Ok(seen) => {
                claim.keep();
                if let Some(made) = &mut made {
                    made.id = None;
                }
                let (registered, seen) = (outcome.revision, seen.unwrap_or(outcome.revision));
                Ok(Won { key: held.who.key, create: held.who.create, lease, registered, seen })
            }
            Err(error) => {
                claim.release(self.shared().request_timeout).await;
                Err(error)
            }
        }
    }

    /// Waits until a key is the first of its contest. The revision is of the state that showed it; none if it was the
    /// first when it was written.
    async fn win(&self, held: &Held, own_lease: Option<LeaseId>) -> Result<Option<Revision>, ContestError> {
        // This one has what was just written.
        let mut view = self.shared().raft.view();
        let mut has_waited = false;
        loop {
            let Place { standing, at } = self.places.find(&view, &held.contest, &held.who).await?;
            // It would keep alive what it shows for as long as the wait takes.
            drop(view);
            let before = match standing {
                Standing::Gone => return Err(ContestError::Lost),
                Standing::First => return Ok(has_waited.then_some(at)),
                Standing::Behind(before) => before,
            };
            let keys = [before.key, held.who.key.clone()].map(|key| (KeyRange::One(key), DELETES));
            let changes =
                Changes::after(at, &self.shared().watches, keys).map_err(|_| RequestError::TooManyRequests)?;
            self.wait(&changes, own_lease).await;
            has_waited = true;
            view = self.newest_view().await?;
        }
    }

    /// Waits for a change, and lets no lease end meanwhile of which the client does not know.
    async fn wait(&self, changes: &Changes, own_lease: Option<LeaseId>) {
        let Some(lease) = own_lease else { return changes.any().await };
        let mut renewals = interval(OWN_LEASE_TTL / RENEWALS_PER_TTL);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let renewing = async {
            loop {
                renewals.tick().await;
                if let Err(error) = self.renew_lease(lease).await {
                    tracing::debug!(%error, "a lease made for a waiting call was not renewed this time");
                }
            }
        };
        tokio::select! {
            () = changes.any() => {}
            () = renewing => {}
        }
    }

    /// The state as of now, however long there is no leader.
    async fn newest_view(&self) -> Result<Arc<StateView>, RequestError> {
        loop {
            match self.view(false).await {
                Err(RequestError::Timeout | RequestError::LeaderLost | RequestError::TooManyRequests) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// Makes a lease for a call that brings none.
    async fn make_lease(&self) -> Result<MadeLease, RequestError> {
        let ttl = OWN_LEASE_TTL.max(self.lease_ttl_min());
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        loop {
            let id = pick_lease_id();
            // Dropped from here on, or left without an answer, it is revoked if it was granted.
            let made = MadeLease { id: Some(id), care: self.care.clone() };
            let grant = Command::LeaseGrant(LeaseGrant { id, ttl_ms, holder: LeaseHolder::default() });
            match self.write(&grant).await?.result {
                Ok(_) => return Ok(made),
                Err(Refusal::LeaseExists) => forget(made),
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }
}

/// It is somebody else's.
fn forget(mut made: MadeLease) {
    made.id = None;
}
