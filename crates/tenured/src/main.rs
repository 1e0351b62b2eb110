//! `tenured`, the Tenure server: flags, log, data directory, storage engine, signals, and then the server itself.
//!
//! This file only joins parts that are tested elsewhere. Exit codes: 0 after a clean stop, 1 when the server cannot
//! start or go on, 2 for a command line that cannot be read, 128 + N when a second signal N cuts a stop short.

mod limits;
mod signals;
mod telemetry;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use tenure_rocks::RocksEngines;
use tenure_server::config::{ConfigError, Invocation, ServerConfig, SnapshotCommand, TENURE_VERSION};
use tenure_server::data_dir::DataDir;
use tenure_server::snapshot_file;
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As is the custom for a command line that makes no sense.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match Invocation::from_args(std::env::args_os().skip(1), std::env::vars_os()) {
        Ok(Invocation::Serve(config)) => serve(*config),
        Ok(Invocation::Snapshot(command)) => with_snapshot(&command),
        Ok(Invocation::Print(text)) => print(&text),
        Err(error) => refuse(&error),
    }
}

fn print(text: &str) -> ExitCode {
    // Whoever closed the pipe has read enough.
    drop(std::io::stdout().write_all(text.as_bytes()));
    ExitCode::SUCCESS
}

/// What is done with a snapshot's file needs no log: a person is watching.
fn with_snapshot(command: &SnapshotCommand) -> ExitCode {
    limits::raise_open_files();
    match snapshot_file::run(command, RocksEngines::default()) {
        Ok(text) => print(&text),
        Err(error) => {
            drop(writeln!(std::io::stderr(), "tenured: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// There is no log yet, and a person is watching.
fn refuse(error: &ConfigError) -> ExitCode {
    // Without a stderr there is only the exit code to tell it.
    drop(writeln!(std::io::stderr(), "tenured: {error}"));
    if error.is_usage() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

fn serve(config: ServerConfig) -> ExitCode {
    telemetry::start(config.log_level, config.log_format);
    match run(config) {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: ServerConfig) -> anyhow::Result<()> {
    // First of all, because from here on even a line in the log can meet a file's limit.
    let (shutdown, stopping) = watch::channel(false);
    signals::watch(shutdown)?;
    tracing::info!(
        version = TENURE_VERSION,
        name = config.name,
        data_dir = %config.data_dir.display(),
        pid = std::process::id(),
        "tenured starts"
    );
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let data_dir = DataDir::open(&config.data_dir, &config.lock_path())?;
    if let Some(mode) = data_dir.open_to_others() {
        tracing::warn!("the data directory has mode {mode:o}, so others can look into it; 700 is meant");
    }
    limits::raise_open_files();
    tenure_server::serve(config, Arc::new(RocksEngines::default()), stopping)?;
    // Only now may another process have the directory.
    drop(data_dir);
    Ok(())
}
