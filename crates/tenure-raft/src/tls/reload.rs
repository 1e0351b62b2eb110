//! Something made of files, and made again when they have changed.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::TlsError;

/// See the module's header.
pub(super) struct Reloaded<C> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<C, TlsError> + Send + Sync>,
    made: Mutex<Made<C>>,
}

struct Made<C> {
    /// The files as they were when it was last made, or tried to.
    stamps: Vec<Option<Stamp>>,
    config: Arc<C>,
}

/// What tells one state of a file from another. Nothing if it cannot be looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl<C> Reloaded<C> {
    /// Makes it for the first time.
    pub(super) fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<C, TlsError> + Send + Sync + 'static,
    ) -> Result<Reloaded<C>, TlsError> {
        // Looked at first: a change in between is then taken for one that is still to be read.
        let stamps = stamps(&files);
        let made = Mutex::new(Made { stamps, config: Arc::new(make()?) });
        Ok(Reloaded { files, make: Box::new(make), made })
    }

    /// What the files hold now, or held when they last made sense.
    pub(super) fn current(&self) -> Arc<C> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps != made.stamps {
            made.stamps = stamps;
            match (self.make)() {
                Ok(config) => {
                    tracing::info!(files = %Names(&self.files), "read TLS files that have changed");
                    made.config = Arc::new(config);
                }
                Err(error) => tracing::warn!(%error, "TLS files have changed and make no sense; the old ones are kept"),
            }
        }
        made.config.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some(Stamp { modified: found.modified().ok(), bytes: found.len(), inode: found.ino() })
    };
    files.iter().map(stamp).collect()
}

struct Names<'f>(&'f [PathBuf]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, path) in self.0.iter().enumerate() {
            write!(f, "{}{}", if place == 0 { "" } else { ", " }, path.display())?;
        }
        Ok(())
    }
}

impl<C> fmt::Debug for Reloaded<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded").field("files", &self.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_makes_sense_is_taken_and_one_that_does_not_is_waited_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        let write = |text: &str| {
            // A new file in the old one's place, as whoever renews certificates does it.
            let new = dir.path().join("new");
            std::fs::write(&new, text).expect("written");
            std::fs::rename(new, &path).expect("renamed");
        };
        write("1");
        let read = {
            let path = path.clone();
            move || {
                let text = std::fs::read_to_string(&path).map_err(|error| TlsError::Unreadable(path.clone(), error))?;
                text.parse::<u32>().map_err(|_| TlsError::NoKey(path.clone()))
            }
        };
        let reloaded = Reloaded::new(vec![path.clone()], read).expect("a number");
        assert_eq!(*reloaded.current(), 1);
        write("2");
        assert_eq!(*reloaded.current(), 2);
        write("nonsense");
        assert_eq!(*reloaded.current(), 2);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(*reloaded.current(), 2);
        write("3");
        assert_eq!(*reloaded.current(), 3);
        assert!(Arc::ptr_eq(&reloaded.current(), &reloaded.current()), "what did not change is not made again");
    }
}
