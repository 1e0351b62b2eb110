//! Histories of headers alone.

use tenure_history::{History, Operation, reads};

use crate::build::*;

fn check(operations: &[Operation]) -> tenure_history::Verdict<reads::Counts> {
    reads::check(&History::of(operations.to_vec()))
}

#[test]
fn linearizable_answers_are_never_older_than_what_was_told() {
    let write = op(1, 0, 10, put("a", "1"), put_ok(2));
    assert!(check(&[write.clone(), op(2, 5, 20, get("a"), got(1, &[]))]).is_ok());
    assert_eq!(broken(&check(&[write.clone(), op(2, 11, 20, get("a"), got(1, &[]))])), "stale read");
    assert_eq!(broken(&check(&[write, op(2, 11, 20, delete("b"), deleted(1, 0))])), "stale answer");
}

#[test]
fn serializable_reads_may_be_old_but_not_go_back_on_one_node() {
    let wrote = on_node(1, op(1, 0, 10, put("a", "1"), put_ok(2)));
    let read = |client, node, revision| on_node(node, op(client, 20, 21, get_serializable("a"), got(revision, &[])));
    let fine = check(&[wrote.clone(), read(1, 2, 1), read(2, 1, 1), read(1, 1, 2)]);
    assert!(
        matches!(&fine, tenure_history::Verdict::Ok(counts) if counts.behind == 2 && counts.serializable == 1),
        "{fine}"
    );
    assert_eq!(broken(&check(&[wrote, read(1, 1, 1)])), "went back on one node");
}
