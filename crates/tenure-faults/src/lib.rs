//! Faults that are put into a member on purpose: a slow sync, a full disk, an end of the process at a chosen place, a clock
//! that jumps.
//!
//! The code that may fail names the place, [`hit`]`(Point::WalBeforeSync)`, and goes on with what it is told. Which fault
//! waits there is set while the process runs, in the words of etcd's gofail, so that tools made for etcd know them. One
//! registry serves the process: a place in the code is the same for every user of it, and a test that wants several
//! members with faults of their own starts several processes.
//!
//! Without the feature `inject` the functions that code calls are empty and [`INJECTS`] is false, so that a released program
//! holds neither a place nor a name of one. The rest is compiled all the same, to be checked and tested wherever the code
//! is built. Faults between members, on the network, are the business of the peer transport.

mod clock;
mod crash;
mod point;
mod registry;
mod term;

use std::io;
use std::time::Duration;

pub use clock::{ClockError, ClockOffset};
pub use crash::Answering;
pub use point::Point;
pub use registry::{Registry, SetError};
pub use term::TermError;

/// Whether this program was built to have faults injected.
pub const INJECTS: bool = cfg!(feature = "inject");

static REGISTRY: Registry = Registry::new();
static CLOCK: ClockOffset = ClockOffset::new();

/// The faults of this process.
pub fn registry() -> &'static Registry {
    &REGISTRY
}

/// The jumps of this process's clock.
pub fn clock() -> &'static ClockOffset {
    &CLOCK
}

/// By how much the clock of this process is ahead of the machine's.
#[inline]
pub fn clock_offset() -> Duration {
    if INJECTS { CLOCK.get() } else { Duration::ZERO }
}

/// A place where a fault may wait. Blocks, fails or ends the process, as it was told.
///
/// # Errors
/// The error of the operating system that the place was told to meet.
#[inline]
pub fn hit(point: Point) -> io::Result<()> {
    if INJECTS { REGISTRY.hit(point) } else { Ok(()) }
}

/// The same in asynchronous code, which must not block: how long the caller is to wait. Nothing can fail there.
#[inline]
pub fn delay(point: Point) -> Option<Duration> {
    if INJECTS { REGISTRY.delay(point) } else { None }
}
