//! Which transactions change a key twice, by etcd's rule and by Tenure's.
//!
//! etcd means to refuse all of them, but its check lets two kinds pass: a delete from some key on (`range_end` of one zero
//! byte), which it takes for an empty range, and a delete in a nested transaction of a key that an earlier sibling puts.
//! Such a transaction gives a key two events in one revision. Tenure refuses these too, so the comparison has to know them.

use std::collections::BTreeSet;

use bytes::Bytes;
use tenure_proto::etcdserverpb::request_op::Request as Op;
use tenure_proto::etcdserverpb::{DeleteRangeRequest, RequestOp, TxnRequest};

/// Whose rule is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Etcd,
    Tenure,
}

/// Whether the rule refuses the transaction as one that changes a key twice.
pub fn changes_a_key_twice(rule: Rule, txn: &TxnRequest) -> bool {
    Changes::of(rule, &txn.success).is_none() || Changes::of(rule, &txn.failure).is_none()
}

/// What one branch changes, whichever way its nested transactions go.
#[derive(Default)]
struct Changes {
    puts: BTreeSet<Bytes>,
    deletes: Vec<DeleteRangeRequest>,
}

impl Changes {
    /// `None` if a key would be changed twice.
    fn of(rule: Rule, ops: &[RequestOp]) -> Option<Self> {
        let mut all = Self::default();
        for op in ops {
            if let Some(Op::RequestDeleteRange(delete)) = &op.request {
                all.deletes.push(delete.clone());
            }
        }
        for op in ops {
            if let Some(Op::RequestTxn(txn)) = &op.request {
                let then = Self::of(rule, &txn.success)?;
                let otherwise = Self::of(rule, &txn.failure)?;
                // Only one of the two happens, so they may overlap each other.
                let puts: BTreeSet<Bytes> = then.puts.union(&otherwise.puts).cloned().collect();
                let deletes = then.deletes.into_iter().chain(otherwise.deletes).collect();
                all.add(rule, Self { puts, deletes })?;
            }
        }
        for op in ops {
            if let Some(Op::RequestPut(put)) = &op.request {
                all.add(rule, Self { puts: BTreeSet::from([put.key.clone()]), deletes: Vec::new() })?;
            }
        }
        Some(all)
    }

    fn add(&mut self, rule: Rule, more: Self) -> Option<()> {
        let put_twice = more.puts.iter().any(|key| self.puts.contains(key));
        let deleted_then_put = more.puts.iter().any(|key| self.deletes.iter().any(|delete| covers(rule, delete, key)));
        let put_then_deleted = rule == Rule::Tenure
            && self.puts.iter().any(|key| more.deletes.iter().any(|delete| covers(rule, delete, key)));
        if put_twice || deleted_then_put || put_then_deleted {
            return None;
        }
        self.puts.extend(more.puts);
        self.deletes.extend(more.deletes);
        Some(())
    }
}

fn covers(rule: Rule, delete: &DeleteRangeRequest, key: &Bytes) -> bool {
    if delete.range_end.is_empty() {
        return delete.key == *key;
    }
    let without_end = rule == Rule::Tenure && delete.range_end == b"\0"[..];
    delete.key <= *key && (without_end || *key < delete.range_end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_proto::etcdserverpb::PutRequest;

    fn put(key: &'static str) -> RequestOp {
        RequestOp { request: Some(Op::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() })) }
    }

    fn delete(key: &'static str, range_end: &'static str) -> RequestOp {
        let delete = DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false };
        RequestOp { request: Some(Op::RequestDeleteRange(delete)) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Op::RequestTxn(TxnRequest { compare: vec![], success, failure })) }
    }

    fn refused(ops: Vec<RequestOp>) -> (bool, bool) {
        let txn = TxnRequest { compare: vec![], success: ops, failure: vec![] };
        (changes_a_key_twice(Rule::Etcd, &txn), changes_a_key_twice(Rule::Tenure, &txn))
    }

    #[test]
    fn both_rules_refuse_what_overlaps_plainly() {
        assert_eq!(refused(vec![put("a"), put("b")]), (false, false));
        assert_eq!(refused(vec![put("a"), put("a")]), (true, true));
        assert_eq!(refused(vec![put("b"), delete("a", "c")]), (true, true));
        assert_eq!(refused(vec![delete("a", "c"), delete("a", "")]), (false, false));
        assert_eq!(refused(vec![nested(vec![put("a")], vec![put("a")])]), (false, false));
        assert_eq!(refused(vec![nested(vec![put("a")], vec![delete("a", "")])]), (false, false));
        assert_eq!(refused(vec![nested(vec![put("a")], vec![]), put("a")]), (true, true));
    }

    #[test]
    fn two_kinds_of_overlap_escape_etcd() {
        assert_eq!(refused(vec![delete("a", "\0"), put("b")]), (false, true));
        assert_eq!(refused(vec![nested(vec![put("a")], vec![]), nested(vec![], vec![delete("a", "")])]), (false, true));
    }
}
