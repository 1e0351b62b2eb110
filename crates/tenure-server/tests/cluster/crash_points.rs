//! Power cuts at every operation on a disk that forgets what was not synced.
//!
//! Whatever the moment, and whatever part of the unsynced bytes and unflushed batches the disk has kept: what was
//! acknowledged is there at its revision, the rest is there whole or not at all, and the member goes on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tenure_core::hash::hash_kv;
use tenure_core::{LeaseId, Revision};
use tenure_raft::Housekeeping;
use tenure_raft::log::Keep;
use tenure_server::node::Node;

use crate::support::cluster::{Cluster, check};
use crate::support::history::{Fate, History, Request};
use crate::support::member::{Findings, Member, Settings};
use crate::support::requests::{delete, put, put_leased, txn};
use crate::support::{run, within};
use tenure_raft::sim::{Flaw, Kept, Step};

/// Small enough that a short script fills several segments, is flushed several times and purges log.
pub(crate) fn small_log() -> Settings {
    Settings {
        // A lone member waits for nobody.
        election_timeout: Duration::from_millis(60),
        segment_bytes: 4 << 10,
        housekeeping: Housekeeping {
            flush_log_bytes: 4 << 10,
            flush_entries: 1000,
            keep_log_bytes: 2 << 10,
            keep_log_entries: None,
            round: Duration::from_millis(3),
        },
        ..Settings::default()
    }
}

/// How a case of these tests ended, if not as it must.
type Verdict = Result<(), String>;

/// Some of everything that changes state, log or engine, twice. Ends early when a request fails.
async fn script(node: &Node, history: &History) -> Result<(), Fate> {
    for act in 0..ACTS {
        let name = |key: &str| format!("{key} {act}");
        let (first, second) = (LeaseId(2 * act + 1), LeaseId(2 * act + 2));
        let [a0, a1, a2, a3, b, c, d] = ["a0", "a1", "a2", "a3", "b", "c", "d"].map(name);
        send(node, history, [Request::grant(first)]).await?;
        send(node, history, [&a0, &a1, &a2, &a3].map(|key| put_leased(key, format!("first {key}"), first))).await?;
        for value in ["hot 1", "hot 2"].map(name) {
            send(node, history, [put("hot", value)]).await?;
        }
        send(node, history, [txn(&[(&b, "in a txn"), ("hot", &name("hot 3"))], &[&a1, &a2])]).await?;
        let compaction = Request::compact(Revision(history.told().0 - 2));
        send(node, history, [compaction, put(&c, "beside a compaction")]).await?;
        let start = node.shared().raft.log().first_index();
        let purged = |node: &Node| node.shared().raft.log().first_index() > start;
        within("log is purged", fill_until(node, history, act, purged)).await?;
        send(node, history, [delete(&["large 0", "large 1"]), put("hot", name("hot 4"))]).await?;
        let compacted = history.told();
        send(node, history, [Request::revoke(first, &[&a0, &a3]), Request::compact(compacted)]).await?;
        node.purged(compacted).await.map_err(Fate::Unknown)?;
        send(node, history, [put(&a0, "again"), Request::grant(second)]).await?;
        send(node, history, [put_leased(&d, "the last", second)]).await?;
    }
    Ok(())
}

/// Two, because state and log of the second start in the middle.
const ACTS: i64 = 2;

/// Puts large values until something is so. Log is purged only up to a flush that was done before.
async fn fill_until(node: &Node, history: &History, act: i64, so: impl Fn(&Node) -> bool) -> Result<(), Fate> {
    let mut round = 0;
    while !so(node) {
        let large = |n: u64| put(&format!("large {n}"), format!("{act} {round} {n} {}", "x".repeat(2000)));
        send(node, history, (0..3).map(large)).await?;
        round += 1;
    }
    Ok(())
}

/// Sends requests at once and waits for all.
async fn send(node: &Node, history: &History, requests: impl IntoIterator<Item = Request>) -> Result<(), Fate> {
    let fates = join_all(requests.into_iter().map(|request| history.write(node, request))).await;
    fates.into_iter().find(|fate| !matches!(fate, Fate::Acked(_))).map_or(Ok(()), Err)
}

/// What was seen over all cases.
#[derive(Debug, Default)]
struct Seen {
    /// What the power went off before.
    steps: std::collections::BTreeMap<Step, usize>,
    boots: usize,
    /// Cases in which the member found log to apply.
    replayed: usize,
    /// Cases in which it found a log without its beginning.
    purged: usize,
}

/// Runs the script until an operation, cuts the power, and boots what is left in several ways. Returns whether the
/// script had ended before.
async fn crash_at(operation: u64, flaw: Flaw, seen: &Mutex<Seen>) -> Result<bool, String> {
    let history = History::default();
    let settings = Settings { flaw, ..small_log() };
    let mut member = Cluster::new(1, &settings).members.remove(0);
    // Flushes are few: some cases go for them, or a run of all might meet none.
    if operation % 12 == 11 {
        member.machine.go_off_before(Step::Flush, operation / 12 % 4);
    } else {
        member.machine.go_off_at(operation);
    }
    let ended = {
        let machine = member.machine.clone();
        let working = async {
            let node = member.up().await.map_err(|error| error.to_string())?;
            script(&node, &history).await.map_err(|fate| format!("the script ends with {fate:?}"))
        };
        tokio::select! {
            biased;
            () = machine.is_off() => false,
            done = working => { done.or_else(|error| if machine.off() { Ok(()) } else { Err(error) })?; !machine.off() }
        }
    };
    member.kill();
    if let Some(step) = member.machine.went_off_before() {
        *seen.lock().expect("no panic").steps.entry(step).or_default() += 1;
    }
    let (keep, ways) = match operation % 4 {
        0 => (Keep::Nothing, &[Kept::None, Kept::Half, Kept::All][..]),
        1 => (Keep::Torn(operation), &[Kept::None, Kept::Half, Kept::All][..]),
        2 => (Keep::Holes(operation), &[Kept::None, Kept::Half, Kept::All][..]),
        _ => (Keep::Everything, [&[Kept::None][..], &[Kept::Half], &[Kept::All]][(operation / 4 % 3) as usize]),
    };
    let remains = member.machine.remains(keep);
    for kept in ways {
        member.reboot(&remains, *kept);
        // Each boot has a future of its own, so each has a history of its own.
        let boot = survive(&mut member, &history.fork(), seen).await;
        boot.map_err(|error| format!("operation {operation}, {keep:?}, batches kept {kept:?}: {error}"))?;
        member.kill();
    }
    Ok(ended)
}

/// Starts a member after a crash and holds it against its history, lets it work, and does both again.
async fn survive(member: &mut Member, history: &History, seen: &Mutex<Seen>) -> Verdict {
    let found = fits_together(member)?;
    note(seen, &found);
    let before = {
        let node = within("a start", member.up()).await.map_err(|error| format!("it does not start: {error}"))?;
        check(std::slice::from_ref(&node), history).await?;
        let view = node.view(true).await.map_err(|error| error.to_string())?;
        let hash = hash_kv(&*view, Revision(0)).map_err(|error| error.to_string())?;
        send(&node, history, [put("after", "the crash"), put("hot", "hot 5")])
            .await
            .map_err(|fate| format!("{fate:?}"))?;
        hash.map_err(|error| error.to_string())?
    };
    member.crash(Keep::Nothing, Kept::None);
    fits_together(member)?;
    let node = within("a second start", member.up()).await.map_err(|error| format!("no second start: {error}"))?;
    check(std::slice::from_ref(&node), history).await.map_err(|error| format!("after the second start: {error}"))?;
    let view = node.view(true).await.map_err(|error| error.to_string())?;
    match hash_kv(&*view, before.revision).map_err(|error| error.to_string())? {
        Ok(after) if after == before => Ok(()),
        after => Err(format!("the hash at one revision changed from {before:?} to {after:?}")),
    }
}

/// Log and state of a member that is alone: what was applied is in the log or purged from it, and the log goes on where
/// the state ends or before.
fn fits_together(member: &Member) -> Result<Findings, String> {
    let found = member.findings().map_err(|error| format!("it cannot be opened: {error}"))?;
    let next = found.applied.map_or(0, |applied| applied + 1);
    if found.first_entry > next {
        return Err(format!("the log was purged beyond what was flushed: {found:?}"));
    }
    if found.applied > found.last_entry {
        return Err(format!("what was applied had not been logged: {found:?}"));
    }
    Ok(found)
}

fn note(seen: &Mutex<Seen>, found: &Findings) {
    let mut seen = seen.lock().expect("no panic");
    seen.boots += 1;
    seen.replayed += usize::from(found.applied < found.last_entry);
    seen.purged += usize::from(found.first_entry > 0);
}

/// Crashes at every operation, in the order of their numbers on several threads, until a script has ended before its
/// crash often enough: how requests share a sync differs from run to run, and so do the numbers.
fn crash_everywhere(flaw: Flaw) -> (Vec<String>, Seen) {
    let (next, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let (failures, seen) = (Mutex::new(Vec::new()), Mutex::new(Seen::default()));
    std::thread::scope(|scope| {
        for _ in 0..CASES_AT_ONCE {
            scope.spawn(|| {
                while ended.load(Ordering::Relaxed) < SCRIPTS_ENDED {
                    match run(crash_at(next.fetch_add(1, Ordering::Relaxed), flaw, &seen)) {
                        Ok(false) => {}
                        Ok(true) => drop(ended.fetch_add(1, Ordering::Relaxed)),
                        Err(failure) => {
                            failures.lock().expect("no panic").push(failure);
                            if flaw != Flaw::None {
                                ended.store(SCRIPTS_ENDED, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
    });
    (failures.into_inner().expect("no panic"), seen.into_inner().expect("no panic"))
}

/// Cases mostly wait for timers, so some share a core.
const CASES_AT_ONCE: usize = 4;

const SCRIPTS_ENDED: u64 = 10;

#[test]
fn a_lone_member_survives_a_power_cut_at_every_operation() {
    let (failures, seen) = crash_everywhere(Flaw::None);
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
    assert!(seen.boots > 200 && seen.replayed > 50 && seen.purged > 50, "{seen:?}");
    let missing: Vec<Step> = [Step::Write, Step::Name, Step::Sync, Step::SyncDir, Step::Commit, Step::Flush]
        .into_iter()
        .filter(|step| !seen.steps.contains_key(step))
        .collect();
    assert!(missing.is_empty(), "never off before a {missing:?}");
}

fn first_failure_with(flaw: Flaw) -> String {
    let (mut failures, seen) = crash_everywhere(flaw);
    failures.pop().unwrap_or_else(|| panic!("{flaw:?} is not noticed: {seen:?}"))
}

#[test]
fn a_disk_that_lies_about_syncs_is_noticed() {
    let failure = first_failure_with(Flaw::SyncDoesNothing { from: 25 });
    assert!(["missing", "fell", "is damaged"].iter().any(|text| failure.contains(text)), "{failure}");
}

#[test]
fn an_engine_that_lies_about_flushes_is_noticed() {
    let failure = first_failure_with(Flaw::FlushDoesNothing);
    assert!(failure.contains("the log was purged beyond what was flushed"), "{failure}");
}

#[test]
fn an_engine_that_tears_batches_is_noticed() {
    let failure = first_failure_with(Flaw::BatchInHalves);
    assert!(failure.contains("cannot be opened"), "{failure}");
}
