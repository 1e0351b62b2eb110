//! Keys and values: reading, putting, deleting.
//!
//! A request is built by methods and sent by awaiting it. The same requests, made by [`get()`], [`put()`] and [`delete()`] instead of a
//! client's methods, are the operations of a [transaction](crate::txn).

mod compact;
mod delete;
mod get;
mod put;
mod range;
mod stream;

pub use compact::{Compact, Compacted};
pub use delete::{Delete, Deleted};
pub use get::{Get, Got, Order, SortBy};
pub use put::{Put, PutDone};
pub use range::KeyRange;
pub use stream::RangeStream;

use std::time::Duration;

use bytes::Bytes;
use tenure_proto::mvccpb;

use crate::call::What;
use crate::client::Client;
use crate::clock::Instant;
use crate::ids::{LeaseId, Revision};
use crate::namespace::Namespace;

/// A key with its value, as of some revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValue {
    /// The key, without the client's namespace.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision that created it.
    pub create_revision: Revision,
    /// The revision that put it last.
    pub mod_revision: Revision,
    /// How often it was put since it was created: from 1.
    pub version: i64,
    /// The lease that it is on, or none.
    pub lease: LeaseId,
}

impl KeyValue {
    /// As it came; none if it is of another namespace.
    pub(crate) fn from_wire(kv: mvccpb::KeyValue, namespace: &Namespace) -> Option<KeyValue> {
        Some(KeyValue {
            key: namespace.unwrap(&kv.key)?,
            value: kv.value,
            create_revision: Revision(kv.create_revision),
            mod_revision: Revision(kv.mod_revision),
            version: kv.version,
            lease: LeaseId(kv.lease),
        })
    }
}

/// A server told of a key that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strange;

/// Key-values as they came.
pub(crate) fn from_wire(kvs: Vec<mvccpb::KeyValue>, namespace: &Namespace) -> Result<Vec<KeyValue>, Strange> {
    kvs.into_iter().map(|kv| KeyValue::from_wire(kv, namespace).ok_or(Strange)).collect()
}

/// How patient a request is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Instant>,
}

impl Patience {
    pub(crate) fn of(self, what: What) -> What {
        what.timeout(self.timeout).deadline(self.deadline)
    }
}

/// Reads a key, or a range of them; to be put into a transaction.
pub fn get(range: impl Into<KeyRange>) -> Get<()> {
    Get::new((), range.into())
}

/// Puts a key; to be put into a transaction.
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put<()> {
    Put::new((), key.into(), value.into())
}

/// Deletes a key, or a range of them; to be put into a transaction.
pub fn delete(range: impl Into<KeyRange>) -> Delete<()> {
    Delete::new((), range.into())
}

impl Client {
    /// Reads a key, or a range of them.
    pub fn get(&self, range: impl Into<KeyRange>) -> Get {
        Get::new(self.clone(), range.into())
    }

    /// Puts a value under a key.
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put {
        Put::new(self.clone(), key.into(), value.into())
    }

    /// Deletes a key, or a range of them.
    pub fn delete(&self, range: impl Into<KeyRange>) -> Delete {
        Delete::new(self.clone(), range.into())
    }

    /// Forgets what happened before a revision.
    pub fn compact(&self, revision: Revision) -> Compact {
        Compact::new(self.clone(), revision)
    }
}
