//! What a simulated computer is like: a clock with a rate of its own, and a disk that takes its time.
//!
//! The clock is what the members' code takes for `CLOCK_BOOTTIME`: it began at some moment, goes a little fast or slow,
//! within the clock model of the design (two of them within half a percent), and never stands still or back. No code of
//! a member reads a wall clock to decide anything, so there is none here to set wrong.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_raft::runtime::Computer;
use tokio::time::Instant;

use crate::dice::Dice;

/// Members' rates differ from a rate of the run's by this at most, and so from each other by twice as much.
const RATE_PARTS_PER_MILLION: i32 = 2_500;

/// The run's rate. Clients have the true time, so that their clocks are as far from members' as the clock model allows.
const RUN_RATES: [f64; 3] = [-2_500e-6, 0.0, 2_500e-6];

/// The slowest that a healthy disk is.
const DISK_TIME_MAX: Duration = Duration::from_millis(2);

/// See the module's header. Clones are the same.
#[derive(Clone)]
pub struct Clockwork(Arc<Inner>);

struct Inner {
    number: usize,
    began: Instant,
    /// What the clock showed then.
    showed: Duration,
    rate: f64,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    slow: Option<(Duration, Duration)>,
}

impl Clockwork {
    /// The computer of one node.
    pub fn new(seed: u64, node: usize) -> Clockwork {
        let mut dice = Dice::new(seed, &format!("computer {node}"));
        let showed = dice.millis(1_000, 1_000_000_000);
        let run_rate = Dice::new(seed, "clocks").pick(&RUN_RATES);
        let rate = dice.rate(RATE_PARTS_PER_MILLION) + run_rate;
        let state = Mutex::new(State { dice, slow: None });
        Clockwork(Arc::new(Inner { number: node + 1, began: Instant::now(), showed, rate, state }))
    }

    /// Makes the disk take between two times for everything, or what it usually takes.
    pub fn set_disk(&self, slow: Option<(Duration, Duration)>) {
        self.state().slow = slow;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Computer for Clockwork {
    fn number(&self) -> usize {
        self.0.number
    }

    fn clock(&self) -> Duration {
        self.0.showed + self.0.began.elapsed().mul_f64(self.0.rate)
    }

    fn disk_time(&self) -> Duration {
        let mut state = self.state();
        let (least, most) = state.slow.unwrap_or((Duration::from_micros(20), DISK_TIME_MAX));
        state.dice.between(least, most)
    }
}
