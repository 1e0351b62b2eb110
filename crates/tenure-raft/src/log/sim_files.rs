//! A file system in memory that forgets what was not synced: for crash tests and the simulator.
//!
//! It keeps two versions of everything: what a reader sees now, and what the disk would still hold after a power cut.
//! [`SimFiles::crash`] makes the second the first, mixed with as much of the difference as [`Keep`] says, because a disk
//! may have written any of it. Files and names are lost separately, as on a real disk: syncing a file does not make its
//! name durable. Everything is a function of the calls and seeds, so a failure repeats.
//!
//! Faults are planned by counting operations that change something: `stop_at` turns the machine off at the n-th of them
//! (it and all later ones fail and do nothing), `fail_at` lets just one fail, and a capacity fills the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::files::{FileLayer, FileLock, LogFile};

/// How much of what was not synced survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All of it: the process died, the machine did not. It is still not on the disk, and the next crash may take it.
    Everything,
    /// None of it.
    Nothing,
    /// Of each file a random prefix of the unsynced bytes, at times with garbage at its end; of each name either version.
    Torn(u64),
    /// Of each file the whole length, but each unsynced block of 512 bytes may read as zeros; names as with `Torn`.
    Holes(u64),
}

/// Bytes that a disk writes or loses as one.
const SECTOR_BYTES: usize = 512;

/// The file system; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimFiles(Arc<Mutex<Machine>>);

#[derive(Debug, Default)]
struct Machine {
    /// Raised by each crash: handles and locks of an earlier life are dead.
    life: u64,
    files: BTreeMap<FileId, SimFile>,
    dirs: BTreeMap<PathBuf, Dir>,
    locks: BTreeSet<PathBuf>,
    last_file: u64,
    operations: u64,
    stop_at: Option<u64>,
    fail_at: Option<(u64, io::ErrorKind)>,
    bytes_free: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileId(u64);

#[derive(Debug, Default)]
struct SimFile {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// The versions agree below this offset, so that a sync copies only what is new.
    changed_from: usize,
}

#[derive(Debug, Default)]
struct Dir {
    now: BTreeMap<String, FileId>,
    durable: BTreeMap<String, FileId>,
    gone_now: bool,
    gone_durably: bool,
}

impl SimFiles {
    /// An empty disk.
    pub fn new() -> SimFiles {
        SimFiles::default()
    }

    /// Cuts the power and turns the machine on again. All handles die, planned faults are forgotten.
    pub fn crash(&self, keep: Keep) {
        let mut machine = self.machine();
        let machine = &mut *machine;
        machine.life += 1;
        machine.locks.clear();
        machine.stop_at = None;
        machine.fail_at = None;
        machine.bytes_free = None;
        let mut rng = match keep {
            Keep::Everything | Keep::Nothing => StdRng::seed_from_u64(0),
            Keep::Torn(seed) | Keep::Holes(seed) => StdRng::seed_from_u64(seed),
        };
        for file in machine.files.values_mut() {
            file.crash(keep, &mut rng);
        }
        for dir in machine.dirs.values_mut() {
            dir.crash(keep, &mut rng);
        }
    }

    /// How many changing operations there were so far.
    pub fn operations(&self) -> u64 {
        self.machine().operations
    }

    /// Turns the machine off at the n-th changing operation from the very first, until the next crash.
    pub fn stop_at(&self, operation: u64) {
        self.machine().stop_at = Some(operation);
    }

    /// Lets the n-th changing operation from the very first fail, and no other.
    pub fn fail_at(&self, operation: u64, kind: io::ErrorKind) {
        self.machine().fail_at = Some((operation, kind));
    }

    /// Leaves this much room on the disk, or unlimited room.
    pub fn set_bytes_free(&self, bytes: Option<u64>) {
        self.machine().bytes_free = bytes;
    }

    /// The present bytes of a file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let machine = self.machine();
        let id = machine.find(path).ok()?;
        Some(machine.files.get(&id)?.now.clone())
    }

    /// Replaces a file's bytes, now and on the disk, as a fault of the disk would.
    pub fn overwrite(&self, path: &Path, bytes: Vec<u8>) {
        let mut machine = self.machine();
        let id = match machine.find(path) {
            Ok(id) => id,
            Err(_) => machine.add_file(path),
        };
        let changed_from = bytes.len();
        machine.files.insert(id, SimFile { now: bytes.clone(), durable: bytes, changed_from });
        let (dir, name) = split(path);
        machine.dirs.entry(dir).or_default().durable.insert(name, id);
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, machine: &Machine, id: FileId) -> Arc<dyn LogFile> {
        Arc::new(SimHandle { disk: self.clone(), life: machine.life, id })
    }
}

impl Machine {
    /// Counts a changing operation and says how it must fail, if it must.
    fn operation(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        if self.stop_at.is_some_and(|at| number >= at) {
            return Err(io::Error::other("the machine is off"));
        }
        match self.fail_at {
            Some((at, kind)) if at == number => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<FileId> {
        let (dir, name) = split(path);
        let found = self.dirs.get(&dir).and_then(|dir| dir.now.get(&name));
        found.copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn children<'m>(&'m mut self, dir: &'m Path) -> impl Iterator<Item = (&'m PathBuf, &'m mut Dir)> {
        self.dirs.iter_mut().filter(move |(path, _)| path.parent() == Some(dir))
    }

    fn add_file(&mut self, path: &Path) -> FileId {
        self.last_file += 1;
        let id = FileId(self.last_file);
        let (dir, name) = split(path);
        self.files.insert(id, SimFile::default());
        self.dirs.entry(dir).or_default().now.insert(name, id);
        id
    }
}

impl SimFile {
    fn crash(&mut self, keep: Keep, rng: &mut StdRng) {
        match keep {
            Keep::Everything => return,
            Keep::Nothing => self.now.clone_from(&self.durable),
            Keep::Torn(_) => self.tear(rng),
            Keep::Holes(_) => self.pierce(rng),
        }
        self.durable.clone_from(&self.now);
        self.changed_from = self.now.len();
    }

    fn sync(&mut self) {
        self.durable.truncate(self.changed_from);
        self.durable.extend_from_slice(&self.now[self.durable.len()..]);
        self.changed_from = self.now.len();
    }

    /// A truncation that was not synced may be undone.
    fn truncated(&mut self, rng: &mut StdRng) -> bool {
        let is_truncated = self.now.len() < self.durable.len();
        if is_truncated && rng.random_bool(0.5) {
            self.now.clone_from(&self.durable);
        }
        is_truncated
    }

    /// Takes back what was written from `from` to `to`: to what was synced there, or to zeros where nothing was.
    fn take_back(&mut self, from: usize, to: usize) {
        let synced = self.durable.len().clamp(from, to);
        if from < synced {
            self.now[from..synced].copy_from_slice(&self.durable[from..synced]);
        }
        self.now[synced..to].fill(0);
    }

    /// Keeps a prefix of what was written and not synced, behind the end of the file or in the middle of it. Its last sector may
    /// hold garbage.
    fn tear(&mut self, rng: &mut StdRng) {
        if self.truncated(rng) {
            return;
        }
        let (begin, end) = (self.changed_from.min(self.now.len()), self.now.len());
        // What was written is mostly far shorter than the file: zeros that make room follow it.
        let written = (begin..end).rev().find(|at| self.durable.get(*at) != Some(&self.now[*at]) && self.now[*at] != 0);
        let written = written.map_or(begin, |last| last + 1);
        let last = if rng.random_bool(0.8) { written } else { end };
        let kept = rng.random_range(begin..=last);
        self.take_back(kept, end);
        if rng.random_bool(0.3) {
            let garbage = rng.random_range(0..=SECTOR_BYTES.min(kept - begin));
            rng.fill(&mut self.now[kept - garbage..kept]);
        }
        // The file may have become as long, or not.
        if kept >= self.durable.len() && rng.random_bool(0.5) {
            self.now.truncate(kept);
        } else if kept < self.durable.len() && rng.random_bool(0.5) {
            self.now.truncate(self.durable.len());
        }
    }

    /// Loses some of the unsynced sectors, in any order.
    fn pierce(&mut self, rng: &mut StdRng) {
        if self.truncated(rng) {
            return;
        }
        let (begin, end) = (self.changed_from.min(self.now.len()), self.now.len());
        for start in (begin - begin % SECTOR_BYTES..end).step_by(SECTOR_BYTES) {
            if rng.random_bool(0.5) {
                self.take_back(start.max(begin), end.min(start + SECTOR_BYTES));
            }
        }
    }
}

impl Dir {
    fn crash(&mut self, keep: Keep, rng: &mut StdRng) {
        match keep {
            Keep::Everything => return,
            Keep::Nothing => {
                self.now.clone_from(&self.durable);
                self.gone_now = self.gone_durably;
            }
            Keep::Torn(_) | Keep::Holes(_) => self.tear(rng),
        }
        self.durable.clone_from(&self.now);
        self.gone_durably = self.gone_now;
    }

    fn tear(&mut self, rng: &mut StdRng) {
        if self.gone_now {
            // A removal that was not synced may be undone, for the directory and then for any name in it.
            self.gone_now = self.gone_durably || rng.random_bool(0.5);
        }
        if self.gone_now {
            return;
        }
        let names: BTreeSet<String> = self.now.keys().chain(self.durable.keys()).cloned().collect();
        for name in names {
            if rng.random_bool(0.5) {
                match self.durable.get(&name) {
                    Some(id) => self.now.insert(name, *id),
                    None => self.now.remove(&name),
                };
            }
        }
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.now);
    }
}

fn split(path: &Path) -> (PathBuf, String) {
    let dir = path.parent().map(Path::to_owned).unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    (dir, name.unwrap_or_default())
}

impl FileLayer for SimFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut machine = self.machine();
        machine.operation()?;
        let made = machine.dirs.entry(dir.to_owned()).or_default();
        if made.gone_now {
            *made = Dir::default();
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let machine = self.machine();
        let dir = machine.dirs.get(dir).filter(|dir| !dir.gone_now).ok_or(io::ErrorKind::NotFound)?;
        Ok(dir.now.keys().cloned().collect())
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut machine = self.machine();
        Ok(machine.children(dir).filter(|(_, child)| !child.gone_now).map(|(path, _)| split(path).1).collect())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut machine = self.machine();
        machine.operation()?;
        let dir = machine.dirs.get_mut(dir).filter(|dir| !dir.gone_now).ok_or(io::ErrorKind::NotFound)?;
        dir.now.clear();
        dir.gone_now = true;
        Ok(())
    }

    fn bytes_free(&self, _: &Path) -> io::Result<u64> {
        Ok(self.machine().bytes_free.unwrap_or(u64::MAX))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let mut machine = self.machine();
        machine.operation()?;
        if machine.dirs.get(&split(path).0).is_some_and(|dir| dir.gone_now) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let id = machine.add_file(path);
        Ok(self.handle(&machine, id))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let machine = self.machine();
        let id = machine.find(path)?;
        Ok(self.handle(&machine, id))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut machine = self.machine();
        machine.operation()?;
        let id = machine.find(from)?;
        let ((from_dir, from_name), (to_dir, to_name)) = (split(from), split(to));
        machine.dirs.entry(from_dir).or_default().now.remove(&from_name);
        machine.dirs.entry(to_dir).or_default().now.insert(to_name, id);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.machine();
        machine.operation()?;
        machine.find(path)?;
        let (dir, name) = split(path);
        machine.dirs.entry(dir).or_default().now.remove(&name);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut machine = self.machine();
        machine.operation()?;
        if let Some(dir) = machine.dirs.get_mut(dir) {
            dir.sync();
        }
        for (_, child) in machine.children(dir).filter(|(_, child)| child.gone_now) {
            child.gone_durably = true;
            child.durable.clear();
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        let mut machine = self.machine();
        if !machine.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), life: machine.life, path: path.to_owned() }))
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimFiles,
    life: u64,
    path: PathBuf,
}

impl FileLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut machine = self.disk.machine();
        if machine.life == self.life {
            machine.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimHandle {
    disk: SimFiles,
    life: u64,
    id: FileId,
}

impl SimHandle {
    fn with<T>(&self, changes: bool, act: impl FnOnce(&mut Machine) -> io::Result<T>) -> io::Result<T> {
        let mut machine = self.disk.machine();
        if machine.life != self.life {
            return Err(io::Error::other("a handle from before the crash"));
        }
        if changes {
            machine.operation()?;
        }
        act(&mut machine)
    }
}

fn file(machine: &mut Machine, id: FileId) -> io::Result<&mut SimFile> {
    machine.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn offset_in_memory(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl LogFile for SimHandle {
    fn size(&self) -> io::Result<u64> {
        self.with(false, |machine| Ok(file(machine, self.id)?.now.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(false, |machine| {
            let bytes = &file(machine, self.id)?.now;
            let start = offset_in_memory(offset)?.min(bytes.len());
            let count = buffer.len().min(bytes.len() - start);
            buffer[..count].copy_from_slice(&bytes[start..start + count]);
            Ok(count)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(true, |machine| {
            let start = offset_in_memory(offset)?;
            let size = file(machine, self.id)?.now.len();
            let grows = (start + bytes.len()).saturating_sub(size);
            let short =
                machine.bytes_free.map_or(0, |free| grows.saturating_sub(usize::try_from(free).unwrap_or(grows)));
            if let Some(free) = &mut machine.bytes_free {
                *free -= (grows - short) as u64;
            }
            let fits = &bytes[..bytes.len() - short];
            let file = file(machine, self.id)?;
            file.changed_from = file.changed_from.min(start);
            file.now.resize(size.max(start + fits.len()), 0);
            file.now[start..start + fits.len()].copy_from_slice(fits);
            if short > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.with(true, |machine| {
            let file = file(machine, self.id)?;
            file.now.truncate(offset_in_memory(size)?);
            file.changed_from = file.changed_from.min(file.now.len());
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(true, |machine| {
            file(machine, self.id)?.sync();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with_file(disk: &SimFiles) -> (&'static Path, &'static Path, Arc<dyn LogFile>) {
        let (dir, path) = (Path::new("/d"), Path::new("/d/f"));
        disk.create_dir(dir).unwrap();
        (dir, path, disk.create(path).unwrap())
    }

    #[test]
    fn a_crash_loses_unsynced_bytes_and_unsynced_names() {
        let disk = SimFiles::new();
        let (dir, path, file) = dir_with_file(&disk);
        file.write_at(0, b"ab").unwrap();
        file.sync_data().unwrap();
        disk.crash(Keep::Nothing);
        assert!(disk.open(path).is_err(), "the name was not synced");
        assert!(file.write_at(0, b"x").is_err(), "the handle is from before the crash");

        let file = disk.create(path).unwrap();
        file.write_at(0, b"ab").unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(dir).unwrap();
        file.write_at(2, b"cd").unwrap();
        disk.crash(Keep::Everything);
        assert_eq!(disk.contents(path).unwrap(), b"abcd");
        disk.crash(Keep::Nothing);
        assert_eq!(disk.contents(path).unwrap(), b"ab");
    }

    #[test]
    fn a_torn_crash_keeps_all_that_was_synced() {
        for seed in 0..200 {
            for keep in [Keep::Torn(seed), Keep::Holes(seed)] {
                let disk = SimFiles::new();
                let (dir, path, file) = dir_with_file(&disk);
                file.write_at(0, &[1; 700]).unwrap();
                file.sync_data().unwrap();
                disk.sync_dir(dir).unwrap();
                file.write_at(700, &[2; 900]).unwrap();
                disk.crash(keep);
                let kept = disk.contents(path).unwrap();
                assert_eq!(kept[..700], [1; 700]);
                assert!(kept.len() <= 1600);
            }
        }
    }

    #[test]
    fn what_was_written_over_synced_zeros_comes_out_in_part() {
        let kept = |keep| {
            let disk = SimFiles::new();
            let (dir, path, file) = dir_with_file(&disk);
            file.write_at(0, &[&[1; 700][..], &[0; 5000]].concat()).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(dir).unwrap();
            file.write_at(700, &[2; 3000]).unwrap();
            disk.crash(keep);
            let kept = disk.contents(path).unwrap();
            assert!(kept[..700] == [1; 700] && kept.len() == 5700);
            kept
        };
        let is_torn = |kept: &[u8]| kept[700] == 2 && kept[3699] == 0;
        let has_hole = |kept: &[u8]| kept[3699] == 2 && kept[700..3699].contains(&0);
        assert!((0..50).filter(|seed| is_torn(&kept(Keep::Torn(*seed)))).count() > 10);
        assert!((0..50).filter(|seed| has_hole(&kept(Keep::Holes(*seed)))).count() > 10);
    }

    #[test]
    fn a_removed_directory_may_come_back_until_the_one_above_is_synced() {
        let (above, dir, path) = (Path::new("/d"), Path::new("/d/e"), Path::new("/d/e/f"));
        let removed = |keep| {
            let disk = SimFiles::new();
            disk.create_dir(above).unwrap();
            disk.create_dir(dir).unwrap();
            disk.create(path).unwrap();
            disk.sync_dir(dir).unwrap();
            assert_eq!(disk.list_dirs(above).unwrap(), ["e"]);
            disk.remove_dir(dir).unwrap();
            assert!(disk.list_dirs(above).unwrap().is_empty() && disk.list(dir).is_err());
            assert!(disk.open(path).is_err() && disk.create(path).is_err() && disk.remove_dir(dir).is_err());
            if keep == Keep::Everything {
                disk.sync_dir(above).unwrap();
                disk.crash(Keep::Nothing);
            } else {
                disk.crash(keep);
            }
            (disk.list_dirs(above).unwrap().len(), disk.list(dir).map_or(0, |names| names.len()))
        };
        assert_eq!(removed(Keep::Everything), (0, 0), "the removal was synced");
        assert_eq!(removed(Keep::Nothing), (1, 1));
        let torn: BTreeSet<_> = (0..100).map(|seed| removed(Keep::Torn(seed))).collect();
        assert_eq!(torn, BTreeSet::from([(0, 0), (1, 0), (1, 1)]));

        let disk = SimFiles::new();
        disk.create_dir(dir).unwrap();
        disk.create(path).unwrap();
        disk.sync_dir(dir).unwrap();
        disk.remove_dir(dir).unwrap();
        disk.create_dir(dir).unwrap();
        disk.crash(Keep::Nothing);
        assert!(disk.list(dir).unwrap().is_empty(), "a directory made anew is empty");
    }

    #[test]
    fn planned_faults_hit_the_operation_they_name() {
        let disk = SimFiles::new();
        let (_, path, file) = dir_with_file(&disk);
        disk.fail_at(disk.operations() + 1, io::ErrorKind::PermissionDenied);
        file.write_at(0, b"a").unwrap();
        assert_eq!(file.sync_data().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        file.sync_data().unwrap();

        disk.set_bytes_free(Some(2));
        assert_eq!(file.write_at(1, b"bcd").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.contents(path).unwrap(), b"abc", "what fits is written");
        disk.set_bytes_free(None);

        disk.stop_at(disk.operations());
        assert!(file.write_at(1, b"b").is_err());
        assert!(file.sync_data().is_err());
        disk.crash(Keep::Everything);
        assert_eq!(disk.contents(path).unwrap(), b"abc");
    }

    #[test]
    fn a_lock_is_held_once_and_freed_by_drop_or_crash() {
        let disk = SimFiles::new();
        let path = Path::new("/d/LOCK");
        let held = disk.lock(path).unwrap();
        assert_eq!(disk.lock(path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        let held = disk.lock(path).unwrap();
        disk.crash(Keep::Everything);
        let second = disk.lock(path).unwrap();
        drop(held);
        assert!(disk.lock(path).is_err(), "a lock of an earlier life frees nothing");
        drop(second);
    }
}
