//! Consensus: openraft wired to Tenure's log, state machine and peers. The only crate that names openraft.
//!
//! Nothing of openraft appears in what this crate hands upward, so that a bump of that crate touches this one alone.

pub mod accept;
mod applier;
pub mod backup;
mod bootstrap;
mod effects;
mod entry_codec;
mod error;
mod home;
mod housekeeping;
mod identity;
mod leader_watch;
mod lease_clock;
pub mod log;
mod node;
mod opening;
mod peer;
mod read_index;
mod renewals;
pub mod runtime;
mod shared_store;
pub mod sim;
mod snapshot;
mod state_machine;
mod succession;
pub mod tls;
mod transfer;
mod types;

pub use effects::{AppliedRun, Effects};
pub use error::{NodeError, ProposeError, ReadIndexError};
pub use home::{SimEngine, SimEngines};
pub use housekeeping::Housekeeping;
pub use identity::Founding;
pub use lease_clock::{LeaseClock, OWN_READING_AGE_MAX_MS};
pub use node::{Member, NodeOptions, RaftNode, Status};
pub use peer::{
    Cut, Dialer, ForwardError, Forwarded, Links, Partition, PartitionedDialer, PeerChannel, PeerPort, Peers, TcpDialer,
    channel_to, partition,
};
pub use read_index::ReadIndexes;
pub use renewals::{RenewalsNoted, RenewalsSeen, RenewalsUnderWay};
pub use snapshot::{SnapshotCounters, SnapshotOptions};
pub use transfer::MoveError;
pub use types::{GroupReply, Peer};
