//! A simulated computer for crash tests and the simulator: what a member keeps, and the moment at which its power goes off.

mod machine;
mod tables;

pub use machine::{Flaw, Kept, Machine, Remains, Step};
