//! Durability, apart from the writer: what is known to survive a crash.
//!
//! The log may be purged up to the index that [`Flusher::flush`] returns and never beyond. The index is read *before*
//! the engine flushes, so whatever is applied meanwhile is not counted on.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tenure_core::LogIndex;
use tenure_faults::Point;

use crate::engine::{Engine, EngineStats};
use crate::error::{StorageError, meet};
use crate::state_view::Guard;

/// A handle for whoever makes the state durable. Clones share the work.
#[derive(Clone)]
pub struct Flusher {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    /// Dropped after the engine.
    _guard: Option<Guard>,
    /// The index of the newest batch that the engine has taken.
    written: AtomicU64,
    /// The newest index that a flush covered.
    durable: AtomicU64,
    /// Held while flushing: whoever comes meanwhile waits, and mostly finds the work done.
    flushing: Mutex<()>,
}

impl Flusher {
    /// `stored` is what the engine held when it was opened. It is durable: an engine opens what survived.
    pub(crate) fn new(engine: Arc<dyn Engine>, guard: Option<Guard>, stored: LogIndex) -> Flusher {
        let (written, durable) = (AtomicU64::new(stored.0), AtomicU64::new(stored.0));
        let shared = Shared { engine, _guard: guard, written, durable, flushing: Mutex::new(()) };
        Flusher { shared: Arc::new(shared) }
    }

    /// Flushes the engine and returns the applied index that is durable now. The writer goes on meanwhile.
    pub fn flush(&self) -> Result<LogIndex, StorageError> {
        // The lock guards no data, so a panic of another holder has left nothing half-way.
        let _flushing = self.shared.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = LogIndex(self.shared.written.load(Ordering::Acquire));
        if written > self.durable() {
            meet(Point::BeforeFlush)?;
            self.shared.engine.flush()?;
            meet(Point::AfterFlush)?;
            self.shared.durable.store(written.0, Ordering::Release);
        }
        Ok(written)
    }

    /// The newest index that is known to be durable, without flushing.
    pub fn durable(&self) -> LogIndex {
        LogIndex(self.shared.durable.load(Ordering::Acquire))
    }

    /// Makes a second store in a new directory. How far it is applied stands in it: open it to know.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        Ok(self.shared.engine.checkpoint(dir)?)
    }

    /// The engine's figures.
    pub fn engine_stats(&self) -> EngineStats {
        self.shared.engine.stats()
    }

    pub(crate) fn note_written(&self, index: LogIndex) {
        self.shared.written.store(index.0, Ordering::Release);
    }
}
