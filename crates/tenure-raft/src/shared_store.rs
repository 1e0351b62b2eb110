//! The state store as the parts of a member share it: the apply loop writes it, the purge of compacted history commits
//! between its runs, a snapshot from the leader replaces it, and everybody reads the view published last.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tenure_core::outcome::Outcome;
use tenure_core::state::StateRead;
use tenure_core::{LogIndex, Term};
use tenure_storage::flusher::Flusher;
use tenure_storage::state_view::StateView;
use tenure_storage::store::{Applied, Committed, StateStore};
use tokio::sync::watch;

use crate::effects::{AppliedRun, Effects};
use crate::home::{Housed, Tenancy};
use crate::lease_clock::LeaseClock;
use crate::log::Arrivals;
use crate::runtime::BootInstant;

/// See the module's header.
#[derive(Clone)]
pub(crate) struct SharedStore {
    store: Arc<Mutex<StateStore>>,
    published: watch::Sender<Arc<StateView>>,
    /// Of the store that the published view came from, or of a later one.
    flusher: Arc<Mutex<Flusher>>,
    tenancy: Arc<Mutex<Arc<Tenancy>>>,
    effects: Arc<[Arc<dyn Effects>]>,
    lease_clock: Arc<LeaseClock>,
    arrivals: Arc<Arrivals>,
}

impl SharedStore {
    /// The effects are told of the state as it is now.
    pub(crate) fn new(housed: Housed, effects: Arc<[Arc<dyn Effects>]>, arrivals: Arc<Arrivals>) -> SharedStore {
        let Housed { store, tenancy, .. } = housed;
        let published = watch::Sender::new(store.view());
        let flusher = Arc::new(Mutex::new(store.flusher()));
        for effect in effects.iter() {
            effect.replaced(&store.view());
        }
        let lease_clock = Arc::new(LeaseClock::new(store.view().meta().lease_clock_ms, BootInstant::now()));
        let (store, tenancy) = (Arc::new(Mutex::new(store)), Arc::new(Mutex::new(tenancy)));
        SharedStore { store, published, flusher, tenancy, effects, lease_clock, arrivals }
    }

    /// Puts a snapshot from the leader in the place of the state. Whoever holds a view of the old one keeps it; the old
    /// directory goes with the last of them.
    pub(crate) fn replace(&self, housed: Housed) -> io::Result<()> {
        let mut store = self.lock()?;
        check_newer(&housed, store.applied())?;
        let view = housed.store.view();
        // Before the view is published: a flush must never cover less than the view that asked for it.
        *self.flusher.lock().unwrap_or_else(PoisonError::into_inner) = housed.store.flusher();
        let old_store = std::mem::replace(&mut *store, housed.store);
        let old_tenancy = {
            let mut tenancy = self.tenancy.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *tenancy, housed.tenancy)
        };
        old_tenancy.give_up();
        self.lease_clock.replaced(view.meta().lease_clock_ms, BootInstant::now());
        self.published.send_replace(view.clone());
        for effect in self.effects.iter() {
            effect.replaced(&view);
        }
        drop(store);
        drop(old_store);
        Ok(())
    }

    /// Whether a snapshot may take the place of the state: only a newer one, before its directory counts and again in the
    /// end.
    pub(crate) fn check_replacement(&self, housed: &Housed) -> io::Result<()> {
        check_newer(housed, self.view().applied())
    }

    /// The view published last.
    pub(crate) fn view(&self) -> Arc<StateView> {
        self.published.borrow().clone()
    }

    /// The lease clock as this node reckons it.
    pub(crate) fn lease_clock(&self) -> Arc<LeaseClock> {
        self.lease_clock.clone()
    }

    /// What is applied, and who can make it durable, neither by the store's lock: a long run of the apply loop must not
    /// hold up who asks.
    pub(crate) fn durable_point(&self) -> (Applied, Flusher) {
        // In this order, see `replace`.
        let applied = self.view().applied().clone();
        (applied, self.flusher())
    }

    /// Makes what is applied durable, without the store's lock.
    pub(crate) fn flusher(&self) -> Flusher {
        self.flusher.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The views, as they are published.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<StateView>> {
        self.published.subscribe()
    }

    /// The store, for a change of it: when the change is done, [`SharedStore::publish`] is called under this lock, so
    /// that views are published in the order in which they came to be.
    ///
    /// A poisoned lock means that apply panicked: the process is about to abort.
    pub(crate) fn lock(&self) -> io::Result<MutexGuard<'_, StateStore>> {
        self.store.lock().map_err(|_| io::Error::other("the state store was left half-way by a panic"))
    }

    /// The store, if nobody else has it just now.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, StateStore>> {
        self.store.try_lock().ok()
    }

    pub(crate) fn publish(&self, store: &StateStore) {
        self.published.send_replace(store.view());
    }

    /// Tells the lease clock what the entries of a run told, before the run's view is published: whoever sees that this
    /// node has applied all of earlier terms may go by the clock.
    pub(crate) fn tell_time(&self, view: &StateView, telling: &[(Term, LogIndex)]) {
        let now = BootInstant::now();
        for (term, last) in telling {
            let arrived = self.arrivals.of(last.0, now);
            self.lease_clock.told(view.meta().lease_clock_ms, *term, arrived, now);
        }
    }

    /// Hands on what a run changed, once its view is published and still under the store's lock: in log order.
    pub(crate) fn tell(&self, committed: Committed, log_bytes: usize) {
        let Committed { view, events, leases, locks } = committed;
        let (leases, locks) = (leases.into(), locks.into());
        let run = AppliedRun { view, events: events.into(), leases, locks, log_bytes };
        for effect in self.effects.iter() {
            effect.applied(&run);
        }
    }

    /// Hands on how the commands of a group were decided, after the changes of its run.
    pub(crate) fn tell_decided(&self, group: &Bytes, outcomes: &[Outcome]) {
        for effect in self.effects.iter() {
            effect.decided(group, outcomes);
        }
    }
}

fn check_newer(housed: &Housed, applied: &Applied) -> io::Result<()> {
    let (before, after) = (applied.index, housed.store.applied().index);
    if after <= before {
        return Err(io::Error::other(format!("a snapshot at entry {after} came after entry {before} was applied")));
    }
    Ok(())
}
