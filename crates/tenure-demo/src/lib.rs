//! `make demo`: a cluster at work, shown on a terminal, to be broken by hand, and checked in the end.
//!
//! A few hundred services keep leases alive, contenders share a lock, a writer writes steadily; the viewer kills, pauses
//! and restarts nodes meanwhile. At the end everything that was acknowledged is read back.
//!
//! [`model`] is what is known and [`view`] draws it; both are pure. The tasks in `load` talk to the cluster through
//! tenure-proto alone, as any etcd client could, and keep ledgers; `audit` compares the ledgers with the store. The nodes
//! are driven with `cluster-scripts/`, and every command is shown, so that the viewer learns these tools.

pub mod app;
pub mod audit;
pub mod autopilot;
pub mod clock;
pub mod cluster;
mod controls;
pub mod feed;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod load;
pub mod model;
pub mod options;
mod poller;
pub mod screen;
pub mod session;
pub mod store;
pub mod view;
