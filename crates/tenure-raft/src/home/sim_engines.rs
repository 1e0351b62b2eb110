//! Engines in memory whose checkpoints are files of a simulated disk: for crash tests.
//!
//! An engine's own durability is the engine's to simulate. What a checkpoint wrote, what was received of one and what
//! became of the files in a crash is the disk's: an engine that was opened from files which a crash then changed is
//! gone, like one whose directory was removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_storage::engine::{Batch, Engine, EngineError, EngineFactory, EngineSnapshot, EngineStats};
use tenure_storage::mem::{CHECKPOINT_FILE, MemEngine};

use crate::log::{FileLayer, LogFile};

/// See the module's header.
pub struct SimEngines {
    files: Arc<dyn FileLayer>,
    engines: Mutex<BTreeMap<PathBuf, Lodger>>,
}

/// An engine, and the file that it was opened from, if it was.
#[derive(Clone)]
struct Lodger {
    engine: MemEngine,
    came_from: Option<Vec<u8>>,
}

/// An engine that makes its checkpoints on the simulated disk.
#[derive(Clone)]
pub struct SimEngine {
    engine: MemEngine,
    files: Arc<dyn FileLayer>,
}

impl SimEngines {
    /// Over a disk that holds no engine, perhaps checkpoints.
    pub fn new(files: Arc<dyn FileLayer>) -> SimEngines {
        SimEngines { files, engines: Mutex::default() }
    }

    /// What a restarted process finds, on the disk as the crash has left it. `kept` says how many of the batches that no
    /// flush had covered have reached the disk, of how many.
    pub fn crash(&self, files: Arc<dyn FileLayer>, kept: impl Fn(usize) -> usize) -> SimEngines {
        let mut survivors = BTreeMap::new();
        for (dir, lodger) in &*self.engines() {
            let is_whole = match &lodger.came_from {
                Some(bytes) => read(&*files, &dir.join(CHECKPOINT_FILE)).is_some_and(|now| now == *bytes),
                None => files.list(dir).is_ok(),
            };
            if is_whole {
                let engine = lodger.engine.crash(kept(lodger.engine.unflushed_batches()));
                survivors.insert(dir.clone(), Lodger { engine, came_from: lodger.came_from.clone() });
            }
        }
        SimEngines { files, engines: Mutex::new(survivors) }
    }

    /// Notes that a directory is gone, and its engine with it.
    pub fn forget(&self, dir: &Path) {
        self.engines().remove(dir);
    }

    /// Opens the engine of a directory.
    pub fn open_sim(&self, dir: &Path) -> Result<SimEngine, EngineError> {
        let mut engines = self.engines();
        let engine = match engines.get(dir) {
            Some(lodger) => lodger.engine.clone(),
            None => {
                let came_from = read(&*self.files, &dir.join(CHECKPOINT_FILE));
                let engine = came_from.as_deref().map_or_else(|| Ok(MemEngine::new()), MemEngine::of_checkpoint)?;
                engines.insert(dir.to_owned(), Lodger { engine: engine.clone(), came_from });
                engine
            }
        };
        Ok(SimEngine { engine, files: self.files.clone() })
    }

    fn engines(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Lodger>> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EngineFactory for SimEngines {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(self.open_sim(dir)?))
    }

    fn inspect(&self, dir: &Path) -> Result<Arc<dyn EngineSnapshot>, EngineError> {
        let bytes = read(&*self.files, &dir.join(CHECKPOINT_FILE));
        Ok(MemEngine::of_checkpoint(&bytes.unwrap_or_default())?.snapshot())
    }
}

impl SimEngine {
    /// The same engine, with its checkpoints on another view of the disk: one that counts operations, perhaps.
    pub fn on(&self, files: Arc<dyn FileLayer>) -> SimEngine {
        SimEngine { engine: self.engine.clone(), files }
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        self.engine.write(batch)
    }

    fn snapshot(&self) -> Arc<dyn EngineSnapshot> {
        self.engine.snapshot()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.engine.flush()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError> {
        let bytes = self.engine.checkpoint_bytes()?;
        let written = self.files.create_dir(dir).and_then(|()| {
            let file = self.files.create(&dir.join(CHECKPOINT_FILE))?;
            file.write_at(0, &bytes)
        });
        written.map_err(|error| EngineError::Io(format!("{}: {error}", dir.display())))
    }

    fn stats(&self) -> EngineStats {
        self.engine.stats()
    }
}

fn read(files: &dyn FileLayer, path: &Path) -> Option<Vec<u8>> {
    let file = files.open_to_read(path).ok()?;
    read_all(&*file).ok()
}

fn read_all(file: &dyn LogFile) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(std::io::Error::other)?];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
