//! `make demo`: a cluster at work, shown on a terminal, to be broken by hand, and checked in the end.

pub mod clock;
pub mod limits;
