//! The engines of a machine: their operations stop with its power, and its flaws are theirs.

use std::path::Path;
use std::sync::Arc;

use tenure_storage::engine::{Batch, BatchOp, Engine, EngineError, EngineFactory, EngineSnapshot, EngineStats};

use super::machine::{Flaw, Machine, Step};
use crate::home::SimEngine;

/// Opens them.
pub(super) struct Engines(Machine);

impl Engines {
    pub(super) fn of(machine: &Machine) -> Engines {
        Engines(machine.clone())
    }
}

impl EngineFactory for Engines {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Engine>, EngineError> {
        let tables = self.0.sim_engines().open_sim(dir)?.on(self.0.files());
        Ok(Arc::new(Tables { machine: self.0.clone(), tables }))
    }

    fn inspect(&self, dir: &Path) -> Result<Arc<dyn EngineSnapshot>, EngineError> {
        self.0.sim_engines().inspect(dir)
    }
}

/// One of them.
struct Tables {
    machine: Machine,
    tables: SimEngine,
}

impl Tables {
    fn step(&self, step: Step) -> Result<(), EngineError> {
        self.machine.step(step).map_err(|error| EngineError::Io(error.to_string()))
    }
}

impl Engine for Tables {
    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        self.step(Step::Commit)?;
        if self.machine.flaw() == Flaw::BatchInHalves {
            return halves(batch).iter().try_for_each(|half| self.tables.write(half));
        }
        self.tables.write(batch)
    }

    fn snapshot(&self) -> Arc<dyn EngineSnapshot> {
        self.tables.snapshot()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.step(Step::Flush)?;
        if self.machine.flaw() == Flaw::FlushDoesNothing { Ok(()) } else { self.tables.flush() }
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError> {
        self.step(Step::Flush)?;
        self.tables.checkpoint(dir)
    }

    fn stats(&self) -> EngineStats {
        self.tables.stats()
    }
}

/// A batch as two, the scalars and how far the log is applied in the second.
fn halves(batch: &Batch) -> [Batch; 2] {
    let mut halves = [Batch::new(), Batch::new()];
    let middle = batch.len() / 2;
    for (place, op) in batch.iter().enumerate() {
        let half = &mut halves[usize::from(place >= middle)];
        match op {
            BatchOp::Put(table, key, value) => half.put(table, key, value),
            BatchOp::Delete(table, key) => half.delete(table, key),
            BatchOp::DeleteRange(table, lower, upper) => half.delete_range(table, lower, upper),
        }
    }
    halves
}
