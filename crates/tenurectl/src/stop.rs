//! How a command that runs for ever ends: by a signal, or because nobody reads its output any more. Both are a good end.

use std::io;
use std::os::fd::AsFd as _;

use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// Waits for the task, or for the wish that it stops. What it is writing at that moment stays unfinished.
pub(crate) async fn unless_stopped(mut task: JoinHandle<Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        ended = &mut task => match ended {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Ok(()),
        },
        () = asked() => Ok(()),
    }
}

/// Waits for the wish that the command stops.
pub(crate) async fn asked() {
    tokio::select! {
        () = signalled(SignalKind::interrupt()) => {}
        () = signalled(SignalKind::terminate()) => {}
        () = reader_gone() => {}
    }
}

async fn signalled(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signals) => drop(signals.recv().await),
        // Without a handler the signal ends the process by itself.
        Err(_) => std::future::pending().await,
    }
}

/// Ends when stdout is a pipe whose other end was closed: without events to write, no write would ever fail.
pub(crate) async fn reader_gone() {
    // A copy of the descriptor, only to wait for an error on it: what is written goes through the original, which blocks.
    let waiting = io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    match waiting {
        Ok(pipe) => drop(pipe.ready(Interest::ERROR).await),
        // Files cannot be waited for, and need not be.
        Err(_) => std::future::pending().await,
    }
}
