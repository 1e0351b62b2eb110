//! Consensus: openraft wired to Tenure's log, state machine and peers. The only crate that names openraft.
//!
//! Nothing of openraft appears in what this crate hands upward, so that a bump of that crate touches this one alone.

mod entry_codec;
pub mod log;
pub mod runtime;
mod types;
