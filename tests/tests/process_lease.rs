//! Leases on real servers: a few rounds of what `chaos_lease.rs` does at length.

use tenure_tests::lease_faults::{self, Counts};
use tenure_tests::scenario;

#[test]
fn leases_keep_their_time_while_leaders_are_killed() {
    scenario::run("process_lease", "leases_keep_their_time_while_leaders_are_killed", |scenario| async move {
        lease_faults::kill_leaders(&scenario.home, Counts { rounds: 2, holders: 60, seed: 1 }).await
    });
}
