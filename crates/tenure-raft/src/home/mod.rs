//! Where the state lives: one directory per *generation*, and a file that names the one that counts.
//!
//! ```text
//! state/generation      names the generation that counts, with a checksum; replaced as a whole and synced
//! state/7/              its engine
//! state/8/              a snapshot that is being received, or was left by one that was
//! state/8.incoming      how far it was received
//! ```
//!
//! A snapshot from the leader becomes the directory of the next generation, and installing it is the replacement of one
//! small file: a crash leaves the old state or the new one, each whole. The engine of the old generation lives on until
//! the last view of it is dropped; then its directory goes, at the latest at the next start.
//!
//! The name is written before there is anything in the directory that it names. So a directory without a name is never
//! the only state that a member has, and what no name leads to can be removed. The first builds of version 0.1 kept the
//! engine's files in `state/` itself, without a name: that is generation 0, and stays there until a snapshot replaces it.

mod pointer;
mod sim_engines;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use sim_engines::{SimEngine, SimEngines};
use tenure_storage::StorageError;
use tenure_storage::engine::{Engine, EngineError, EngineFactory, EngineSnapshot};
use tenure_storage::store::{Guard, Options, StateStore};

use crate::error::NodeError;
use crate::log::FileLayer;
use crate::runtime;

/// Ends the names of the files that say how far a snapshot was received.
const INCOMING: &str = ".incoming";

/// What a member begins with.
const FIRST: Generation = Generation(1);

/// Which of a member's states is meant. Only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(pub(crate) u64);

/// See the module's header.
pub(crate) struct Home {
    files: Arc<dyn FileLayer>,
    engines: Arc<dyn EngineFactory>,
    dir: PathBuf,
    /// The highest generation that any name in the directory was seen with.
    last: AtomicU64,
}

/// A store that is open, and its hold on the directory.
pub(crate) struct Housed {
    pub(crate) generation: Generation,
    pub(crate) store: StateStore,
    pub(crate) tenancy: Arc<Tenancy>,
}

impl fmt::Debug for Housed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state of generation {} at entry {}", self.generation.0, self.store.applied().index)
    }
}

/// What a member finds at its start.
pub(crate) struct Found {
    pub(crate) home: Home,
    pub(crate) housed: Housed,
    /// A snapshot that was being received.
    pub(crate) unfinished: Option<Generation>,
}

impl Home {
    /// Opens the state in a directory, or makes an empty one.
    pub(crate) fn open(
        files: Arc<dyn FileLayer>,
        engines: Arc<dyn EngineFactory>,
        dir: PathBuf,
    ) -> Result<Found, NodeError> {
        let home = Home { files, engines, dir, last: AtomicU64::new(0) };
        let io = |error| NodeError::Io(format!("state directory {}", home.dir.display()), error);
        home.files.create_dir(&home.dir).map_err(io)?;
        let current = home.current()?;
        // The name may so far be only in the page cache, where a killed process left it. Before anything that it does
        // not lead to is removed, it counts.
        home.files.sync_dir(&home.dir).map_err(io)?;
        let unfinished = home.clear_up(current).map_err(io)?;
        let dir = home.dir_of(current);
        home.files.create_dir(&dir).map_err(io)?;
        let housed = home.open_store(current).map_err(|error| NodeError::State(dir, error))?;
        Ok(Found { home, housed, unfinished })
    }

    /// The file system that the state lives on.
    pub(crate) fn files(&self) -> &Arc<dyn FileLayer> {
        &self.files
    }

    /// The directory of all generations.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a generation's engine lives.
    pub(crate) fn dir_of(&self, generation: Generation) -> PathBuf {
        match generation {
            Generation(0) => self.dir.clone(),
            Generation(number) => self.dir.join(number.to_string()),
        }
    }

    /// The file that says how far a generation was received.
    pub(crate) fn incoming_file(&self, generation: Generation) -> PathBuf {
        self.dir.join(format!("{}{INCOMING}", generation.0))
    }

    /// A generation that never was.
    pub(crate) fn next_generation(&self) -> Generation {
        Generation(self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Opens the engine in a generation's directory, which stays unless it is given up.
    pub(crate) fn open_store(&self, generation: Generation) -> Result<Housed, StorageError> {
        let dir = self.dir_of(generation);
        let engine = self.engines.open(&dir)?;
        let tenancy = Arc::new(Tenancy {
            files: self.files.clone(),
            dir,
            holds_generation_0: generation == Generation(0),
            engine: Mutex::new(Some(engine.clone())),
            given_up: AtomicBool::new(false),
        });
        let guard: Guard = tenancy.clone();
        let store = StateStore::open_guarded(engine, Some(guard), Options::default())?;
        Ok(Housed { generation, store, tenancy })
    }

    /// Looks into a checkpoint.
    pub(crate) fn inspect(&self, dir: &Path) -> Result<Arc<dyn EngineSnapshot>, EngineError> {
        self.engines.inspect(dir)
    }

    /// Makes a generation the one that counts, from now on and after any crash.
    pub(crate) fn name(&self, generation: Generation) -> io::Result<()> {
        pointer::write(&*self.files, &self.dir, generation)
    }

    /// Removes what was received of a generation.
    pub(crate) fn abandon(&self, generation: Generation) -> io::Result<()> {
        let removed = if_there(self.files.remove(&self.incoming_file(generation)));
        if_there(self.files.remove_dir(&self.dir_of(generation))).and(removed)
    }

    /// The generation that counts.
    fn current(&self) -> Result<Generation, NodeError> {
        let io = |error| NodeError::Io(format!("state directory {}", self.dir.display()), error);
        let damaged = |what: &str| {
            NodeError::Identity(format!(
                "{what} in {}: which of the directories there holds the state is not known. Restore the file if you \
                 have it, else replace this member",
                self.dir.display()
            ))
        };
        match pointer::read(&*self.files, &self.dir).map_err(io)? {
            pointer::Pointer::Names(generation) => return Ok(generation),
            pointer::Pointer::Damaged => return Err(damaged("the file `generation` is damaged")),
            pointer::Pointer::Missing => {}
        }
        if self.files.list_dirs(&self.dir).map_err(io)?.iter().any(|name| number(name).is_some()) {
            return Err(damaged("the file `generation` is missing"));
        }
        let in_place = !others_in(&*self.files, &self.dir).map_err(io)?.is_empty();
        let first = if in_place { Generation(0) } else { FIRST };
        self.name(first).map_err(io)?;
        Ok(first)
    }

    /// Removes what an installed snapshot, an interrupted one or an old generation left, except for a snapshot that was
    /// on its way, whose generation is returned.
    fn clear_up(&self, current: Generation) -> io::Result<Option<Generation>> {
        let mut generations: Vec<Generation> =
            self.files.list_dirs(&self.dir)?.iter().filter_map(|name| number(name)).collect();
        let (ours, others): (Vec<String>, Vec<String>) =
            self.files.list(&self.dir)?.into_iter().partition(|name| is_ours(name));
        let on_its_way = |name: &String| number(name.strip_suffix(INCOMING)?);
        let mut arriving: Vec<Generation> = ours.iter().filter_map(on_its_way).collect();
        let last = generations.iter().chain(&arriving).copied().max().unwrap_or(current).max(current);
        self.last.store(last.0, Ordering::Relaxed);
        let unfinished = arriving.iter().copied().filter(|g| *g > current && generations.contains(g)).max();
        generations.retain(|generation| *generation != current && Some(*generation) != unfinished);
        arriving.retain(|generation| Some(*generation) != unfinished);
        for generation in &arriving {
            if_there(self.files.remove(&self.incoming_file(*generation)))?;
        }
        for generation in &generations {
            tracing::info!(generation = generation.0, "removing a state that counts no more");
            if_there(self.files.remove_dir(&self.dir_of(*generation)))?;
        }
        if current != Generation(0) {
            remove_all(&*self.files, &self.dir, &others)?;
        }
        Ok(unfinished)
    }
}

/// Makes a home that does not exist yet, and the directory of its first generation for somebody to fill.
pub(crate) fn prepare_home(files: &dyn FileLayer, dir: &Path) -> io::Result<PathBuf> {
    files.create_dir(dir)?;
    pointer::write(files, dir, FIRST)?;
    let first = dir.join(FIRST.0.to_string());
    files.create_dir(&first)?;
    Ok(first)
}

/// A store's hold on its directory. When it is given up and the last view is dropped, the directory goes.
pub(crate) struct Tenancy {
    files: Arc<dyn FileLayer>,
    dir: PathBuf,
    holds_generation_0: bool,
    /// Closing an engine can take a while, so it is not left to whoever happens to drop the last view.
    engine: Mutex<Option<Arc<dyn Engine>>>,
    given_up: AtomicBool,
}

impl Tenancy {
    /// The directory goes when nobody reads it any more.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// The directory stays.
    pub(crate) fn settle(&self) {
        self.given_up.store(false, Ordering::Relaxed);
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner).take();
        if !self.given_up.load(Ordering::Relaxed) {
            return;
        }
        let (files, dir, in_place) = (self.files.clone(), self.dir.clone(), self.holds_generation_0);
        let vacate = move || {
            drop(engine);
            let removed = if in_place {
                others_in(&*files, &dir).and_then(|names| remove_all(&*files, &dir, &names))
            } else {
                if_there(files.remove_dir(&dir))
            };
            match removed {
                Ok(()) => tracing::info!(dir = %dir.display(), "the former state is removed"),
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "the former state is left until the next start");
                }
            }
        };
        // Without a thread the engine closes here, and the next start clears up.
        if let Err(error) = runtime::in_background("state-vacate", vacate) {
            tracing::warn!(dir = %self.dir.display(), %error, "the former state is left until the next start");
        }
    }
}

/// Whether a file in the state directory belongs to the home and not to an engine of generation 0.
fn is_ours(name: &str) -> bool {
    pointer::is_pointer(name) || name.strip_suffix(INCOMING).and_then(number).is_some()
}

fn number(name: &str) -> Option<Generation> {
    let number: u64 = name.parse().ok()?;
    (number.to_string() == name).then_some(Generation(number))
}

fn others_in(files: &dyn FileLayer, dir: &Path) -> io::Result<Vec<String>> {
    Ok(files.list(dir)?.into_iter().filter(|name| !is_ours(name)).collect())
}

fn remove_all(files: &dyn FileLayer, dir: &Path, names: &[String]) -> io::Result<()> {
    names.iter().try_for_each(|name| if_there(files.remove(&dir.join(name))))
}

/// What is gone already need not be removed: a thread of the last life may still be at it.
fn if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
