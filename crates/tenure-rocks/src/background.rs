//! RocksDB's own threads, which flush and compact, give way to those that requests wait for.
//!
//! They work in bursts of tens of milliseconds. On a machine whose cores are all busy, such a burst at equal priority is
//! what the slowest hundredth of puts waits for: with 1000 clients on two cores that three members share, p99 is a third
//! lower since they give way. They still get a tenth of a core from the busiest of machines, and bounded memtables hold
//! writers back before they fall behind too far.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, setpriority_process};

/// Niceness of those threads: a tenth of the weight of a thread of niceness 0.
const NICENESS: i32 = 10;

/// How RocksDB names them: for flushes, and for compactions.
const NAMES: [&str; 2] = ["rocksdb:high", "rocksdb:low"];

/// The threads of this process that RocksDB started. They live as long as the process does.
fn threads() -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let is_rocks =
        |task: &Path| fs::read_to_string(task.join("comm")).is_ok_and(|name| NAMES.contains(&name.trim_end()));
    let number = |task: &Path| task.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw);
    tasks.flatten().map(|task| task.path()).filter(|task| is_rocks(task)).filter_map(|task| number(&task)).collect()
}

/// Lowers the priority of all that are there. It is no loss of anything but time if that cannot be done.
pub(crate) fn give_way() {
    for thread in threads() {
        // On Linux a priority is a thread's own, whatever its name says.
        _ = setpriority_process(Some(thread), NICENESS);
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;
    use tenure_storage::engine::Engine;

    use super::*;
    use crate::{RocksEngine, RocksOptions};

    #[test]
    fn threads_of_an_open_database_are_nice() {
        let dir = tempfile::tempdir().expect("a folder");
        let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("a database");
        engine.flush().expect("a flush");
        let niceness: Vec<i32> =
            threads().into_iter().map(|t| getpriority_process(Some(t)).expect("a priority")).collect();
        assert!(niceness.len() >= NAMES.len(), "{niceness:?}");
        assert!(niceness.iter().all(|nice| *nice == NICENESS), "{niceness:?}");
    }
}
