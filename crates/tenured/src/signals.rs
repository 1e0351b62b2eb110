//! SIGTERM and SIGINT: the first asks the server to stop in good order, the second ends the process at once.
//!
//! Ending at once is safe: whatever was acknowledged is on disk, and SIGKILL must be survived anyway. SIGXFSZ, which
//! would kill the process when a file outgrows its limit, is caught so that the write fails like one on a full disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

/// Starts the thread that waits for signals. It lives as long as the process.
pub(crate) fn watch(shutdown: watch::Sender<bool>) -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if *shutdown.borrow() {
                tracing::warn!(signal, "a second signal: ending at once");
                signal_hook::low_level::exit(128 + signal);
            }
            // etcd's words, for those who look for them.
            let name = if signal == SIGTERM { "terminated" } else { "interrupt" };
            tracing::info!(signal = name, "received signal; shutting down (another one ends the process at once)");
            // `send` refuses when nobody listens any more, and the flag must be kept even then.
            shutdown.send_replace(true);
        }
    })?;
    Ok(())
}
