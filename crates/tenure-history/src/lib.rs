//! Judges what clients of a coordination store saw: was it what the store promises?
//!
//! A run, simulated or of real processes, records what its clients asked and what they were answered; the checkers here
//! decide afterwards whether some correct store could have answered so. They know the promises (etcd's semantics and the
//! lease bounds), not the server: the model of the store is written anew here and shares no code with the state machine
//! that it judges, else both would be wrong together and the check would pass.
//!
//! Nothing here does IO, reads a clock or draws a random number. Every checker ends in a [`Verdict`]: `Ok` with counts of
//! what was checked (a check of nothing is worth nothing), a [`Violation`] with the shortest failing part that was found,
//! or, for the one checker that searches, `Undecided` with the window in which its effort ran out. It never says `Ok` then.
//!
//! | module | question |
//! |---|---|
//! | [`linearize`] | is there one order of all operations that respects real time and explains every answer? |
//! | [`reads`] | is any read older than it may be? |
//! | [`watch`] | did a watcher get every event once, in order, whole revisions, and no promise ahead of an event? |
//! | [`lease`] | did any lease end early, or late, or come back? |
//! | [`lock`] | did two clients ever know to hold one lock at the same time? did an old fencing token pass after a newer? |
//! | [`contest`] | did those who contend for native locks get them in their turn, and nobody whose session was over? |
//! | [`append`] | is every acked append to a list in it once, in order? |
//! | [`queue`] | did every item come out once, oldest first, and was none lost? |
//! | [`run`] | all of them over all that a run recorded |
//!
//! [`report`] keeps what a run was and what the checkers said, and makes the page that shows it.
//!
//! # Recording
//!
//! A recorder takes one instant just before it sends a request and one just after the answer, from one monotonic clock for
//! all clients, and writes down every request, those that failed included. The rest is [`run::Run::check`]:
//!
//! ```
//! use tenure_history::request::{KeyRange, Put, Range, Request};
//! use tenure_history::response::{Body, KeyValue, Outcome, RangeBody, Response};
//! use tenure_history::run::{Run, Watcher};
//! use tenure_history::watch::{Event, Spec, Step};
//! use tenure_history::{ClientId, LeaseId, Moment, NodeId, Operation, Revision};
//!
//! let (alice, bob, node) = (ClientId(1), ClientId(2), Some(NodeId(3)));
//! let mut run = Run::default();
//!
//! // Invoke before sending; complete with what the server answered.
//! let put = |value: &'static str| Put { key: "a".into(), value: value.into(), lease: LeaseId::NONE, prev_kv: false };
//! let first = Operation::invoke(alice, node, Moment(1_000), Request::Put(put("1")));
//! let answer = Response { revision: Revision(2), body: Body::Put { prev_kv: None } };
//! run.history.operations.push(first.complete(Moment(2_000), Outcome::Ok(answer)));
//!
//! // A time-out: the client gives up, the write may have happened or may still happen.
//! let second = Operation::invoke(bob, node, Moment(2_500), Request::Put(put("2")));
//! run.history.operations.push(second.complete(Moment(9_000), Outcome::Unknown));
//!
//! // Certainly not carried out, for a reason that says nothing about the store's state.
//! let third = Operation::invoke(bob, node, Moment(9_100), Request::Put(put("3")));
//! run.history.operations.push(third.complete(Moment(9_200), Outcome::Failed("connection refused".into())));
//!
//! // This read shows that the write of unknown outcome happened.
//! let range = Range { keys: KeyRange::one("a"), ..Range::default() };
//! let read = Operation::invoke(alice, node, Moment(10_000), Request::Range(range));
//! let (create, modified) = (Revision(2), Revision(3));
//! let kv = KeyValue { key: "a".into(), value: "2".into(), create, modified, version: 2, lease: LeaseId::NONE };
//! let body = Body::Range(RangeBody { kvs: vec![kv.clone()], count: 1, more: false });
//! run.history.operations.push(read.complete(Moment(11_000), Outcome::Ok(Response { revision: Revision(3), body })));
//!
//! // A watcher began at revision 3, was told of one event and then of its progress, and was there to the end.
//! let event = Event { delete: false, kv, prev_kv: None };
//! let message = Step::Message { at: Moment(8_000), revision: Revision(3), fragment: false, events: vec![event] };
//! run.watchers.push(Watcher {
//!     name: "everything, on node 3".into(),
//!     spec: Spec { keys: KeyRange::all(), puts: true, deletes: true, prev_kv: false },
//!     steps: vec![Step::From(Revision(3)), message, Step::Progress(Revision(3))],
//!     last: Some(Revision(3)),
//! });
//!
//! let findings = run.check();
//! assert!(findings.is_ok(), "{findings}");
//! ```
//!
//! Holds of locks, appends and queues are recorded beside the operations that make them, in the words of their modules. A
//! watcher over everything helps the search more than anything else: it tells who made each revision that nobody was acked.
#![deny(clippy::expect_used)]
#![warn(missing_docs)]

pub mod append;
pub mod contest;
mod evidence;
pub mod history;
pub mod ids;
pub mod lease;
pub mod linearize;
pub mod lock;
pub mod model;
pub mod queue;
pub mod reads;
pub mod report;
pub mod request;
pub mod response;
pub mod run;
mod search;
pub mod seen;
mod shrink;
pub mod text;
pub mod truth;
pub mod verdict;
mod view;
pub mod watch;

pub use history::{History, Initial, Operation};
pub use ids::{ClientId, LeaseId, Moment, NodeId, Revision};
pub use verdict::{Verdict, Violation, Window};
