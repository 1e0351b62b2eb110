//! What an owner does with a lock: it uses what the lock guards, outside the store and in it, and now and then it sleeps
//! for longer than its lease and then goes on as if nothing had happened. That is what tokens are for.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tenure_history::lock::{Hold, Share, Use, Way};
use tenure_history::{Moment, Revision};
use tokio::time::sleep;

use super::Resources;
use super::session::Session;
use crate::client::Client;
use crate::client::locks::GuardedPut;

/// Owners that sleep do so for up to this long: somewhat longer than the lease.
const SLEEP_MAX: Duration = Duration::from_millis(5_000);
/// One in this many uses is slept over.
const SLEEPERS: u32 = 12;

/// A lock that somebody owns.
pub(super) struct Owned<'a> {
    pub(super) lock: &'a str,
    pub(super) key: &'a Bytes,
    pub(super) way: Way,
    pub(super) share: Share,
    pub(super) token: Revision,
    /// When it was asked for.
    pub(super) asked: Moment,
}

/// Owns the lock for a while. Answers with the time that it was sure of, which ends when it lets go at the latest.
pub(super) async fn own(
    client: &mut Client,
    session: &mut Session,
    resources: &Resources,
    owned: &Owned<'_>,
    uses: u32,
) -> Hold {
    let acquired = client.now();
    let mut until = session.sure_until;
    for _ in 0..uses {
        if client.rng.random_ratio(1, SLEEPERS) {
            sleep(SLEEP_MAX.mul_f64(client.rng.random_range(0.2..1.0))).await;
        } else {
            client.pace().await;
        }
        use_once(client, session, resources, owned).await;
        session.renew(client).await;
        // Told too late, it did not know all the time that it was the owner.
        if session.gone || session.told_at > until {
            break;
        }
        until = until.max(session.sure_until);
    }
    Hold {
        lock: owned.lock.to_owned(),
        client: client.id(),
        lease: session.id,
        way: owned.way,
        share: owned.share,
        token: owned.token,
        called: owned.asked,
        acquired,
        until: until.min(client.now()).max(acquired),
    }
}

/// Uses what the lock guards, whether it still owns it or not.
pub(super) async fn use_once(client: &mut Client, session: &Session, resources: &Resources, owned: &Owned<'_>) {
    let Owned { lock, key, share, token, .. } = *owned;
    // Tokens do not order those that share.
    if share == Share::Alone {
        let called = client.now();
        let accepted = resources.offer(lock, token);
        let returned = client.now();
        let used = Use { lock: lock.to_owned(), client: client.id(), token, called, returned, accepted };
        client.stage.recorder.note_use(used);
    }
    let by_guard = client.rng.random_ratio(1, 2);
    let sure_until = if session.gone { Moment(0) } else { session.sure_until };
    let value = Bytes::from(format!("{token}"));
    client.write_guarded(GuardedPut { lock, key, lease: session.id, token, value, by_guard, sure_until }).await;
}
