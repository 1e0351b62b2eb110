//! The data directory as a whole: made, checked and locked before anything inside it is opened.
//!
//! RocksDB locks its own part, but two processes appending to one Raft log would ruin it long before RocksDB noticed;
//! so the directory has a lock of its own (`flock` on `LOCK`), which the kernel drops with the process however it dies.
//! Which member the directory belongs to is not asked here: that is in the identity file, next to the log.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The bits that let others than the owner in.
const OTHERS: u32 = 0o077;

/// A process id has at most 7 digits; more is not read from a lock file that something else may have written.
const PID_BYTES_MAX: u64 = 16;

/// The data directory, held by this process until dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    open_to_others: Option<u32>,
    /// The lock lives as long as this file is open.
    _lock: File,
}

/// Why a directory cannot be the data directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process has it.
    #[error("the data directory {path} is in use by another process{holder}; stop that one or choose another --data-dir", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// ` (pid N)`, if known.
        holder: String,
    },
    /// It belongs to etcd.
    #[error("the data directory {path} holds the data of an etcd member, which Tenure cannot read; choose another \
         --data-dir and copy the keys over with both clusters running", path = path.display())]
    Etcd {
        /// The directory.
        path: PathBuf,
    },
    /// There is something of that name that is no directory.
    #[error("the data directory {path} is not a directory; choose another --data-dir", path = path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}: {error}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

impl DataDir {
    /// Makes the directory if it is not there (mode 0700), durably, and locks it.
    pub fn open(path: &Path, lock_path: &Path) -> Result<Self, DataDirError> {
        create(path)?;
        let metadata = fs::metadata(path).map_err(io("read", path))?;
        if !metadata.is_dir() {
            return Err(DataDirError::NotADirectory { path: path.to_owned() });
        }
        if path.join("member").join("wal").is_dir() {
            return Err(DataDirError::Etcd { path: path.to_owned() });
        }
        let lock = lock(path, lock_path)?;
        let mode = metadata.permissions().mode() & 0o777;
        Ok(DataDir { path: path.to_owned(), open_to_others: Some(mode).filter(|mode| mode & OTHERS != 0), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The permissions, if they let others than the owner in.
    pub fn open_to_others(&self) -> Option<u32> {
        self.open_to_others
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |error| DataDirError::Io { action, path, error }
}

/// Creates the directory and what is missing above it. Each new name is synced into the directory that holds it: data
/// synced below a name that a power cut takes away would be lost with it.
fn create(path: &Path) -> Result<(), DataDirError> {
    let missing: Vec<&Path> =
        path.ancestors().filter(|dir| !dir.as_os_str().is_empty()).take_while(|dir| !dir.exists()).collect();
    for dir in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(dir) {
            // Somebody else was faster, or it is a dangling link, which the caller finds out.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.map_err(io("create", dir))?,
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(io("sync", parent))?;
    }
    Ok(())
}

fn lock(path: &Path, lock_path: &Path) -> Result<File, DataDirError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock_path)
        .map_err(io("open", lock_path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(DataDirError::InUse { path: path.to_owned(), holder: holder(&file) });
        }
        Err(TryLockError::Error(error)) => return Err(io("lock", lock_path)(error)),
    }
    // A courtesy to whoever is refused later; a full disk must not keep a member from starting.
    drop(file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())));
    Ok(file)
}

fn holder(file: &File) -> String {
    let mut text = String::new();
    match file.take(PID_BYTES_MAX).read_to_string(&mut text).map(|_| text.trim().parse::<u32>()) {
        Ok(Ok(pid)) => format!(" (pid {pid})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<DataDir, DataDirError> {
        DataDir::open(path, &path.join("LOCK"))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_missing_directory_is_made_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/data");
        let dir = open(&path).unwrap();
        assert_eq!(dir.path(), path);
        assert_eq!(dir.open_to_others(), None);
        assert_eq!((mode(&path), mode(&root.path().join("a"))), (0o700, 0o700));
    }

    #[test]
    fn a_directory_made_beforehand_is_taken_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        for (permissions, open_to_others) in [(0o700, None), (0o755, Some(0o755))] {
            fs::set_permissions(root.path(), fs::Permissions::from_mode(permissions)).unwrap();
            assert_eq!(open(root.path()).unwrap().open_to_others(), open_to_others);
            assert_eq!(mode(root.path()), permissions);
        }
    }

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = open(root.path()).unwrap();
        let refused = open(root.path()).expect_err("it is held").to_string();
        assert!(refused.contains(&format!("in use by another process (pid {})", std::process::id())), "{refused}");
        drop(first);
        open(root.path()).unwrap();
    }

    #[test]
    fn a_lock_file_full_of_nonsense_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("LOCK"), [0xff; 100]).unwrap();
        let first = open(root.path()).unwrap();
        fs::write(root.path().join("LOCK"), [0xff; 100]).unwrap();
        let refused = open(root.path()).expect_err("it is held").to_string();
        assert!(refused.contains("in use by another process; stop"), "{refused}");
        drop(first);
    }

    #[test]
    fn the_data_of_etcd_is_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("member/wal")).unwrap();
        let refused = open(root.path()).expect_err("it is etcd's").to_string();
        assert!(refused.contains("holds the data of an etcd member"), "{refused}");
        assert!(!root.path().join("LOCK").exists());
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(open(&file), Err(DataDirError::NotADirectory { .. })));
        let below = open(&file.join("data")).expect_err("a file has nothing below it").to_string();
        assert!(below.starts_with("cannot create ") && below.contains("file/data"), "{below}");
        std::os::unix::fs::symlink(root.path().join("nowhere"), root.path().join("link")).unwrap();
        let dangling = open(&root.path().join("link")).expect_err("the link leads nowhere").to_string();
        assert!(dangling.starts_with("cannot read "), "{dangling}");
    }
}
