//! Keeping a lock: its lease is renewed, its key is watched, and whoever depends on it learns in time how it stands.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::mvccpb::Event;
use tenure_proto::mvccpb::event::EventType;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Alarm, BootTime, Granted, Notes, Standing, Tenancy};
use crate::client::{Client, ClientError, Refusal, Update, WatchSpec, Watcher};
use crate::ids::{LeaseId, Revision};

/// Between tries when nobody answers.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Between notes of the same kind.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// Renews the lease, for as long as it is there. A try that gets no answer in time is not given up: another one, best at
/// another member, joins it, and the first answer counts. A cluster that is slow is not taken for one that is gone.
pub(crate) async fn renew(
    client: &Client,
    lease: LeaseId,
    tenancy: &watch::Sender<Tenancy>,
    notes: &Notes,
) -> io::Result<()> {
    let alarm = Alarm::new()?;
    let mut tries = FuturesUnordered::new();
    let mut silent = None;
    let mut complaints = Complaints { notes, last: None };
    let mut next = tenancy.borrow().renew_at();
    loop {
        tokio::select! {
            biased;
            Some(Try { sent, at, answered }) = tries.next() => match answered {
                Ok(answer) if answer.ttl > 0 => {
                    tenancy.send_modify(|tenancy| tenancy.acknowledged(sent));
                    next = tenancy.borrow().renew_at();
                    silent = None;
                    tries.clear();
                }
                Ok(_) => return Ok(()),
                Err(ClientError::Refused(refused)) if refused.refusal == Refusal::LeaseNotFound => return Ok(()),
                // Whatever it is, the deadline decides how long it may last.
                Err(error) => {
                    complaints.tell(*tenancy.borrow(), &error.to_string());
                    client.pass_over(at);
                    next = next.min(BootTime::now().plus(RETRY_PAUSE));
                }
            },
            rung = alarm.until(next) => {
                rung?;
                if let Some(at) = silent.take() {
                    complaints.tell(*tenancy.borrow(), "no answer yet");
                    client.pass_over(at);
                }
                let (sent, at) = (BootTime::now(), client.turn());
                tries.push(ask(client, lease, tenancy.borrow().ttl(), sent, at));
                silent = Some(at);
                next = sent.plus(tenancy.borrow().try_patience());
            }
        }
    }
}

/// A renewal that is on its way, or answered.
struct Try {
    /// Before it was sent: the server may count from right then.
    sent: BootTime,
    at: usize,
    answered: Result<pb::LeaseKeepAliveResponse, ClientError>,
}

async fn ask(client: &Client, lease: LeaseId, patience: Duration, sent: BootTime, at: usize) -> Try {
    Try { sent, at, answered: client.lease_renew_at(at, lease, patience).await }
}

/// Says now and then why a lease is not renewed.
struct Complaints<'a> {
    notes: &'a Notes,
    last: Option<BootTime>,
}

impl Complaints<'_> {
    fn tell(&mut self, tenancy: Tenancy, why: &str) {
        let now = BootTime::now();
        if self.last.is_none_or(|last| now.since(last) >= NOTE_INTERVAL) {
            self.last = Some(now);
            let (age, ttl) = (tenancy.age(now).as_secs(), tenancy.ttl().as_secs());
            self.notes.tell(&format!("not renewed for {age} s of {ttl} s: {why}"));
        }
    }
}

/// Waits until the key is not what was granted any more, and says what became of it.
pub(crate) async fn key_gone(client: &Client, granted: &Granted, lease: LeaseId) -> &'static str {
    let mut start = granted.token.next();
    loop {
        let spec = WatchSpec { key: granted.key.clone(), start: Some(start), ..WatchSpec::default() };
        let mut watcher = Watcher::new(client, spec);
        let error = loop {
            match watcher.next().await {
                Ok(Update::Events(events)) => {
                    if let Some(what) = events.iter().find_map(|event| end_of(event, granted.token, lease)) {
                        return what;
                    }
                }
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        // What happened is compacted: the key itself tells whether it was its end.
        if matches!(error, ClientError::WatchCompacted { .. })
            && let Ok(answer) = client.range(read(&granted.key)).await
        {
            if !answer.kvs.iter().any(|kv| kv.create_revision == granted.token.0 && kv.lease == lease.0) {
                return GONE;
            }
            start = Revision(answer.header.map_or(0, |header| header.revision)).next();
        } else {
            sleep(RETRY_PAUSE).await;
        }
    }
}

const GONE: &str = "its key is gone";

fn read(key: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest { key: key.clone(), keys_only: true, ..pb::RangeRequest::default() }
}

/// What an event of its key did to a lock, if that was its end.
fn end_of(event: &Event, token: Revision, lease: LeaseId) -> Option<&'static str> {
    if event.r#type() == EventType::Delete {
        return Some(GONE);
    }
    let kv = event.kv.as_ref()?;
    (kv.create_revision != token.0 || kv.lease != lease.0).then_some("its key was written by somebody else")
}

/// Tells how a lease stands when that changes.
#[derive(Debug)]
pub(crate) struct Watchdog {
    tenancy: watch::Receiver<Tenancy>,
    alarm: Alarm,
    last: Standing,
}

impl Watchdog {
    pub(crate) fn new(tenancy: watch::Receiver<Tenancy>) -> io::Result<Watchdog> {
        Ok(Watchdog { tenancy, alarm: Alarm::new()?, last: Standing::Safe })
    }

    /// Waits until it stands otherwise than was told last. It may be dropped at any time and asked again.
    pub(crate) async fn change(&mut self) -> io::Result<Standing> {
        loop {
            let (tenancy, now) = (*self.tenancy.borrow_and_update(), BootTime::now());
            let standing = tenancy.standing(now);
            if standing != self.last {
                self.last = standing;
                return Ok(standing);
            }
            tokio::select! {
                rung = self.alarm.until(tenancy.worsens_at(now)), if standing != Standing::Over => rung?,
                Ok(()) = self.tenancy.changed() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// How it stands now, and until when that is certain.
    pub(crate) fn now(&self) -> Tenancy {
        *self.tenancy.borrow()
    }
}

#[cfg(test)]
mod tests {
    use tenure_proto::mvccpb::KeyValue;

    use super::*;

    #[test]
    fn a_lock_ends_when_its_key_goes_or_is_not_its_own_any_more() {
        let event = |r#type: EventType, create_revision, lease| Event {
            r#type: r#type.into(),
            kv: Some(KeyValue { create_revision, lease, ..KeyValue::default() }),
            prev_kv: None,
        };
        let end = |event: &Event| end_of(event, Revision(7), LeaseId(31));
        assert_eq!(end(&event(EventType::Delete, 0, 0)), Some(GONE));
        // Somebody wrote a value and left the lease: it is held as before.
        assert_eq!(end(&event(EventType::Put, 7, 31)), None);
        // Its lease was taken off, as a lock-delay does; or it is another life of the key.
        assert!(end(&event(EventType::Put, 7, 0)).is_some());
        assert!(end(&event(EventType::Put, 9, 31)).is_some());
    }

    #[tokio::test]
    async fn a_watchdog_tells_each_change_once() {
        let ttl = Duration::from_millis(300);
        let (tell, tenancy) = watch::channel(Tenancy::new(ttl, BootTime::now()));
        let mut dog = Watchdog::new(tenancy).expect("a watchdog");
        assert_eq!(dog.change().await.expect("a change"), Standing::Jeopardy);
        assert!(dog.now().age(BootTime::now()) >= ttl * 2 / 3);
        tell.send_modify(|tenancy| tenancy.acknowledged(BootTime::now()));
        // However late this test is woken, one of these comes first.
        let renewed = dog.change().await.expect("a change");
        assert!(matches!(renewed, Standing::Safe | Standing::Over), "{renewed:?}");
        if renewed == Standing::Safe && dog.change().await.expect("a change") == Standing::Jeopardy {
            assert_eq!(dog.change().await.expect("a change"), Standing::Over);
        }
        assert!(BootTime::now() >= dog.now().deadline());
    }
}
