//! How a registration gets its lease and its key, one attempt at a time.
//!
//! Whatever was found at the key, `stamp` decides, and a transaction that depends on it writes. Nothing is remembered here between two attempts
//! but the stamp, so an attempt can be dropped at any point.

use super::super::error::DiscoveryError;
use super::super::keep::Keep;
use super::super::record::Record;
use super::super::stamp::{Found, Stamp, Verdict, judge};
use super::super::store::{InstanceKey, Store, Wrote};
use super::RegisterOptions;
use super::backoff::wait_before;
use crate::{Error, LeaseId, Revision};

/// Why the key is not ours.
#[derive(Debug)]
pub(super) enum Refusal {
    Superseded,
    Client(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

/// See the module's header.
pub(super) struct Claimant {
    pub(super) store: Store,
    pub(super) key: InstanceKey,
    pub(super) record: Record,
    pub(super) options: RegisterOptions,
}

impl Claimant {
    /// Takes the key, whoever has it, with a stamp that is greater than that of all before.
    pub(super) async fn claim_first(&mut self, lease: LeaseId) -> Result<i64, DiscoveryError> {
        loop {
            let (revision, kv) = self.store.find(&self.key).await?;
            let found = self.key.judge(kv.as_ref());
            let is_own = matches!(&found, Found::Registration { stamp, .. } if self.record.stamp.is_same(stamp));
            if let Some(kv) = kv.filter(|_| !self.options.replace && !is_own) {
                return Err(DiscoveryError::Taken {
                    kind: self.key.kind.clone(),
                    id: self.key.id.clone(),
                    create_revision: Revision(kv.create_revision),
                });
            }
            if !is_own {
                let clock = self.store.0.clock();
                self.record.stamp = Stamp::new(revision, [clock.random(), clock.random()]);
            }
            match judge(&self.record.stamp, lease.0, &found, false) {
                Verdict::Stands => return Ok(found.mod_revision()),
                // It came between; what is read next is later than it.
                Verdict::Superseded { .. } => {}
                Verdict::Write { if_mod_revision } => {
                    match self.store.put_if(&self.key, self.record.encode(), lease.0, if_mod_revision).await? {
                        Wrote::Yes { revision } => return Ok(revision),
                        Wrote::No { .. } => {}
                    }
                }
            }
        }
    }

    /// Makes sure that the key is ours on this lease, given what was found there. With `again` it is written even if it is.
    pub(super) async fn claim(&self, lease: LeaseId, mut found: Found, again: bool) -> Result<i64, Refusal> {
        loop {
            match judge(&self.record.stamp, lease.0, &found, again) {
                Verdict::Stands => return Ok(found.mod_revision()),
                Verdict::Superseded { by } => {
                    tracing::info!(key = self.key.key, own = %self.record.stamp, %by, "the registration has a successor");
                    return Err(Refusal::Superseded);
                }
                Verdict::Write { if_mod_revision } => {
                    match self.store.put_if(&self.key, self.record.encode(), lease.0, if_mod_revision).await? {
                        Wrote::Yes { revision } => return Ok(revision),
                        Wrote::No { found: other } => found = other,
                    }
                }
            }
        }
    }

    /// One try to register again: a wait, a new lease, and the key.
    pub(super) async fn attempt(&self, attempt: u32) -> Result<(Keep, i64), Refusal> {
        let [first, longest] = self.options.backoff;
        let clock = self.store.0.clock();
        clock.sleep(wait_before(attempt, first, longest, self.options.ttl, clock.random())).await;
        let keep = self.keep().await?;
        let (_, kv) = self.store.find(&self.key).await?;
        let mod_revision = self.claim(keep.lease(), self.key.judge(kv.as_ref()), true).await?;
        Ok((keep, mod_revision))
    }

    pub(super) async fn keep(&self) -> Result<Keep, Error> {
        Keep::start(&self.store.0, self.options.ttl, &self.key.key).await
    }
}
