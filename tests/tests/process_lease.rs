//! Leases on real servers: a few rounds of what `chaos_lease.rs` and `chaos_lease_scale.rs` do at length.

use std::time::Duration;

use tenure_tests::binaries::Program;
use tenure_tests::lease_faults::{self, Counts};
use tenure_tests::lease_scale::{big, promotion, slow_apply};
use tenure_tests::scenario;

#[test]
fn leases_keep_their_time_while_leaders_are_killed() {
    scenario::run("process_lease", "leases_keep_their_time_while_leaders_are_killed", |scenario| async move {
        lease_faults::kill_leaders(&scenario.home, Counts { rounds: 2, holders: 60, seed: 1 }).await
    });
}

#[test]
fn thousands_of_keys_are_deleted_in_one_revision_beside_other_work() {
    scenario::run(
        "process_lease",
        "thousands_of_keys_are_deleted_in_one_revision_beside_other_work",
        |scenario| async move {
            // Other tests run beside this one: what is measured in quiet is in `chaos_lease_scale`.
            let size = big::Size { keys: 5000, stall_max: Duration::from_secs(1) };
            big::range_is_deleted(&scenario.home, Program::Tenured, size).await
        },
    );
}

#[test]
fn no_lease_is_lost_when_the_leader_dies_among_thousands() {
    scenario::run("process_lease", "no_lease_is_lost_when_the_leader_dies_among_thousands", |scenario| async move {
        let size = promotion::Size { leases: 3000, rounds: 1, renewed: Some(Duration::from_secs(8)) };
        promotion::failover(&scenario.home, Program::Tenured, size).await
    });
}

#[test]
fn no_lease_ends_while_apply_is_slow() {
    scenario::run("process_lease", "no_lease_ends_while_apply_is_slow", |scenario| async move {
        let size = slow_apply::Size {
            leases: 1000,
            ttl: Duration::from_secs(3),
            slower: Duration::from_millis(100),
            lasting: Duration::from_secs(5),
        };
        slow_apply::renewed(&scenario.home, size).await
    });
}
