//! Holders of leases: each grants itself one, puts keys on it, renews it for a while, and then lets it run out or gives it
//! back; then looks until it is gone.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use rand::RngExt;
use tenure_history::request::{Put, Request};
use tenure_history::response::{Body, Outcome, Refusal};
use tenure_history::{ClientId, LeaseId, Moment};
use tokio::time::sleep;

use super::get;
use crate::client::Client;

/// In seconds; a server grants no shorter ones by default.
const TTL_MIN: i64 = 2;
const TTL_MAX: i64 = 6;
/// Of shorter ones less than a second may be told, which this history cannot tell from none.
const TTL_TOLD_MIN: i64 = 3;
/// How often somebody who waits for an end looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The same for those who are many.
const HOLDER_LOOKS_EVERY: Duration = Duration::from_secs(2);
/// When a holder begins.
const COMES_AFTER: Range<Duration> = Duration::from_millis(800)..Duration::from_secs(4);

/// What the keys of leases begin with.
const KEYS: &str = "lease/";

/// How a holder's lease is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    RunOut,
    Revoke,
}

/// Works until the round's work is over, and then until the last lease has ended.
pub(super) async fn run(mut client: Client) -> Result<()> {
    while client.stage.is_working() {
        let ttl_secs = client.rng.random_range(TTL_MIN..=TTL_MAX);
        let Some(id) = grant(&mut client, ttl_secs).await else {
            client.pace().await;
            continue;
        };
        let ttl = Duration::from_secs(ttl_secs.unsigned_abs());
        let end = if client.rng.random_ratio(1, 4) { End::Revoke } else { End::RunOut };
        let keys = client.rng.random_range(0..3);
        for at in 0..keys {
            let put = Put { key: key(id, at), value: "held".into(), lease: id, prev_kv: false };
            client.ask(Request::Put(put)).await;
        }
        let held = ttl.mul_f64(client.rng.random_range(0.0..2.5));
        // Most are in good time; some renew only as it runs out, again and again, and race its end.
        let wait = if client.rng.random_ratio(1, 3) { ttl.mul_f64(0.985) } else { ttl / 3 };
        renew(&mut client, id, wait, held).await;
        if end == End::Revoke {
            client.ask(Request::LeaseRevoke { id }).await;
        }
        wait_gone(&mut client, id, keys, LOOK_EVERY).await;
    }
    Ok(())
}

/// Holders who do nothing else.
#[derive(Clone, Debug)]
pub struct Holding {
    /// TTLs, in seconds.
    pub ttl_secs: RangeInclusive<i64>,
    /// How often a lease is renewed, at most; then it runs out.
    pub renewals_max: u32,
}

impl Holding {
    /// Short enough that most end within a round, long enough that a thousand leave the servers time for others.
    pub const RENEWED: Holding = Holding { ttl_secs: 5..=20, renewals_max: 12 };
    /// At the end of such a lease a clock that goes a quarter of a percent too fast is 150 ms ahead.
    pub const LONG: Holding = Holding { ttl_secs: 60..=60, renewals_max: 0 };
}

/// Holds one lease after the other: renews it some times in good time, and then looks until it is gone.
pub(super) async fn hold(mut client: Client, holding: Holding) -> Result<()> {
    // They come one by one, to a cluster that has a leader: what a grant waits for makes its lease end later than it must.
    sleep(client.rng.random_range(COMES_AFTER)).await;
    while client.stage.is_working() {
        let ttl_secs = client.rng.random_range(holding.ttl_secs.clone());
        let Some(id) = grant(&mut client, ttl_secs).await else {
            client.pace().await;
            continue;
        };
        let third = Duration::from_secs(ttl_secs.unsigned_abs()) / 3;
        let mut renewals = client.rng.random_range(0..=holding.renewals_max);
        while renewals > 0 && client.stage.is_working() {
            sleep(third).await;
            while client.stage.is_working() {
                match client.ask(Request::LeaseKeepAlive { id }).await {
                    Outcome::Unknown | Outcome::Failed(_) => client.pace().await,
                    Outcome::Ok(_) | Outcome::Refused(_) => break,
                }
            }
            renewals -= 1;
        }
        wait_gone(&mut client, id, 0, (third / 3).min(HOLDER_LOOKS_EVERY)).await;
    }
    Ok(())
}

/// Holds several leases at a time, and renews all of them by one message of Tenure's own service.
pub(super) async fn hold_many(mut client: Client, sharers: Vec<ClientId>) -> Result<()> {
    while client.stage.is_working() {
        let ttl_secs = client.rng.random_range(TTL_TOLD_MIN..=TTL_MAX);
        let ttl = Duration::from_secs(ttl_secs.unsigned_abs());
        let mut held = Vec::new();
        for sharer in &sharers {
            held.extend(grant(&mut client, ttl_secs).await.map(|id| (id, *sharer)));
        }
        let until = client.now().after(ttl.mul_f64(client.rng.random_range(0.0..2.5)));
        while client.stage.is_working() && client.now() < until {
            let renewed = client.renew_all(&held).await;
            // The others live on when one of them is given back.
            if let Some((id, _)) = held.first().filter(|_| client.rng.random_ratio(1, 8)).copied() {
                client.ask(Request::LeaseRevoke { id }).await;
            }
            let answered = !renewed.iter().any(|outcome| matches!(outcome, Outcome::Unknown | Outcome::Failed(_)));
            if answered { sleep(ttl / 3).await } else { client.pace().await }
        }
        for (id, _) in held {
            wait_gone(&mut client, id, 0, LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// Grants a lease. A holder of an unknown grant goes on as if it had it: it must look until the lease is gone all the same.
async fn grant(client: &mut Client, ttl_secs: i64) -> Option<LeaseId> {
    let id = client.stage.new_lease();
    match client.ask(Request::LeaseGrant { id, ttl_secs }).await {
        Outcome::Refused(_) | Outcome::Failed(_) => None,
        Outcome::Ok(_) | Outcome::Unknown => Some(id),
    }
}

fn key(id: LeaseId, at: u32) -> Bytes {
    format!("{KEYS}{id}/{at}").into()
}

/// Renews for a while, each time after a wait; now and then it asks how long the lease still lives.
async fn renew(client: &mut Client, id: LeaseId, wait: Duration, held: Duration) {
    let until = client.now().after(held);
    let mut next = client.now().after(wait);
    while client.stage.is_working() && client.now() < until {
        client.pace().await;
        if client.now() >= next {
            next = client.now().after(wait);
            match client.ask(Request::LeaseKeepAlive { id }).await {
                Outcome::Ok(response) if matches!(response.body, Body::LeaseKeepAlive { ttl_secs: 0 }) => return,
                // It tries again at once: it must not lose its lease for a lost answer.
                Outcome::Unknown | Outcome::Failed(_) => next = Moment(0),
                Outcome::Ok(_) | Outcome::Refused(_) => {}
            }
        } else if client.rng.random_ratio(1, 12) {
            let keys = client.rng.random_ratio(1, 2);
            client.ask(Request::LeaseTimeToLive { id, keys }).await;
        }
    }
}

/// Looks until somebody is told that the lease is gone. That this happens at all is judged with everything else.
async fn wait_gone(client: &mut Client, id: LeaseId, keys: u32, every: Duration) {
    loop {
        sleep(every).await;
        if keys > 0 && client.rng.random_ratio(1, 2) {
            client.ask(get(&key(id, 0))).await;
            continue;
        }
        match client.ask(Request::LeaseTimeToLive { id, keys: false }).await {
            Outcome::Ok(response) if matches!(response.body, Body::LeaseTimeToLive { ttl_secs: -1, .. }) => return,
            Outcome::Refused(Refusal::LeaseNotFound) => return,
            _ => {}
        }
    }
}
