//! Acquires of native locks that end before their clients know how: dropped at each await point, and retried after answers
//! that were lost. Nothing is left behind that nobody knows of, and nothing is granted twice.
//!
//! `TENURE_TIMES=1000` does it as often, which takes minutes.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::command::{Command, LockAcquire, LockRelease, LockRequest};
use tenure_core::lock::{LockKey, lock_key, read};
use tenure_core::outcome::{Refusal, Response};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Revision};
use tenure_server::node::{LockAcquired, LockStep, LockUngranted, LockWanted, Node, RequestError};

use crate::support::cluster::{Cluster, eventually, settled};
use crate::support::history::bytes;
use crate::support::leases::Held;
use crate::support::member::Settings;
use crate::support::requests::put;
use crate::support::{run, within};

const HOUR: Duration = Duration::from_secs(3600);
const LEASE: LeaseId = LeaseId(7);
/// Each kind of end is tried so often, unless the environment says otherwise: enough for each await point.
const TIMES: u32 = 60;
/// More than an acquire ever pauses.
const POINTS_MAX: u32 = 50;

fn times() -> u32 {
    std::env::var("TENURE_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(TIMES)
}

type Told = Result<LockStep, LockUngranted>;

fn wanted(name: &str, number: u64, attach: u64) -> LockWanted {
    let request = LockRequest { lease: LEASE, number, lowest_open: number, attach };
    let acquire = LockAcquire { name: bytes(name), request, wait: true, ..LockAcquire::default() };
    LockWanted { acquire, wait: None }
}

/// An acquire as a service carries it out, to its last step. Notes that it was told to wait.
fn acquire<'a>(
    node: &'a Node,
    wanted: LockWanted,
    waits: &'a Cell<bool>,
) -> Pin<Box<impl Future<Output = Told> + use<'a>>> {
    Box::pin(async move {
        match node.acquire_lock(wanted, std::future::pending()).await {
            LockAcquired::Ended(told) => told,
            LockAcquired::Waits(mut steps) => loop {
                match steps.recv().await.expect("a last step") {
                    Ok(LockStep::Waiting { .. }) => waits.set(true),
                    told => return told,
                }
            },
        }
    })
}

/// Polls a call until it has paused so many times, or was told to wait. None if it has not ended by then.
async fn go(call: &mut (impl Future<Output = Told> + Unpin), pauses: u32, waits: &Cell<bool>) -> Option<Told> {
    let mut paused = 0;
    let going = poll_fn(|cx| match call.poll_unpin(cx) {
        Poll::Ready(told) => Poll::Ready(Some(told)),
        Poll::Pending => {
            paused += 1;
            if paused >= pauses || waits.get() { Poll::Ready(None) } else { Poll::Pending }
        }
    });
    within("a pause", going).await
}

fn token_of(told: &Told) -> Option<Revision> {
    match told {
        Ok(LockStep::Granted { token, holds: 1, .. }) => Some(*token),
        _ => None,
    }
}

/// The key by which the lease contends for a lock on a member, by its creation.
fn created(node: &Node, name: &str) -> Option<Revision> {
    let meta = node.shared().raft.view().current_meta(&lock_key(name.as_bytes(), LEASE)).expect("a state");
    meta.filter(|meta| !meta.is_tombstone()).map(|meta| meta.create)
}

fn is_finished(node: &Node, number: u64) -> bool {
    let numbers = read::requests(&*node.shared().raft.view(), LEASE).expect("a state");
    numbers.is_some_and(|numbers| numbers.is_finished(number))
}

async fn release(node: &Node, name: &str, token: Revision) -> bool {
    let release = LockRelease { name: bytes(name), lease: LEASE, token, number: 0 };
    let outcome = within("a release", node.write(&Command::LockRelease(release))).await.expect("an outcome");
    matches!(outcome.result, Ok(Response::LockRelease { released: true, .. }))
}

/// How many rows of locks there are, numbers of leases not counted.
fn rows(node: &Node) -> usize {
    let mut rows = 0;
    let view = node.shared().raft.view();
    let scanned = view.scan_lock_rows(&LockKey::Delay(LeaseId(i64::MIN), bytes("")), &mut |key, _| {
        rows += usize::from(!matches!(key, LockKey::Requests(_)));
        std::ops::ControlFlow::Continue(())
    });
    scanned.expect("a state");
    rows
}

async fn nothing_is_left(nodes: &[Node]) {
    settled(nodes).await;
    for node in nodes {
        assert_eq!(rows(node), 0, "no lock has a contender");
    }
}

#[test]
fn an_acquire_that_is_dropped_wherever_it_stands_leaves_nothing() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &Settings::with_a_lasting_leader()).await;
        Held::granted(&nodes[0], LEASE.0, HOUR).await;
        let (mut number, mut dropped) = (0, 0);
        while dropped < times() {
            let node = &nodes[usize::try_from(number).expect("small") % nodes.len()];
            let is_behind = number % 2 == 1;
            // Dropped at once, what it asked for may not be done at all; dropped late, it is, and the call does not know.
            let is_late = number % 4 > 1;
            for pauses in 1..=POINTS_MAX {
                number += 1;
                let name = format!("l{}", number % 3);
                let older = put(&format!("{name}/older"), "x").command;
                if is_behind {
                    within("a put", node.write(&older)).await.expect("an outcome");
                }
                let waits = Cell::new(false);
                let mut call = acquire(node, wanted(&name, number, 1), &waits);
                let told = go(&mut call, pauses, &waits).await;
                if is_late {
                    within("a put", node.write(&put("after", "x").command)).await.expect("an outcome");
                }
                drop(call);
                let is_over = told.is_some() || waits.get();
                match told.as_ref().map(token_of) {
                    Some(token) => assert!(release(node, &name, token.expect("the lock")).await && !is_behind),
                    None => dropped += 1,
                }
                for member in &nodes {
                    eventually("the request is finished", || is_finished(member, number).then_some(())).await;
                    assert_eq!(created(member, &name), None, "no orphan is left of {name}");
                }
                if is_behind {
                    let delete = crate::support::requests::delete(&[&format!("{name}/older")]).command;
                    within("a delete", node.write(&delete)).await.expect("an outcome");
                }
                // On a busy machine it may be over after one pause, though not every time.
                assert!(number < 100 * u64::from(times()), "there is nothing to be dropped at");
                if is_over {
                    break;
                }
                assert!(pauses < POINTS_MAX, "it never comes to its end");
            }
        }
        nothing_is_left(&nodes).await;
    });
}

/// What a request came to, asked for until there was an answer.
enum Came {
    Holds(Revision),
    Finished,
}

/// Asks again under rising attach numbers, each time at the next member, until it is answered.
async fn insist(nodes: &[Node], from: usize, (name, number): (&str, u64)) -> Came {
    for attach in 2..100 {
        let node = &nodes[(from + usize::try_from(attach).expect("small")) % nodes.len()];
        let waits = Cell::new(false);
        match within("an answer", acquire(node, wanted(name, number, attach), &waits)).await {
            Ok(LockStep::Granted { token, holds, .. }) => {
                assert_eq!(holds, 1, "it is one request");
                return Came::Holds(token);
            }
            Err(LockUngranted::Failed(RequestError::Refused(Refusal::LockRequestFinished))) => return Came::Finished,
            Err(LockUngranted::Failed(RequestError::Timeout | RequestError::LeaderLost)) => {}
            other => panic!("an acquire ends as {other:?}"),
        }
    }
    panic!("it is never answered");
}

#[test]
fn a_request_whose_answers_are_lost_is_granted_once_or_not_at_all() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &Settings::with_a_lasting_leader()).await;
        Held::granted(&nodes[0], LEASE.0, HOUR).await;
        let mut rng = StdRng::seed_from_u64(7);
        let (mut kept, mut taken_over, mut finished) = (0, 0, 0);
        for number in 1..=u64::from(times()) {
            let (name, first) = (format!("l{}", number % 3), rng.random_range(0..nodes.len()));
            let waits = Cell::new(false);
            let mut call = acquire(&nodes[first], wanted(&name, number, 1), &waits);
            // Whatever it is told, the client does not hear it.
            let lost = go(&mut call, rng.random_range(1..8), &waits).await;
            let known = lost.as_ref().map(|told| token_of(told).expect("the lock"));
            // The retry comes before the first try is known to be of the past, or after.
            let early = if rng.random_bool(0.5) { Some(call) } else { None };
            let came = insist(&nodes, first, (&name, number)).await;
            drop(early);
            match came {
                Came::Holds(token) => {
                    assert!(known.is_none_or(|known| known == token), "one request has one token");
                    if known.is_some() {
                        kept += 1;
                    } else {
                        taken_over += 1;
                    }
                    settled(&nodes).await;
                    assert_eq!(created(&nodes[first], &name), Some(token), "it is held");
                    assert!(release(&nodes[first], &name, token).await);
                    assert!(!release(&nodes[first], &name, token).await, "it was held once");
                }
                // The end of the first try was cancelled before the retry came.
                Came::Finished => {
                    assert_eq!(known, None, "what was granted stays so");
                    finished += 1;
                }
            }
            for member in &nodes {
                eventually("the request is finished", || is_finished(member, number).then_some(())).await;
                assert_eq!(created(member, &name), None, "nothing of {name} is held by anybody");
            }
        }
        assert!(kept > 0 && taken_over > 0, "{kept} kept, {taken_over} taken over, {finished} finished");
        nothing_is_left(&nodes).await;
    });
}
