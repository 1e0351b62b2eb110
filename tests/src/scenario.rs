//! The frame around a test with processes: a directory of its own, one scenario at a time, evidence on failure.
//!
//! A failed scenario prints the end of every node's log, where the files are kept, and the command that runs it again.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Nothing here may run longer; a hang must become a failure with logs.
const SCENARIO_PATIENCE: Duration = Duration::from_secs(900);
const LOG_LINES_SHOWN: usize = 25;

/// Three servers and a client need the machine for themselves, or recovery times measure the neighbours.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a scenario's body works with.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub home: PathBuf,
}

/// Runs `body` with a fresh directory; panics with everything that a reader needs if it fails.
///
/// `test` is the test function's name and `target` its file, for the command that reproduces a failure.
pub fn run<F, Fut>(target: &str, test: &str, body: F)
where
    F: FnOnce(Scenario) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let started = Instant::now();
    let folder = tempfile::Builder::new().prefix("tenure-test-").tempdir().expect("a temporary directory");
    let home = folder.path().to_owned();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let result = runtime.block_on(async {
        tokio::time::timeout(SCENARIO_PATIENCE, body(Scenario { home: home.clone() }))
            .await
            .context("the scenario hangs")?
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    match result {
        Ok(()) => println!("{test}: passed in {:.1} s", started.elapsed().as_secs_f64()),
        Err(error) => {
            let kept = folder.keep();
            // Cargo tells it to the tests that it runs.
            let package = env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "tenure-tests".to_owned());
            print_logs(&kept);
            panic!(
                "{test} failed after {:.1} s: {error:#}\nfiles kept in {}\nreproduce: cargo test -p {package} --test \
                 {target} {test} -- --exact --nocapture",
                started.elapsed().as_secs_f64(),
                kept.display()
            );
        }
    }
}

fn print_logs(home: &Path) {
    for path in logs_under(home, 3) {
        let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        eprintln!("---- {} (last {} of {} lines)\n{}", path.display(), shown.len(), lines.len(), shown.join("\n"));
    }
}

fn logs_under(folder: &Path, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let extension = path.extension().and_then(OsStr::to_str);
        if path.is_file() && extension == Some("log") {
            found.push(path);
        } else if depth > 0 && path.is_dir() && extension != Some("data") {
            found.extend(logs_under(&path, depth - 1));
        }
    }
    found.sort();
    found
}
