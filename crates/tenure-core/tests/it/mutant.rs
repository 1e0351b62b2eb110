//! The in-memory tables with a bug planted in them, to prove that the property test would find such a bug; and with
//! every read counted, to hold reads to what they may cost.

use std::cell::Cell;
use std::ops::ControlFlow;

use bytes::Bytes;
use tenure_core::command::KeyRange;
use tenure_core::lock::{Contender, Granted, LockKey, LockMode, LockValue};
use tenure_core::memory::{MemoryError, MemoryState};
use tenure_core::row::{CurrentRow, EventRow, KeyMeta, LeaseEnd, LeaseHolder, LeaseRow, Meta};
use tenure_core::state::{StateRead, StateWrite};
use tenure_core::{EventId, LeaseId, Revision};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A put of a key that exists makes it look created anew.
    CreateForgotten,
    /// Events point back to nothing.
    PreviousForgotten,
    /// The second event of a revision takes the third place.
    SubSkipped,
    /// A delete keeps the old value in its event.
    TombstoneWithValue,
    /// A lease is born with the clock at 0.
    GrantedAtZero,
    /// A renewal is not counted.
    RenewalUncounted,
    /// A lease keeps a key that was taken off it.
    DetachForgotten,
    /// A range without end is counted without its first key.
    CountOneShort,
    /// A lease's end is not recorded.
    EndForgotten,
    /// A lease's holder outlives it.
    HolderKept,
    /// A contender that becomes a holder is not told.
    GrantForgotten,
    /// Whoever comes holds the lock.
    GrantedAtOnce,
    /// A contender whose key is gone stays in the queue.
    WaiterKept,
    /// The numbers of requests that are finished are not kept.
    FinishedForgotten,
    /// A later try of a request is not noted.
    AttachForgotten,
    /// A lock-delay ends when it begins.
    DelaySkipped,
    /// What a native contender wants is forgotten when it is granted.
    ModeForgotten,
    /// The permits that are taken are not counted.
    PermitsUncounted,
    /// Nobody looks for those that wait where they are.
    FrontierAhead,
    /// An event does not say what made it.
    CauseForgotten,
}

pub(crate) const LOCK_BUGS: [Bug; 10] = [
    Bug::GrantForgotten,
    Bug::GrantedAtOnce,
    Bug::WaiterKept,
    Bug::FinishedForgotten,
    Bug::AttachForgotten,
    Bug::DelaySkipped,
    Bug::ModeForgotten,
    Bug::PermitsUncounted,
    Bug::FrontierAhead,
    Bug::CauseForgotten,
];

pub(crate) const BUGS: [Bug; 10] = [
    Bug::CreateForgotten,
    Bug::PreviousForgotten,
    Bug::SubSkipped,
    Bug::TombstoneWithValue,
    Bug::GrantedAtZero,
    Bug::RenewalUncounted,
    Bug::DetachForgotten,
    Bug::CountOneShort,
    Bug::EndForgotten,
    Bug::HolderKept,
];

#[derive(Clone, Default)]
pub(crate) struct Mutant {
    pub(crate) state: MemoryState,
    pub(crate) bug: Option<Bug>,
    reads: Cell<Reads>,
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Keys asked for their metadata.
    pub(crate) metas: usize,
    /// Rows of `current` got or walked over.
    pub(crate) rows: usize,
    /// Rows of `live` walked over.
    pub(crate) live: usize,
    /// Events got or walked over.
    pub(crate) events: usize,
    /// Rows of `locks` got or walked over.
    pub(crate) locks: usize,
}

impl Mutant {
    pub(crate) fn new(bug: Option<Bug>) -> Mutant {
        Mutant { bug, ..Mutant::default() }
    }

    /// What was read since the last call.
    pub(crate) fn take_reads(&self) -> Reads {
        self.reads.take()
    }

    fn count(&self, note: impl FnOnce(&mut Reads)) {
        let mut reads = self.reads.get();
        note(&mut reads);
        self.reads.set(reads);
    }
}

impl StateRead for Mutant {
    type Error = MemoryError;

    fn corrupt(&self, what: &'static str) -> MemoryError {
        self.state.corrupt(what)
    }

    fn meta(&self) -> &Meta {
        self.state.meta()
    }

    fn current_meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, MemoryError> {
        self.count(|reads| reads.metas += 1);
        self.state.current_meta(key)
    }

    fn current(&self, key: &[u8]) -> Result<Option<CurrentRow>, MemoryError> {
        self.count(|reads| reads.rows += 1);
        StateRead::current(&self.state, key)
    }

    fn scan_current(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Bytes, CurrentRow) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        self.state.scan_current(range, &mut |key, row| {
            self.count(|reads| reads.rows += 1);
            visit(key, row)
        })
    }

    fn scan_live(&self, range: &KeyRange, visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), MemoryError> {
        self.state.scan_live(range, &mut |key| {
            self.count(|reads| reads.live += 1);
            visit(key)
        })
    }

    fn count_live(&self, range: &KeyRange) -> Result<u64, MemoryError> {
        let count = self.state.count_live(range)?;
        let short = self.bug == Some(Bug::CountOneShort) && matches!(range, KeyRange::From(_));
        Ok(count.saturating_sub(u64::from(short)))
    }

    fn event(&self, id: EventId) -> Result<Option<EventRow>, MemoryError> {
        self.count(|reads| reads.events += 1);
        self.state.event(id)
    }

    fn scan_events(
        &self,
        first: Revision,
        last: Revision,
        visit: &mut dyn FnMut(EventRow) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        self.state.scan_events(first, last, &mut |event| {
            self.count(|reads| reads.events += 1);
            visit(event)
        })
    }

    fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, MemoryError> {
        self.state.lease(id)
    }

    fn scan_leases(&self, visit: &mut dyn FnMut(LeaseId, LeaseRow) -> ControlFlow<()>) -> Result<(), MemoryError> {
        self.state.scan_leases(visit)
    }

    fn scan_lease_keys(&self, id: LeaseId, visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), MemoryError> {
        self.state.scan_lease_keys(id, visit)
    }

    fn lease_holder(&self, id: LeaseId) -> Result<Option<LeaseHolder>, MemoryError> {
        self.state.lease_holder(id)
    }

    fn scan_lease_ends(&self, visit: &mut dyn FnMut(u64, LeaseEnd) -> ControlFlow<()>) -> Result<(), MemoryError> {
        self.state.scan_lease_ends(visit)
    }

    fn lock_row(&self, key: &LockKey) -> Result<Option<LockValue>, MemoryError> {
        self.count(|reads| reads.locks += 1);
        self.state.lock_row(key)
    }

    fn scan_lock_rows(
        &self,
        from: &LockKey,
        visit: &mut dyn FnMut(LockKey, LockValue) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        self.state.scan_lock_rows(from, &mut |key, row| {
            self.count(|reads| reads.locks += 1);
            visit(key, row)
        })
    }
}

impl StateWrite for Mutant {
    fn record(&mut self, mut event: EventRow) {
        match self.bug {
            Some(Bug::CreateForgotten) if !event.meta.is_tombstone() => {
                event.meta.create = event.meta.modified.revision;
            }
            Some(Bug::PreviousForgotten) => event.previous = None,
            Some(Bug::SubSkipped) if event.meta.modified.sub > 0 => event.meta.modified.sub += 1,
            Some(Bug::TombstoneWithValue) if event.meta.is_tombstone() => {
                event.value = self.state.current[&event.key].value.clone();
            }
            Some(Bug::CauseForgotten) => event.cause = None,
            _ => {}
        }
        self.state.record(event);
    }

    fn meta_mut(&mut self) -> &mut Meta {
        self.state.meta_mut()
    }

    fn put_lease(&mut self, id: LeaseId, mut row: LeaseRow) {
        if self.bug == Some(Bug::GrantedAtZero) {
            row.clock_ms = 0;
        }
        if self.bug == Some(Bug::RenewalUncounted) {
            row.renewals = 0;
        }
        self.state.put_lease(id, row);
    }

    fn delete_lease(&mut self, id: LeaseId) {
        self.state.delete_lease(id);
    }

    fn attach(&mut self, id: LeaseId, key: &Bytes) {
        self.state.attach(id, key);
    }

    fn detach(&mut self, id: LeaseId, key: &Bytes) {
        if self.bug != Some(Bug::DetachForgotten) {
            self.state.detach(id, key);
        }
    }

    fn put_lease_holder(&mut self, id: LeaseId, holder: LeaseHolder) {
        if self.bug == Some(Bug::HolderKept) {
            self.state.lease_holders.remove(&id);
        }
        self.state.put_lease_holder(id, holder);
    }

    fn delete_lease_holder(&mut self, id: LeaseId) {
        if self.bug != Some(Bug::HolderKept) {
            self.state.delete_lease_holder(id);
        }
    }

    fn put_lease_end(&mut self, number: u64, end: LeaseEnd) {
        if self.bug != Some(Bug::EndForgotten) {
            self.state.put_lease_end(number, end);
        }
    }

    fn delete_lease_end(&mut self, number: u64) {
        self.state.delete_lease_end(number);
    }

    fn put_lock_row(&mut self, key: LockKey, mut row: LockValue) {
        match (&mut row, self.bug) {
            (LockValue::Place(row), Some(Bug::GrantForgotten)) => row.granted = None,
            (LockValue::Place(row), Some(Bug::GrantedAtOnce)) => row.granted = row.granted.or(Some(Granted::default())),
            (LockValue::Place(Contender { granted: Some(_), native: Some(native) }), Some(Bug::ModeForgotten)) => {
                native.mode = LockMode::Shared;
            }
            (LockValue::Place(Contender { native: Some(native), .. }), Some(Bug::AttachForgotten)) => {
                native.requests.iter_mut().for_each(|request| request.attach = 0);
            }
            (LockValue::Requests(row), Some(Bug::FinishedForgotten)) => row.finished.clear(),
            (LockValue::Delay(row), Some(Bug::DelaySkipped)) => row.ends_ms = 0,
            (LockValue::Lock(row), Some(Bug::PermitsUncounted)) => row.permits = 0,
            (LockValue::Lock(row), Some(Bug::FrontierAhead)) => row.frontier.0 += 1,
            _ => {}
        }
        self.state.put_lock_row(key, row);
    }

    fn delete_lock_row(&mut self, key: &LockKey) {
        if self.bug != Some(Bug::WaiterKept) || !matches!(key, LockKey::Place(..)) {
            self.state.delete_lock_row(key);
        }
    }
}
