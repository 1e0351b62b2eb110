//! The server's side of an HTTP/2 connection, made for small calls of gRPC.
//!
//! A request of a few hundred bytes costs a general HTTP stack more than the work that it asks for: maps of headers are
//! built and dropped, a task is spawned and woken, each answer is written by itself. Here, one task drives a
//! connection: it reads what is there, hands over all requests that are complete, collects all answers that became
//! ready, and writes them at once. Calls that matter are *unary*: the service gets the message and a [`Reply`], which
//! may be completed at any time from any thread, or a future that the connection polls itself. A stream of messages can
//! be a [`Dialogue`], which the connection polls, too. Everything else is *streamed*, as a request of the `http` crate
//! whose body is [`Incoming`]: any service that is made for hyper serves it.
//!
//! # Why not what is there
//!
//! The same call, of 280 bytes and answered by 30 from memory, on one current-thread runtime, with clients on another: CPU
//! time of the server's thread and system calls on its sockets, medians of five rounds and more on a machine of two cores
//! that had other work (`examples/floor.rs`).
//!
//! | server | 1000 clients on 100 connections: µs, reads and writes | 1 client: µs |
//! |---|---|---|
//! | tonic on hyper and h2, as the members use it | 8.7, 0.27 | 14.7 |
//! | the h2 crate, one task for a call | 6.7, 0.29 | 12.9 |
//! | this crate, tonic's routes by the streamed way | 5.5, 0.32 | 12.4 |
//! | this crate, a future for a call that waits once | 4.5, 0.55 | 10.2 |
//! | this crate, answered at once | 4.4, 0.57 | 10.0 |
//!
//! Four fifths of the last row are the kernel's, two fifths of the first: outside it, a call costs 1 µs instead of 5 to
//! 7. A server that is done sooner finds fewer requests in each read, so it reads and writes more often; to let others
//! have their turn before each write, so that more comes together, was tried and changed nothing. An idle connection
//! that has served a call keeps 3.8 KB, and an open stream that has nothing to say 520 bytes beside its service's
//! future and body. What is said on a thousand streams at once wakes the connection once, and leaves in as few writes
//! as it fills buffers of 256 KiB.
//!
//! # What clients may not do
//!
//! Everything that a client can make the connection keep or do is bounded: what it sends and is not read yet, what it
//! asked for and does not take ([`Options`] says how much), resets, pings and the like (one bucket for all, see
//! `budget`), header blocks, and the work of a turn. What is not bounded unless [`Options::concurrent_streams_max`] is
//! set is the number of its streams.
//!
//! # Where what is
//!
//! The protocol is in `connection`, without IO, and below it; the socket in `driver`. It does not speak TLS or HTTP/1, nor
//! does it accept connections: see [`sniff()`] for telling the protocols apart.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod budget;
mod connection;
mod dialogue;
mod driver;
mod error;
mod flow;
mod frame;
mod head;
mod hpack;
mod incoming;
mod options;
mod outbox;
mod output;
mod pieces;
mod reply;
mod seat;
mod service;
mod settings;
mod sniff;
mod status;
mod streams;

pub use dialogue::{Dialogue, Farewell, Heard, Line, NoDialogue};
pub use driver::serve_connection;
pub use error::{ConnectionError, Reason, ServeError};
pub use head::Head;
pub use incoming::{Incoming, IncomingError};
pub use options::Options;
pub use reply::Reply;
pub use service::{Service, Unary};
pub use sniff::{Replayed, sniff};
