//! What Tenure's own lease service tells beyond etcd's: all of a lease, pages of leases and of their keys, and why a lease is
//! gone.
//!
//! Every answer is of one view that a read index has confirmed. Pages bound what an answer takes of memory; the next one
//! goes on behind the last id or key of the one before, whatever has come and gone meanwhile.

use std::ops::ControlFlow;

use bytes::Bytes;
use tenure_core::apply::LEASE_ENDS_MAX;
use tenure_core::row::{LeaseEnd, LeaseHolder, LeaseRow};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, LogIndex};
use tenure_raft::runtime::BootInstant;
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;

use super::lease::LeaseInfo;
use super::{Node, ReadAnswer, RequestError};

/// Leases of one page: with the longest holders it takes 1.3 MB, which clients' usual limit of 4 MiB lets through.
pub const LEASES_PER_PAGE_MAX: usize = 1000;

/// Keys of one page, and their bytes: a key more than these is told, so that a page is never empty.
pub const KEYS_PER_PAGE_MAX: usize = 10_000;
pub const KEY_BYTES_PER_PAGE_MAX: usize = 1 << 20;

/// Explanations that are worked on at once, per client thread: fewer than there are places for long reads, since each may read
/// the whole record of ends. The others wait.
pub(super) const EXPLANATIONS_MAX: usize = 1;

/// All that is known of a lease that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseDetail {
    /// Its id.
    pub id: LeaseId,
    /// The TTL it was granted with.
    pub ttl_ms: u64,
    /// How much of it is left; 0 if it is due and not gone yet.
    pub left_ms: u64,
    /// How often it was renewed.
    pub renewals: u64,
    /// How long ago it was renewed, or granted if it never was.
    pub renewed_ms_ago: u64,
    /// The log entry that granted it.
    pub granted_at: LogIndex,
    /// Whom it is for.
    pub holder: LeaseHolder,
}

impl LeaseDetail {
    fn read(view: &StateView, id: LeaseId, row: &LeaseRow, reading: u64) -> Result<LeaseDetail, StorageError> {
        let LeaseInfo { ttl_ms, left_ms, .. } = LeaseInfo::new(id, row, reading);
        let mut holder = LeaseHolder::default();
        if row.has_holder {
            holder = view.lease_holder(id)?.ok_or(StorageError::Contradiction("a lease's holder is missing"))?;
        }
        Ok(LeaseDetail {
            id,
            ttl_ms,
            left_ms,
            renewals: row.renewals,
            renewed_ms_ago: reading.saturating_sub(row.clock_ms),
            granted_at: row.incarnation.index,
            holder,
        })
    }
}

/// A part of something long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// What is in it.
    pub items: Vec<T>,
    /// Whether something follows.
    pub more: bool,
}

impl<T> Default for Page<T> {
    fn default() -> Page<T> {
        Page { items: Vec::new(), more: false }
    }
}

/// Which keys of a lease are asked for: a page that begins behind a key, or at the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysAfter(pub Option<Bytes>);

/// What became of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseExplained {
    /// The lease, if it is there.
    pub alive: Option<LeaseDetail>,
    /// How the last lease of that id ended, if that is recorded.
    pub ended: Option<LeaseEnd>,
    /// The lease clock now, in milliseconds.
    pub clock_ms: u64,
    /// How many ends are recorded.
    pub ends_kept: u64,
    /// How many were dropped for newer ones.
    pub ends_dropped: u64,
}

impl Node {
    /// All of a lease, if there is one, and a page of its keys if they are asked for.
    pub async fn lease_detail(
        &self,
        id: LeaseId,
        keys: Option<KeysAfter>,
    ) -> Result<ReadAnswer<Option<(LeaseDetail, Page<Bytes>)>>, RequestError> {
        let view = self.view(false).await?;
        let reading = self.lease_clock_ms();
        let inline = keys.is_none();
        let evaluate = move |view: &StateView| {
            let Some(row) = StateRead::lease(view, id)? else { return Ok(Ok(None)) };
            let detail = LeaseDetail::read(view, id, &row, reading)?;
            let keys = keys.map(|KeysAfter(after)| page_of_keys(view, id, after.as_deref())).transpose()?;
            Ok(Ok(Some((detail, keys.unwrap_or_default()))))
        };
        self.read(view, inline, evaluate).await
    }

    /// A page of leases in the order of their ids, at most `limit` and [`LEASES_PER_PAGE_MAX`] of them.
    pub async fn leases_after(
        &self,
        after: Option<LeaseId>,
        limit: usize,
    ) -> Result<ReadAnswer<Page<LeaseDetail>>, RequestError> {
        let view = self.view(false).await?;
        let reading = self.lease_clock_ms();
        let limit = limit.min(LEASES_PER_PAGE_MAX);
        let evaluate = move |view: &StateView| {
            let mut rows = Page::default();
            view.scan_leases_after(after, &mut |id, row| {
                rows.more = rows.items.len() == limit;
                if rows.more {
                    return ControlFlow::Break(());
                }
                rows.items.push((id, row));
                ControlFlow::Continue(())
            })?;
            let details = rows.items.iter().map(|(id, row)| LeaseDetail::read(view, *id, row, reading));
            Ok(Ok(Page { items: details.collect::<Result<_, StorageError>>()?, more: rows.more }))
        };
        self.read(view, false, evaluate).await
    }

    /// Whether a lease is there, and how the last one of its id ended.
    pub async fn explain_lease(&self, id: LeaseId) -> Result<ReadAnswer<LeaseExplained>, RequestError> {
        let turn = tokio::time::timeout(self.shared.request_timeout, self.explanations.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(RequestError::TooManyRequests) };
        let view = self.view(false).await?;
        let clock_ms = self.lease_clock_ms();
        let evaluate = move |view: &StateView| {
            let row = StateRead::lease(view, id)?;
            let alive = row.map(|row| LeaseDetail::read(view, id, &row, clock_ms)).transpose()?;
            let recorded = view.meta().lease_ends;
            Ok(Ok(LeaseExplained {
                alive,
                ended: view.last_lease_end(id)?,
                clock_ms,
                ends_kept: recorded.min(LEASE_ENDS_MAX),
                ends_dropped: recorded.saturating_sub(LEASE_ENDS_MAX),
            }))
        };
        self.read(view, false, evaluate).await
    }

    pub(super) fn lease_clock_ms(&self) -> u64 {
        self.shared.raft.lease_clock().reading(BootInstant::now())
    }
}

fn page_of_keys(view: &StateView, id: LeaseId, after: Option<&[u8]>) -> Result<Page<Bytes>, StorageError> {
    let (mut page, mut bytes) = (Page::default(), 0);
    view.scan_lease_keys_after(id, after, &mut |key| {
        page.more = page.items.len() == KEYS_PER_PAGE_MAX || bytes >= KEY_BYTES_PER_PAGE_MAX;
        if page.more {
            return ControlFlow::Break(());
        }
        bytes += key.len();
        page.items.push(key);
        ControlFlow::Continue(())
    })?;
    Ok(page)
}
