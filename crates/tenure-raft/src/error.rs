//! What can go wrong between a caller and consensus, by what the caller can do about it.

use tenure_core::MemberId;

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Never appended: safe to send elsewhere or again.
    #[error("not the leader")]
    NotLeader(Option<MemberId>),
    /// It may have been appended and may still commit: nobody may send it again.
    #[error("the outcome is unknown")]
    Unknown,
    /// Refused before it was appended because too much is waiting.
    #[error("too many requests")]
    Overloaded,
    /// This node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a read index was not obtained. Always safe to ask again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    /// Ask the leader.
    #[error("not the leader")]
    NotLeader(Option<MemberId>),
    /// The leader could not confirm its leadership, or could not be reached.
    #[error("no quorum answered")]
    NoQuorum,
    /// This node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a node could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log is unusable.
    #[error("raft log: {0}")]
    Log(#[from] crate::log::LogError),
    /// The state is unusable.
    #[error("state: {0}")]
    Storage(#[from] tenure_storage::StorageError),
    /// The state in a directory is unusable.
    #[error("cannot open the state in {path}: {error}", path = .0.display(), error = .1)]
    State(std::path::PathBuf, tenure_storage::StorageError),
    /// The data directory belongs to somebody else, or is unreadable.
    #[error("{0}")]
    Identity(String),
    /// The cluster knows this member with data that this directory no longer holds.
    #[error("{0}")]
    Wiped(String),
    /// The log and the state contradict each other, or consensus failed.
    #[error("raft: {0}")]
    Raft(String),
    /// The operating system refused something.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
}

impl NodeError {
    /// The directory was made for another member than the flags describe.
    pub fn foreign(data_dir: &std::path::Path, stored: &crate::Founding, given: &crate::Founding) -> NodeError {
        NodeError::Identity(crate::identity::foreign(data_dir, stored, given))
    }
}
