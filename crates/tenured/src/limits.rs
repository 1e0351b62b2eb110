//! What the operating system grants the process.
//!
//! Each client connection is an open file and so is each table of the storage engine, while shells start processes
//! with a soft limit of 1024: the limit is raised to what the administrator allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this the log says so: a thousand clients and the storage engine's files do not fit.
const OPEN_FILES_RECOMMENDED_MIN: u64 = 4096;

/// Raises the soft limit of open files to the hard one.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return warn_if_low(limit.current);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => warn_if_low(limit.maximum),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            warn_if_low(limit.current);
        }
    }
}

fn warn_if_low(limit: Option<u64>) {
    if let Some(open_files_max) = limit.filter(|limit| *limit < OPEN_FILES_RECOMMENDED_MIN) {
        tracing::warn!(open_files_max, "the limit of open files is low; raise it with ulimit -n");
    }
}
