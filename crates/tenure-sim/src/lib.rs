//! A cluster in one thread: the members that `tenured` runs, on simulated computers and a simulated network.
//!
//! Everything that a member is, is the real thing, put together by [`tenure_server::member::Member`]: consensus, log and
//! state, apply loop, lessor, watch hub, gRPC services. What is simulated lies outside: time ([`clock`]), the disk
//! ([`tenure_raft::sim`], which forgets what was not synced), and what lies between members and clients ([`net`]). One seed drives
//! all of it, and the same seed gives the same run, which a hash over all that happened shows ([`trace`]).
//!
//! | room | what |
//! |---|---|
//! | [`run`] | a run from a seed to its verdicts |
//! | [`cluster`], [`node`] | the members and their computers |
//! | [`clock`], [`net`] | what can go wrong below them |
//! | [`nemesis`] | lets it go wrong |
//! | [`clients`] | ask, and write down what they were answered |
//! | [`oracles`] | know what must never happen, one file per promise |
//!
//! Time passes only when nobody has anything to do, so what a member computes takes no time at all; only waiting does.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod clients;
pub mod clock;
pub mod cluster;
pub mod dice;
pub mod nemesis;
pub mod net;
pub mod node;
pub mod oracles;
pub mod run;
pub mod trace;
