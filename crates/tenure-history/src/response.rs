//! What clients are answered.

use core::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{LeaseId, Revision};
use crate::text::{self, Shown};

/// How an operation ended, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out, with this answer.
    Ok(Response),
    /// The state machine refused it: that says something about the state at that moment.
    Refused(Refusal),
    /// It certainly did not happen, for a reason that says nothing about the state (no leader, limits, rights).
    Failed(String),
    /// Nobody knows: it may have happened at any time since the call, may still happen, or never.
    Unknown,
}

/// An answer with its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The header's revision.
    pub revision: Revision,
    /// The answer.
    pub body: Body,
}

/// The answer of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// A read.
    Range(RangeBody),
    /// A put, with the previous key-value if asked for and there.
    Put {
        /// It.
        #[serde(default)]
        prev_kv: Option<KeyValue>,
    },
    /// A delete.
    DeleteRange {
        /// How many keys were deleted.
        deleted: i64,
        /// They, if asked for.
        #[serde(default)]
        prev_kvs: Vec<KeyValue>,
    },
    /// A transaction.
    Txn {
        /// Whether all compares held.
        succeeded: bool,
        /// One for each operation of the branch taken.
        responses: Vec<Body>,
    },
    /// A compaction.
    Compact,
    /// A grant.
    LeaseGrant {
        /// The lease's id.
        id: LeaseId,
        /// Its TTL.
        ttl_secs: i64,
    },
    /// A renewal.
    LeaseKeepAlive {
        /// The TTL from now on; 0 if there is no such lease.
        ttl_secs: i64,
    },
    /// A revocation.
    LeaseRevoke,
    /// A time to live.
    LeaseTimeToLive {
        /// What remains; -1 if there is no such lease.
        ttl_secs: i64,
        /// The whole TTL.
        granted_secs: i64,
        /// The keys, if asked for.
        #[serde(default)]
        keys: Vec<KeyText>,
    },
}

/// A key that stands for itself in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyText(#[serde(with = "text")] pub Bytes);

/// The answer of a read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeBody {
    /// The key-values in ascending key order, cut as asked.
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    /// How many keys the range holds, whatever the limit.
    pub count: i64,
    /// Whether the limit left some out.
    #[serde(default)]
    pub more: bool,
}

/// One key at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    #[serde(with = "text")]
    pub key: Bytes,
    /// The value.
    #[serde(with = "text")]
    pub value: Bytes,
    /// Its creation.
    pub create: Revision,
    /// Its last modification.
    #[serde(rename = "mod")]
    pub modified: Revision,
    /// Its version, from 1.
    pub version: i64,
    /// Its lease.
    #[serde(default)]
    pub lease: LeaseId,
}

/// Why the state machine refused a well-formed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The revision is compacted.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision is not reached yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// The lease does not exist.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The lease id is taken.
    #[error("lease already exists")]
    LeaseExists,
    /// A transaction would change one key twice, whatever the state.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
}

impl Body {
    /// Whether it says that keys changed. None for a revocation, which does not say.
    pub fn changed_keys(&self) -> Option<bool> {
        match self {
            Body::Put { .. } => Some(true),
            Body::DeleteRange { deleted, .. } => Some(*deleted > 0),
            Body::Txn { responses, .. } => Some(responses.iter().any(|body| body.changed_keys() == Some(true))),
            Body::LeaseRevoke => None,
            Body::Range(_)
            | Body::Compact
            | Body::LeaseGrant { .. }
            | Body::LeaseKeepAlive { .. }
            | Body::LeaseTimeToLive { .. } => Some(false),
        }
    }
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyValue { key, value, create, modified, version, lease } = self;
        write!(f, "{}={} (create {create}, mod {modified}, version {version}", Shown(key), Shown(value))?;
        if lease.is_some() { write!(f, ", lease {lease})") } else { f.write_str(")") }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Ok(response) => write!(f, "{} @{}", response.body, response.revision),
            Outcome::Refused(refusal) => write!(f, "refused: {refusal}"),
            Outcome::Failed(reason) => write!(f, "failed: {reason}"),
            Outcome::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |kvs: &[KeyValue]| kvs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Body::Range(RangeBody { kvs, count, .. }) => write!(f, "[{}] count {count}", list(kvs)),
            Body::Put { prev_kv: None } => f.write_str("ok"),
            Body::Put { prev_kv: Some(kv) } => write!(f, "ok, was {kv}"),
            Body::DeleteRange { deleted, prev_kvs } if prev_kvs.is_empty() => write!(f, "deleted {deleted}"),
            Body::DeleteRange { deleted, prev_kvs } => write!(f, "deleted {deleted}: [{}]", list(prev_kvs)),
            Body::Txn { succeeded, responses } => {
                let responses: Vec<String> = responses.iter().map(ToString::to_string).collect();
                write!(f, "{} {{{}}}", if *succeeded { "succeeded" } else { "did not" }, responses.join("; "))
            }
            Body::Compact | Body::LeaseRevoke => f.write_str("ok"),
            Body::LeaseGrant { id, ttl_secs } => write!(f, "lease {id} for {ttl_secs}s"),
            Body::LeaseKeepAlive { ttl_secs } => write!(f, "{ttl_secs}s"),
            Body::LeaseTimeToLive { ttl_secs, granted_secs, .. } => write!(f, "{ttl_secs}s of {granted_secs}s"),
        }
    }
}
