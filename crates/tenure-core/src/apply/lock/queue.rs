//! The queues of native locks: who comes, who goes, and who holds.
//!
//! A queue has a row for each live key under its lock's name. Those that hold are always the front of it, as long as it
//! may be:
//!
//! ```text
//! create      5        7        9        12       13
//!             reader   reader   writer   reader   etcd's
//!             holds    holds    waits    waits    waits        frontier 9
//! 9 leaves:   holds    holds             holds    waits        frontier 13
//! ```
//!
//! Keys join at the end only, since create revisions rise. So what is before the frontier holds, what is not waits, and
//! a hand-off looks at the frontier and at nothing else.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

use super::requests;
use crate::apply::ApplyError;
use crate::command::LockForce;
use crate::ids::Revision;
use crate::lock::{
    Contender, Granted, LockCause, LockEnd, LockKey, LockLeft, LockMode, LockRow, LockValue, Native, Sharing,
    lock_names, read,
};
use crate::planted::{Bug, is_on};
use crate::row::{KeyMeta, RevokedBy};
use crate::state::{StateRead, StateWrite};

/// Why a command changes keys.
pub(in crate::apply) enum Why<'a> {
    /// A client wants it so.
    Plain,
    /// A holder lets go.
    Released,
    /// A request is cancelled.
    Cancelled,
    /// A lease was due.
    Expired(Option<&'a RevokedBy>),
    /// A lease is revoked by a client.
    Revoked(Option<&'a RevokedBy>),
    /// An operator takes a lock away.
    Forced(&'a LockForce),
    /// A delay is over.
    Lapsed,
}

/// As what a key comes.
#[expect(
    clippy::large_enum_variant,
    reason = "one is made for each key that is put, and none is kept: a box would be one more"
)]
pub(in crate::apply) enum Joining {
    /// As any.
    Plain,
    /// As a native contender for this lock, whose row is known.
    Native(Bytes, LockRow, Native),
}

/// A place in a queue: a key, by its create revision, and what is known of it.
type Place = (Revision, Bytes, Contender);

/// The locks whose queues changed, and how. Most commands touch one.
#[derive(Default)]
pub(in crate::apply) struct Touched {
    first: Option<(Bytes, Moves)>,
    others: BTreeMap<Bytes, Moves>,
}

/// Who came to a queue, and who left it.
struct Moves {
    /// The lock's row as it will be, but for grants. It is written once, with these.
    row: LockRow,
    /// Those that came. They have no rows of their own yet.
    joined: Vec<Place>,
    left: bool,
    oldest_left: bool,
}

impl Touched {
    /// What is known of a lock that was touched.
    fn get(&mut self, name: &Bytes) -> Option<&mut Moves> {
        match &mut self.first {
            Some((first, moves)) if first == name => Some(moves),
            Some(_) => self.others.get_mut(name),
            None => None,
        }
    }

    /// The same of any lock, if there is one of that name.
    fn touch<S: StateRead>(&mut self, state: &S, name: &Bytes) -> Result<Option<&mut Moves>, S::Error> {
        // Twice, because a reference that is returned on one way would be held on all.
        if self.get(name).is_none() {
            let Some(row) = read::lock(state, name)? else { return Ok(None) };
            self.begin(name, row);
        }
        Ok(self.get(name))
    }

    fn begin(&mut self, name: &Bytes, row: LockRow) {
        let moves = Moves { row, joined: Vec::new(), left: false, oldest_left: false };
        match &self.first {
            None => self.first = Some((name.clone(), moves)),
            Some(_) => drop(self.others.insert(name.clone(), moves)),
        }
    }
}

impl LockRow {
    /// A lock that becomes native, with the contenders that there are, ordered.
    pub(super) fn of(found: &[(Revision, Bytes)]) -> LockRow {
        let Some((oldest, _)) = found.first() else { return LockRow::default() };
        let contenders = found.len() as u64;
        LockRow { contenders, granted: 1, exclusive: true, oldest: *oldest, frontier: *oldest, ..LockRow::default() }
    }

    /// Whether one that comes now would hold at once.
    pub(super) fn is_free_for(&self, mode: LockMode) -> bool {
        self.granted == self.contenders && self.fits(mode)
    }

    /// Whether the first that waits may hold together with those that do.
    fn fits(&self, mode: LockMode) -> bool {
        if self.granted == 0 || self.exclusive {
            return self.granted == 0;
        }
        match mode {
            LockMode::Exclusive => false,
            LockMode::Shared => true,
            LockMode::Semaphore { permits, limit } => {
                let limit = u64::from(limit) + u64::from(is_on(Bug::LockOneMorePermit));
                self.permits.saturating_add(u64::from(permits)) <= limit
            }
        }
    }

    fn grant(&mut self, mode: LockMode, create: Revision) -> Option<()> {
        self.granted += 1;
        self.exclusive = mode == LockMode::Exclusive;
        self.permits += permits(mode);
        // Keys of one revision are not native, and hold one by one: the others may still wait at the same place.
        self.frontier = if self.exclusive { create } else { Revision(create.0.checked_add(1)?) };
        Some(())
    }

    fn remove(&mut self, contender: &Contender) -> Option<()> {
        self.contenders = self.contenders.checked_sub(1)?;
        let mode = contender.mode();
        if contender.granted.is_some() {
            self.granted = self.granted.checked_sub(1)?;
            self.permits = self.permits.checked_sub(permits(mode))?;
            self.exclusive &= self.granted > 0;
        }
        if let Some(sharing) = mode.sharing() {
            let (known, count) = self.sharing.filter(|(known, _)| *known == sharing)?;
            self.sharing = Some((known, count.checked_sub(1)?)).filter(|(_, count)| *count > 0);
        }
        Some(())
    }
}

fn permits(mode: LockMode) -> u64 {
    match mode {
        LockMode::Exclusive | LockMode::Shared => 0,
        LockMode::Semaphore { permits, .. } => u64::from(permits),
    }
}

/// The keys that would contend for a lock if it became native, in their order; at most so many.
pub(super) fn survey<S: StateRead>(
    state: &S,
    name: &[u8],
    max: u64,
) -> Result<Vec<(Revision, Bytes)>, ApplyError<S::Error>> {
    let keys = state.contending_keys(name, max)?;
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let meta = state.current_meta(&key)?.filter(|meta| !meta.is_tombstone());
        found.push((meta.ok_or(ApplyError::Invariant("a live key is absent"))?.create, key));
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes a lock native. Its own row is written with the one who joins next.
pub(super) fn activate<S: StateWrite>(state: &mut S, name: &Bytes, found: Vec<(Revision, Bytes)>) {
    let clock_ms = state.meta().lease_clock_ms;
    for (place, (create, key)) in found.into_iter().enumerate() {
        let granted = (place == 0).then_some(Granted { revision: create, clock_ms });
        let row = LockValue::Place(Contender { granted, native: None });
        state.put_lock_row(LockKey::Place(name.clone(), create, key), row);
    }
    state.meta_mut().locks.locks += 1;
}

/// A key was created.
pub(in crate::apply) fn join<S: StateWrite>(
    state: &mut S,
    touched: &mut Touched,
    (key, create): (&Bytes, Revision),
    joining: Joining,
) -> Result<(), ApplyError<S::Error>> {
    if state.meta().locks.locks == 0 {
        return Ok(());
    }
    let (own, mut native) = match joining {
        Joining::Plain => (None, None),
        Joining::Native(own, row, native) => {
            if touched.get(&own).is_none() {
                touched.begin(&own, row);
            }
            (Some(own), Some(native))
        }
    };
    for name in lock_names(key) {
        let name = key.slice_ref(name);
        let Some(moves) = touched.touch(state, &name)? else { continue };
        let native = if own.as_ref() == Some(&name) { native.take() } else { None };
        let row = &mut moves.row;
        row.contenders += 1;
        if let Some(sharing) = native.as_ref().and_then(|native| native.mode.sharing()) {
            row.sharing = Some((sharing, row.sharing.map_or(0, |(_, count)| count) + 1));
        }
        moves.joined.push((create, key.clone(), Contender { granted: None, native }));
    }
    if native.is_some() {
        return Err(ApplyError::Invariant("a native contender's lock is not native"));
    }
    Ok(())
}

/// A key is about to be deleted. Answers what its event is to say of it.
pub(in crate::apply) fn leave<S: StateWrite>(
    state: &mut S,
    touched: &mut Touched,
    (key, live): (&Bytes, &KeyMeta),
    why: &Why<'_>,
) -> Result<Option<LockCause>, ApplyError<S::Error>> {
    let mut known = None;
    if state.meta().locks.locks > 0 {
        for name in lock_names(key) {
            let name = key.slice_ref(name);
            let Some(moves) = touched.touch(state, &name)? else { continue };
            let missing = ApplyError::Invariant("a key is missing from the queue of its lock");
            let contender = read::contender(state, &name, live.create, key)?.ok_or(missing)?;
            if !(is_on(Bug::LockForgottenHandOff) && matches!(why, Why::Expired(_))) {
                moves.left = true;
                moves.oldest_left |= moves.row.oldest == live.create;
            }
            moves.row.remove(&contender).ok_or(ApplyError::Invariant("a lock has lost count"))?;
            state.delete_lock_row(&LockKey::Place(name, live.create, key.clone()));
            if let Some(native) = &contender.native {
                requests::settle_native(state, key, native)?;
            }
            known = Some(contender);
        }
    }
    Ok(cause(state, live, known, why))
}

/// What an event says of the contender that leaves by it. The innermost lock of a key knows it best.
fn cause<S: StateRead>(state: &S, live: &KeyMeta, known: Option<Contender>, why: &Why<'_>) -> Option<LockCause> {
    let is_native = known.as_ref().is_some_and(|contender| contender.native.is_some());
    let (end, by, reason) = match why {
        Why::Forced(force) => (LockEnd::Forced, Some(&force.by), &force.reason[..]),
        Why::Expired(by) if known.is_some() => (LockEnd::Expired, *by, ""),
        Why::Revoked(by) if known.is_some() => (LockEnd::Revoked, *by, ""),
        Why::Plain if is_native => (LockEnd::Deleted, None, ""),
        Why::Released => (LockEnd::Released, None, ""),
        Why::Cancelled => (LockEnd::Cancelled, None, ""),
        Why::Lapsed => (LockEnd::Lapsed, None, ""),
        Why::Plain | Why::Expired(_) | Why::Revoked(_) => return None,
    };
    let left = left(state, live, known.unwrap_or_default());
    Some(LockCause::Left(end, LockLeft { by: by.cloned(), reason: String::from(reason), ..left }))
}

/// What a contender leaves behind.
pub(super) fn left<S: StateRead>(state: &S, live: &KeyMeta, contender: Contender) -> LockLeft {
    let Contender { granted, native } = contender;
    let held_ms = granted.map_or(0, |granted| state.meta().lease_clock_ms.saturating_sub(granted.clock_ms));
    let (lease, owner) = native.map_or((live.lease, String::new()), |native| (native.lease, native.owner));
    let granted = granted.map(|granted| granted.revision);
    LockLeft { lease, owner, granted, held_ms, by: None, reason: String::new() }
}

/// Grants the locks whose queues changed to those that hold them now, and writes what became of them.
pub(in crate::apply) fn settle<S: StateWrite>(state: &mut S, touched: Touched) -> Result<(), ApplyError<S::Error>> {
    for (name, moves) in touched.first.into_iter().chain(touched.others) {
        let Moves { mut row, joined, left, oldest_left } = moves;
        if row.contenders == 0 {
            state.delete_lock_row(&LockKey::Lock(name));
            let locks = &mut state.meta_mut().locks.locks;
            *locks = locks.checked_sub(1).ok_or(ApplyError::Invariant("locks are not counted right"))?;
            continue;
        }
        let was_free = row.granted == 0;
        let is_touched = left || !joined.is_empty();
        let grants = grantable(state, &name, &mut row, joined, left)?;
        if was_free && is_touched {
            let (first, ..) = grants.first().ok_or(ApplyError::Invariant("nobody holds a lock that is wanted"))?;
            row.oldest = *first;
        } else if oldest_left {
            // From the last known one on: what is before it is gone, and would have to be walked over.
            row.oldest = oldest(state, &name, row.oldest)?;
        }
        for (create, key, mut contender) in grants {
            let meta = state.meta();
            contender.granted = Some(Granted { revision: meta.revision, clock_ms: meta.lease_clock_ms });
            state.put_lock_row(LockKey::Place(name.clone(), create, key), LockValue::Place(contender));
        }
        state.put_lock_row(LockKey::Lock(name), LockValue::Lock(row));
    }
    Ok(())
}

/// Those that may hold now and do not yet, with the lock's row as it is when they do. Writes the rows of those that joined
/// and are not among them.
///
/// The queue is read only if that may change something for those who waited before.
fn grantable<S: StateWrite>(
    state: &mut S,
    name: &Bytes,
    row: &mut LockRow,
    mut joined: Vec<Place>,
    left: bool,
) -> Result<Vec<Place>, ApplyError<S::Error>> {
    let waiting = row.contenders - row.granted.min(row.contenders);
    if waiting == 0 || row.exclusive {
        wait(state, name, joined);
        return Ok(Vec::new());
    }
    if waiting == joined.len() as u64 {
        joined.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut grants = 0;
        for place in &joined {
            let considered = consider(row, place)?;
            grants += usize::from(considered.holds);
            if considered.is_over {
                break;
            }
        }
        wait(state, name, joined.split_off(grants));
        return Ok(joined);
    }
    wait(state, name, joined);
    let mut grants = Vec::new();
    if !left && !is_on(Bug::LockReaderOvertakes) && !is_on(Bug::LockPermitsOvertake) {
        return Ok(grants);
    }
    let (mut seen, mut passed_over) = (false, None);
    let mut considered = Ok(());
    read::scan_contenders(state, name, row.frontier, &mut |create, key, contender| {
        seen = true;
        if is_passed_over(row, &contender, passed_over) {
            passed_over = passed_over.or(Some(create));
            return ControlFlow::Continue(());
        }
        let place = (create, key, contender);
        let is_over = match consider(row, &place) {
            Ok(Considered { holds, is_over }) => {
                grants.extend(holds.then_some(place));
                is_over
            }
            Err(error) => {
                considered = Err(error);
                true
            }
        };
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if !seen {
        return Err(ApplyError::Invariant("a lock's queue lacks those that wait"));
    }
    row.frontier = passed_over.unwrap_or(row.frontier);
    considered.map(|()| grants)
}

/// Writes the rows of those that joined and do not hold.
fn wait<S: StateWrite>(state: &mut S, name: &Bytes, joined: Vec<Place>) {
    for (create, key, contender) in joined {
        state.put_lock_row(LockKey::Place(name.clone(), create, key), LockValue::Place(contender));
    }
}

/// What became of one that waited.
struct Considered {
    /// It holds the lock now.
    holds: bool,
    /// The next one need not be asked.
    is_over: bool,
}

/// Grants a lock to the first that waits, if it may hold it.
fn consider<E>(row: &mut LockRow, (create, _, contender): &Place) -> Result<Considered, ApplyError<E>> {
    if contender.granted.is_some() {
        return Err(ApplyError::Invariant("a holder is behind the frontier of its lock"));
    }
    row.frontier = *create;
    let mode = contender.mode();
    if !row.fits(mode) {
        return Ok(Considered { holds: false, is_over: true });
    }
    row.grant(mode, *create).ok_or(ApplyError::Invariant("revisions have reached their end"))?;
    Ok(Considered { holds: true, is_over: row.granted == row.contenders || row.exclusive })
}

/// Whether the search for those that may hold goes on behind somebody with whom it should end: planted.
fn is_passed_over(row: &LockRow, contender: &Contender, passed_over: Option<Revision>) -> bool {
    let mode = contender.mode();
    if is_on(Bug::LockToTheSecond) {
        return contender.granted.is_some() || (row.granted == 0 && row.contenders > 1 && passed_over.is_none());
    }
    let overtakes = match row.sharing {
        Some((Sharing::Permits { .. }, _)) => is_on(Bug::LockPermitsOvertake),
        Some((Sharing::Readers, _)) => is_on(Bug::LockReaderOvertakes),
        None => false,
    };
    overtakes && (contender.granted.is_some() || !row.fits(mode))
}

/// The create revision of the oldest contender, which is not older than `from`.
fn oldest<S: StateRead>(state: &S, name: &Bytes, from: Revision) -> Result<Revision, ApplyError<S::Error>> {
    let mut found = None;
    read::scan_contenders(state, name, from, &mut |create, _, _| {
        found = Some(create);
        ControlFlow::Break(())
    })?;
    found.ok_or(ApplyError::Invariant("a lock's queue lacks those that hold it"))
}
