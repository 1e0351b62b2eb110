//! Locks: by etcd's recipe, by its lock service and by Tenure's own, in the same queues; and resources that they guard.
//!
//! A resource remembers the highest token it has seen and lets in no lower one; the same is done in the store, by
//! transactions that compare and by guards. Now and then an owner sleeps for longer than its lease.
//!
//! When the round's work is over, nothing goes wrong any more. Then the native contenders contend once again, all at a time,
//! so that it can be told who was not woken and who was left over.

mod etcd;
mod native;
mod own;
mod plan;
mod session;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rand::RngExt;
use tenure_history::Revision;
use tenure_history::lock::Share;
use tokio::time::sleep;

use crate::client::Client;

/// Locks that are wanted alone or shared; one more is a semaphore.
const LOCKS: u32 = 2;
/// For each lock more that there are, so many contenders more.
const CONTENDERS_PER_LOCK: u32 = 24;
/// So many more make each of them half as fast.
const CONTENDERS_AT_PACE: u32 = 16;
/// A contender that does not get the lock gives up after this, so that it also learns of cancelling.
const WAIT_MAX: Duration = Duration::from_secs(12);
/// How often somebody meddles with a queue that he has nothing to do with.
const MEDDLES_EVERY: Duration = Duration::from_millis(2_500);
/// A pause between looks is a part of it, so that an end is seen soon.
const MEDDLER_LOOKS_EVERY: Duration = Duration::from_millis(250);

/// What locks guard, outside the store: the highest token that each let in.
#[derive(Debug, Default)]
pub struct Resources(Mutex<BTreeMap<String, Revision>>);

impl Resources {
    /// Whether it lets this token in.
    pub fn offer(&self, lock: &str, token: Revision) -> bool {
        let mut highest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = highest.entry(lock.to_owned()).or_default();
        let accepted = token >= *highest;
        *highest = token.max(*highest);
        accepted
    }
}

/// The locks of a workload with so many contenders besides the usual ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Locks {
    count: u32,
    contenders: u32,
}

impl Locks {
    pub(super) fn of(contenders: usize) -> Locks {
        let contenders = u32::try_from(contenders).unwrap_or(u32::MAX);
        Locks { count: LOCKS + 1 + contenders / CONTENDERS_PER_LOCK, contenders }
    }

    /// How much slower each is than usual, so that many make no more requests than some do.
    pub(super) fn slowness(self) -> f64 {
        1.0 + f64::from(self.contenders) / f64::from(CONTENDERS_AT_PACE)
    }

    /// The shortest that servers grant by default and whose third leaves time for a lost answer; many renew half as often.
    fn ttl_secs(self) -> i64 {
        if self.contenders > CONTENDERS_AT_PACE { 6 } else { 3 }
    }

    fn draw(self, client: &mut Client) -> u32 {
        client.rng.random_range(0..self.count)
    }

    fn name(number: u32) -> String {
        format!("lock/{number}")
    }

    /// Whether a lock is a semaphore: every third.
    fn is_semaphore(number: u32) -> bool {
        number % (LOCKS + 1) == LOCKS
    }

    /// How somebody wants a lock.
    fn share(client: &mut Client, number: u32) -> Share {
        if Locks::is_semaphore(number) {
            let taken = client.rng.random_range(1..=2);
            return Share::Permits { taken, limit: 3 };
        }
        if client.rng.random_ratio(2, 5) { Share::Readers } else { Share::Alone }
    }
}

/// A contender of etcd's kind, until the round's work is over.
pub(super) async fn run_etcd(mut client: Client, resources: Arc<Resources>, locks: Locks) -> Result<()> {
    while client.stage.is_working() {
        let lock = Locks::name(locks.draw(&mut client));
        etcd::contend(&mut client, &resources, &lock, locks.ttl_secs()).await;
        client.pace().await;
    }
    Ok(())
}

/// A native contender, until the round's work is over, and once more when nothing goes wrong.
pub(super) async fn run_native(mut client: Client, resources: Arc<Resources>, locks: Locks) -> Result<()> {
    while client.stage.is_working() {
        let lock = locks.draw(&mut client);
        let plan = plan::Plan::draw(&mut client, lock);
        native::contend(&mut client, &resources, (locks, lock), plan).await;
        client.pace().await;
    }
    let lock = client.id().0 % locks.count;
    let plan = plan::Plan::calm(&mut client, lock);
    native::contend(&mut client, &resources, (locks, lock), plan).await;
    Ok(())
}

/// Somebody who takes locks away from others, until the round's work is over.
pub(super) async fn meddle(mut client: Client, locks: Locks) -> Result<()> {
    let mut next = client.now().after(MEDDLES_EVERY);
    while client.stage.is_working() {
        sleep(MEDDLER_LOOKS_EVERY).await;
        if client.now() < next {
            continue;
        }
        next = client.now().after(MEDDLES_EVERY.mul_f64(client.rng.random_range(0.5..1.5)));
        let lock = Locks::name(locks.draw(&mut client));
        let (place, by_force) = (client.rng.random_range(0..4), client.rng.random_ratio(1, 2));
        client.meddle(&lock, place, by_force).await;
    }
    Ok(())
}
