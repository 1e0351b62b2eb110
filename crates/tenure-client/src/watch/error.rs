//! Why a watch is over.

use thiserror::Error;
use tonic::Status;

use crate::error::{Error, Refusal, Verdict, reason};
use crate::ids::Revision;

/// The end of a watch. Nothing but this ends one: while no server can be reached, it waits and goes on later.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The next revision that it had to tell is compacted: what happened since the last batch cannot be known any more. List the
    /// keys and watch from there, or let the watch do that ([`Watch::on_compacted`](super::Watch::on_compacted)).
    #[error("what comes next is compacted, the oldest revision that can be watched from is {at}")]
    Compacted {
        /// The first revision that can still be watched from, as the server told it; 0 if it did not.
        at: Revision,
    },
    /// A server ended the watch, or did not make it, and would do so again.
    #[error("a server ended the watch: {reason}")]
    #[non_exhaustive]
    Refused {
        /// What for.
        refusal: Refusal,
        /// In the server's words.
        reason: String,
    },
    /// A single revision, or the state of all watched keys, takes more memory than the watch may take.
    #[error("revision {revision} is too large to be taken in whole")]
    TooLarge {
        /// Which.
        revision: Revision,
    },
    /// The endpoints lead to another cluster than before, or to one that was made anew from a backup. Its revisions count
    /// something else.
    #[error("the cluster is another one than before")]
    OtherCluster,
    /// A request of the watch failed for good.
    #[error(transparent)]
    Failed(#[from] Error),
    /// It was cancelled by its own program.
    #[error("the watch was cancelled")]
    Cancelled,
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl WatchError {
    /// From the words with which a server ends a watch.
    pub(super) fn refused(words: String) -> WatchError {
        let status = Status::unknown(words);
        let refusal = match Verdict::of(&status, true) {
            Verdict::Refused(refusal) => refusal,
            Verdict::NotApplied(_) | Verdict::Unknown => Refusal::Other,
        };
        WatchError::Refused { refusal, reason: reason(&status) }
    }

    /// What the watch was refused for, if a server refused it.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            WatchError::Refused { refusal, .. } => Some(*refusal),
            WatchError::Failed(error) => error.refusal(),
            WatchError::Compacted { .. } => Some(Refusal::Compacted),
            WatchError::TooLarge { .. } | WatchError::OtherCluster | WatchError::Cancelled | WatchError::Closed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_means_is_read_from_its_words() {
        let denied =
            WatchError::refused("rpc error: code = PermissionDenied desc = etcdserver: permission denied".into());
        assert_eq!(denied.refusal(), Some(Refusal::PermissionDenied));
        let other = WatchError::refused("mvcc: watcher range is empty".into());
        assert_eq!(other.refusal(), Some(Refusal::Other));
        assert_eq!(other.to_string(), "a server ended the watch: mvcc: watcher range is empty");
        assert!(!WatchError::refused(String::new()).to_string().ends_with(": "));
    }
}
