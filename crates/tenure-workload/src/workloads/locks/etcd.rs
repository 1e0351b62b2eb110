//! Contenders of etcd's kind: by its recipe, and by its lock service.
//!
//! By the recipe a contender puts `lock/NAME/LEASE` if it is not there, or has the service do it; whose key has the lowest
//! create revision owns the lock, and that revision is its fencing token.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tenure_history::Revision;
use tenure_history::lock::{Share, Way};
use tenure_history::request::{Compare, DeleteRange, KeyRange, Range, Relation, Request, Target};

use super::super::{behind, kvs, put_if, succeeded};
use super::own::{Owned, own};
use super::session::{Session, put};
use super::{Resources, WAIT_MAX};
use crate::client::Client;

/// A call of the lock service is given up after this at the latest: nothing renews the lease meanwhile.
const CALL_MAX: Duration = Duration::from_millis(2_400);

/// Contends once.
pub(super) async fn contend(client: &mut Client, resources: &Resources, lock: &str, ttl_secs: i64) {
    let Some(mut session) = Session::begin(client, ttl_secs).await else { return };
    let key = session.key(lock);
    let asked = client.now();
    let way = if client.rng.random_ratio(1, 2) { Way::Service } else { Way::Recipe };
    let token = if way == Way::Service {
        let patience = CALL_MAX.mul_f64(client.rng.random_range(0.1..1.0));
        client.lock(lock, &key, session.id, patience).await
    } else {
        lock_by_recipe(client, &mut session, lock, &key).await
    };
    if let Some(token) = token {
        let owned = Owned { lock, key: &key, way, share: Share::Alone, token, asked };
        let uses = client.rng.random_range(1..5);
        let hold = own(client, &mut session, resources, &owned, uses).await;
        client.stage.recorder.note_hold(hold);
    }
    give_up(client, &session, &key).await;
}

/// Puts a key and waits until it is the oldest. None if the lock is not to be had.
async fn lock_by_recipe(client: &mut Client, session: &mut Session, lock: &str, key: &Bytes) -> Option<Revision> {
    let new =
        Compare { keys: KeyRange::one(key.clone()), relation: Relation::Equal, target: Target::Create(Revision(0)) };
    let put = put(key, lock, session.id);
    let token = client.answer(put_if(new, put)).await.filter(succeeded)?.revision;
    wait_turn(client, session, lock, token).await.then_some(token)
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

/// Gives the lock back, or what may have become of a try.
async fn give_up(client: &mut Client, session: &Session, key: &Bytes) {
    // Half of them delete the key, as the recipe does; the others end the lease with everything on it.
    if client.rng.random_ratio(1, 2) {
        client.ask(Request::DeleteRange(DeleteRange { keys: KeyRange::one(key.clone()), prev_kv: false })).await;
    }
    if session.revoke(client).await.is_none() {
        session.see_gone(client, key).await;
    }
}
