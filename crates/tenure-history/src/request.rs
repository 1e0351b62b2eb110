//! What clients ask for, as far as the checkers understand it.
//!
//! Sort orders and revision filters are left out on purpose: they choose what of a state is shown, not which state.

use core::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{LeaseId, Revision};
use crate::text::{self, Shown};

/// A set of keys as on the wire: `end` is empty for one key, a single zero byte for everything from `key` on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    /// The first key.
    #[serde(with = "text")]
    pub key: Bytes,
    /// Where the range ends.
    #[serde(with = "text", default, skip_serializing_if = "Bytes::is_empty")]
    pub end: Bytes,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// A read.
    Range(Range),
    /// A write of one key.
    Put(Put),
    /// A delete.
    DeleteRange(DeleteRange),
    /// A transaction.
    Txn(Txn),
    /// A compaction.
    Compact {
        /// Up to here.
        revision: Revision,
    },
    /// A grant.
    LeaseGrant {
        /// The id asked for, or 0.
        id: LeaseId,
        /// The TTL asked for, in seconds.
        ttl_secs: i64,
    },
    /// A renewal.
    LeaseKeepAlive {
        /// Which lease.
        id: LeaseId,
    },
    /// A revocation.
    LeaseRevoke {
        /// Which lease.
        id: LeaseId,
    },
    /// How long a lease still lives.
    LeaseTimeToLive {
        /// Which lease.
        id: LeaseId,
        /// Whether its keys are asked for.
        #[serde(default)]
        keys: bool,
    },
}

/// A read of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// What to read.
    pub keys: KeyRange,
    /// The revision to read at; 0 or less means the present.
    #[serde(default)]
    pub revision: Revision,
    /// At most this many key-values; 0 or less means all.
    #[serde(default)]
    pub limit: i64,
    /// Only count.
    #[serde(default)]
    pub count_only: bool,
    /// Answered from what the node has, however old.
    #[serde(default)]
    pub serializable: bool,
}

/// A write of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// Which key.
    #[serde(with = "text")]
    pub key: Bytes,
    /// Its new value.
    #[serde(with = "text")]
    pub value: Bytes,
    /// Its lease, or none.
    #[serde(default)]
    pub lease: LeaseId,
    /// Answer with the previous key-value.
    #[serde(default)]
    pub prev_kv: bool,
}

/// A delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRange {
    /// What to delete.
    pub keys: KeyRange,
    /// Answer with the deleted key-values.
    #[serde(default)]
    pub prev_kv: bool,
}

/// If all compares hold then the one branch, else the other, all in one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Done if they do.
    pub success: Vec<TxnOp>,
    /// Done if they do not.
    pub failure: Vec<TxnOp>,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum TxnOp {
    /// A read.
    Range(Range),
    /// A write.
    Put(Put),
    /// A delete.
    DeleteRange(DeleteRange),
    /// A nested transaction.
    Txn(Txn),
}

/// One condition. Over a range, every key must meet it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The keys looked at.
    pub keys: KeyRange,
    /// How the key's side must relate to the given one.
    pub relation: Relation,
    /// What is compared, and the given side.
    pub target: Target,
}

/// A relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The same.
    Equal,
    /// The key's is greater.
    Greater,
    /// The key's is less.
    Less,
    /// Not the same.
    NotEqual,
}

/// What is compared, and the given side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The version (0 if absent).
    Version(i64),
    /// The create revision (0 if absent).
    Create(Revision),
    /// The modification revision (0 if absent).
    Mod(Revision),
    /// The value. An absent key never meets it.
    Value(#[serde(with = "text")] Bytes),
    /// The lease (0 if none or absent).
    Lease(LeaseId),
}

impl KeyRange {
    /// Exactly one key.
    pub fn one(key: impl Into<Bytes>) -> KeyRange {
        KeyRange { key: key.into(), end: Bytes::new() }
    }

    /// From one key up to, not including, another.
    pub fn between(key: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange { key: key.into(), end: end.into() }
    }

    /// Every key.
    pub fn all() -> KeyRange {
        KeyRange { key: Bytes::from_static(b"\0"), end: Bytes::from_static(b"\0") }
    }

    /// The one key, if the range is one.
    pub fn single(&self) -> Option<&Bytes> {
        self.end.is_empty().then_some(&self.key)
    }

    /// Whether the range holds this key.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end[..] {
            b"" => key == self.key,
            b"\0" => key >= &self.key[..],
            end => key >= &self.key[..] && key < end,
        }
    }
}

impl Txn {
    /// The operations of the branch that is taken.
    pub fn branch(&self, succeeded: bool) -> &[TxnOp] {
        if succeeded { &self.success } else { &self.failure }
    }

    /// Whether it is answered as a read: ranges only, none nested.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, TxnOp::Range(_)))
    }

    /// Calls `visit` for every operation that is no transaction, on every path.
    pub(crate) fn each_op<'a>(&'a self, visit: &mut dyn FnMut(&'a TxnOp)) {
        for op in self.success.iter().chain(&self.failure) {
            match op {
                TxnOp::Txn(nested) => nested.each_op(visit),
                TxnOp::Range(_) | TxnOp::Put(_) | TxnOp::DeleteRange(_) => visit(op),
            }
        }
    }

    /// Calls `visit` for every compare of every level.
    pub(crate) fn each_compare<'a>(&'a self, visit: &mut dyn FnMut(&'a Compare)) {
        self.compares.iter().for_each(&mut *visit);
        for op in self.success.iter().chain(&self.failure) {
            if let TxnOp::Txn(nested) = op {
                nested.each_compare(visit);
            }
        }
    }
}

impl Request {
    /// Whether it is answered from one node's state, however old.
    pub fn is_serializable(&self) -> bool {
        match self {
            Request::Range(range) => range.serializable,
            Request::Txn(txn) => {
                let mut all = txn.is_read_only() && !(txn.success.is_empty() && txn.failure.is_empty());
                txn.each_op(&mut |op| all &= matches!(op, TxnOp::Range(range) if range.serializable));
                all
            }
            Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Compact { .. }
            | Request::LeaseGrant { .. }
            | Request::LeaseKeepAlive { .. }
            | Request::LeaseRevoke { .. }
            | Request::LeaseTimeToLive { .. } => false,
        }
    }

    /// The lease that the request itself is about.
    pub fn lease(&self) -> Option<LeaseId> {
        match self {
            Request::LeaseGrant { id, .. }
            | Request::LeaseKeepAlive { id }
            | Request::LeaseRevoke { id }
            | Request::LeaseTimeToLive { id, .. } => Some(*id),
            Request::Range(_)
            | Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Txn(_)
            | Request::Compact { .. } => None,
        }
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.end[..] {
            b"" => write!(f, "{}", Shown(&self.key)),
            b"\0" if &self.key[..] == b"\0" => f.write_str("[every key]"),
            b"\0" => write!(f, "[{}, …)", Shown(&self.key)),
            end => write!(f, "[{}, {})", Shown(&self.key), Shown(end)),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Range(range) => range.fmt(f),
            Request::Put(put) => put.fmt(f),
            Request::DeleteRange(delete) => delete.fmt(f),
            Request::Txn(txn) => txn.fmt(f),
            Request::Compact { revision } => write!(f, "compact to {revision}"),
            Request::LeaseGrant { id, ttl_secs } => write!(f, "grant lease {id} for {ttl_secs}s"),
            Request::LeaseKeepAlive { id } => write!(f, "keep lease {id} alive"),
            Request::LeaseRevoke { id } => write!(f, "revoke lease {id}"),
            Request::LeaseTimeToLive { id, .. } => write!(f, "time to live of lease {id}"),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.count_only { "count" } else { "get" };
        write!(f, "{what} {}", self.keys)?;
        if self.revision > Revision(0) {
            write!(f, " at {}", self.revision)?;
        }
        if self.limit > 0 {
            write!(f, " limit {}", self.limit)?;
        }
        if self.serializable { f.write_str(" serializable") } else { Ok(()) }
    }
}

impl fmt::Display for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "put {}={}", Shown(&self.key), Shown(&self.value))?;
        if self.lease.is_some() { write!(f, " lease {}", self.lease) } else { Ok(()) }
    }
}

impl fmt::Display for DeleteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delete {}", self.keys)
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = match self.relation {
            Relation::Equal => "=",
            Relation::Greater => ">",
            Relation::Less => "<",
            Relation::NotEqual => "!=",
        };
        match &self.target {
            Target::Version(version) => write!(f, "version({}) {relation} {version}", self.keys),
            Target::Create(revision) => write!(f, "create({}) {relation} {revision}", self.keys),
            Target::Mod(revision) => write!(f, "mod({}) {relation} {revision}", self.keys),
            Target::Value(value) => write!(f, "value({}) {relation} {}", self.keys, Shown(value)),
            Target::Lease(lease) => write!(f, "lease({}) {relation} {lease}", self.keys),
        }
    }
}

impl fmt::Display for Txn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ops: &[TxnOp]| ops.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let compares: Vec<String> = self.compares.iter().map(ToString::to_string).collect();
        write!(f, "if {} then {{{}}} else {{{}}}", compares.join(" and "), list(&self.success), list(&self.failure))
    }
}

impl fmt::Display for TxnOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TxnOp::Range(range) => range.fmt(f),
            TxnOp::Put(put) => put.fmt(f),
            TxnOp::DeleteRange(delete) => delete.fmt(f),
            TxnOp::Txn(txn) => txn.fmt(f),
        }
    }
}
