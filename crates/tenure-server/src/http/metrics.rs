//! `/metrics` in the Prometheus text format. Every name is listed in docs/OPERATIONS.md.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tenure_core::row::LockCounts;
use tenure_core::state::StateRead;
use tenure_raft::SnapshotCounters;
use tenure_raft::runtime::BootInstant;

use crate::node::watch::HubStats;
use crate::node::{LATENESS_BOUNDS_MS, Lateness, LessorReport, Node};

/// Text in the exposition format, one metric at a time.
#[derive(Default)]
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.sample(name, help, "gauge", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.sample(name, help, "counter", value);
    }

    fn lateness(&mut self, name: &str, help: &str, lateness: &Lateness) {
        self.0 += &format!("# HELP {name} {help}\n# TYPE {name} histogram\n");
        let mut below = 0;
        for (bound, count) in LATENESS_BOUNDS_MS.iter().zip(lateness.classes) {
            below += count;
            self.0 += &format!("{name}_bucket{{le=\"{bound}\"}} {below}\n");
        }
        let (count, sum) = (lateness.count(), lateness.sum_ms);
        self.0 += &format!("{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n");
    }

    fn sample(&mut self, name: &str, help: &str, kind: &str, value: impl std::fmt::Display) {
        self.0 += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
}

pub(super) async fn render(State(node): State<Node>) -> Response {
    let text = page(&node);
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"))], text)
        .into_response()
}

fn page(node: &Node) -> String {
    let raft = &node.shared().raft;
    let status = raft.status();
    let view = raft.view();
    let mut page = Page::default();
    page.gauge("tenure_raft_leader", "1 if this member leads.", u8::from(status.is_leader));
    page.gauge(
        "tenure_raft_has_leader",
        "1 if a leader was heard of lately.",
        u8::from(raft.present_leader().is_some()),
    );
    page.gauge("tenure_raft_term", "The current term.", status.term);
    let first = raft.log().first_index();
    page.gauge("tenure_raft_first_log_index", "The first entry of the local log.", first);
    page.gauge("tenure_raft_last_log_index", "The last entry of the local log.", status.last_log);
    page.gauge("tenure_raft_committed_index", "The last entry known to be committed.", status.committed);
    page.gauge("tenure_applied_index", "The last entry applied here.", status.applied);
    page.gauge("tenure_revision", "The store's revision.", view.meta().revision);
    page.gauge("tenure_compacted_revision", "The revision compacted to; -1 before the first.", view.meta().compacted);
    page.gauge("tenure_state_logical_bytes", "Keys and values of all versions kept.", view.bytes().logical);
    page.gauge("tenure_state_in_use_bytes", "Keys and values of the newest versions.", view.bytes().in_use);
    let log = raft.log().counters();
    let micros = |time: std::time::Duration| time.as_micros();
    page.counter("tenure_log_fsyncs_total", "Syncs of the Raft log.", log.syncs);
    page.counter("tenure_log_fsync_micros_total", "Microseconds spent in them.", micros(log.sync_time_total));
    page.gauge("tenure_log_fsync_max_micros", "The longest of them.", micros(log.sync_time_max));
    page.counter("tenure_log_entries_total", "Entries written to the Raft log.", log.entries_written);
    page.counter("tenure_log_written_bytes_total", "Bytes written to the Raft log.", log.bytes_written);
    page.gauge("tenure_log_disk_bytes", "Bytes of the Raft log on disk.", log.bytes_on_disk);
    page.counter("tenure_log_disk_reads_total", "Entries read back from disk.", log.entries_read_from_disk);
    let groups = &node.shared().groups;
    page.counter("tenure_proposals_total", "Groups of writes proposed here.", groups.groups.load(Ordering::Relaxed));
    let commands = groups.commands.load(Ordering::Relaxed);
    page.counter("tenure_proposed_commands_total", "Writes in those groups.", commands);
    let forwarded = groups.forwarded.load(Ordering::Relaxed);
    page.counter("tenure_forwarded_proposals_total", "Groups that went to a leader elsewhere.", forwarded);
    leases(&mut page, node);
    watches(&mut page, node.shared().watches.stats());
    locks(&mut page, node, &view.meta().locks);
    snapshots(&mut page, &raft.snapshots());
    for reading in super::process::readings() {
        page.sample(reading.name, reading.help, if reading.is_counter { "counter" } else { "gauge" }, reading.value);
    }
    page.0
}

fn locks(page: &mut Page, node: &Node, counts: &LockCounts) {
    let hub = &node.shared().locks;
    page.gauge("tenure_locks", "Locks that somebody acquired natively and that are held.", counts.locks);
    page.gauge("tenure_lock_delays", "Keys of locks that stay for their delay.", counts.delays);
    page.gauge("tenure_lock_waiters", "Native requests that wait on this member.", hub.waiting());
    page.counter("tenure_lock_grants_total", "Native locks' grants applied here.", hub.granted());
    let contests = &node.shared().contests;
    let calls = contests.calls.load(Ordering::Relaxed);
    page.gauge("tenure_contest_calls", "Lock and Campaign calls that are not answered yet.", calls);
    let left = contests.left.load(Ordering::Relaxed);
    page.gauge("tenure_contest_left", "Keys and leases to remove of calls that ended early.", left);
}

fn snapshots(page: &mut Page, done: &SnapshotCounters) {
    let micros = |time: std::time::Duration| time.as_micros();
    page.counter("tenure_checkpoints_total", "Checkpoints made to be sent.", done.checkpoints);
    page.counter("tenure_checkpoint_micros_total", "Microseconds spent in them.", micros(done.checkpoint_time));
    page.counter("tenure_snapshots_sent_total", "Snapshots that a follower installed.", done.sent);
    page.counter("tenure_snapshot_sent_bytes_total", "Bytes of snapshots sent.", done.bytes_sent);
    page.counter("tenure_snapshot_send_micros_total", "Microseconds from offer to end.", micros(done.send_time));
    page.counter("tenure_snapshot_send_failures_total", "Transfers that broke off.", done.send_failures);
    page.counter("tenure_snapshots_installed_total", "Snapshots installed here.", done.installed);
    page.counter("tenure_snapshot_received_bytes_total", "Bytes of snapshots received.", done.bytes_received);
    page.counter("tenure_snapshot_receive_micros_total", "Microseconds from offer to end.", micros(done.receive_time));
    page.counter("tenure_snapshot_corrupt_pieces_total", "Pieces changed on their way.", done.corrupt_pieces);
    page.counter("tenure_backups_total", "Snapshots that clients saved.", done.backups);
    page.counter("tenure_backup_bytes_total", "Bytes of files read for them.", done.backup_bytes);
}

fn leases(page: &mut Page, node: &Node) {
    let clock_ms = node.shared().raft.lease_clock().reading(BootInstant::now());
    let of_leases = node.shared().groups.of_leases.load(Ordering::Relaxed);
    let LessorReport { live, oldest_overdue, promotions, promotion_took, promotions_took, ticks, tally } =
        node.shared().lessor.read();
    page.counter("tenure_lease_proposals_total", "Groups of renewals and revokes proposed here.", of_leases);
    page.gauge("tenure_lease_clock_millis", "The replicated lease clock.", clock_ms);
    page.counter("tenure_lease_clock_ticks_total", "Log entries that only told the time.", ticks);
    page.gauge("tenure_leases_live", "Leases that this member times: all if it leads, else none.", live);
    page.counter("tenure_leases_granted_total", "Leases granted while this member led.", tally.granted);
    page.counter("tenure_leases_renewed_total", "Renewals while this member led.", tally.renewed);
    page.counter("tenure_leases_revoked_total", "Leases revoked by clients while this member led.", tally.revoked);
    let expired = tally.lateness.count();
    page.counter("tenure_leases_expired_total", "Leases that ended by themselves while this member led.", expired);
    page.lateness("tenure_lease_lateness_millis", "How late leases ended that ended by themselves.", &tally.lateness);
    let overdue = oldest_overdue.as_millis();
    page.gauge("tenure_lease_oldest_overdue_millis", "How long the lease due for longest has been so.", overdue);
    page.counter("tenure_lessor_promotions_total", "How often this member's lessor took over.", promotions);
    let took = promotion_took.as_micros();
    page.gauge("tenure_lessor_promotion_micros", "How long its last promotion took.", took);
    let took = promotions_took.as_micros();
    page.counter("tenure_lessor_promotion_micros_total", "How long all of them took.", took);
    let ends = node.shared().raft.view().meta().lease_ends;
    page.counter("tenure_lease_ends_recorded_total", "Ends of leases recorded in the state.", ends);
}

fn watches(page: &mut Page, stats: HubStats) {
    page.gauge("tenure_watch_streams", "Open watch streams.", stats.streams);
    page.gauge("tenure_watchers", "Watchers on them.", stats.watchers);
    page.gauge("tenure_slow_watchers", "Watchers that read the history to catch up.", stats.lagging);
    page.gauge("tenure_watch_ring_bytes", "Memory that the newest events keep.", stats.ring_bytes);
    page.gauge("tenure_watch_ring_events", "Events kept in memory for watchers.", stats.ring_events);
    page.counter("tenure_watch_events_total", "Events handed to clients.", stats.events_sent);
    page.counter("tenure_watch_catch_up_reads_total", "Reads of the history for watchers.", stats.catch_up_reads);
}
