//! The search for cycles, held against a toy that hands locks over as a server does and knows what can never go on.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::mode::Mode;
use super::token::contender_key;
use super::waits::{Entry, Search, Step, WAITS_MAX, Wait};
use crate::ids::{LeaseId, Revision};

const ALONE: Mode = Mode::Exclusive;
const SHARED: Mode = Mode::Shared;

/// Queues, and nothing else.
#[derive(Clone, Debug, Default)]
struct Toy {
    queues: BTreeMap<Bytes, Vec<Entry>>,
    revision: i64,
}

impl Toy {
    fn join(&mut self, lock: &str, lease: i64, mode: Mode) -> &mut Entry {
        self.revision += 1;
        let (lock, token, lease) = (Bytes::copy_from_slice(lock.as_bytes()), Revision(self.revision), LeaseId(lease));
        let (key, owner) = (contender_key(&lock, lease), String::new());
        let entry = Entry { key, token, lease, mode: Some(mode), is_native: true, holds: false, owner };
        let queue = self.queues.entry(lock).or_default();
        queue.push(entry);
        settle(queue);
        queue.last_mut().unwrap()
    }

    fn leave(&mut self, lease: i64) {
        for queue in self.queues.values_mut() {
            queue.retain(|entry| entry.lease != LeaseId(lease));
            settle(queue);
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&Bytes, &Entry)> {
        self.queues.iter().flat_map(|(lock, queue)| queue.iter().map(move |entry| (lock, entry)))
    }

    fn waits(&self, lease: i64) -> bool {
        self.entries().any(|(_, entry)| entry.lease == LeaseId(lease) && !entry.holds)
    }

    /// Sessions that wait whatever the others do that can do anything: those let go of all, again and again.
    fn stuck(&self) -> BTreeSet<i64> {
        let mut toy = self.clone();
        loop {
            let leases: BTreeSet<i64> = toy.entries().map(|(_, entry)| entry.lease.0).collect();
            match leases.iter().find(|lease| !toy.waits(**lease)) {
                Some(free) => toy.leave(*free),
                None => return leases,
            }
        }
    }

    /// What a session finds that waits for this lock.
    fn look(&self, lock: &str, lease: i64) -> Option<Vec<Wait>> {
        let (lock, lease) = (Bytes::copy_from_slice(lock.as_bytes()), LeaseId(lease));
        let mut search = Search::new(lease, &contender_key(&lock, lease), lock.clone(), self.queues[&lock].clone())?;
        loop {
            match search.step() {
                Step::Found(cycle) => return Some(cycle),
                Step::Nothing => return None,
                Step::Ask(lease) => {
                    let is_in = |queue: &[Entry]| queue.iter().any(|entry| entry.lease == lease);
                    let wanted = self.queues.iter().filter(|(_, queue)| is_in(queue));
                    search.learn(lease, wanted.map(|(lock, queue)| (lock.clone(), queue.clone())).collect());
                }
            }
        }
    }

    /// The same as lock, waiter, and who is ahead.
    fn told(&self, lock: &str, lease: i64) -> Option<Vec<(String, i64, i64)>> {
        let told =
            |wait: Wait| (String::from_utf8(wait.lock.to_vec()).unwrap(), wait.waiter.lease.0, wait.ahead.lease.0);
        self.look(lock, lease).map(|cycle| cycle.into_iter().map(told).collect())
    }
}

/// The front that may hold together, holds.
fn settle(queue: &mut [Entry]) {
    for place in 0..queue.len() {
        let (front, entry) = (&queue[..place], &queue[place]);
        let is_alone = |entry: &Entry| entry.mode == Some(ALONE);
        let permits = |entry: &Entry| match entry.mode {
            Some(Mode::Semaphore { permits, limit }) => (permits, limit),
            _ => (0, 0),
        };
        let taken: u32 = front.iter().map(|entry| permits(entry).0).sum();
        let (wanted, limit) = permits(entry);
        let fits = front.is_empty() || !(is_alone(entry) || front.iter().any(is_alone)) && taken + wanted <= limit;
        if !fits {
            return;
        }
        queue[place].holds = true;
    }
}

fn told(waits: &[(&str, i64, i64)]) -> Option<Vec<(String, i64, i64)>> {
    Some(waits.iter().map(|(lock, waiter, ahead)| ((*lock).to_owned(), *waiter, *ahead)).collect())
}

#[test]
fn of_two_that_wait_for_each_other_the_younger_request_finds_it() {
    let mut toy = Toy::default();
    toy.join("a", 1, ALONE);
    toy.join("b", 2, ALONE);
    toy.join("b", 1, ALONE);
    assert_eq!(toy.told("b", 1), None, "session 2 goes on");
    toy.join("a", 2, ALONE);
    assert_eq!(toy.told("a", 2), told(&[("a", 2, 1), ("b", 1, 2)]));
    assert_eq!(toy.told("b", 1), None, "the other's business");
}

#[test]
fn a_ring_is_found_up_to_its_greatest_length() {
    for (sessions, is_found) in [(3, true), (WAITS_MAX, true), (WAITS_MAX + 1, false)] {
        let mut toy = Toy::default();
        let sessions = i64::try_from(sessions).unwrap();
        for session in 1..=sessions {
            toy.join(&format!("l{session}"), session, ALONE);
        }
        for session in 1..=sessions {
            toy.join(&format!("l{}", session % sessions + 1), session, ALONE);
        }
        let found: Vec<i64> = (1..=sessions)
            .filter(|session| toy.look(&format!("l{}", session % sessions + 1), *session).is_some())
            .collect();
        assert_eq!(found, if is_found { vec![sessions] } else { vec![] }, "{sessions}");
    }
}

#[test]
fn a_reader_waits_for_the_writer_ahead_and_not_for_readers() {
    let mut toy = Toy::default();
    toy.join("b", 3, ALONE);
    toy.join("r", 1, SHARED);
    toy.join("r", 3, SHARED);
    toy.join("b", 1, ALONE);
    assert_eq!(toy.told("b", 1), None, "both read");
    let mut toy = Toy::default();
    toy.join("b", 3, ALONE);
    toy.join("r", 1, SHARED);
    toy.join("r", 2, ALONE);
    toy.join("r", 3, SHARED);
    toy.join("b", 1, ALONE);
    assert_eq!(toy.told("b", 1), told(&[("b", 1, 3), ("r", 3, 2), ("r", 2, 1)]));
}

#[test]
fn permits_that_any_holder_can_give_are_no_deadlock_and_those_of_one_alone_are() {
    let permits = |permits| Mode::Semaphore { permits, limit: 3 };
    for (holders, is_deadlock) in [([1, 2], false), ([2, 1], true)] {
        let mut toy = Toy::default();
        toy.join("x", 3, ALONE);
        // Session 1 waits for session 3; session 2 works.
        toy.join("s", 1, permits(holders[0]));
        toy.join("s", 2, permits(holders[1]));
        toy.join("x", 1, ALONE);
        toy.join("s", 3, permits(2));
        assert_eq!(toy.look("s", 3).is_some(), is_deadlock);
        assert_eq!(toy.stuck().contains(&3), is_deadlock);
    }
}

#[test]
fn what_may_be_nobodys_or_may_not_wait_leads_nowhere() {
    let ring = |change: fn(&mut Entry), which: usize| {
        let mut toy = Toy::default();
        for (place, (lock, lease)) in [("a", 1), ("b", 2), ("b", 1), ("a", 2)].into_iter().enumerate() {
            let entry = toy.join(lock, lease, ALONE);
            if place == which {
                change(entry);
            }
        }
        toy.look("a", 2).is_some()
    };
    assert!(ring(|_| {}, 0) && ring(|entry| entry.is_native = false, 0), "etcd's clients can hold");
    assert!(!ring(|entry| entry.is_native = false, 2), "and may do something else than wait");
    assert!(!ring(|entry| entry.lease = LeaseId::NONE, 0), "it stays for its delay");
    assert!(!ring(|entry| entry.lease = LeaseId(9), 0), "it was written onto another lease");
    assert!(!ring(|entry| entry.mode = None, 2), "a mode that came later");
}

/// Another task of its session waits there, and lets go when it had its turn.
#[test]
fn a_way_back_to_what_the_own_session_only_waits_for_is_none() {
    let mut toy = Toy::default();
    toy.join("a", 1, ALONE);
    toy.join("k", 9, ALONE);
    toy.join("k", 2, ALONE);
    toy.join("k", 1, ALONE);
    toy.join("a", 2, ALONE);
    assert_eq!(toy.told("a", 2), None);
    toy.leave(9);
    assert_eq!(toy.told("a", 2), told(&[("a", 2, 1), ("k", 1, 2)]));
}

#[test]
fn a_session_can_wait_for_itself_under_a_longer_name() {
    let mut toy = Toy::default();
    let entry = toy.join("a", 7, ALONE);
    (entry.key, entry.is_native) = ("a/b/7".into(), false);
    toy.join("a", 7, ALONE);
    assert_eq!(toy.told("a", 7), told(&[("a", 7, 7)]));
}

#[test]
fn a_wait_is_the_same_only_with_the_same_entries_in_the_same_roles() {
    let mut toy = Toy::default();
    toy.join("a", 1, ALONE);
    toy.join("a", 2, ALONE);
    let queue = toy.queues[&Bytes::from("a")].clone();
    let wait = Wait { lock: "a".into(), waiter: queue[1].clone(), ahead: queue[0].clone() };
    assert!(wait.is_in(&queue));
    assert!(!wait.is_in(&queue[1..]) && !wait.is_in(&queue[..1]));
    let changed = |change: fn(&mut Entry), which: usize| {
        let mut queue = queue.clone();
        change(&mut queue[which]);
        wait.is_in(&queue)
    };
    assert!(!changed(|entry| entry.token = Revision(9), 0), "it came back");
    assert!(!changed(|entry| entry.token = Revision(9), 1), "it gave up and asked again");
    assert!(!changed(|entry| entry.holds = true, 1), "it waits no more");
    assert!(!changed(|entry| entry.lease = LeaseId(9), 0), "it is another session's");
}

/// How a lock can be wanted. Sharers and semaphores do not mix.
fn mode(lock: usize, kind: u32, has_semaphores: bool) -> Mode {
    match kind {
        0 => ALONE,
        permits if lock.is_multiple_of(2) && has_semaphores => Mode::Semaphore { permits, limit: 3 },
        _ => SHARED,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Sessions of one task take, wait and let go at random. Nobody is told of a deadlock who is in none. Without semaphores every
    /// deadlock is found by somebody, and none is left when all who were told let go.
    #[test]
    fn deadlocks_are_found_and_nothing_else(
        has_semaphores in any::<bool>(), steps in prop::collection::vec((1i64..6, 0usize..5, 0u32..4, 0u32..8), 1..40),
    ) {
        let mut toy = Toy::default();
        for (session, lock, kind, chance) in steps {
            let name = format!("l{lock}");
            let is_there = toy.entries().any(|(at, entry)| *at == name && entry.lease == LeaseId(session));
            if toy.waits(session) {
                continue;
            }
            if chance == 0 {
                toy.leave(session);
            } else if !is_there {
                toy.join(&name, session, mode(lock, kind, has_semaphores));
            }
        }
        let stuck = toy.stuck();
        let mut victims = Vec::new();
        for (lock, entry) in toy.entries().filter(|(_, entry)| !entry.holds) {
            let Some(cycle) = toy.look(std::str::from_utf8(lock).unwrap(), entry.lease.0) else { continue };
            victims.push(entry.lease.0);
            prop_assert_eq!(cycle.first().map(|wait| &wait.waiter), Some(entry));
            prop_assert_eq!(cycle.last().map(|wait| wait.ahead.lease), Some(entry.lease));
            for wait in cycle {
                prop_assert!(stuck.contains(&wait.waiter.lease.0), "{:?} can go on", wait.waiter);
                prop_assert!(wait.waiter.token <= entry.token && wait.is_in(&toy.queues[&wait.lock]));
            }
        }
        prop_assert!(has_semaphores || stuck.is_empty() || !victims.is_empty(), "nobody finds it");
        victims.iter().for_each(|victim| toy.leave(*victim));
        prop_assert!(has_semaphores || toy.stuck().is_empty(), "some are left");
    }
}
