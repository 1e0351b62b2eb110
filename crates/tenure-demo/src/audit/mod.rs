//! The check at the end: everything that was acknowledged is read back and compared with the ledger.
//!
//! What is compared and judged is in the other files, as pure functions with tests that lose things on purpose; this one
//! reads the store. It reads through whichever node answers, and compares the nodes with each other by their hashes.

mod leases;
mod lock;
mod report;
mod writes;

pub use report::{Check, Findings, Report};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tenure_proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use tenure_proto::mvccpb::KeyValue;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::audit::leases::Living;
use crate::audit::writes::WritesAudit;
use crate::clock::Moment;
use crate::feed::Feed;
use crate::limits::{CATCH_UP_PATIENCE, PAUSE_AFTER_FAILURE};
use crate::load::Shared;
use crate::model::percentile;
use crate::store::{Store, key, prefix_end, prefix_range, revision};
use crate::view::{grouped, times};

/// Leases that are asked about at a time.
const ASKED_AT_ONCE: usize = 16;

/// Reads back what the ledger promises. `began` is the revision before the first write of the run.
pub async fn writes(shared: &Shared, began: i64) -> Check {
    let lanes = shared.ledger.lanes();
    let mut audit = WritesAudit::new(&shared.names, &lanes);
    let prefix = shared.names.writes();
    let newest = match patiently(shared, |node| newest(&shared.store, node, &prefix)).await {
        Ok(newest) => newest,
        Err(status) => return failed("the writes cannot be read", &status),
    };
    let last = newest.iter().map(|kv| kv.mod_revision).max().unwrap_or(began);
    if let Err(status) = history(shared, began, last, &mut audit).await {
        return failed("the history of the writes cannot be read", &status);
    }
    let verdict = audit.end(&newest);
    let (read_back, acked) = (grouped(verdict.read_back), grouped(verdict.acked));
    let text = format!("{read_back} of {acked} acknowledged writes read back: value, version, revision");
    let mut notes = Vec::new();
    if verdict.unknown > 0 {
        let (unknown, there) = (verdict.unknown, verdict.unknown_in_history);
        let absent = unknown.saturating_sub(there);
        notes.push(format!("failed or unanswered: {unknown}, of which {there} took effect and {absent} did not"));
    }
    Check { text, notes, wrong: verdict.wrong }
}

/// Tells all events of the writes in order, up to revision `last`.
async fn history(shared: &Shared, began: i64, last: i64, audit: &mut WritesAudit<'_>) -> Result<(), Status> {
    let mut from = began + 1;
    let mut node = 0;
    let mut quiet_since = shared.clock.now();
    while from <= last {
        let create = WatchCreateRequest {
            key: key(&shared.names.writes()),
            range_end: prefix_end(&shared.names.writes()),
            start_revision: from,
            ..WatchCreateRequest::default()
        };
        let problem = match Feed::open(&shared.store, node, create).await {
            Ok(mut feed) => loop {
                match feed.next().await {
                    Ok(event) => audit.event(event),
                    Err(problem) => break problem,
                }
                if feed.has_none_ready() {
                    from = feed.seen_revision + 1;
                    quiet_since = shared.clock.now();
                }
                if from > last {
                    return Ok(());
                }
            },
            Err(problem) => problem,
        };
        if problem.code() == Code::OutOfRange || shared.clock.now() > quiet_since + CATCH_UP_PATIENCE {
            return Err(problem);
        }
        node = shared.store.other(node);
        sleep(PAUSE_AFTER_FAILURE).await;
    }
    Ok(())
}

/// Asks after every lease that should live, while it is still being renewed.
pub async fn leases(shared: &Shared) -> Check {
    // What is promised by now; a registration that succeeds during the check was promised later.
    let records = shared.ledger.leases().clone();
    let services = shared.names.services();
    let keys = match patiently(shared, |node| newest(&shared.store, node, &services)).await {
        Ok(keys) => keys,
        Err(status) => return failed("the services cannot be read", &status),
    };
    let attached: BTreeSet<(i64, Bytes)> = keys.into_iter().map(|kv| (kv.lease, kv.key)).collect();
    let should_live = records.iter().filter(|(_, record)| record.ended.is_none() && record.stopped.is_none());
    let wanted: Vec<(i64, Bytes)> = should_live.map(|(lease, record)| (*lease, key(&record.key))).collect();
    let mut living = BTreeMap::new();
    for some in wanted.chunks(ASKED_AT_ONCE) {
        let asked: Vec<_> = some.iter().map(|(lease, path)| is_living(shared, &attached, *lease, path)).collect();
        living.extend(join_all(asked).await.into_iter().flatten());
    }
    let verdict = leases::leases(&records, &living);
    let text = format!("{} services that renewed their leases have them, and their keys", verdict.kept);
    Check { text, notes: lease_notes(&verdict), wrong: verdict.wrong }
}

async fn is_living(
    shared: &Shared,
    attached: &BTreeSet<(i64, Bytes)>,
    lease: i64,
    path: &Bytes,
) -> Option<(i64, Living)> {
    let answer = patiently(shared, |node| shared.store.time_to_live(node, lease)).await.ok()?;
    let key = answer.keys.contains(path) && attached.contains(&(lease, path.clone()));
    // -1 says that there is no such lease; one that is due and not yet ended still lives.
    Some((lease, Living { at: shared.clock.now(), lease: answer.ttl >= 0, key }))
}

fn lease_notes(verdict: &leases::LeasesVerdict) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some((shortest, longest)) = verdict.lateness {
        let (shortest, longest) = (shortest.as_secs_f64(), longest.as_secs_f64());
        let range =
            if verdict.ran_out == 1 { format!("{longest:.2}") } else { format!("{shortest:.2} to {longest:.2}") };
        notes.push(format!("not renewed any more, and ended: {}, {range} s after their time", verdict.ran_out));
    }
    if verdict.to_end > 0 {
        notes.push(format!("not renewed any more, and still to end: {}", verdict.to_end));
    }
    if verdict.lost_in_outage > 0 {
        notes.push(format!("ended because no renewal was acknowledged in time: {}", verdict.lost_in_outage));
    }
    notes
}

/// Compares what the contenders were told.
pub fn lock(shared: &Shared, end: Moment) -> Check {
    let verdict = lock::lock(shared.ledger.holds(), end);
    let text = match u64::try_from(verdict.taken).unwrap_or(u64::MAX) {
        0 => "nobody took the lock".to_owned(),
        taken => format!("the lock was taken {}, never held by two at once, and its tokens rose", times(taken)),
    };
    Check { text, wrong: verdict.wrong, ..Check::default() }
}

/// Waits until all nodes are at the newest revision, and compares their hashes there.
pub async fn hashes(shared: &Shared, names: &[String]) -> Check {
    let empty = RangeRequest { key: key(shared.names.root()), count_only: true, ..RangeRequest::default() };
    let newest = patiently(shared, |node| shared.store.range(node, empty.clone())).await;
    let newest = match newest {
        Ok(answer) => revision(answer.header.as_ref()),
        Err(status) => return failed("the newest revision cannot be read", &status),
    };
    let asked = (0..names.len()).map(|node| hash_at(shared, node, newest));
    let hashes = join_all(asked).await;
    let mut wrong = Findings::default();
    for (name, hash) in names.iter().zip(&hashes) {
        match (hash, &hashes[0]) {
            (Ok(hash), Ok(first)) if hash != first => {
                wrong.add(format!("{name} hashes to {hash:08x}, not {first:08x}"));
            }
            (Ok(_), _) => {}
            (Err(status), _) => wrong.add(format!("{name} tells no hash: {}", status.message())),
        }
    }
    let text = match &hashes[0] {
        Ok(hash) => format!("{} agree at revision {}: hash {hash:08x}", names.join(", "), grouped(newest)),
        Err(_) => format!("the nodes' hashes at revision {newest}"),
    };
    Check { text, wrong, ..Check::default() }
}

async fn hash_at(shared: &Shared, node: usize, revision: i64) -> Result<u32, Status> {
    let deadline = shared.clock.now() + CATCH_UP_PATIENCE;
    loop {
        // A node that is behind refuses a revision of the future.
        match shared.store.hash_kv(node, revision).await {
            Ok(answer) => return Ok(answer.hash),
            Err(status) if shared.clock.now() > deadline => return Err(status),
            Err(_) => sleep(PAUSE_AFTER_FAILURE).await,
        }
    }
}

/// All keys under a prefix.
async fn newest(store: &Store, node: usize, prefix: &str) -> Result<Vec<KeyValue>, Status> {
    store.range(node, prefix_range(prefix)).await.map(|answer| answer.kvs)
}

/// Asks one node after another until one answers: reading twice harms nothing.
async fn patiently<T, Answer>(shared: &Shared, ask: impl Fn(usize) -> Answer) -> Result<T, Status>
where
    Answer: Future<Output = Result<T, Status>>,
{
    let deadline = shared.clock.now() + CATCH_UP_PATIENCE;
    let mut node = 0;
    loop {
        match ask(node).await {
            Ok(answer) => return Ok(answer),
            Err(status) if shared.clock.now() > deadline => return Err(status),
            Err(_) => node = shared.store.other(node),
        }
        sleep(PAUSE_AFTER_FAILURE).await;
    }
}

fn failed(text: &str, status: &Status) -> Check {
    let mut wrong = Findings::default();
    wrong.add(format!("{:?}: {}", status.code(), status.message()));
    Check { text: text.to_owned(), wrong, ..Check::default() }
}

/// Latencies over the whole run, in one line.
pub fn latencies(shared: &Shared) -> Option<String> {
    let mut all = shared.ledger.latencies();
    all.sort_unstable();
    let millis = |percent| percentile(&all, percent).map(|time: Duration| time.as_secs_f64() * 1_000.0);
    Some(format!(
        "writes were acknowledged within {:.1} ms (p50), {:.1} ms (p99), {:.0} ms at worst",
        millis(50)?,
        millis(99)?,
        millis(100)?
    ))
}
