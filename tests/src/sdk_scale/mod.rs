//! The SDK against real servers that are killed, stopped and cut off, and in numbers: what its users rely on.
//!
//! Each scenario prints one line of figures, and fails when a promise is broken. `make scenarios` runs them at full size,
//! `make test` a small one of each.

pub mod apart;
pub mod guards;
pub mod many;
pub mod proxy;
pub mod services;
pub mod stopped;
