//! Watching over what is held: its key, and the time for which it was to be held.
//!
//! A lock is its key. Whoever deletes it, or takes it off its lease, ends the lock, and its holder must learn of that from the
//! store: no renewal fails for it. The end counts at once. Why it was is asked afterwards, for a moment, because only then
//! can Tenure tell an operator's hand from a plain delete.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lock_transition::Kind;
use tenure_proto::tenure::v1::locks_client::LocksClient;

use super::cleanup::{self, Cleanup};
use super::grip::Grip;
use crate::call::What;
use crate::client::{Client, ServerKind};
use crate::error::Error;
use crate::ids::{LeaseId, Revision};
use crate::kv::{KeyRange, KeyValue};
use crate::session::LostReason;
use crate::watch::{WatchError, WatchEvent};
use crate::watchdog::EventKind;

/// How long it may take to learn why a key is gone.
const WHY_PATIENCE: Duration = Duration::from_secs(2);
/// How many transitions of a lock are looked through for that.
const WHY_LIMIT: u32 = 100;
/// Between watches that break.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

/// A key, and as whose it is watched.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// Without the client's namespace.
    pub(crate) key: Bytes,
    pub(crate) created: Revision,
    /// It counts as gone without this lease; if it is none, only when it is deleted.
    pub(crate) lease: Option<LeaseId>,
}

/// How a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyEnd {
    Deleted,
    /// It is there, with this create revision and lease.
    NotOwn(Revision, LeaseId),
}

/// Watches over a grip until it is let go. The task ends with the guard.
pub(crate) fn watch_over(grip: &Arc<Grip>) {
    let watched = grip.clone();
    let work = async move {
        let unwatched = watched.unwatched.clone();
        unwatched.run_until_cancelled(watch(&watched)).await;
    };
    // The client owns it; it ends with the guard.
    drop(grip.owner.client.tasks().spawn("watch over a lock", work));
}

async fn watch(grip: &Arc<Grip>) {
    let clock = grip.owner.core.clock();
    let watched = Watched { key: grip.grasp.key.clone(), created: grip.grasp.token, lease: Some(grip.lease()) };
    let hold_end = clock.sleep_until(grip.telling.hold_until.unwrap_or(crate::clock::Instant::FAR_FUTURE));
    tokio::select! {
        end = key_end(grip.owner.client.clone(), watched, grip.grasp.token.next()) => Box::pin(key_ended(grip, end)).await,
        () = hold_end => {
            grip.look();
            // Who works gets the margin to stop in.
            clock.sleep(grip.owner.core.terms().margin).await;
            cleanup::hand_over(&grip.owner, Cleanup::Release(grip.grasp.clone()));
        }
    }
}

async fn key_ended(grip: &Arc<Grip>, end: KeyEnd) {
    if let KeyEnd::NotOwn(token, lease) = end {
        grip.dog().tell(EventKind::NotOwner { token, lease }, grip.now());
    }
    if grip.key_gone() {
        // If the lease went with it, the session should know.
        grip.owner.sessions.keeper.hurry(grip.lease());
        grip.settle(why(grip).await);
    }
}

/// Why a key is gone, if that can be found out.
async fn why(grip: &Grip) -> Option<LostReason> {
    let client = &grip.owner.client;
    if client.kind().await.ok()? == ServerKind::Etcd {
        return None;
    }
    let name = client.namespace().wrap(grip.grasp.name.clone());
    let request = pb::LockWhyRequest { name, limit: WHY_LIMIT };
    let ask = |link| {
        let request = request.clone();
        async move { LocksClient::new(link).why(request).await }
    };
    let answer = client.call(What::read("why a lock ended").timeout(Some(WHY_PATIENCE)), ask).await.ok()?;
    reason_in(&answer.transitions, grip.grasp.token)
}

/// What ended the contender with this token.
fn reason_in(transitions: &[pb::LockTransition], token: Revision) -> Option<LostReason> {
    transitions.iter().filter(|transition| transition.token == token.0).find_map(|transition| match transition.kind() {
        Kind::Forced => Some(LostReason::Forced),
        Kind::Revoked => Some(LostReason::Revoked),
        Kind::Expired | Kind::Delayed => Some(LostReason::Expired),
        Kind::Deleted | Kind::Released | Kind::Cancelled => Some(LostReason::KeyDeleted),
        Kind::Unspecified | Kind::Created | Kind::Acquired | Kind::Lapsed => None,
    })
}

/// Waits until a key is gone, or not its holder's any more, beginning with what happened at `from`. It may be dropped at any
/// time. All watches of a client share few streams, so a thousand guards cost no more than a thousand names.
pub(crate) async fn key_end(client: Client, watched: Watched, from: Revision) -> KeyEnd {
    let mut from = from;
    loop {
        match follow(client.clone(), watched.clone(), from).await {
            Ok(end) => return end,
            // Its tasks end with it, this one included.
            Err(WatchError::Closed | WatchError::Failed(Error::Closed)) => return std::future::pending().await,
            Err(error) => tracing::debug!(%error, "the watch of a lock's key ended"),
        }
        // What happened may be compacted: the key itself tells whether it was its end. It is read with its value, since an etcd 3.7
        // does not tell the lease of a key that is asked for without it.
        if let Ok(got) = client.get(watched.key.clone()).await {
            let end = match got.first() {
                None => Some(KeyEnd::Deleted),
                Some(kv) => not_own(kv, &watched),
            };
            match end {
                Some(end) => return end,
                None => from = got.header.revision.next(),
            }
        }
        let clock = client.clock();
        clock.sleep(clock.between(PAUSE[0], PAUSE[1])).await;
    }
}

/// Watches a key until its end, or until the watch ends.
async fn follow(client: Client, watched: Watched, from: Revision) -> Result<KeyEnd, WatchError> {
    // Boxed, so that its memory goes when the watch is open: there may be many that wait for its end.
    let opening = client.watch(KeyRange::one(watched.key.clone())).from(from).open();
    let mut watcher = Box::pin(opening).await?;
    loop {
        let batch = watcher.next().await?;
        if let Some(end) = batch.into_iter().find_map(|event| end_of(&event, &watched)) {
            return Ok(end);
        }
    }
}

fn end_of(event: &WatchEvent, watched: &Watched) -> Option<KeyEnd> {
    if event.is_put() { not_own(&event.kv, watched) } else { Some(KeyEnd::Deleted) }
}

fn not_own(kv: &KeyValue, watched: &Watched) -> Option<KeyEnd> {
    let is_own = kv.create_revision == watched.created && watched.lease.is_none_or(|own| own == kv.lease);
    (!is_own).then_some(KeyEnd::NotOwn(kv.create_revision, kv.lease))
}

/// Waits until the first of some keys is gone. Answers its place.
pub(crate) async fn first_end(client: &Client, watched: [Watched; 2], from: Revision) -> (usize, KeyEnd) {
    let [first, second] = watched;
    tokio::select! {
        end = key_end(client.clone(), first, from) => (0, end),
        end = key_end(client.clone(), second, from) => (1, end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch;

    fn watched(lease: Option<LeaseId>) -> Watched {
        Watched { key: "a/1f".into(), created: Revision(7), lease }
    }

    fn event(kind: watch::EventKind, create_revision: i64, lease: i64) -> WatchEvent {
        let (create_revision, lease) = (Revision(create_revision), LeaseId(lease));
        WatchEvent { kind, kv: KeyValue { create_revision, lease, ..KeyValue::default() }, prev: None }
    }

    #[test]
    fn a_lock_ends_when_its_key_goes_or_is_not_its_own_any_more() {
        let own = watched(Some(LeaseId(31)));
        assert_eq!(end_of(&event(watch::EventKind::Delete, 0, 0), &own), Some(KeyEnd::Deleted));
        // Somebody wrote a value and left the lease: it is held as before.
        assert_eq!(end_of(&event(watch::EventKind::Put, 7, 31), &own), None);
        // Its lease was taken off, as a lock-delay does; or it is another life of the key.
        assert_eq!(end_of(&event(watch::EventKind::Put, 7, 0), &own), Some(KeyEnd::NotOwn(Revision(7), LeaseId(0))));
        assert_eq!(end_of(&event(watch::EventKind::Put, 9, 31), &own), Some(KeyEnd::NotOwn(Revision(9), LeaseId(31))));
        // Of somebody else's key only the end of it counts.
        assert_eq!(end_of(&event(watch::EventKind::Put, 7, 0), &watched(None)), None);
    }

    #[test]
    fn the_reason_is_that_of_its_own_token() {
        let transition = |kind: Kind, token| pb::LockTransition { kind: kind.into(), token, ..Default::default() };
        let transitions = [
            transition(Kind::Released, 9),
            transition(Kind::Forced, 7),
            transition(Kind::Acquired, 7),
            transition(Kind::Expired, 3),
        ];
        assert_eq!(reason_in(&transitions, Revision(7)), Some(LostReason::Forced));
        assert_eq!(reason_in(&transitions, Revision(3)), Some(LostReason::Expired));
        assert_eq!(reason_in(&transitions, Revision(5)), None);
    }
}
