//! The hot pieces of a request's path, each alone: what the micro-benchmarks time, what the budgets of allocations hold, and
//! what instructions are counted of.
//!
//! A piece is described once and measured in three ways (docs/PERFORMANCE.md). It is reached through what its crate
//! offers to all others, and needs no socket, disk or second thread, so that it does the same each time. What cannot be
//! reached like that, such as the watch hub's matching, is guarded by the tests of its own crate.

mod apply;
mod codec;
mod commands;
#[cfg(feature = "requests")]
mod convert;
#[cfg(feature = "requests")]
mod http2;
mod tables;

/// What is measured.
#[derive(Clone, Copy)]
pub struct Piece {
    /// Its name in all tables.
    pub name: &'static str,
    /// How many operations a run does.
    pub operations: u64,
    /// Makes what a run starts from. The run may be called once.
    pub prepare: fn() -> Run,
}

/// Does a piece's operations once.
pub type Run = Box<dyn FnMut()>;

impl std::fmt::Display for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(feature = "requests")]
const OF_REQUESTS: [&[Piece]; 2] = [http2::PIECES, convert::PIECES];
#[cfg(not(feature = "requests"))]
const OF_REQUESTS: [&[Piece]; 0] = [];

/// All pieces, in the order of a request's path.
pub fn pieces() -> impl Iterator<Item = Piece> {
    let others = [codec::PIECES, apply::PIECES, tables::PIECES];
    OF_REQUESTS.into_iter().chain(others).flatten().copied()
}
