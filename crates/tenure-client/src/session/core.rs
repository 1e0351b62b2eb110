//! What is shared of one session: its state, and those that rest on it.
//!
//! Every question looks at the clock first, and every change is told to all while the state is locked, so nobody hears of two
//! changes in the wrong order. Those that are told (locks, leaderships) do not ask back; the order of locks is keeper, session,
//! lock.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::standing::Standing;
use super::state::{LostReason, SessionState};
use super::terms::Terms;
use crate::clock::{Clock, Instant};
use crate::error::Error;
use crate::ids::LeaseId;
use crate::watchdog::{Dog, EventKind};

/// Something that rests on a session, and is told what becomes of it. It must not ask the session back.
pub(crate) trait Dependent: Send + Sync {
    /// The state changed, or its deadline moved.
    fn session_changed(&self, state: SessionState, now: Instant);

    /// Where to tell of renewals.
    fn dog(&self) -> Option<&Arc<Dog>>;
}

/// See the module's header.
pub(crate) struct Core {
    pub(crate) lease: LeaseId,
    pub(crate) owner: Arc<str>,
    clock: Arc<dyn Clock>,
    give_up_after: Option<u32>,
    dog: OnceLock<Arc<Dog>>,
    inner: Mutex<Inner>,
    state: watch::Sender<SessionState>,
}

struct Inner {
    standing: Standing,
    dependents: HashMap<u64, Weak<dyn Dependent>>,
    dependent_next: u64,
}

/// What a session is made of.
pub(crate) struct Made {
    pub(crate) lease: LeaseId,
    pub(crate) owner: Arc<str>,
    pub(crate) give_up_after: Option<u32>,
    pub(crate) standing: Standing,
}

impl Core {
    pub(crate) fn new(clock: Arc<dyn Clock>, made: Made) -> Arc<Core> {
        let Made { lease, owner, give_up_after, standing } = made;
        let state = watch::Sender::new(standing.state());
        let inner = Mutex::new(Inner { standing, dependents: HashMap::new(), dependent_next: 0 });
        Arc::new(Core { lease, owner, clock, give_up_after, dog: OnceLock::new(), inner, state })
    }

    /// Sets the watchdog, once.
    pub(crate) fn watch_by(&self, dog: Arc<Dog>) {
        // A second one is not made.
        drop(self.dog.set(dog));
    }

    pub(crate) fn dog(&self) -> Option<&Arc<Dog>> {
        self.dog.get()
    }

    /// What became of the revoke of a lease that its holder closed. With it, nothing more is told.
    pub(crate) fn stopped(&self, outcome: Result<(), &Error>) {
        let Some(dog) = self.dog.get() else { return };
        let now = self.clock.now();
        match outcome {
            Ok(()) => {
                dog.tell(EventKind::Stopped, now);
                dog.exit(now);
            }
            Err(error) => dog.tell(EventKind::StopFailed { error: error.to_string().into() }, now),
        }
    }

    /// Nobody is there to be told anything.
    pub(crate) fn exit(&self) {
        if let Some(dog) = self.dog.get() {
            dog.exit(self.clock.now());
        }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn terms(&self) -> Terms {
        self.inner.lock().standing.terms()
    }

    /// How it stands now.
    pub(crate) fn look(&self) -> SessionState {
        let now = self.clock.now();
        self.change(now, |standing| standing.look(now))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<SessionState> {
        self.look();
        self.state.subscribe()
    }

    /// What was told last.
    #[cfg(test)]
    pub(crate) fn peek(&self) -> SessionState {
        *self.state.subscribe().borrow()
    }

    /// When it changes if nothing happens.
    pub(crate) fn changes_at(&self) -> Option<Instant> {
        self.inner.lock().standing.changes_at()
    }

    /// When the last renewal was sent that was acknowledged, or the grant.
    pub(crate) fn anchor(&self) -> Instant {
        self.inner.lock().standing.anchor()
    }

    pub(crate) fn time_left(&self, now: Instant) -> Duration {
        self.inner.lock().standing.deadline().saturating_duration_since(now)
    }

    /// A renewal is sent.
    pub(crate) fn refresh_begins(&self, now: Instant) {
        let inner = self.inner.lock();
        self.tell_dogs(&inner, |dog| dog.tell(EventKind::RefreshBegin, now));
    }

    /// A renewal that was sent then was acknowledged. Answers the terms from now on, if that moved anything.
    pub(crate) fn acknowledged(&self, sent: Instant, ttl: Duration, now: Instant) -> Option<Terms> {
        let mut inner = self.inner.lock();
        let (was, anchor) = (inner.standing.state(), inner.standing.anchor());
        let is_changed = inner.standing.acknowledged(sent, ttl, now);
        let is_counted = inner.standing.anchor() != anchor;
        if is_counted {
            let until = inner.standing.deadline();
            self.tell_dogs(&inner, |dog| dog.refreshed(now - sent, until, now));
        }
        if is_changed {
            self.publish(&mut inner, was, now);
        }
        is_counted.then(|| inner.standing.terms())
    }

    /// A renewal failed, or is silent.
    pub(crate) fn refresh_failed(&self, error: &Arc<str>, consecutive: u32, now: Instant) {
        {
            let inner = self.inner.lock();
            self.tell_dogs(&inner, |dog| dog.refresh_failed(error.clone(), now));
        }
        if self.give_up_after.is_some_and(|most| consecutive >= most) {
            {
                let inner = self.inner.lock();
                self.tell_dogs(&inner, |dog| dog.tell(EventKind::GaveUp { consecutive }, now));
            }
            self.lose(LostReason::GaveUp { failures: consecutive });
        }
    }

    /// A server said that there is no such lease.
    pub(crate) fn not_found(&self) {
        let now = self.clock.now();
        self.change(now, |standing| standing.not_found(now));
    }

    pub(crate) fn lose(&self, reason: LostReason) {
        let now = self.clock.now();
        self.change(now, |standing| standing.lose(reason, now));
    }

    /// Ends it by its holder's will. Answers how it stands then: it may have been lost before.
    pub(crate) fn close(&self) -> SessionState {
        let now = self.clock.now();
        if !self.look().is_final()
            && let Some(dog) = self.dog.get()
        {
            dog.tell(EventKind::Stopping, now);
        }
        self.change(now, |standing| standing.close(now))
    }

    /// Adds something that rests on it, and tells it how things stand. Answers by what it is removed.
    pub(crate) fn add_dependent(&self, dependent: Weak<dyn Dependent>) -> u64 {
        let now = self.clock.now();
        self.change(now, |standing| standing.look(now));
        let mut inner = self.inner.lock();
        let number = inner.dependent_next;
        inner.dependent_next += 1;
        if let Some(told) = dependent.upgrade() {
            told.session_changed(inner.standing.state(), now);
        }
        inner.dependents.insert(number, dependent);
        number
    }

    pub(crate) fn remove_dependent(&self, number: u64) {
        self.inner.lock().dependents.remove(&number);
    }

    fn change(&self, now: Instant, change: impl FnOnce(&mut Standing) -> bool) -> SessionState {
        let mut inner = self.inner.lock();
        let was = inner.standing.state();
        if change(&mut inner.standing) {
            self.publish(&mut inner, was, now);
        }
        inner.standing.state()
    }

    fn publish(&self, inner: &mut Inner, was: SessionState, now: Instant) {
        let state = inner.standing.state();
        self.state.send_replace(state);
        if let Some(dog) = self.dog.get() {
            tell_change(dog, was, state, now);
            // What is closed is told about until its lease is known to be gone.
            if matches!(state, SessionState::Lost { .. }) {
                dog.exit(now);
            }
        }
        // Those that are gone are removed by the way.
        inner.dependents.retain(|_, dependent| {
            let Some(dependent) = dependent.upgrade() else { return false };
            dependent.session_changed(state, now);
            true
        });
    }

    fn tell_dogs(&self, inner: &Inner, tell: impl Fn(&Dog)) {
        self.dog.get().into_iter().for_each(|dog| tell(dog));
        for dependent in inner.dependents.values().filter_map(Weak::upgrade) {
            dependent.dog().into_iter().for_each(|dog| tell(dog));
        }
    }
}

/// Tells a watchdog how a state differs from the one before.
pub(crate) fn tell_change(dog: &Dog, was: SessionState, state: SessionState, now: Instant) {
    match (was, state) {
        (SessionState::Safe { .. }, SessionState::Jeopardy { until, .. }) => {
            dog.tell(EventKind::Jeopardy { until }, now);
        }
        (SessionState::Jeopardy { .. }, SessionState::Safe { until }) => dog.tell(EventKind::Recovered { until }, now),
        (_, SessionState::Lost { reason, .. }) => dog.tell(EventKind::Lost { reason }, now),
        (SessionState::Safe { .. }, SessionState::Safe { .. })
        | (SessionState::Jeopardy { .. }, SessionState::Jeopardy { .. })
        | (_, SessionState::Closed)
        | (SessionState::Lost { .. } | SessionState::Closed, _) => {}
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Core").field("lease", &self.lease).finish_non_exhaustive()
    }
}
