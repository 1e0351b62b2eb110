//! What proves that a lock is held, for writes that depend on it.

use std::fmt;

use bytes::Bytes;
use tonic::Status;
use tonic::metadata::{BinaryMetadataValue, MetadataMap, MetadataValue};

use crate::client::Client;
use crate::error::{Error, Refusal};
use crate::ids::{LeaseId, Revision};
use crate::kv::Patience;
use crate::namespace::Namespace;
use crate::txn::{Compare, Op, OpDone};

/// A lock that is held: which key, by which token, on which lease. `docs/LOCKS.md` says what a token is for.
///
/// It only tells what was so when it was made. To be sure, let the write depend on it: [`Put::under`](crate::kv::Put::under), or
/// [`Fence::compare`] in a transaction. A resource elsewhere compares [`Fence::token`] with the highest that it saw.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The lock's key, as the program names it: within the client's namespace, without its prefix.
    pub key: Bytes,
    /// The fencing token: the create revision of the lock's key. It rises from one exclusive holder to the next.
    pub token: Revision,
    /// The lease that the lock is held on.
    pub lease: LeaseId,
}

impl Fence {
    /// The two conditions that hold as long as the lock is held. A key that only *waits* for a native lock meets them as
    /// well, so they are worth something to one who was told that it holds it.
    pub fn compare(&self) -> [Compare; 2] {
        [
            Compare::create_revision(self.key.clone()).equals(self.token),
            Compare::lease(self.key.clone()).equals(self.lease),
        ]
    }

    /// What Tenure takes for a guard on a single write.
    pub(crate) fn metadata(&self, namespace: &Namespace) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        let key = BinaryMetadataValue::from_bytes(&namespace.wrap(self.key.clone()));
        metadata.insert_bin("tenure-lock-key-bin", key);
        metadata.insert("tenure-lock-token", MetadataValue::from(self.token.0));
        metadata.insert("tenure-lock-lease", MetadataValue::from(self.lease.0));
        metadata
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} on lease {}", self.token, self.key.escape_ascii(), self.lease)
    }
}

/// A single write under a fence, as a transaction: for servers that know of no guards and would ignore one.
pub(crate) async fn guarded(client: &Client, fence: &Fence, op: Op, patience: Patience) -> Result<OpDone, Error> {
    let mut done = client.txn().when(fence.compare()).and_then([op]).patience(patience).commit().await?;
    if !done.succeeded {
        let status = Status::failed_precondition("tenure: the lock is not held by that token and lease");
        return Err(Error::refused_by("the transaction", Refusal::NotHeld, &status));
    }
    done.done.pop().ok_or_else(|| client.nonsense("no answer to the operation of a transaction"))
}
