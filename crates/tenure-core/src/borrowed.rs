//! A key-value where it lies: what a scan shows its visitor.
//!
//! A list of ten thousand keys is read only to be written into an answer. So a visitor gets a look at what the store has,
//! and takes a copy if it wants one; where the store has it in shared memory, that is no copy at all.

use core::ops::Deref;

use bytes::Bytes;

use crate::ids::{LeaseId, Revision};
use crate::outcome::KeyValue;
use crate::row::KeyMeta;

/// Bytes that somebody else holds.
#[derive(Clone, Copy, Debug)]
pub enum BytesRef<'a> {
    /// They can be had without copying them.
    Shared(&'a Bytes),
    /// They can be copied.
    Lent(&'a [u8]),
}

impl BytesRef<'_> {
    /// None.
    pub const EMPTY: BytesRef<'static> = BytesRef::Lent(&[]);

    /// The bytes, to be kept.
    pub fn to_bytes(self) -> Bytes {
        match self {
            BytesRef::Shared(bytes) => bytes.clone(),
            BytesRef::Lent(bytes) => Bytes::copy_from_slice(bytes),
        }
    }
}

impl Deref for BytesRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            BytesRef::Shared(bytes) => bytes,
            BytesRef::Lent(bytes) => bytes,
        }
    }
}

/// A [`KeyValue`] that is not copied yet. Where tombstones are visited too, its version is 0 there.
#[derive(Clone, Copy, Debug)]
pub struct KvRef<'a> {
    /// The key.
    pub key: BytesRef<'a>,
    /// The value; empty if left out.
    pub value: BytesRef<'a>,
    /// Its creation.
    pub create: Revision,
    /// Its last modification.
    pub modified: Revision,
    /// Its version, from 1.
    pub version: i64,
    /// Its lease.
    pub lease: LeaseId,
}

impl<'a> KvRef<'a> {
    /// The key-value that a row of `current` or `history` holds.
    pub fn of(key: BytesRef<'a>, meta: &KeyMeta, value: BytesRef<'a>) -> KvRef<'a> {
        KvRef {
            key,
            value,
            create: meta.create,
            modified: meta.modified.revision,
            version: meta.version,
            lease: meta.lease,
        }
    }

    /// The key-value, to be kept.
    pub fn to_key_value(self) -> KeyValue {
        KeyValue {
            key: self.key.to_bytes(),
            value: self.value.to_bytes(),
            create: self.create,
            modified: self.modified,
            version: self.version,
            lease: self.lease,
        }
    }
}

impl<'a> From<&'a KeyValue> for KvRef<'a> {
    fn from(kv: &'a KeyValue) -> KvRef<'a> {
        KvRef {
            key: BytesRef::Shared(&kv.key),
            value: BytesRef::Shared(&kv.value),
            create: kv.create,
            modified: kv.modified,
            version: kv.version,
            lease: kv.lease,
        }
    }
}
