//! A computer with a power switch: the disk of the log, the engine of the state, and one moment at which both stop.
//!
//! Every change of either is an operation with a number. At a chosen one the power goes off: it and all later ones fail
//! and do nothing, so what [`Machine::cut`] leaves is what the disk held at one moment. A [`Machine`] lives once; what
//! it leaves can be booted several times, each with other leftovers of what no flush had covered.
//!
//! A machine may have a [`Flaw`], a bug planted on purpose: tests of tests, which must notice. Its engines, one per
//! directory, are in `tables`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tenure_storage::engine::{Engine, EngineFactory};
use tokio::sync::watch;

use super::tables::Engines;
use crate::home::SimEngines;
use crate::log::{FileLayer, FileLock, Keep, LogFile, SimFiles};

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Bytes written to the log, not synced.
    Write,
    /// Names made, changed or removed, not synced; files cut.
    Name,
    /// A file synced.
    Sync,
    /// A directory synced.
    SyncDir,
    /// A batch written to the engine.
    Commit,
    /// The engine flushed.
    Flush,
}

/// A bug planted in the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// From an operation on, files are reported as synced without being so.
    SyncDoesNothing {
        from: u64,
    },
    /// The engine is reported as flushed without being so.
    FlushDoesNothing,
    /// A batch reaches the engine as two.
    BatchInHalves,
}

/// How many of the batches that no flush had covered reached the engine's disk by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    None,
    Half,
    All,
}

/// See the module's header. Clones are handles of the same machine.
#[derive(Clone, Debug)]
pub struct Machine(Arc<Inner>);

struct Inner {
    disk: SimFiles,
    engines: SimEngines,
    flaw: Flaw,
    power: Mutex<Power>,
    changed: Condvar,
    off: watch::Sender<bool>,
}

#[derive(Default)]
struct Power {
    operations: u64,
    off_at: Option<u64>,
    /// The kind of operation to go off before, and how many of them to let through first.
    off_before: Option<(Step, u64)>,
    off: bool,
    held: BTreeSet<Step>,
    files_held_from: Option<u64>,
    went_off_before: Option<Step>,
    dirs: BTreeSet<PathBuf>,
}

/// What a machine left when its power was cut.
#[derive(Debug)]
pub struct Remains {
    machine: Machine,
    keep: Keep,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("flaw", &self.flaw).finish_non_exhaustive()
    }
}

impl Machine {
    /// A new machine with an empty disk.
    pub fn new(flaw: Flaw) -> Machine {
        let disk = SimFiles::new();
        let engines = SimEngines::new(Arc::new(disk.clone()));
        Machine::with(disk, BTreeSet::new(), engines, flaw)
    }

    fn with(disk: SimFiles, dirs: BTreeSet<PathBuf>, engines: SimEngines, flaw: Flaw) -> Machine {
        let inner = Inner {
            disk,
            engines,
            flaw,
            power: Mutex::new(Power { dirs, ..Power::default() }),
            changed: Condvar::new(),
            off: watch::Sender::new(false),
        };
        Machine(Arc::new(inner))
    }

    pub fn files(&self) -> Arc<dyn FileLayer> {
        Arc::new(Files(self.clone()))
    }

    pub fn engines(&self) -> Arc<dyn EngineFactory> {
        Arc::new(Engines::of(self))
    }

    /// The engine in a directory.
    pub fn engine_in(&self, dir: &Path) -> Arc<dyn Engine> {
        Engines::of(self).open(dir).expect("an engine that was open before")
    }

    pub(super) fn sim_engines(&self) -> &SimEngines {
        &self.0.engines
    }

    pub(super) fn flaw(&self) -> Flaw {
        self.0.flaw
    }

    /// Leaves so much room on the disk, or unlimited room.
    pub fn set_bytes_free(&self, bytes: Option<u64>) {
        self.0.disk.set_bytes_free(bytes);
    }

    /// The bytes of a file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        self.0.disk.contents(path)
    }

    /// How many operations there were so far.
    pub fn operations(&self) -> u64 {
        self.power().operations
    }

    /// The operation that the power went off before, if it was planned.
    pub fn went_off_before(&self) -> Option<Step> {
        self.power().went_off_before
    }

    /// Plans to go off at an operation, counted from the machine's first.
    pub fn go_off_at(&self, operation: u64) {
        self.power().off_at = Some(operation);
    }

    /// Plans to go off before an operation of a kind, the first being number 0.
    pub fn go_off_before(&self, step: Step, number: u64) {
        self.power().off_before = Some((step, number));
    }

    /// Gives up plans to go off.
    pub fn stay_on(&self) {
        let mut power = self.power();
        (power.off_at, power.off_before) = (None, None);
    }

    /// Returns once the power is off.
    pub async fn is_off(&self) {
        let mut off = self.0.off.subscribe();
        // The sender lives as long as this handle.
        off.wait_for(|off| *off).await.expect("the machine is there");
    }

    /// Whether the power is off.
    pub fn off(&self) -> bool {
        *self.0.off.borrow()
    }

    /// Lets no operation of a kind through until it is released or the power goes off.
    pub fn hold(&self, step: Step) {
        self.power().held.insert(step);
    }

    /// Lets no operation on the log's files through from one on, counted from the machine's first, until the power goes
    /// off. The engine goes on.
    pub fn hold_files_from(&self, operation: u64) {
        self.power().files_held_from = Some(operation);
    }

    /// Lets them through again.
    pub fn release(&self, step: Step) {
        self.power().held.remove(&step);
        self.0.changed.notify_all();
    }

    /// Cuts the power.
    pub fn cut(&self) {
        self.go_off(&mut self.power());
    }

    /// Cuts the power and looks at what is left; nobody may use the machine any more.
    pub fn remains(&self, keep: Keep) -> Remains {
        self.cut();
        self.0.disk.crash(keep);
        Remains { machine: self.clone(), keep }
    }

    fn go_off(&self, power: &mut Power) {
        power.off = true;
        self.0.off.send_replace(true);
        self.0.changed.notify_all();
    }

    /// Counts an operation and says whether there is power for it.
    pub(super) fn step(&self, step: Step) -> io::Result<()> {
        let mut power = self.power();
        while power.holds(step) && !power.off {
            power = self.0.changed.wait(power).unwrap_or_else(PoisonError::into_inner);
        }
        if power.is_due_to_go_off(step) && !power.off {
            power.went_off_before = Some(step);
            self.go_off(&mut power);
        }
        if power.off {
            return Err(io::Error::other("the machine is off"));
        }
        power.operations += 1;
        Ok(())
    }

    fn power(&self) -> MutexGuard<'_, Power> {
        self.0.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Power {
    fn is_due_to_go_off(&mut self, step: Step) -> bool {
        if let Some((before, left)) = &mut self.off_before
            && *before == step
        {
            if *left == 0 {
                return true;
            }
            *left -= 1;
        }
        self.off_at.is_some_and(|at| self.operations >= at)
    }

    fn holds(&self, step: Step) -> bool {
        let is_of_files = !matches!(step, Step::Commit | Step::Flush);
        self.held.contains(&step) || (is_of_files && self.files_held_from.is_some_and(|from| self.operations >= from))
    }
}

impl Remains {
    /// A machine that finds them. The disk is copied, so others may be booted from the same remains; only what a crash
    /// kept without having been synced cannot be copied, and is then shared.
    pub fn boot(&self, kept: Kept, flaw: Flaw) -> Machine {
        let disk = if self.keep == Keep::Everything { self.machine.0.disk.clone() } else { self.copied_disk() };
        let engines = self.machine.0.engines.crash(Arc::new(disk.clone()), |batches| match kept {
            Kept::None => 0,
            Kept::Half => batches / 2,
            Kept::All => batches,
        });
        Machine::with(disk, self.dirs(), engines, flaw)
    }

    /// A machine that finds the disk of the log, and engines that are empty.
    pub fn boot_without_state(&self) -> Machine {
        let disk = self.copied_disk();
        let engines = SimEngines::new(Arc::new(disk.clone()));
        Machine::with(disk, self.dirs(), engines, Flaw::None)
    }

    fn dirs(&self) -> BTreeSet<PathBuf> {
        self.machine.power().dirs.clone()
    }

    fn copied_disk(&self) -> SimFiles {
        let (from, to) = (&self.machine.0.disk, SimFiles::new());
        for dir in &self.dirs() {
            // It may have been removed since.
            let Ok(names) = from.list(dir) else { continue };
            to.create_dir(dir).expect("a directory");
            for name in names {
                let path = dir.join(name);
                to.overwrite(&path, from.contents(&path).expect("a file that was listed"));
            }
        }
        to
    }
}

/// The machine's disk.
#[derive(Debug)]
struct Files(Machine);

impl Files {
    fn disk(&self) -> &SimFiles {
        &self.0.0.disk
    }

    fn open_file(&self, file: Arc<dyn LogFile>) -> Arc<dyn LogFile> {
        Arc::new(OpenFile { machine: self.0.clone(), file })
    }
}

impl FileLayer for Files {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.step(Step::Name)?;
        self.0.power().dirs.insert(dir.to_owned());
        self.disk().create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk().list(dir)
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk().list_dirs(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.step(Step::Name)?;
        self.disk().remove_dir(dir)?;
        self.0.sim_engines().forget(dir);
        Ok(())
    }

    fn bytes_free(&self, dir: &Path) -> io::Result<u64> {
        self.disk().bytes_free(dir)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.0.step(Step::Name)?;
        Ok(self.open_file(self.disk().create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(self.open_file(self.disk().open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.step(Step::Name)?;
        self.disk().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.step(Step::Name)?;
        self.disk().remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.step(Step::SyncDir)?;
        self.disk().sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        self.disk().lock(path)
    }
}

#[derive(Debug)]
struct OpenFile {
    machine: Machine,
    file: Arc<dyn LogFile>,
}

impl LogFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.machine.step(Step::Write)?;
        self.file.write_at(offset, bytes)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.machine.step(Step::Name)?;
        self.file.truncate(size)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.machine.step(Step::Sync)?;
        match self.machine.0.flaw {
            Flaw::SyncDoesNothing { from } if self.machine.operations() > from => Ok(()),
            _ => self.file.sync_data(),
        }
    }
}
