//! Random histories, cut off at every operation of the disk.
//!
//! The law: what is found after a crash is what some moment of the history had, and no moment before the last
//! acknowledged operation. That one sentence holds the order of votes and entries, no lost acknowledgement, and no entry
//! that comes back after it was truncated.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// A history and every state that it went through, an append's entries one by one.
#[derive(Clone, Default)]
struct History {
    states: Vec<Seen>,
    /// The state that was reached when the last acknowledgement came.
    acked: usize,
}

enum Pending {
    Append(Done),
    Vote(tokio::sync::oneshot::Receiver<io::Result<()>>),
}

impl History {
    fn new() -> History {
        History { states: vec![Seen::default()], acked: 0 }
    }

    fn now(&self) -> &Seen {
        self.states.last().unwrap()
    }

    fn then(&mut self, change: impl FnOnce(&mut Seen)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    /// Runs random operations until one fails or `steps` are done.
    fn run(&mut self, log: &mut Log, rng: &mut StdRng, steps: usize) {
        let mut pending = Vec::new();
        for _ in 0..steps {
            if self.operate(log, rng, &mut pending).is_err() {
                break;
            }
            if rng.random_bool(0.4) {
                log.step();
            }
            self.acknowledge(&mut pending);
        }
        log.step();
        self.acknowledge(&mut pending);
    }

    fn acknowledge(&mut self, pending: &mut Vec<(usize, Pending)>) {
        pending.retain_mut(|(state, what)| {
            let result = match what {
                Pending::Append(done) => outcome(done),
                Pending::Vote(done) => done.try_recv().ok(),
            };
            if matches!(result, Some(Ok(()))) {
                self.acked = self.acked.max(*state);
            }
            result.is_none()
        });
    }

    fn operate(&mut self, log: &mut Log, rng: &mut StdRng, pending: &mut Vec<(usize, Pending)>) -> io::Result<()> {
        let last = self.now().last;
        let end = last.map_or(0, |last| last.index + 1);
        match rng.random_range(0..10) {
            0..=4 => {
                let term = last.map_or(1, |last| last.leader_id.term) + u64::from(rng.random_bool(0.1));
                let count = rng.random_range(1..5);
                let entries: Vec<Entry> =
                    (end..end + count).map(|index| entry(term, index, rng.random_range(0..200))).collect();
                for entry in &entries {
                    self.then(|seen| {
                        seen.last = Some(entry.log_id);
                        seen.entries.push(entry.clone());
                    });
                }
                pending.push((self.states.len() - 1, Pending::Append(log.append(entries)?)));
            }
            5 => {
                let term = self.now().vote.map_or(1, |vote| vote.leader_id.term + 1);
                let vote = Vote { committed: rng.random_bool(0.5), ..Vote::new(term, rng.random_range(1..4)) };
                self.then(|seen| seen.vote = Some(vote));
                pending.push((self.states.len() - 1, Pending::Vote(log.vote(vote)?)));
            }
            6 | 7 => {
                let Some(entry) = pick(&self.now().entries, rng) else { return Ok(()) };
                let at = self.now().committed.filter(|at| at.index >= entry.index).unwrap_or(entry);
                self.then(|seen| seen.committed = Some(at));
                log.committed(at)?;
            }
            8 => {
                let committed = self.now().committed.map_or(0, |at| at.index + 1);
                let kept = rng.random_range(committed.min(end)..=end);
                let at = self.now().entries.iter().map(|e| e.log_id).rfind(|id| id.index < kept);
                let at = at.or(self.now().purged);
                self.then(|seen| {
                    seen.entries.retain(|entry| at.is_some_and(|at| entry.log_id.index <= at.index));
                    seen.last = at;
                });
                log.truncate_after(at)?;
            }
            _ => self.purge(log, rng)?,
        }
        Ok(())
    }

    /// Purges up to a committed entry or, as after a snapshot from the leader, beyond the last one.
    fn purge(&mut self, log: &mut Log, rng: &mut StdRng) -> io::Result<()> {
        let now = self.now();
        let beyond = now.last.map(|last| log_id(last.leader_id.term + 1, last.index + rng.random_range(1..4)));
        let committed = pick(&now.entries, rng).filter(|id| now.committed.is_some_and(|at| at.index >= id.index));
        let upto = if rng.random_bool(0.1) { beyond } else { committed };
        let Some(upto) = upto else { return Ok(()) };
        if now.committed.is_none_or(|at| at.index < upto.index) {
            self.then(|seen| seen.committed = Some(upto));
            log.committed(upto)?;
        }
        self.then(|seen| {
            seen.purged = Some(upto);
            seen.entries.retain(|entry| entry.log_id.index > upto.index);
            seen.last = seen.entries.last().map_or(Some(upto), |entry| Some(entry.log_id));
        });
        log.purge(upto)
    }

    /// Checks what was found, and goes on from there.
    fn resume(&mut self, found: &Seen, context: &str) {
        let same = |state: &Seen| *found == Seen { committed: clamped(state), ..state.clone() };
        let Some(at) = (self.acked..self.states.len()).rev().find(|at| same(&self.states[*at])) else {
            panic!("{context}: acked {:#?}\nlatest {:#?}\nfound {found:#?}", self.states[self.acked], self.now());
        };
        // From now on the log counts from what it found, and all of that is durable.
        self.states.truncate(at + 1);
        self.then(|seen| *seen = found.clone());
        self.acked = at + 1;
    }
}

/// The committed mark as a start may use it.
fn clamped(state: &Seen) -> Option<LogId> {
    let (committed, last) = (state.committed?, state.last?);
    if committed.index <= last.index {
        Some(committed)
    } else if committed.leader_id == last.leader_id {
        Some(last)
    } else {
        state.purged
    }
}

fn pick(entries: &[Entry], rng: &mut StdRng) -> Option<LogId> {
    (!entries.is_empty()).then(|| entries[rng.random_range(0..entries.len())].log_id)
}

fn keeps(seed: u64) -> [Keep; 4] {
    [Keep::Nothing, Keep::Everything, Keep::Torn(seed), Keep::Holes(seed)]
}

/// One life of the log that ends at a given operation of the disk, and three lives after it.
fn live_and_die(seed: u64, stop_at: u64, keep: Keep) -> u64 {
    let context = format!("seed {seed}, stopped at {stop_at}, {keep:?}");
    let disk = SimFiles::new();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut history = History::new();
    disk.stop_at(stop_at);
    if let Ok(mut log) = Log::open(&disk, small()) {
        history.run(&mut log, &mut rng, 30);
    }
    let operations = disk.operations();
    // What a start took over must be durable then, so the harshest crash comes second.
    for (life, keep) in [keep, Keep::Nothing, keep].into_iter().enumerate() {
        disk.crash(keep);
        let mut log = Log::open(&disk, small()).unwrap_or_else(|e| panic!("{context}, life {life}: {e}"));
        history.resume(&log.seen().unwrap(), &context);
        history.run(&mut log, &mut rng, 10);
        assert_eq!(log.seen().unwrap(), *history.now(), "{context}, life {life}");
    }
    operations
}

#[test]
fn whatever_operation_a_crash_interrupts_nothing_acknowledged_is_lost() {
    for seed in 0..5 {
        let operations = live_and_die(seed, u64::MAX, Keep::Nothing);
        assert!(operations > 30, "seed {seed} does too little: {operations}");
        for stop_at in 0..=operations {
            for keep in keeps(seed ^ stop_at) {
                live_and_die(seed, stop_at, keep);
            }
        }
    }
}

#[test]
fn what_a_start_found_survives_the_next_power_cut() {
    for seed in 0..20 {
        let disk = SimFiles::new();
        let mut history = History::new();
        disk.stop_at(30 + seed);
        if let Ok(mut log) = Log::open(&disk, small()) {
            history.run(&mut log, &mut StdRng::seed_from_u64(seed), 30);
        }
        disk.crash(Keep::Everything);
        let found = Log::open(&disk, small()).unwrap().seen().unwrap();
        history.resume(&found, "after the process was killed");
        disk.crash(Keep::Nothing);
        assert_eq!(Log::open(&disk, small()).unwrap().seen().unwrap(), found, "seed {seed}");
    }
}

#[test]
fn any_piece_of_the_unsynced_bytes_may_survive() {
    for seed in 100..200 {
        for keep in [Keep::Torn(seed), Keep::Holes(seed)] {
            live_and_die(seed, 20 + seed % 60, keep);
        }
    }
}

#[test]
fn an_error_of_the_disk_at_any_operation_is_told_and_loses_nothing() {
    for seed in 0..2 {
        let operations = live_and_die(seed, u64::MAX, Keep::Nothing);
        for fail_at in 0..operations {
            let context = format!("seed {seed}, operation {fail_at} fails");
            let disk = SimFiles::new();
            let mut rng = StdRng::seed_from_u64(seed);
            let mut history = History::new();
            disk.fail_at(fail_at, io::ErrorKind::StorageFull);
            if let Ok(mut log) = Log::open(&disk, small()) {
                history.run(&mut log, &mut rng, 30);
                let refused = log.append([entry(1, 0, 1)]).expect_err(&context);
                assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{context}: {refused}");
            }
            for keep in keeps(fail_at) {
                disk.crash(keep);
                let mut log = Log::open(&disk, small()).unwrap_or_else(|e| panic!("{context}, {keep:?}: {e}"));
                history.resume(&log.seen().unwrap(), &context);
            }
        }
    }
}
