//! The end of the process at a chosen place.
//!
//! Whoever asked for it over HTTP must still get the answer, or could not tell a fault that was set from a member that was
//! already gone. So the process ends once no answer is on its way; the thread at the place stands still meanwhile, and
//! nothing behind the place happens.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::point::Point;

/// An answer that takes longer than this is no reason to go on living.
const ANSWERS_WAIT: Duration = Duration::from_secs(1);

static ANSWERS: Mutex<usize> = Mutex::new(0);
static ANSWERED: Condvar = Condvar::new();

/// Held while an answer is on its way.
#[derive(Debug)]
pub struct Answering(());

impl Answering {
    /// From here on, until it is dropped.
    pub fn begin() -> Answering {
        *ANSWERS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Answering(())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        *ANSWERS.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ANSWERED.notify_all();
    }
}

pub(crate) fn crash(point: Point, text: &str) -> ! {
    tracing::error!("failpoint {}: {text}; the process ends here", point.name());
    let answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
    // Waited for or not: it ends.
    drop(ANSWERED.wait_timeout_while(answers, ANSWERS_WAIT, |answers| *answers > 0));
    std::process::abort()
}
