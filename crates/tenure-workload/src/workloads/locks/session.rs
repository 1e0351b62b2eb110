//! A lease of a contender: renewed on the way, and until when its owner can be sure of it.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tenure_history::request::{KeyRange, Put, Range, Request};
use tenure_history::response::{Body, Outcome, Refusal};
use tenure_history::{LeaseId, Moment};
use tokio::time::sleep;

use super::super::kvs;
use crate::client::Client;

/// A lease that nobody renews, and a delay after it, are over long before; then it is for the checkers.
const GONE_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A lease and until when its owner can be sure of it.
pub(super) struct Session {
    pub(super) id: LeaseId,
    pub(super) ttl: Duration,
    pub(super) sure_until: Moment,
    renew_at: Moment,
    /// When it was last told so.
    pub(super) told_at: Moment,
    pub(super) gone: bool,
}

impl Session {
    /// Grants itself a lease. None if it cannot be sure of it; then it is given back.
    pub(super) async fn begin(client: &mut Client, ttl_secs: i64) -> Option<Session> {
        let id = client.stage.new_lease();
        let called = client.now();
        let granted = client.ask(Request::LeaseGrant { id, ttl_secs }).await;
        let Outcome::Ok(_) = granted else {
            client.ask(Request::LeaseRevoke { id }).await;
            return None;
        };
        let ttl = Duration::from_secs(ttl_secs.unsigned_abs());
        let (sure_until, renew_at) = (called.after(ttl), called.after(ttl / 3));
        Some(Session { id, ttl, sure_until, renew_at, told_at: client.now(), gone: false })
    }

    /// The key by which it contends for a lock.
    pub(super) fn key(&self, lock: &str) -> Bytes {
        Bytes::from(format!("{lock}/{:x}", self.id.0))
    }

    /// How long it may go without renewing.
    pub(super) fn idle(&self, client: &Client) -> Duration {
        self.renew_at.since(client.now())
    }

    /// Renews if it is time.
    pub(super) async fn renew(&mut self, client: &mut Client) {
        if client.now() < self.renew_at {
            return;
        }
        let called = client.now();
        match client.ask(Request::LeaseKeepAlive { id: self.id }).await {
            Outcome::Ok(response) => match response.body {
                Body::LeaseKeepAlive { ttl_secs } if ttl_secs > 0 => {
                    self.sure_until = called.after(Duration::from_secs(ttl_secs.unsigned_abs()));
                    self.renew_at = called.after(self.ttl / 3);
                    self.told_at = client.now();
                }
                _ => self.gone = true,
            },
            Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown => {}
        }
    }

    /// Ends it. Whether that was answered; else it ends by itself.
    pub(super) async fn revoke(&self, client: &mut Client) -> Option<Outcome> {
        let outcome = client.ask(Request::LeaseRevoke { id: self.id }).await;
        matches!(outcome, Outcome::Ok(_) | Outcome::Refused(_)).then_some(outcome)
    }

    /// Whether the key is there, if that was answered.
    pub(super) async fn look_for(&self, client: &mut Client, key: &Bytes) -> Option<bool> {
        let read = Range { keys: KeyRange::one(key.clone()), ..Range::default() };
        client.answer(Request::Range(read)).await.map(|answer| !kvs(&answer).is_empty())
    }

    /// Looks until the lease and the key are gone, so that the end of a round finds nothing of them.
    pub(super) async fn see_gone(&self, client: &mut Client, key: &Bytes) {
        let until = client.now().after(GONE_MAX);
        while client.now() < until {
            match client.ask(Request::LeaseTimeToLive { id: self.id, keys: false }).await {
                Outcome::Ok(response) if matches!(response.body, Body::LeaseTimeToLive { ttl_secs: -1, .. }) => break,
                Outcome::Refused(Refusal::LeaseNotFound) => break,
                _ => sleep(LOOK_EVERY).await,
            }
        }
        while client.now() < until {
            if self.look_for(client, key).await == Some(false) {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Puts a plain key of a contender.
pub(super) fn put(key: &Bytes, lock: &str, lease: LeaseId) -> Put {
    Put { key: key.clone(), value: lock.to_owned().into(), lease, prev_kv: false }
}

/// Draws one of these, by weight.
pub(super) fn draw<T: Copy>(client: &mut Client, choices: &[(u32, T)]) -> T {
    let all: u32 = choices.iter().map(|(weight, _)| weight).sum();
    let mut at = client.rng.random_range(0..all);
    for (weight, choice) in choices {
        if at < *weight {
            return *choice;
        }
        at -= weight;
    }
    choices[0].1
}
