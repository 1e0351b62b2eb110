//! Who holds a lock and who waits for it.
//!
//! A native lock is read from its queue. One that nobody acquired natively has none: its keys are gathered and sorted, at most
//! as many of them as a native lock may have contenders.

use std::ops::ControlFlow;

use bytes::Bytes;
use tenure_core::lock::{
    Contender, LOCK_CONTENDERS_MAX, LOCK_METADATA_BYTES_MAX, LockKey, LockMode, LockRow, LockValue, lock_range, read,
};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Revision};
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;

use super::lease_left_ms;
use crate::node::{Node, Page, ReadAnswer, RequestError};

/// Locks of one page, and contenders of one answer.
pub const LOCKS_PER_PAGE_MAX: usize = 1000;

/// Keys and metadata of one answer: what a thousand contenders of this service have, and not what others may put there.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A contender, with all that is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockDetail {
    /// Its key.
    pub key: Bytes,
    /// The key's create revision.
    pub token: Revision,
    /// The key's lease.
    pub lease: LeaseId,
    /// What is left of that.
    pub lease_left_ms: u64,
    /// Whether it holds the lock.
    pub holds_lock: bool,
    /// For how long, if that is known.
    pub held_ms: u64,
    /// What is known of it if it came by an acquire.
    pub native: Option<LockStanding>,
    /// The first kilobyte of the key's value: all of it, if it came by an acquire.
    pub metadata: Bytes,
}

/// What is known of a native contender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockStanding {
    /// The owner, in the client's words.
    pub owner: String,
    /// How it wants the lock.
    pub mode: LockMode,
    /// How long ago it came.
    pub age_ms: u64,
    /// By how many requests.
    pub holds: usize,
    /// Whether it only stays for its delay.
    pub delayed: bool,
}

/// A lock in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockSummary {
    /// Its name.
    pub name: Bytes,
    /// Contenders.
    pub contenders: u64,
    /// Those that hold it.
    pub holders: u64,
    /// The oldest.
    pub holder: Option<LockDetail>,
}

impl Node {
    /// The contenders for a lock, at most so many, and how many there are.
    pub async fn inspect_lock(
        &self,
        name: Bytes,
        limit: usize,
    ) -> Result<ReadAnswer<(u64, Vec<LockDetail>)>, RequestError> {
        let view = self.view(false).await?;
        let reading = self.lease_clock_ms();
        let limit = limit.min(LOCKS_PER_PAGE_MAX);
        self.read(view, false, move |view| contenders(view, &name, limit, reading).map(Ok)).await
    }

    /// A page of native locks by name.
    pub async fn locks_after(
        &self,
        prefix: Bytes,
        after: Bytes,
        limit: usize,
    ) -> Result<ReadAnswer<Page<LockSummary>>, RequestError> {
        let view = self.view(false).await?;
        let reading = self.lease_clock_ms();
        let limit = limit.min(LOCKS_PER_PAGE_MAX);
        self.read(view, false, move |view| page(view, &prefix, &after, limit, reading).map(Ok)).await
    }

    /// The oldest contender for a lock, as this member knows it, without its token.
    pub(super) fn lock_holder(&self, name: &Bytes) -> Result<Option<LockDetail>, RequestError> {
        let view = self.shared.raft.view();
        let found = match read::lock(&*view, name) {
            Ok(Some(row)) => queue(&view, name, &row, 1, self.lease_clock_ms()),
            Ok(None) => first_key(&view, name, self.lease_clock_ms()),
            Err(error) => Err(error),
        };
        let mut found = found.map_err(|error| self.storage_failed(&error))?;
        Ok(found.pop().map(|holder| LockDetail { token: Revision(0), ..holder }))
    }
}

fn contenders(
    view: &StateView,
    name: &Bytes,
    limit: usize,
    reading: u64,
) -> Result<(u64, Vec<LockDetail>), StorageError> {
    if let Some(row) = read::lock(view, name)? {
        return Ok((row.contenders, queue(view, name, &row, limit, reading)?));
    }
    let mut keys = Vec::new();
    view.scan_current(&lock_range(name), &mut |key, row| {
        if !row.meta.is_tombstone() {
            keys.push((row.meta.create, key));
        }
        if keys.len() as u64 == LOCK_CONTENDERS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    keys.sort_unstable();
    let count = keys.len() as u64;
    let details = keys.into_iter().take(limit).enumerate().map(|(place, (_, key))| {
        let mut found = detail(view, key, Contender::default(), reading)?;
        found.holds_lock = place == 0;
        Ok(found)
    });
    Ok((count, within_bytes(details)?))
}

fn queue(
    view: &StateView,
    name: &Bytes,
    row: &LockRow,
    limit: usize,
    reading: u64,
) -> Result<Vec<LockDetail>, StorageError> {
    let mut rows = Vec::new();
    if limit > 0 {
        read::scan_contenders(view, name, row.oldest, &mut |_, key, contender| {
            rows.push((key, contender));
            if rows.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    within_bytes(rows.into_iter().map(|(key, contender)| detail(view, key, contender, reading)))
}

/// The first of these that fit into an answer, one at least. Keys of others may have any size.
fn within_bytes(
    details: impl Iterator<Item = Result<LockDetail, StorageError>>,
) -> Result<Vec<LockDetail>, StorageError> {
    let (mut fitting, mut bytes) = (Vec::new(), 0);
    for detail in details {
        let detail = detail?;
        bytes += detail.bytes();
        if bytes > ANSWER_BYTES_MAX && !fitting.is_empty() {
            break;
        }
        fitting.push(detail);
    }
    Ok(fitting)
}

impl LockDetail {
    fn bytes(&self) -> usize {
        self.key.len() + self.metadata.len()
    }
}

/// One of the keys under a name that is not native: good enough to say that the lock is busy.
fn first_key(view: &StateView, name: &Bytes, reading: u64) -> Result<Vec<LockDetail>, StorageError> {
    let mut first = None;
    view.scan_live(&lock_range(name), &mut |key| {
        first = Some(key);
        ControlFlow::Break(())
    })?;
    first.into_iter().map(|key| detail(view, key, Contender::default(), reading)).collect()
}

fn detail(view: &StateView, key: Bytes, contender: Contender, reading: u64) -> Result<LockDetail, StorageError> {
    let row = view.current(&key)?.filter(|row| !row.meta.is_tombstone());
    let row = row.ok_or(StorageError::Contradiction("a contender for a lock is no key"))?;
    let ago = |clock_ms: u64| reading.saturating_sub(clock_ms);
    let native = contender.native.map(|native| LockStanding {
        owner: native.owner,
        mode: native.mode,
        age_ms: ago(native.since_ms),
        holds: native.requests.len(),
        delayed: native.delayed,
    });
    Ok(LockDetail {
        key,
        token: row.meta.create,
        lease: row.meta.lease,
        lease_left_ms: lease_left_ms(view, row.meta.lease, reading)?,
        holds_lock: contender.granted.is_some(),
        held_ms: contender.granted.map_or(0, |granted| ago(granted.clock_ms)),
        native,
        metadata: row.value.slice(..row.value.len().min(LOCK_METADATA_BYTES_MAX)),
    })
}

fn page(
    view: &StateView,
    prefix: &Bytes,
    after: &Bytes,
    limit: usize,
    reading: u64,
) -> Result<Page<LockSummary>, StorageError> {
    let mut rows: Page<(Bytes, LockRow)> = Page::default();
    let first = LockKey::Lock(prefix.max(after).clone());
    view.scan_lock_rows(&first, &mut |key, row| {
        let (LockKey::Lock(name), LockValue::Lock(row)) = (key, row) else { return ControlFlow::Break(()) };
        if !name.starts_with(prefix) {
            return ControlFlow::Break(());
        }
        if name == after {
            return ControlFlow::Continue(());
        }
        rows.more = rows.items.len() == limit;
        if rows.more {
            return ControlFlow::Break(());
        }
        rows.items.push((name, row));
        ControlFlow::Continue(())
    })?;
    let (mut summaries, mut bytes) = (Page { items: Vec::new(), more: rows.more }, 0);
    for (name, row) in rows.items {
        let holder = queue(view, &name, &row, 1, reading)?.pop();
        bytes += name.len() + holder.as_ref().map_or(0, LockDetail::bytes);
        if bytes > ANSWER_BYTES_MAX && !summaries.items.is_empty() {
            summaries.more = true;
            break;
        }
        summaries.items.push(LockSummary { name, contenders: row.contenders, holders: row.granted, holder });
    }
    Ok(summaries)
}
