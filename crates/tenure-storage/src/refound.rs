//! A store that begins again as that of another cluster, from a backup.
//!
//! What was written stays, with its revisions, and so does how far the log is applied: the new cluster's log goes on from
//! there. What the old cluster was made of goes. Leases start again at their full TTL, as in etcd, because nobody could
//! renew one while there was no cluster.
//!
//! This is for a store that nobody else has open. It is not atomic as a whole: one that was interrupted is thrown away.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use tenure_core::row::LeaseRow;
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Revision};

use crate::engine::{Batch, Engine, Table};
use crate::error::StorageError;
use crate::keys::{META_MEMBERSHIP, META_STATE, lease_key};
use crate::rows::{encode_lease, encode_state};
use crate::store::read_view;

/// Leases of one batch: bounds its memory.
const LEASES_PER_BATCH: usize = 4096;

/// What is different from now on.
#[derive(Clone, Debug)]
pub struct Refounding {
    /// The membership in force, as its owner encodes it.
    pub membership: Bytes,
    /// Moves the revision on by so much and forgets all history before, so that no client can take what is written from
    /// now on for what it saw before the backup was restored.
    pub bump_revision: Option<u64>,
}

/// Changes a store, durably, and returns its revision.
pub fn refound(engine: &Arc<dyn Engine>, change: &Refounding) -> Result<Revision, StorageError> {
    let view = read_view(engine.snapshot(), None)?;
    let mut meta = view.meta().clone();
    meta.members.clear();
    if let Some(bump) = change.bump_revision {
        let bumped = i64::try_from(bump).ok().and_then(|bump| meta.revision.0.checked_add(bump));
        let bumped = bumped.filter(|revision| *revision < i64::MAX);
        meta.revision = Revision(bumped.ok_or(StorageError::Contradiction("the revision would overflow"))?);
        meta.compacted = meta.revision;
    }
    let mut leases: Vec<(LeaseId, LeaseRow)> = Vec::new();
    let mut failure = None;
    view.scan_leases(&mut |id, lease| {
        leases.push((id, LeaseRow { clock_ms: meta.lease_clock_ms, ..lease }));
        if leases.len() < LEASES_PER_BATCH {
            return ControlFlow::Continue(());
        }
        match write_leases(&**engine, &mut leases) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(()), Err)?;
    write_leases(&**engine, &mut leases)?;
    let mut batch = Batch::new();
    batch.put_with(Table::Meta, META_STATE, |out| encode_state(out, &meta));
    batch.put(Table::Meta, META_MEMBERSHIP, &change.membership);
    engine.write(&batch)?;
    engine.flush()?;
    Ok(meta.revision)
}

fn write_leases(engine: &dyn Engine, leases: &mut Vec<(LeaseId, LeaseRow)>) -> Result<(), StorageError> {
    let mut batch = Batch::new();
    for (id, lease) in leases.drain(..) {
        batch.put_with(Table::Leases, &lease_key(id), |out| encode_lease(out, &lease));
    }
    Ok(engine.write(&batch)?)
}

#[cfg(test)]
mod tests {
    use tenure_core::row::{Incarnation, MemberAttributes};
    use tenure_core::state::StateWrite;
    use tenure_core::{LogIndex, MemberId, Term};

    use super::*;
    use crate::mem::{Fault, MemEngine};
    use crate::store::{Applied, StateStore};

    fn lease(number: i64) -> LeaseRow {
        let place = u32::try_from(number).unwrap();
        let incarnation = Incarnation { index: LogIndex(7), place };
        let (ttl_ms, clock_ms) = (1000 + number.unsigned_abs(), number.unsigned_abs());
        LeaseRow { incarnation, ttl_ms, renewals: 3, clock_ms, has_holder: number % 2 == 0 }
    }

    const LEASES: i64 = 2 * 4096 + 1;

    fn store() -> MemEngine {
        let engine = MemEngine::new();
        let mut store = StateStore::open(Arc::new(engine.clone())).unwrap();
        let mut run = store.begin();
        for number in 1..=LEASES {
            run.put_lease(LeaseId(number), lease(number));
        }
        let meta = run.meta_mut();
        (meta.revision, meta.lease_clock_ms) = (Revision(40), 1_000_000);
        meta.members.push(MemberAttributes { member: MemberId(1), ..MemberAttributes::default() });
        let membership = Bytes::from_static(b"old");
        run.commit(Applied { index: LogIndex(9), term: Term(4), membership }).unwrap();
        engine
    }

    fn change(bump_revision: Option<u64>) -> Refounding {
        Refounding { membership: Bytes::from_static(b"new"), bump_revision }
    }

    #[test]
    fn all_leases_start_again_and_the_old_members_are_gone() {
        let engine: Arc<dyn Engine> = Arc::new(store());
        assert_eq!(refound(&engine, &change(None)), Ok(Revision(40)));
        let store = StateStore::open(engine).unwrap();
        let membership = Bytes::from_static(b"new");
        assert_eq!(store.applied(), &Applied { index: LogIndex(9), term: Term(4), membership });
        let view = store.view();
        assert_eq!((view.meta().revision, view.meta().compacted), (Revision(40), Revision(-1)));
        assert!(view.meta().members.is_empty());
        let mut seen = 0;
        view.scan_leases(&mut |id, row| {
            seen += 1;
            assert_eq!(row, LeaseRow { clock_ms: 1_000_000, ..lease(id.0) });
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, LEASES);
    }

    #[test]
    fn a_bumped_revision_is_compacted_and_cannot_overflow() {
        let engine: Arc<dyn Engine> = Arc::new(store());
        for bump in [u64::MAX, i64::MAX.unsigned_abs(), i64::MAX.unsigned_abs() - 40] {
            assert!(matches!(refound(&engine, &change(Some(bump))), Err(StorageError::Contradiction(_))), "{bump}");
        }
        assert_eq!(refound(&engine, &change(Some(60))), Ok(Revision(100)));
        let view = StateStore::open(engine).unwrap().view();
        assert_eq!((view.meta().revision, view.meta().compacted), (Revision(100), Revision(100)));
        assert!(view.has_purge_work());
    }

    #[test]
    fn an_engine_that_fails_is_told_of() {
        let refounded = |engine: MemEngine| refound(&(Arc::new(engine) as Arc<dyn Engine>), &change(None));
        // Three batches of leases, then the scalars.
        for write in 1..=4 {
            let engine = store();
            engine.fail_writes_from(write, Fault::Io);
            assert!(refounded(engine).is_err(), "write {write}");
        }
        let engine = store();
        engine.fail_writes_from(5, Fault::Io);
        assert_eq!(refounded(engine), Ok(Revision(40)));
        let engine = store();
        engine.fail_flushes_from(1, Fault::Io);
        assert!(refounded(engine).is_err());
    }
}
