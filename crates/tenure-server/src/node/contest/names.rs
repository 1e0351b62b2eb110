//! etcd's key layout: the contenders of a contest are all keys under its name, and one key belongs to one lease.
//!
//! ```text
//! contest "jobs/7", lease 0x2f  →  key "jobs/7/2f" among all of "jobs/7/" … "jobs/70"
//! ```
//!
//! Any bytes are a name, none at all too: etcd asks no more of it, and its clients write the same keys by themselves.

use bytes::{BufMut, Bytes, BytesMut};
use tenure_core::LeaseId;
use tenure_core::command::KeyRange;

/// A lock or an election, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contest {
    name: Bytes,
}

impl Contest {
    pub(super) fn new(name: Bytes) -> Contest {
        Contest { name }
    }

    /// Its name.
    pub(super) fn name(&self) -> &Bytes {
        &self.name
    }

    /// The keys of all contenders.
    pub(super) fn contenders(&self) -> KeyRange {
        // A prefix ends before what follows its last byte.
        KeyRange::Between(self.with(b"/"), self.with(b"0"))
    }

    /// The key by which a lease contends: Go prints it in hexadecimal, with a sign if it is negative.
    pub(super) fn key_of(&self, lease: LeaseId) -> Bytes {
        let sign = if lease.0 < 0 { "-" } else { "" };
        self.with(format!("/{sign}{:x}", lease.0.unsigned_abs()).as_bytes())
    }

    fn with(&self, end: &[u8]) -> Bytes {
        let mut key = BytesMut::with_capacity(self.name.len() + end.len());
        key.put_slice(&self.name);
        key.put_slice(end);
        key.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contest(name: &'static [u8]) -> Contest {
        Contest::new(Bytes::from_static(name))
    }

    #[test]
    fn a_lease_contends_by_the_key_that_etcds_clients_would_write() {
        for (name, lease, key) in [
            (&b"jobs"[..], 0x2f, &b"jobs/2f"[..]),
            (b"jobs/7", i64::MAX, b"jobs/7/7fffffffffffffff"),
            (b"", 1, b"/1"),
            (b"jobs/", 1, b"jobs//1"),
            (b"\xff\xff", 10, b"\xff\xff/a"),
            (b"jobs", -1, b"jobs/-1"),
            (b"jobs", i64::MIN, b"jobs/-8000000000000000"),
        ] {
            assert_eq!(contest(name).key_of(LeaseId(lease)), key, "{name:?}, lease {lease}");
            assert!(contest(name).contenders().contains(key), "{name:?}, lease {lease}");
        }
    }

    #[test]
    fn only_keys_under_the_name_contend() {
        let jobs = contest(b"jobs").contenders();
        for (key, contends) in [
            (&b"jobs/"[..], true),
            (b"jobs/a/b", true),
            (b"jobs/\xff\xff", true),
            (b"jobs", false),
            (b"jobs.", false),
            (b"jobs0", false),
            (b"job/1", false),
        ] {
            assert_eq!(jobs.contains(key), contends, "{key:?}");
        }
    }
}
