//! Deadlocks: found in rings of real sessions, ended by one of them, and nowhere else suspected.

use std::time::Duration;

use tenure_client::lock::{AcquireError, Cycle, LockBuilder, LockGuard, Mode, Wait};
use tenure_client::session::Session;
use tenure_client::{Client, LeaseId};
use tokio::task::JoinHandle;

use crate::help::{Stranger, session};
use crate::support::members::Cluster;
use crate::support::{run, within};

/// Two looks at least come in this time, and what the second finds is confirmed.
const LOOKS: Duration = Duration::from_millis(4500);

type Waiting = JoinHandle<Result<LockGuard, AcquireError>>;

struct World {
    _cluster: Cluster,
    client: Client,
    stranger: Stranger,
}

impl World {
    async fn new() -> World {
        let cluster = Cluster::one().await;
        let (client, stranger) = (cluster.client().await, Stranger::of(&cluster).await);
        World { _cluster: cluster, client, stranger }
    }

    async fn sessions<const N: usize>(&self) -> [Session; N] {
        let mut sessions = Vec::new();
        for _ in 0..N {
            sessions.push(session(&self.client).await);
        }
        sessions.try_into().expect("so many")
    }

    /// Begins to wait, and returns when so many contend.
    async fn waiting(&self, lock: LockBuilder, name: &str, contenders: u64) -> Waiting {
        let waiting = tokio::spawn(lock.acquire());
        self.stranger.until_contenders(name, contenders).await;
        waiting
    }
}

fn seeking(session: &Session, name: &str) -> LockBuilder {
    session.lock(name.to_owned()).find_deadlocks(true)
}

async fn taken(lock: LockBuilder) -> LockGuard {
    within("a lock", lock.acquire()).await.expect("a lock")
}

async fn granted(waiting: Waiting) -> LockGuard {
    within("it is granted", waiting).await.expect("no panic").expect("a lock")
}

async fn told(waiting: Waiting) -> Cycle {
    match within("it is told", waiting).await.expect("no panic") {
        Err(AcquireError::Deadlock { cycle }) => cycle,
        other => panic!("{other:?}"),
    }
}

/// Each wait as lock, waiter, holder.
fn waits(cycle: &Cycle) -> Vec<(String, LeaseId, LeaseId)> {
    let wait = |wait: &tenure_client::lock::CycleWait| {
        (String::from_utf8_lossy(&wait.lock).into_owned(), wait.waiter, wait.holder)
    };
    cycle.waits().iter().map(wait).collect()
}

#[test]
fn of_two_sessions_that_wait_for_each_other_the_later_gives_up_and_the_other_gets_the_lock() {
    run(async {
        let world = World::new().await;
        let one = world.client.session().owner("billing").start().await.expect("a session");
        let [two] = world.sessions().await;
        let first = taken(seeking(&one, "a")).await;
        // More than are looked at: the newest is the one that it waits for.
        let mut others = Vec::new();
        for place in 0..8 {
            others.push(taken(one.lock(format!("other/{place}"))).await);
        }
        let second = taken(seeking(&two, "b")).await;
        let older = world.waiting(seeking(&one, "b"), "b", 2).await;
        let younger = world.waiting(seeking(&two, "a"), "a", 2).await;
        let cycle = told(younger).await;
        let (one_id, two_id) = (one.lease_id(), two.lease_id());
        assert_eq!(waits(&cycle), [("a".to_owned(), two_id, one_id), ("b".to_owned(), one_id, two_id)]);
        assert_eq!(
            AcquireError::Deadlock { cycle }.to_string(),
            format!(
                "deadlock: this session waits for lock a, held by billing on lease {one_id}, which waits for lock b, held by \
                 this session"
            )
        );
        world.stranger.until_contenders("a", 1).await;
        assert!(!older.is_finished() && first.is_safe() && second.is_safe());
        second.release().await.expect("it is released");
        let got = granted(older).await;
        drop((first, got, others));
        taken(seeking(&two, "a")).await.release().await.expect("it is released");
    });
}

#[test]
fn one_of_three_in_a_ring_gives_up_and_the_others_go_on_in_turn() {
    run(async {
        let world = World::new().await;
        let sessions: [Session; 3] = world.sessions().await;
        let mut held = Vec::new();
        for (session, name) in sessions.iter().zip(["a", "b", "c"]) {
            held.push(taken(seeking(session, name)).await);
        }
        let mut waiting = Vec::new();
        for (session, name) in sessions.iter().zip(["b", "c", "a"]) {
            waiting.push(world.waiting(seeking(session, name), name, 2).await);
        }
        let cycle = told(waiting.pop().expect("the youngest")).await;
        let names: Vec<String> = waits(&cycle).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        // The third lets go, then the second, and each time the one before it goes on.
        while let Some(waiting) = waiting.pop() {
            drop(held.pop());
            drop(granted(waiting).await);
        }
    });
}

#[test]
fn a_ring_through_a_reader_behind_a_writer_is_found() {
    run(async {
        let world = World::new().await;
        let [reader, writer, late] = world.sessions().await;
        let read = taken(seeking(&reader, "r").mode(Mode::Shared)).await;
        let held = taken(seeking(&late, "b")).await;
        let writing = world.waiting(seeking(&writer, "r"), "r", 2).await;
        let reading = world.waiting(seeking(&late, "r").mode(Mode::Shared), "r", 3).await;
        let cycle = told(world.waiting(seeking(&reader, "b"), "b", 2).await).await;
        let [reader, writer, late] = [&reader, &writer, &late].map(Session::lease_id);
        let wait = |name: &str, waiter, holder| (name.to_owned(), waiter, holder);
        assert_eq!(waits(&cycle), [wait("b", reader, late), wait("r", late, writer), wait("r", writer, reader)]);
        assert_eq!(cycle.waits().iter().map(|wait| wait.is_held).collect::<Vec<_>>(), [true, false, true]);
        drop(read);
        drop(granted(writing).await);
        drop(granted(reading).await);
        drop(held);
    });
}

/// What waits for a long time, or for those that wait for somebody who works, is in no cycle.
#[test]
fn long_waits_and_chains_to_somebody_who_works_are_no_deadlocks() {
    run(async {
        let world = World::new().await;
        let [works, middle, end, beside] = world.sessions().await;
        let held = (taken(seeking(&works, "a")).await, taken(seeking(&middle, "b")).await);
        let limited = |session: &Session, name: &str| seeking(session, name).wait(Wait::For(LOOKS)).acquire();
        let waiting = [limited(&middle, "a"), limited(&end, "b"), limited(&beside, "a")].map(tokio::spawn);
        for waiting in waiting {
            let ended = within("it ends", waiting).await.expect("no panic");
            assert!(matches!(ended, Err(AcquireError::Timeout { .. })), "{ended:?}");
        }
        drop(held);
    });
}

#[test]
fn permits_that_somebody_can_give_who_works_are_waited_for() {
    run(async {
        let world = World::new().await;
        let [waits, works, wants] = world.sessions().await;
        let permit = |session| seeking(session, "s").mode(Mode::Semaphore { permits: 1, limit: 2 });
        let (one, two) = (taken(permit(&waits)).await, taken(permit(&works)).await);
        let held = taken(seeking(&wants, "x")).await;
        let waiting = tokio::spawn(seeking(&waits, "x").wait(Wait::For(LOOKS)).acquire());
        world.stranger.until_contenders("x", 2).await;
        let wanting = world.waiting(permit(&wants), "s", 3).await;
        let ended = within("it ends", waiting).await.expect("no panic");
        assert!(matches!(ended, Err(AcquireError::Timeout { .. })), "{ended:?}");
        assert!(!wanting.is_finished());
        drop(two);
        drop(granted(wanting).await);
        drop((one, held));
    });
}

/// The youngest looks for its cycle or nobody does: two that give up for each other would be one too many.
#[test]
fn who_was_not_told_to_look_waits_and_so_do_the_older_ones() {
    run(async {
        let world = World::new().await;
        let [one, two] = world.sessions().await;
        let held = (taken(one.lock("a")).await, taken(two.lock("b")).await);
        let older = world.waiting(seeking(&one, "b").wait(Wait::For(LOOKS)), "b", 2).await;
        let younger = world.waiting(two.lock("a").wait(Wait::For(LOOKS)), "a", 2).await;
        for waiting in [older, younger] {
            let ended = within("it ends", waiting).await.expect("no panic");
            assert!(!matches!(ended, Err(AcquireError::Deadlock { .. })), "{ended:?}");
        }
        drop(held);
    });
}

#[test]
fn a_session_that_is_out_of_time_first_is_told_that() {
    run(async {
        let world = World::new().await;
        let [one, two] = world.sessions().await;
        let (_first, second) = (taken(seeking(&one, "a")).await, taken(seeking(&two, "b")).await);
        let older = world.waiting(seeking(&one, "b"), "b", 2).await;
        let late = within("it ends", seeking(&two, "a").wait(Wait::For(Duration::from_millis(100))).acquire()).await;
        assert!(matches!(late, Err(AcquireError::Timeout { .. })), "{late:?}");
        drop(second);
        drop(granted(older).await);
    });
}

#[test]
fn a_session_waits_for_itself_only_under_a_name_that_begins_with_another() {
    run(async {
        let world = World::new().await;
        let [one] = world.sessions().await;
        let again = || seeking(&one, "again").reentrant(Some(2));
        let (first, second) = (taken(again()).await, taken(again()).await);
        assert_eq!((first.holds(), second.holds()), (1, 2));
        let _plain = taken(seeking(&one, "plain")).await;
        assert!(matches!(seeking(&one, "plain").acquire().await, Err(AcquireError::AlreadyHeld)));
        let _long = taken(seeking(&one, "a/b")).await;
        let cycle = told(world.waiting(seeking(&one, "a"), "a", 2).await).await;
        assert_eq!(cycle.to_string(), "this session waits for lock a, held by this session");
        world.stranger.until_contenders("a", 1).await;
    });
}

#[test]
fn within_a_namespace_locks_have_the_names_that_the_client_knows() {
    run(async {
        let world = World::new().await;
        let inside = world.client.namespaced("app/");
        let (outer, inner) = (session(&world.client).await, session(&inside).await);
        let _held = (taken(seeking(&outer, "app/a")).await, taken(seeking(&inner, "b")).await);
        let older = world.waiting(seeking(&outer, "app/b"), "app/b", 2).await;
        let cycle = told(world.waiting(seeking(&inner, "a"), "app/a", 2).await).await;
        let names: Vec<String> = waits(&cycle).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(!older.is_finished());
    });
}

#[test]
fn who_holds_by_the_recipe_is_in_cycles_and_who_asks_by_it_needs_native_requests_to_find_them() {
    run(async {
        let world = World::new().await;
        let [one, two] = world.sessions().await;
        let refused = seeking(&one, "a").by_recipe().acquire().await;
        assert!(matches!(refused, Err(AcquireError::NeedsTenure { .. })), "{refused:?}");
        let _held = (taken(one.lock("a").by_recipe()).await, taken(seeking(&two, "b")).await);
        let _older = world.waiting(seeking(&one, "b"), "b", 2).await;
        let cycle = told(world.waiting(seeking(&two, "a"), "a", 2).await).await;
        assert_eq!(cycle.waits().iter().map(|wait| wait.holder).collect::<Vec<_>>(), [one.lease_id(), two.lease_id()]);
        assert!(cycle.waits()[0].owner.is_empty() && cycle.waits()[0].is_held);
    });
}
