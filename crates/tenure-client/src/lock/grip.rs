//! What is known of one thing that is held: a lock or a leadership. Shared by its guard and by those that watch over it.
//!
//! It is over as soon as one of three says so: its session, its own key, or the end of the time for which it was to be held.
//! The first of them counts, and it is final. The session tells it of changes and is never asked from within. What the session
//! knows is the part without a way back to it, so that no end of a lock can happen while the session is locked.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::names::Claimed;
use super::requests::RequestNumber;
use super::token::FencingToken;
use crate::clock::Instant;
use crate::fence::Fence;
use crate::ids::{LeaseId, Revision};
use crate::session::{Dependent, LostReason, Owner, SessionState, tell_change};
use crate::watchdog::{Dog, EventKind};

/// What is held.
#[derive(Clone, Debug)]
pub(crate) struct Grasp {
    /// As the caller named it.
    pub(crate) name: Bytes,
    /// Without the client's namespace.
    pub(crate) key: Bytes,
    pub(crate) token: Revision,
    /// The request by which it is held; none if it is held by etcd's recipe.
    pub(crate) number: Option<RequestNumber>,
    /// How often the session holds it, this one included.
    pub(crate) holds: u32,
}

/// How its guard wants to be told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Telling {
    pub(crate) is_cancelled_in_jeopardy: bool,
    /// From when on it is held for too long.
    pub(crate) hold_until: Option<Instant>,
}

/// See the module's header.
pub(crate) struct Grip {
    pub(crate) owner: Arc<Owner>,
    pub(crate) grasp: Grasp,
    pub(crate) telling: Telling,
    /// Ends those that watch over it.
    pub(crate) unwatched: CancellationToken,
    shared: Arc<Shared>,
    /// By which the session knows it.
    registered: Mutex<Option<u64>>,
    /// Of one that is held by the recipe: no other request of the session uses its name meanwhile.
    claimed: Mutex<Option<Claimed>>,
}

/// What the session tells.
struct Shared {
    is_cancelled_in_jeopardy: bool,
    dog: Arc<Dog>,
    cancellation: CancellationToken,
    inner: Mutex<Inner>,
    /// Told of every change.
    changes: watch::Sender<()>,
}

#[derive(Debug)]
struct Inner {
    /// As the session told it last.
    session: SessionState,
    end: Option<End>,
    phase: Phase,
    /// A release was sent once, and nobody knows whether it was done. That never becomes certain again.
    is_doubtful: bool,
    /// The key was seen to be gone while it was being released.
    is_key_gone: bool,
}

#[derive(Clone, Copy, Debug)]
struct End {
    reason: LostReason,
    at: Instant,
    /// Whether more about the reason is still being found out.
    is_provisional: bool,
}

/// What its holder did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Held,
    /// A release is under way.
    Releasing,
    /// A release was sent, and nobody knows whether it was done.
    Doubtful,
    Released,
}

impl Grip {
    /// Takes hold, and registers with the session.
    pub(crate) fn new(
        owner: Arc<Owner>,
        grasp: Grasp,
        telling: Telling,
        dog: Arc<Dog>,
        claimed: Option<Claimed>,
    ) -> Arc<Grip> {
        let session = owner.core.look();
        let inner = Inner { session, end: None, phase: Phase::Held, is_doubtful: false, is_key_gone: false };
        let shared = Arc::new(Shared {
            is_cancelled_in_jeopardy: telling.is_cancelled_in_jeopardy,
            dog,
            cancellation: CancellationToken::new(),
            inner: Mutex::new(inner),
            changes: watch::Sender::new(()),
        });
        let told: Arc<dyn Dependent> = shared.clone();
        let registered = Mutex::new(Some(owner.core.add_dependent(Arc::downgrade(&told))));
        let (unwatched, claimed) = (CancellationToken::new(), Mutex::new(claimed));
        Arc::new(Grip { owner, grasp, telling, unwatched, shared, registered, claimed })
    }

    pub(crate) fn dog(&self) -> &Arc<Dog> {
        &self.shared.dog
    }

    pub(crate) fn cancellation(&self) -> &CancellationToken {
        &self.shared.cancellation
    }

    pub(crate) fn now(&self) -> Instant {
        self.owner.core.clock().now()
    }

    pub(crate) fn lease(&self) -> LeaseId {
        self.owner.core.lease
    }

    pub(crate) fn fence(&self) -> Fence {
        Fence { key: self.grasp.key.clone(), token: self.grasp.token, lease: self.lease() }
    }

    pub(crate) fn token(&self) -> FencingToken {
        FencingToken { name: self.grasp.name.clone(), revision: self.grasp.token, lease: self.lease() }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.shared.changes.subscribe()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.shared.inner.lock().phase
    }

    /// How it stands now. `Closed` is what was released.
    pub(crate) fn look(&self) -> SessionState {
        // It tells this grip if anything changed, and so may not be asked with the lock in hand.
        self.owner.core.look();
        let now = self.now();
        let mut inner = self.shared.inner.lock();
        if self.telling.hold_until.is_some_and(|until| now >= until) {
            self.shared.end(&mut inner, LostReason::HeldTooLong, false, now);
        }
        inner.state(self.telling.hold_until, now)
    }

    /// Why it is lost, once nothing more will be found out about it.
    pub(crate) fn settled_reason(&self) -> Option<LostReason> {
        let state = self.look();
        let is_provisional = self.shared.inner.lock().end.is_some_and(|end| end.is_provisional);
        state.lost_reason().filter(|_| !is_provisional)
    }

    /// Its key is gone, or is not its own any more. More about that may be found out.
    pub(crate) fn key_gone(&self) -> bool {
        let now = self.now();
        let mut inner = self.shared.inner.lock();
        match inner.phase {
            Phase::Held | Phase::Doubtful => self.shared.end(&mut inner, LostReason::KeyDeleted, true, now),
            // Most probably by the release; if that fails, it was not.
            Phase::Releasing => {
                inner.is_key_gone = true;
                false
            }
            Phase::Released => false,
        }
    }

    /// Nothing more is found out about why its key is gone, or this.
    pub(crate) fn settle(&self, reason: Option<LostReason>) {
        let mut inner = self.shared.inner.lock();
        if let Some(end) = inner.end.as_mut().filter(|end| end.is_provisional) {
            end.reason = reason.unwrap_or(end.reason);
            end.is_provisional = false;
            let now = self.now();
            self.shared.dog.tell(EventKind::Lost { reason: end.reason }, now);
            self.shared.dog.exit(now);
        }
        drop(inner);
        self.shared.changes.send_replace(());
    }

    /// A release begins. Nothing is said about the key until it is over. Answers whether there is something to release.
    pub(crate) fn release_begins(&self) {
        let mut inner = self.shared.inner.lock();
        inner.phase = Phase::Releasing;
        self.shared.dog.tell(EventKind::Stopping, self.now());
    }

    /// The release was acknowledged.
    pub(crate) fn released(&self) {
        self.shared.inner.lock().phase = Phase::Released;
        let now = self.now();
        self.shared.dog.tell(EventKind::Stopped, now);
        self.let_go();
        self.shared.changes.send_replace(());
    }

    /// The release failed. If it may have been done all the same, it is never sure again.
    pub(crate) fn release_failed(&self, error: &str, is_known: bool) {
        let now = self.now();
        let mut inner = self.shared.inner.lock();
        inner.is_doubtful |= !is_known;
        inner.phase = if inner.is_doubtful { Phase::Doubtful } else { Phase::Held };
        self.shared.dog.tell(EventKind::StopFailed { error: error.into() }, now);
        if inner.is_key_gone {
            self.shared.end(&mut inner, LostReason::KeyDeleted, false, now);
        } else if !is_known && self.telling.is_cancelled_in_jeopardy {
            self.shared.cancellation.cancel();
        }
        drop(inner);
        self.shared.changes.send_replace(());
    }

    /// Nobody holds it by this guard any more.
    pub(crate) fn let_go(&self) {
        self.unwatched.cancel();
        if let Some(number) = self.registered.lock().take() {
            self.owner.core.remove_dependent(number);
        }
        self.shared.dog.exit(self.now());
        self.shared.cancellation.cancel();
        self.claimed.lock().take();
    }
}

impl Shared {
    /// The end, unless it was over before.
    fn end(&self, inner: &mut Inner, reason: LostReason, is_provisional: bool, at: Instant) -> bool {
        if inner.is_over() {
            return false;
        }
        inner.end = Some(End { reason, at, is_provisional });
        if !is_provisional {
            self.dog.tell(EventKind::Lost { reason }, at);
            self.dog.exit(at);
        }
        self.cancellation.cancel();
        self.changes.send_replace(());
        true
    }
}

impl Inner {
    fn is_over(&self) -> bool {
        self.end.is_some() || self.session.is_final() || self.phase == Phase::Released
    }

    fn state(&self, hold_until: Option<Instant>, now: Instant) -> SessionState {
        if let Some(End { reason, at, .. }) = self.end {
            return SessionState::Lost { reason, at };
        }
        if self.phase == Phase::Released {
            return SessionState::Closed;
        }
        let clamp = |until: Instant| hold_until.map_or(until, |end| end.min(until));
        match self.session {
            // Nothing is certain any more.
            SessionState::Safe { .. } | SessionState::Jeopardy { .. } if self.phase == Phase::Doubtful => {
                SessionState::Jeopardy { since: now, until: now }
            }
            SessionState::Safe { until } => SessionState::Safe { until: clamp(until) },
            SessionState::Jeopardy { since, until } => SessionState::Jeopardy { since, until: clamp(until) },
            lost @ SessionState::Lost { .. } => lost,
            SessionState::Closed => SessionState::Lost { reason: LostReason::SessionClosed, at: now },
        }
    }
}

impl Dependent for Shared {
    fn session_changed(&self, state: SessionState, now: Instant) {
        let mut inner = self.inner.lock();
        let was = std::mem::replace(&mut inner.session, state);
        if inner.end.is_some() || inner.phase == Phase::Released {
            return;
        }
        tell_change(&self.dog, was, state, now);
        match state {
            SessionState::Safe { .. } => {}
            SessionState::Jeopardy { .. } => {
                if self.is_cancelled_in_jeopardy {
                    self.cancellation.cancel();
                }
            }
            SessionState::Closed | SessionState::Lost { .. } => {
                if state == SessionState::Closed {
                    self.dog.tell(EventKind::Lost { reason: LostReason::SessionClosed }, now);
                }
                self.dog.exit(now);
                self.cancellation.cancel();
            }
        }
        self.changes.send_replace(());
    }

    fn dog(&self) -> Option<&Arc<Dog>> {
        // One that has exited tells nothing.
        Some(&self.dog)
    }
}

impl std::fmt::Debug for Grip {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Grip")
            .field("grasp", &self.grasp)
            .field("inner", &self.shared.inner)
            .finish_non_exhaustive()
    }
}
