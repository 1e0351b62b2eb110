//! How a run tells of itself while it goes on, and where others may measure beside it.

use std::time::Duration;

use crate::failure::Failure;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Done and failed.
    pub operations: u64,
    pub failed: u64,
    /// How many there will be, if that is known.
    pub total: Option<u64>,
    /// Since the measurement began, and how long it will last, if that is known.
    pub elapsed: Duration,
    pub time: Option<Duration>,
    /// What ended in the latest whole second, and its p99 in milliseconds.
    pub latest: Option<(u64, f64)>,
}

/// Is told of a run as it goes on, on the run's own thread.
pub trait Observer {
    /// Something begins that is not measured.
    fn stage(&self, _words: &str) {}
    /// The measurement begins now: what others count begins here.
    fn begun(&self) {}
    /// The measurement is over; what is cleaned up afterwards does not count.
    fn ended(&self) {}
    /// Several times a second.
    fn progress(&self, _progress: &Progress) {}
    /// The first request that failed. The run goes on.
    fn first_failure(&self, _failure: &Failure) {}
    /// Whether the run is to end before its time.
    fn is_stopped(&self) -> bool {
        false
    }
}

/// Nobody looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
