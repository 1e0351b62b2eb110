//! The comparison of `make bench`: etcd and Tenure under the same loads, round by round, in one run.
//!
//! Every program gets a fresh cluster in every round, and the rounds alternate, because a machine's speed drifts by more
//! within an hour than many differences that one wants to see. Loads come from `tenure-bench`; what is added here is who
//! serves them, what that costs the servers, and the table.

pub mod compare;
pub mod cost;
pub mod document;
pub mod options;
pub mod sample;
pub mod smoke;
pub mod special;
pub mod table;
pub mod works;
