//! Random KV requests for the comparison with a real etcd, most of them odd on purpose.
//!
//! The key space is tiny, so that ranges, deletes and compares hit something. Numbers come from around the edges: negative,
//! zero, the present revision and its neighbours, the compacted one, the extremes. Requests that a server should refuse are
//! part of the language, because the refusals are compared too.
//!
//! Deliberately left out are unknown sort targets, which a real etcd 3.5 does not survive; the test names those one by one.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_proto::etcdserverpb::compare::TargetUnion;
use tenure_proto::etcdserverpb::request_op::Request as Op;
use tenure_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// Keys that sort closely together, with the bytes that ranges trip over.
const KEYS: [&[u8]; 14] = [
    b"a",
    b"a\0",
    b"a\0\0",
    b"aa",
    b"ab",
    b"b",
    b"b\xff",
    b"b\xff\xff",
    b"c",
    b"d/1",
    b"d/2",
    b"d/20",
    b"\0",
    b"\xff\xff",
];
const ENDS: [&[u8]; 10] = [b"", b"\0", b"\0\0", b"a\x01", b"b", b"c", b"d0", b"\xff", b"\xff\xff\xff", b"a"];
const NESTED_MAX: u32 = 3;

/// One request of the KV service.
#[derive(Clone, Debug)]
pub enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
}

/// Makes the requests of one seed. It is told the revisions that answers showed, so that it can aim at them.
#[derive(Debug)]
pub struct Requests {
    rng: StdRng,
    revision: i64,
    compacted: i64,
    values: u64,
}

impl Requests {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), revision: 1, compacted: 0, values: 0 }
    }

    /// Tells where the store stands now.
    pub fn saw_revision(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// Tells how far the store is compacted now.
    pub fn saw_compaction(&mut self, revision: i64) {
        self.compacted = revision;
    }

    /// The next request.
    pub fn next_request(&mut self) -> Request {
        match self.rng.random_range(0..100) {
            0..30 => Request::Range(self.range(false)),
            30..55 => Request::Put(self.put()),
            55..65 => Request::Delete(self.delete()),
            65..97 => Request::Txn(self.txn(0)),
            _ => Request::Compact(self.compact()),
        }
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.rng.random_ratio(1, count)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())]
    }

    fn key(&mut self) -> Bytes {
        if self.one_in(200) {
            return Bytes::new();
        }
        Bytes::from_static(self.pick(&KEYS))
    }

    fn range_end(&mut self) -> Bytes {
        match self.rng.random_range(0..4) {
            0 | 1 => Bytes::new(),
            2 => Bytes::from_static(self.pick(&ENDS)),
            _ => Bytes::from_static(self.pick(&KEYS)),
        }
    }

    fn value(&mut self) -> Bytes {
        match self.rng.random_range(0..8) {
            0 => Bytes::new(),
            1..5 => Bytes::from_static(self.pick(&[b"v1", b"v2", b"v\0", b"\xff"])),
            _ => {
                self.values += 1;
                Bytes::from(format!("value {}", self.values))
            }
        }
    }

    fn lease(&mut self) -> i64 {
        if self.one_in(25) { self.pick(&[1, -1, 7, i64::MIN, i64::MAX]) } else { 0 }
    }

    /// A revision near one of the store's edges.
    fn revision(&mut self) -> i64 {
        let (now, compacted) = (self.revision, self.compacted);
        let back = self.rng.random_range(0..12);
        self.pick(&[
            now,
            now - back,
            now - back,
            now - back,
            now + 1,
            now + 2,
            compacted,
            compacted - 1,
            compacted + 1,
            compacted + 2,
            1,
            2,
            -1,
            i64::MIN,
            i64::MAX,
        ])
    }

    /// A bound of the revision filters.
    fn bound(&mut self) -> i64 {
        if self.one_in(8) {
            return self.revision();
        }
        0
    }

    fn range(&mut self, in_txn: bool) -> RangeRequest {
        let now = if in_txn { 5 } else { 2 };
        RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: if self.one_in(2) { self.pick(&[1, 1, 2, 3, 5, 100, -1, i64::MAX, i64::MIN]) } else { 0 },
            revision: if self.one_in(now) { self.revision() } else { 0 },
            sort_order: self.pick(&[0, 0, 1, 2]),
            sort_target: self.pick(&[0, 0, 1, 2, 3, 4]),
            serializable: self.one_in(3),
            keys_only: self.one_in(6),
            count_only: self.one_in(8),
            min_mod_revision: self.bound(),
            max_mod_revision: self.bound(),
            min_create_revision: self.bound(),
            max_create_revision: self.bound(),
        }
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.one_in(12);
        let ignore_lease = self.one_in(12);
        PutRequest {
            key: self.key(),
            value: if ignore_value && !self.one_in(4) { Bytes::new() } else { self.value() },
            lease: if ignore_lease && !self.one_in(4) { 0 } else { self.lease() },
            prev_kv: self.one_in(2),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        // Whole-space deletes are rare, or the store would always be empty.
        let range_end = if self.one_in(3) { self.range_end() } else { Bytes::new() };
        DeleteRangeRequest { key: self.key(), range_end, prev_kv: self.one_in(2) }
    }

    fn compact(&mut self) -> CompactionRequest {
        CompactionRequest { revision: self.revision(), physical: self.one_in(2) }
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let compares = self.pick(&[0, 1, 1, 1, 2, 3]);
        TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.ops(depth),
            failure: self.ops(depth),
        }
    }

    fn ops(&mut self, depth: u32) -> Vec<RequestOp> {
        // Rarely as many as the limit of 128 allows, or one more.
        let many = if depth == 0 && self.one_in(150) { self.pick(&[127, 128, 129]) } else { 0 };
        if many > 0 {
            return (0..many).map(|_| RequestOp { request: Some(Op::RequestRange(self.range(true))) }).collect();
        }
        let count = self.pick(&[0, 1, 1, 2, 2, 3, 4]);
        (0..count).map(|_| self.op(depth)).collect()
    }

    fn op(&mut self, depth: u32) -> RequestOp {
        let request = match self.rng.random_range(0..200) {
            0..70 => Some(Op::RequestRange(self.range(true))),
            70..140 => Some(Op::RequestPut(self.put())),
            140..170 => Some(Op::RequestDeleteRange(self.delete())),
            170..199 if depth < NESTED_MAX => Some(Op::RequestTxn(self.txn(depth + 1))),
            170..199 => Some(Op::RequestPut(self.put())),
            _ => None,
        };
        RequestOp { request }
    }

    fn compare(&mut self) -> Compare {
        let target = self.pick(&[0, 0, 1, 2, 3, 3, 4]);
        let small = self.rng.random_range(-1..4);
        let number = if self.one_in(2) { small } else { self.revision() };
        // Mostly the member that belongs to the target, sometimes another one or none.
        let member = if self.one_in(10) { self.pick(&[0, 1, 2, 3, 4, 5]) } else { target };
        let target_union = match member {
            0 => Some(TargetUnion::Version(number)),
            1 => Some(TargetUnion::CreateRevision(number)),
            2 => Some(TargetUnion::ModRevision(number)),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(number.min(3))),
            _ => None,
        };
        let range_end = if self.one_in(4) { self.range_end() } else { Bytes::new() };
        Compare { result: self.rng.random_range(0..4), target, key: self.key(), range_end, target_union }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_makes_the_same_requests() {
        let text = |seed| {
            let mut requests = Requests::new(seed);
            (0..200).map(|_| format!("{:?}", requests.next_request())).collect::<Vec<_>>()
        };
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }
}
