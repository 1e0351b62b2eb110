//! Clients that work on a cluster, record all that they see, and can be judged afterwards.
//!
//! They speak the etcd API through whatever connects them ([`connect`]): sockets to real servers, or a simulated network.
//! They know neither faults nor servers. Time is tokio's, so a simulation may own it; choices come from a seed.
//!
//! | room | what |
//! |---|---|
//! | [`workloads`] | what clients do |
//! | [`client`] | one client: asks one thing at a time, and records what became of it |
//! | [`stream`] | one stream of watchers |
//! | [`stage`], [`recorder`] | what the clients of a round share |
//! | [`mod@settle`] | what became of contenders' requests without an answer, as the observers saw it |
//! | [`mod@derive`] | what lists and queues went through, from the operations on them |
//! | [`translate`] | between the wire and a history |

pub mod client;
pub mod connect;
pub mod derive;
pub mod recorder;
pub mod settle;
pub mod stage;
pub mod stream;
pub mod translate;
pub mod workloads;
