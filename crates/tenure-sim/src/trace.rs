//! What happened, as lines with the moment of each, and a hash over all of them: two runs of one seed must agree on it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tenure_history::Moment;
use tokio::time::Instant;

/// Lines kept for whoever asks what happened last.
const LINES_KEPT: usize = 200_000;

/// See the module's header. Clones share it.
#[derive(Clone)]
pub struct Trace(Arc<Inner>);

struct Inner {
    began: Instant,
    state: Mutex<State>,
}

struct State {
    hash: Sha256,
    count: u64,
    lines: VecDeque<String>,
}

impl Trace {
    /// Begins at the present.
    pub fn begin() -> Trace {
        let state = State { hash: Sha256::new(), count: 0, lines: VecDeque::new() };
        Trace(Arc::new(Inner { began: Instant::now(), state: Mutex::new(state) }))
    }

    /// The time since the run began.
    pub fn now(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// The same, as histories have it.
    pub fn moment(&self) -> Moment {
        Moment(u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Adds a line.
    pub fn note(&self, text: impl std::fmt::Display) {
        let line = format!("{:>12.6}  {text}", self.now().as_secs_f64());
        let mut state = self.state();
        state.hash.update(&line);
        state.hash.update(b"\n");
        state.count += 1;
        if state.lines.len() >= LINES_KEPT {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
    }

    /// The hash over all lines so far.
    pub fn hash(&self) -> String {
        let digest = self.state().hash.clone().finalize();
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How many lines there were.
    pub fn count(&self) -> u64 {
        self.state().count
    }

    /// The last lines.
    pub fn lines(&self) -> Vec<String> {
        self.state().lines.iter().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
