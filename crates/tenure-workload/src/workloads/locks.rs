//! Locks by etcd's recipe, and resources that they guard.
//!
//! A contender puts `lock/NAME/LEASE` if it is not there; whose key has the lowest create revision owns the lock, and that
//! revision is its fencing token. Its lease is renewed on the way. A resource remembers the highest token it has seen and
//! lets in no lower one; the same is done in the store, by a transaction on the lock's key. Now and then an owner sleeps
//! for longer than its lease and then uses the resource as if nothing had happened: exactly what tokens are for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use rand::RngExt;
use tenure_history::lock::{Hold, Use};
use tenure_history::request::{Compare, DeleteRange, KeyRange, Put, Range, Relation, Request, Target};
use tenure_history::response::{Body, Outcome};
use tenure_history::{LeaseId, Moment, Revision};

use super::{behind, kvs, put_if, succeeded};
use crate::client::Client;

const LOCKS: u32 = 2;
const TTL_SECS: i64 = 3;
const TTL: Duration = Duration::from_secs(TTL_SECS.unsigned_abs());
/// Owners that sleep do so for up to this long: somewhat longer than the lease.
const SLEEP_MAX: Duration = Duration::from_millis(5_000);
/// One in this many owners sleeps.
const SLEEPERS: u32 = 12;
/// A contender that does not get the lock gives up after this, so that it also learns of cancelling.
const WAIT_MAX: Duration = Duration::from_secs(12);

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

/// A lease and until when its owner can be sure of it.
struct Session {
    id: LeaseId,
    sure_until: Moment,
    renew_at: Moment,
    /// When it was last told so.
    told_at: Moment,
    gone: bool,
}

/// Works until the round's work is over.
pub(super) async fn run(mut client: Client, resources: Arc<Resources>) -> Result<()> {
    while client.stage.is_working() {
        let lock = format!("lock/{}", client.rng.random_range(0..LOCKS));
        contend(&mut client, &resources, &lock).await;
        client.pace().await;
    }
    Ok(())
}

async fn contend(client: &mut Client, resources: &Resources, lock: &str) {
    let id = client.stage.new_lease();
    let called = client.now();
    let granted = client.ask(Request::LeaseGrant { id, ttl_secs: TTL_SECS }).await;
    let Outcome::Ok(_) = granted else {
        return give_up(client, id, None).await;
    };
    let mut session = Session {
        id,
        sure_until: called.after(TTL),
        renew_at: called.after(TTL / 3),
        told_at: client.now(),
        gone: false,
    };
    let key = Bytes::from(format!("{lock}/{:x}", id.0));
    let asked = client.now();
    let new =
        Compare { keys: KeyRange::one(key.clone()), relation: Relation::Equal, target: Target::Create(Revision(0)) };
    let put = Put { key: key.clone(), value: lock.to_owned().into(), lease: id, prev_kv: false };
    let Some(put) = client.answer(put_if(new, put)).await.filter(succeeded) else {
        return give_up(client, id, Some(&key)).await;
    };
    let token = put.revision;
    if wait_turn(client, &mut session, lock, token).await {
        own(client, &mut session, resources, lock, (&key, token, asked)).await;
    }
    give_up(client, id, Some(&key)).await;
}

/// Polls until the lowest create revision is this one. False if the lock is not to be had.
async fn wait_turn(client: &mut Client, session: &mut Session, lock: &str, token: Revision) -> bool {
    let prefix = format!("{lock}/");
    let until = client.now().after(WAIT_MAX);
    while !session.gone && client.now() < until && client.stage.is_working() {
        let keys = KeyRange::between(prefix.clone(), behind(&prefix));
        if let Some(answer) = client.answer(Request::Range(Range { keys, ..Range::default() })).await {
            let owner = kvs(&answer).iter().map(|kv| kv.create).min();
            if !kvs(&answer).iter().any(|kv| kv.create == token) {
                return false;
            }
            if owner == Some(token) {
                return true;
            }
        }
        session.renew(client).await;
        client.pace().await;
    }
    false
}

/// Owns the lock for a while and uses what it guards.
async fn own(
    client: &mut Client,
    session: &mut Session,
    resources: &Resources,
    lock: &str,
    (key, token, asked): (&Bytes, Revision, Moment),
) {
    let acquired = client.now();
    let name = |lock: &str| lock.to_owned();
    let mut until = session.sure_until;
    let uses = client.rng.random_range(1..5);
    for _ in 0..uses {
        if client.rng.random_ratio(1, SLEEPERS) {
            let asleep = SLEEP_MAX.mul_f64(client.rng.random_range(0.2..1.0));
            tokio::time::sleep(asleep).await;
        } else {
            client.pace().await;
        }
        let called = client.now();
        let accepted = resources.offer(lock, token);
        let returned = client.now();
        let used = Use { lock: name(lock), client: client.id(), token, called, returned, accepted };
        client.stage.recorder.note_use(used);
        let held =
            Compare { keys: KeyRange::one(key.clone()), relation: Relation::Equal, target: Target::Create(token) };
        let guarded = Put { key: format!("guarded/{lock}").into(), value: format!("{token}").into(), ..Put::default() };
        client.ask(put_if(held, guarded)).await;
        session.renew(client).await;
        // Told too late, it did not know all the time that it was the owner.
        if session.gone || session.told_at > until {
            break;
        }
        until = until.max(session.sure_until);
    }
    let released = client.now();
    let hold = Hold {
        lock: name(lock),
        client: client.id(),
        lease: session.id,
        token,
        called: asked,
        acquired,
        until: until.min(released).max(acquired),
    };
    client.stage.recorder.note_hold(hold);
}

impl Session {
    /// Renews if it is time.
    async fn renew(&mut self, client: &mut Client) {
        if client.now() < self.renew_at {
            return;
        }
        let called = client.now();
        match client.ask(Request::LeaseKeepAlive { id: self.id }).await {
            Outcome::Ok(response) => match response.body {
                Body::LeaseKeepAlive { ttl_secs } if ttl_secs > 0 => {
                    self.sure_until = called.after(Duration::from_secs(ttl_secs.unsigned_abs()));
                    self.renew_at = called.after(TTL / 3);
                    self.told_at = client.now();
                }
                _ => self.gone = true,
            },
            Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown => {}
        }
    }
}

/// Gives the lock back, or what may have become of a try.
async fn give_up(client: &mut Client, id: LeaseId, key: Option<&Bytes>) {
    // Half of them delete the key, as the recipe does; the others end the lease with everything on it.
    if let Some(key) = key.filter(|_| client.rng.random_ratio(1, 2)) {
        client.ask(Request::DeleteRange(DeleteRange { keys: KeyRange::one(key.clone()), prev_kv: false })).await;
    }
    client.ask(Request::LeaseRevoke { id }).await;
}
