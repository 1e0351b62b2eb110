//! The log, on stderr, and what happens when something panics.
//!
//! A panic anywhere ends the process. A member that lost one of its tasks would look alive to its peers and answer
//! nobody; one that is gone is replaced by an election in a second.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;
use std::process;

use tenure_server::config::{LogFormat, LogLevel};
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

/// Libraries whose `info` is about their own workings, per entry or per connection.
const CHATTY: [&str; 5] = ["openraft", "h2", "hyper", "tonic", "tower"];

/// Parts of openraft that warn of an absent peer at every attempt to reach it, ten times a second for as long as it is
/// down. The links to the peers say it once.
const REPETITIVE: [&str; 5] = [
    "openraft::replication",
    "openraft::engine::handler::replication_handler",
    "openraft::core::heartbeat",
    "openraft::core::raft_core",
    "openraft::network",
];

/// Starts logging and arms the panic hook.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let filter = if level < LevelFilter::DEBUG {
        Targets::new()
            .with_default(level)
            .with_targets(CHATTY.map(|name| (name, level.min(LevelFilter::WARN))))
            .with_targets(REPETITIVE.map(|name| (name, LevelFilter::OFF)))
    } else {
        Targets::new().with_default(level)
    };
    // By default a failed write to stderr is reported on stderr, which panics: a closed pipe must not end a member.
    let layer = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let layer = match format {
        LogFormat::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
        LogFormat::Text => {
            let colour =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            layer.with_target(false).with_ansi(colour).boxed()
        }
    };
    registry().with(layer.with_filter(filter)).init();
    std::panic::set_hook(Box::new(end_process));
    if level > STATIC_MAX_LEVEL {
        tracing::warn!("this build contains no messages below {STATIC_MAX_LEVEL}, whatever --log-level says");
    }
}

fn end_process(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("(no message)");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("(unnamed)");
    tracing::error!(location, thread, "panicked, so the process ends: {message}");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        // Nothing can be done about a stderr that is gone.
        drop(writeln!(io::stderr(), "{backtrace}"));
    }
    process::abort();
}
