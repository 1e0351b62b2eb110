//! Protobuf to the state machine's types and back: pure functions, no IO.
//!
//! What is wrong in itself (syntax, sizes, counts, enums that nobody knows) is refused here, before Raft, with etcd's
//! codes and texts and in etcd's order, so that the first complaint about a request is the same one. What depends on
//! the store, whether a key or a lease exists or a revision is compacted, is left to apply: between a check here and
//! apply it could change.
//!
//! Messages come in by value and `Bytes` are moved, so a key or a value is never copied on its way through.

mod leases;
mod list;
mod locks;
mod request;
mod response;
mod txn;
mod watch;

#[cfg(test)]
mod tests;

pub use leases::{
    lease_explain_response, lease_kept, lease_state, leases_grant_answer, leases_grant_command, leases_revoke_answer,
    leases_to_renew,
};
pub use list::KvList;
pub use locks::{
    lock_acquire, lock_cancel_answer, lock_cancel_command, lock_force_answer, lock_force_command, lock_guard,
    lock_inspect_response, lock_list_response, lock_release_answer, lock_release_command, lock_step, lock_why_response,
};
pub use request::{
    RangeCall, check_size, compact_command, delete_range_command, key_range, lease_grant_command, put_command,
    range_call, range_stream_call,
};
pub use response::{
    compaction_answer, delete_range_answer, delete_range_response, key_value, lease_grant_answer,
    lease_keep_alive_answer, lease_leases_response, lease_revoke_answer, lease_time_to_live_response, put_answer,
    put_response, range_response, range_stream_response, txn_answer, txn_response,
};
pub use txn::{TxnCall, txn_call};
pub use watch::{event_wire_bytes, watch_request, watch_response};

/// How much a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest write in its protobuf encoding. It bounds log entries, and through them memory on every member.
    pub max_request_bytes: usize,
    /// The most compares, or operations of one branch, along any path through a transaction.
    pub max_txn_ops: usize,
}

impl Default for Limits {
    /// etcd's defaults: what clients have been tried against.
    fn default() -> Limits {
        Limits { max_request_bytes: 1_572_864, max_txn_ops: 128 }
    }
}
