//! The door between the log and a file system, and the file system of the operating system behind it.
//!
//! The log, and whatever moves the state from one directory to another, are written against [`FileLayer`], so that tests
//! and the simulator run the real code on [`SimFiles`](super::SimFiles), which forgets what was not synced. The trait promises no more than a POSIX file system
//! does: written bytes survive the process, synced bytes survive the machine, and a name survives the machine only once
//! its directory is synced.

use std::fmt;
use std::fs::{self, File, FileType, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A file system.
pub trait FileLayer: fmt::Debug + Send + Sync + 'static {
    /// Makes the directory and those above it, if missing; durable when this returns.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files in a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// The names of the directories in a directory, in no particular order.
    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Removes a directory and what is in it. Interrupted, it leaves some of it.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// The room that is left where a directory is.
    fn bytes_free(&self, dir: &Path) -> io::Result<u64>;
    /// Makes an empty file, in place of one of that name if there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>>;
    /// Opens a file that exists.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>>;
    /// Opens a file that exists, and that must not be written.
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn LogFile>>;
    /// Renames a file, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; handles that are open keep reading it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock that a file stands for, until the guard is dropped; `WouldBlock` if somebody holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>>;
}

/// An open file.
pub trait LogFile: fmt::Debug + Send + Sync {
    /// Its length.
    fn size(&self) -> io::Result<u64>;
    /// Fills the buffer from an offset; fewer bytes only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all the bytes at an offset.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to a length.
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Makes everything written, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// A held lock, released by dropping it.
pub trait FileLock: fmt::Debug + Send + Sync {}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

#[derive(Debug)]
struct OsFile(File);

#[derive(Debug)]
struct OsLock {
    /// The lock ends when this is closed.
    _file: File,
}

impl FileLock for OsLock {}

impl FileLayer for OsFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.is_dir()).collect();
        fs::create_dir_all(dir)?;
        missing.iter().filter_map(|dir| dir.parent()).try_for_each(|parent| self.sync_dir(parent))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        names(dir, |kind| !kind.is_dir())
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        names(dir, FileType::is_dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn bytes_free(&self, dir: &Path) -> io::Result<u64> {
        let room = rustix::fs::statvfs(dir)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(OsFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(OsFile(File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // The parent of a relative path of one part has the empty path.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(OsLock { _file: file })),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn names(dir: &Path, is_meant: impl Fn(&FileType) -> bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_meant(&entry.file_type()?) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

impl LogFile for OsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync_data(&self) -> io::Result<()> {
        // fdatasync also flushes a changed length, which is all the metadata that reading the file back needs.
        self.0.sync_data()
    }
}
