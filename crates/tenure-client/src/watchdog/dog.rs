//! The source of one watchdog's events: it numbers and counts them, and puts them where listeners take them.
//!
//! Whatever listeners do, putting an event takes the time of a few copies: a listener's queue that is full loses its oldest
//! event, and the gap in the numbers tells. The last event is always `Exited`, and nothing comes after it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::event::{EventKind, Subject, WatchdogEvent, WatchdogId};
use super::kennel::Mailbox;
use crate::clock::Instant;

/// How many events a subscriber may be behind before it loses the oldest.
pub(crate) const EVENTS_MAX: usize = 64;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Dog {
    id: WatchdogId,
    implementation: Arc<str>,
    subject: Arc<Subject>,
    state: Mutex<State>,
    /// Made with the first subscriber: its queue takes memory.
    subscribers: OnceLock<broadcast::Sender<WatchdogEvent>>,
    mailbox: Option<Arc<Mailbox>>,
    /// Events that subscribers said they missed.
    missed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    sequence: u64,
    refreshes: u64,
    consecutive_errors: u32,
    refresh_begun: Option<u64>,
    stop_begun: Option<u64>,
    payload: Option<Arc<str>>,
    has_exited: bool,
}

impl Dog {
    pub(crate) fn new(
        id: WatchdogId,
        implementation: Arc<str>,
        subject: Arc<Subject>,
        mailbox: Option<Arc<Mailbox>>,
    ) -> Dog {
        let (state, missed) = (Mutex::default(), AtomicU64::new(0));
        Dog { id, implementation, subject, state, subscribers: OnceLock::new(), mailbox, missed }
    }

    pub(crate) fn id(&self) -> &WatchdogId {
        &self.id
    }

    /// The events from now on.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Events {
        let subscribers = self.subscribers.get_or_init(|| broadcast::Sender::new(EVENTS_MAX));
        Events { receiver: subscribers.subscribe(), dog: self.clone(), missed: 0 }
    }

    /// How many events were dropped for slow listeners.
    pub(crate) fn missed(&self) -> u64 {
        let mailbox = self.mailbox.as_ref().map_or(0, |mailbox| mailbox.missed());
        self.missed.load(Ordering::Relaxed).saturating_add(mailbox)
    }

    /// Tells an event, unless the watchdog has exited.
    pub(crate) fn tell(&self, kind: EventKind, at: Instant) {
        let mut state = self.state.lock();
        if !state.has_exited {
            self.put(&mut state, kind, at);
        }
    }

    /// Tells of a renewal that was acknowledged.
    pub(crate) fn refreshed(&self, rtt: std::time::Duration, until: Instant, at: Instant) {
        let mut state = self.state.lock();
        if !state.has_exited {
            state.refreshes += 1;
            state.consecutive_errors = 0;
            let n = state.refreshes;
            self.put(&mut state, EventKind::Refreshed { n, rtt, until }, at);
        }
    }

    /// Tells of a renewal that failed.
    pub(crate) fn refresh_failed(&self, error: Arc<str>, at: Instant) {
        let mut state = self.state.lock();
        if !state.has_exited {
            state.consecutive_errors = state.consecutive_errors.saturating_add(1);
            let consecutive = state.consecutive_errors;
            self.put(&mut state, EventKind::RefreshFailed { error, consecutive }, at);
        }
    }

    /// Changes what is attached to the events that follow.
    pub(crate) fn set_payload(&self, payload: Option<Arc<str>>, at: Instant) {
        let mut state = self.state.lock();
        if !state.has_exited {
            state.payload = payload;
            self.put(&mut state, EventKind::PayloadSet, at);
        }
    }

    /// Tells the last event. A second call does nothing.
    pub(crate) fn exit(&self, at: Instant) {
        let mut state = self.state.lock();
        if !state.has_exited {
            let State { refreshes, consecutive_errors, .. } = *state;
            self.put(&mut state, EventKind::Exited { refreshes, consecutive_errors }, at);
            state.has_exited = true;
        }
    }

    /// Numbers an event and hands it over while the state is locked, so that listeners get events in the order of their numbers.
    fn put(&self, state: &mut State, kind: EventKind, at: Instant) {
        state.sequence += 1;
        let parent = match &kind {
            EventKind::Refreshed { .. } | EventKind::RefreshFailed { .. } => state.refresh_begun,
            EventKind::Stopped | EventKind::StopFailed { .. } => state.stop_begun,
            EventKind::RefreshBegin => {
                state.refresh_begun = Some(state.sequence);
                None
            }
            EventKind::Stopping => {
                state.stop_begun = Some(state.sequence);
                None
            }
            EventKind::Created
            | EventKind::Started
            | EventKind::PayloadSet
            | EventKind::Jeopardy { .. }
            | EventKind::Recovered { .. }
            | EventKind::NotOwner { .. }
            | EventKind::GaveUp { .. }
            | EventKind::Lost { .. }
            | EventKind::Exited { .. } => None,
        };
        if self.mailbox.is_none() && self.subscribers.get().is_none() {
            return;
        }
        let event = WatchdogEvent {
            sequence: state.sequence,
            parent,
            at,
            watchdog: self.id.clone(),
            implementation: self.implementation.clone(),
            subject: self.subject.clone(),
            payload: state.payload.clone(),
            refreshes: state.refreshes,
            consecutive_errors: state.consecutive_errors,
            kind,
        };
        if let Some(mailbox) = &self.mailbox {
            mailbox.put(event.clone());
        }
        if let Some(subscribers) = self.subscribers.get() {
            // An error says that nobody subscribes any more, which is no error.
            drop(subscribers.send(event));
        }
    }
}

/// The events of one watchdog, as they happen.
///
/// A subscriber that is more than 64 events behind loses the oldest: [`missed`](Events::missed) counts them. The last event,
/// `Exited`, is never lost. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<WatchdogEvent>,
    dog: Arc<Dog>,
    missed: u64,
}

impl Events {
    /// The next event; `None` after `Exited`. It may be dropped and called again without losing one.
    pub async fn next(&mut self) -> Option<WatchdogEvent> {
        loop {
            if self.dog.state.lock().has_exited && self.receiver.is_empty() {
                return None;
            }
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    self.missed = self.missed.saturating_add(missed);
                    self.dog.missed.fetch_add(missed, Ordering::Relaxed);
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// How many events this subscriber has lost by being slow.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::LeaseId;
    use crate::session::LostReason;

    pub(crate) fn subject() -> Arc<Subject> {
        Arc::new(Subject { lease: LeaseId(7), lock: None, token: None, owner: "me".into(), store: "tenure" })
    }

    fn at(ms: u64) -> Instant {
        Instant::since_origin(Duration::from_millis(ms))
    }

    fn dog() -> Arc<Dog> {
        Arc::new(Dog::new(WatchdogId::random(5), "plain".into(), subject(), None))
    }

    async fn all(mut events: Events) -> Vec<WatchdogEvent> {
        let mut all = Vec::new();
        while let Some(event) = events.next().await {
            all.push(event);
        }
        all
    }

    #[tokio::test]
    async fn exited_is_the_last_event_and_comes_once_with_the_final_counts() {
        let dog = dog();
        let events = dog.subscribe();
        dog.tell(EventKind::Started, at(0));
        dog.refreshed(Duration::from_millis(2), at(900), at(1));
        dog.refresh_failed("down".into(), at(2));
        dog.refresh_failed("down".into(), at(3));
        dog.exit(at(4));
        dog.exit(at(5));
        dog.tell(EventKind::Lost { reason: LostReason::Expired }, at(6));
        dog.refreshed(Duration::ZERO, at(900), at(7));
        let events = all(events).await;
        assert_eq!(events.len(), 5);
        assert_eq!(events[4].kind, EventKind::Exited { refreshes: 1, consecutive_errors: 2 });
        assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn a_success_resets_the_errors_in_a_row_and_every_event_bears_the_counts() {
        let dog = dog();
        let events = dog.subscribe();
        dog.refresh_failed("a".into(), at(1));
        dog.refreshed(Duration::ZERO, at(900), at(2));
        dog.refresh_failed("b".into(), at(3));
        dog.exit(at(4));
        let counts = all(events).await.into_iter().map(|event| (event.refreshes, event.consecutive_errors));
        assert_eq!(counts.collect::<Vec<_>>(), [(0, 1), (1, 0), (1, 1), (1, 1)]);
    }

    #[tokio::test]
    async fn a_listener_that_does_not_listen_delays_nothing_loses_the_oldest_and_still_gets_the_last() {
        let dog = dog();
        let mut events = dog.subscribe();
        for n in 0..1000 {
            dog.refreshed(Duration::ZERO, at(n), at(n));
        }
        dog.exit(at(1000));
        let mut last = None;
        let mut heard = 0;
        while let Some(event) = events.next().await {
            heard += 1;
            last = Some(event.kind);
        }
        assert_eq!(last, Some(EventKind::Exited { refreshes: 1000, consecutive_errors: 0 }));
        assert_eq!((heard, events.missed(), dog.missed()), (64, 937, 937));
    }

    #[tokio::test]
    async fn ends_name_their_beginnings_and_payloads_are_attached_from_when_they_are_set() {
        let dog = dog();
        let events = dog.subscribe();
        dog.tell(EventKind::RefreshBegin, at(1));
        dog.set_payload(Some("v2".into()), at(1));
        dog.refreshed(Duration::ZERO, at(9), at(2));
        dog.tell(EventKind::Stopping, at(3));
        dog.tell(EventKind::StopFailed { error: "away".into() }, at(4));
        dog.exit(at(5));
        let events = all(events).await;
        let parents: Vec<_> = events.iter().map(|event| event.parent).collect();
        assert_eq!(parents, [None, None, Some(1), None, Some(4), None]);
        let payloads: Vec<_> = events.iter().map(|event| event.payload.as_deref()).collect();
        assert_eq!(payloads, [None, Some("v2"), Some("v2"), Some("v2"), Some("v2"), Some("v2")]);
    }
}
