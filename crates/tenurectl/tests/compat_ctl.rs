//! tenurectl against a real etcd: the same scenarios as against tenured. What tells them apart is not in tenurectl.

mod ctl;
#[path = "ctl/foreign_locks.rs"]
mod foreign_locks;

use tenure_tests::binaries::Program;
use tenure_tests::scenario;

macro_rules! scenarios {
    ($($test:ident: $scenario:path;)*) => { $(
        #[test]
        fn $test() {
            scenario::run("compat_ctl", stringify!($test), |scenario| async move {
                $scenario(Program::Etcd, &scenario.home).await
            });
        }
    )* };
}

scenarios! {
    a_benchmark_reports_and_counts_failures: ctl::bench::reports;
    a_benchmark_is_stopped_with_a_report: ctl::bench::interrupted;
    keys_are_read_written_and_deleted: ctl::keys::keys;
    transactions_are_read_from_stdin: ctl::keys::transactions;
    compaction_and_its_errors: ctl::keys::compaction;
    what_is_too_large_is_refused_with_the_limits_name: ctl::keys::too_large;
    a_leases_life: ctl::leases::leases;
    a_lease_is_kept_alive_over_a_killed_leader: ctl::leases::keep_alive;
    elections_are_won_observed_and_ended: ctl::elections::elections;
    a_candidate_keeps_its_place_when_its_member_is_killed: ctl::elections::fail_over;
    instances_are_registered_listed_and_followed: ctl::discovery::registry;
    native_locks_are_not_there: foreign_locks::not_there;
    watches_tell_changes: ctl::watches::watches;
    watches_and_reads_end_with_their_reader: ctl::watches::pipes;
    a_watch_misses_and_repeats_nothing_while_members_are_killed: ctl::watches::resumes;
    a_healthy_cluster: ctl::cluster::healthy;
    a_snapshot_is_saved: ctl::cluster::snapshot;
    leadership_is_moved: ctl::cluster::move_leader;
    one_member_is_down: ctl::cluster::one_down;
    two_members_are_down: ctl::cluster::no_leader;
    the_leader_stands_still: ctl::cluster::paused;
}

/// The one comparison that is about two clients of tenured.
#[test]
fn etcdctl_and_tenurectl_wait_for_each_others_locks() {
    scenario::run("compat_ctl", "etcdctl_and_tenurectl_wait_for_each_others_locks", |scenario| async move {
        foreign_locks::with_etcdctl(Program::Tenured, &scenario.home).await
    });
}
