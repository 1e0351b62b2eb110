//! Chaos on real processes: clients work, faults happen by a script, everything heals, and then it is judged whether the
//! cluster kept its promises.
//!
//! ```text
//! script (from the seed) ─▶ field: real servers, their processes, failpoints and links      events ─┐
//! workloads ─▶ clients, one request at a time ─▶ recorder: what was asked, answered, when ──────────┼─▶ judge ─▶ report
//! observers: watch everything, from the first revision on ─────────────────────────────────────────┘
//! ```
//!
//! A run is a row of rounds on one cluster. A round ends with everything healed, all leases over and the store read whole;
//! it is judged alone, and the next begins with the store as it was read. So memory and the time to judge are bounded by a
//! round, and a violation is told soon after it happened.
//!
//! What is drawn from the seed is the script and the clients' choices. Threads and sockets are not: a seed brings the
//! faults back, not the run. The simulator is there for the latter.

pub mod director;
pub mod ending;
pub mod faults;
pub mod field;
pub mod judge;
pub mod leaders;
pub mod outcome;
pub mod run;
pub mod script;
pub mod settings;
