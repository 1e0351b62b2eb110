//! Engines in memory, by directory: for members whose process lives on while they stop and start.
//!
//! What an engine holds is kept here and not in its directory. Only checkpoints are files, and a directory that was made
//! of the files of one opens as the engine that it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::{Engine, EngineError, EngineFactory, EngineSnapshot};
use crate::mem::{CHECKPOINT_FILE, MemEngine};

/// See the module's header. Clones are handles of the same engines.
#[derive(Clone, Default)]
pub struct MemEngines(Arc<Mutex<BTreeMap<PathBuf, MemEngine>>>);

impl EngineFactory for MemEngines {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Engine>, EngineError> {
        let mut engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(dir) {
            return Ok(Arc::new(engine.clone()));
        }
        let of_checkpoint = dir.join(CHECKPOINT_FILE).exists();
        let engine = if of_checkpoint { MemEngine::open_checkpoint(dir)? } else { MemEngine::new() };
        engines.insert(dir.to_owned(), engine.clone());
        Ok(Arc::new(engine))
    }

    fn inspect(&self, dir: &Path) -> Result<Arc<dyn EngineSnapshot>, EngineError> {
        Ok(MemEngine::open_checkpoint(dir)?.snapshot())
    }
}
