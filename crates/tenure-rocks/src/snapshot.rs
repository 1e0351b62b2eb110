//! A RocksDB snapshot that keeps its database open.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{ColumnFamily, DB, DBRawIterator, ReadOptions, Snapshot};
use self_cell::self_cell;
use tenure_storage::engine::{Bounds, Direction, EngineError, EngineSnapshot, Table, Visit, VisitMany};

use crate::error::engine_error;

self_cell!(
    /// The database and a snapshot that borrows from it.
    struct Held {
        owner: Arc<DB>,
        #[not_covariant]
        dependent: Pinned,
    }
);

struct Pinned<'db> {
    /// Names the snapshot. Made once, because making one costs about as much as a cached read.
    read_options: ReadOptions,
    snapshot: Snapshot<'db>,
    /// A table that a checkpoint of an earlier build lacks is missing here.
    families: [Option<&'db ColumnFamily>; Table::ALL.len()],
}

pub(crate) struct RocksSnapshot(Held);

impl RocksSnapshot {
    pub(crate) fn new(db: Arc<DB>) -> RocksSnapshot {
        RocksSnapshot(Held::new(db, |db| {
            let snapshot = db.snapshot();
            let mut read_options = ReadOptions::default();
            read_options.set_snapshot(&snapshot);
            let families = Table::ALL.map(|table| db.cf_handle(table.name()));
            Pinned { read_options, snapshot, families }
        }))
    }
}

/// The column families of a database that is open to be written, by the index of their table.
pub(crate) fn families(db: &DB) -> [&ColumnFamily; Table::ALL.len()] {
    Table::ALL.map(|table| db.cf_handle(table.name()).expect("invariant: opening names every column family"))
}

impl EngineSnapshot for RocksSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.with_dependent(|db, pinned| {
            let Some(family) = pinned.families[table.index()] else { return Ok(None) };
            let row = db.get_pinned_cf_opt(family, key, &pinned.read_options);
            Ok(row.map_err(|error| engine_error(&error))?.map(|row| Bytes::copy_from_slice(&row)))
        })
    }

    fn get_many(&self, table: Table, keys: &[&[u8]], visit: &mut VisitMany<'_>) -> Result<(), EngineError> {
        assert!(keys.is_sorted(), "the keys are in ascending order");
        self.0.with_dependent(|db, pinned| {
            let Some(family) = pinned.families[table.index()] else {
                (0..keys.len()).for_each(|place| visit(place, None));
                return Ok(());
            };
            let rows = db.batched_multi_get_cf_opt(family, keys.iter().copied(), true, &pinned.read_options);
            for (place, row) in rows.into_iter().enumerate() {
                visit(place, row.map_err(|error| engine_error(&error))?.as_deref());
            }
            Ok(())
        })
    }

    fn scan(
        &self,
        table: Table,
        bounds: Bounds<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), EngineError> {
        if bounds.is_empty() {
            return Ok(());
        }
        self.0.with_dependent(|_, pinned| {
            let Some(family) = pinned.families[table.index()] else { return Ok(()) };
            let mut read_options = ReadOptions::default();
            read_options.set_iterate_lower_bound(bounds.lower);
            if let Some(upper) = bounds.upper {
                read_options.set_iterate_upper_bound(upper);
            }
            let rows = pinned.snapshot.raw_iterator_cf_opt(family, read_options);
            walk(rows, direction, visit)
        })
    }
}

fn walk(mut rows: DBRawIterator<'_>, direction: Direction, visit: &mut Visit<'_>) -> Result<(), EngineError> {
    match direction {
        Direction::Ascending => rows.seek_to_first(),
        Direction::Descending => rows.seek_to_last(),
    }
    while let Some((key, value)) = rows.item() {
        if visit(key, value) == ControlFlow::Break(()) {
            return Ok(());
        }
        match direction {
            Direction::Ascending => rows.next(),
            Direction::Descending => rows.prev(),
        }
    }
    // An iterator also ends when it fails.
    rows.status().map_err(|error| engine_error(&error))
}
