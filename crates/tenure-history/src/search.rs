//! The search for an order of all operations that respects real time and explains every answer.
//!
//! It is Wing and Gong's, in Lowe's just-in-time form: the history is walked in time; an operation is put into the order
//! no earlier than the return of some operation demands it. What makes it fast is that answers carry revisions:
//!
//! - An acked write of revision r is the only thing that can make revision r. So the order of the acked writes is given,
//!   and an operation answered at revision r demands all writes up to r, neither more nor fewer.
//! - A read answered at revision r stands between the writes r and r + 1: it is compared when r is reached, and no write
//!   r + 1 is placed while such a read is still to come.
//! - Operations that change nothing are placed as soon as the state fits; that never closes a way.
//! - What is left to choose: who made a revision that nobody claims (a write of unknown outcome, or a lease's end), when a
//!   lease without keys ended, and the order of compactions. [`crate::evidence`] refutes and sorts those candidates; the
//!   search takes the best and comes back if it was wrong.
//! - A state (keys, leases, counters, operations placed) that was searched from before is not searched again.
//!
//! With all unknowns placed by evidence the walk is linear. It is exact: it ends with an order, with the certainty that
//! there is none, or by saying that its steps are used up.

mod blame;
mod moves;
mod plan;
mod repair;
mod step;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use blame::Blame;
use repair::Learnt;

use crate::ids::{LeaseId, Moment, Revision};
use crate::model::{Change, Store, hash_of};
use crate::response::{Body, KeyValue, Outcome, Refusal};
use crate::truth::{Cause, Truth};
use crate::verdict::Window;

pub(crate) use plan::{Kind, Plan};

/// How a search ends.
#[derive(Debug)]
pub(crate) enum End {
    /// There is such an order: these are the revisions in it.
    Ordered(Truth),
    /// There is none. This is the failure that was met furthest on.
    Failed(Failure),
    /// Too many steps.
    GaveUp(Window, Failure),
}

/// Where a way ended.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// How far it came: the event.
    pub(crate) event: usize,
    /// The store's revision there.
    pub(crate) revision: Revision,
    /// The operation that could not be placed.
    pub(crate) operation: usize,
    /// Why.
    pub(crate) reason: Reason,
}

/// Why a way ended.
#[derive(Clone, Debug)]
pub(crate) enum Reason {
    /// The model answers something else.
    Answer(Result<Body, Refusal>),
    /// A revision that it needs is claimed by an operation that was called only later.
    CalledLater(usize),
    /// An operation that returned before it was called needs a later revision.
    Passed(usize),
    /// The revision is past already.
    Overtaken,
    /// Nothing can have made this revision.
    Unexplained(Revision),
    /// A lease that it needs is not alive.
    LeaseGone(LeaseId),
    /// It needs a state that nothing leads to.
    Unreachable,
}

/// One thing that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Move {
    /// An operation takes effect.
    Operation(usize),
    /// A lease ends, with its keys if it has any.
    Expire(LeaseId),
    /// Somebody outside the view writes.
    Other,
}

enum Undo {
    Done(usize),
    Opened(usize),
    Closed(usize),
    Advanced { changes: Vec<Change>, remembered: u128, cause: Cause },
    Lease { lease: LeaseId, lived: bool },
    Compacted(Revision),
}

struct Choice {
    event: usize,
    mark: usize,
    moves: Vec<Move>,
    next: usize,
    revision: Revision,
}

pub(crate) struct Search<'p> {
    plan: &'p Plan<'p>,
    store: Store,
    done: Vec<bool>,
    done_hash: u128,
    /// Refusals, renewals and the like that were called and do not fit yet.
    open: BTreeSet<usize>,
    /// A hash of the states at old revisions that are read later.
    remembered: u128,
    event: usize,
    journal: Vec<Undo>,
    choices: Vec<Choice>,
    seen: HashSet<u128>,
    /// Whether to go back to a choice that has to do with the failure, skipping others: quick, and not complete.
    hasty: bool,
    /// What the last failure was about, if that can be said.
    blame: Option<Blame>,
    learnt: Learnt,
    steps: u64,
    best: Option<Failure>,
    /// For each revision reached, the state found there, or that there were several. Only kept if asked for.
    pub(crate) states: Option<BTreeMap<Revision, Option<u128>>>,
    /// Where to take a snapshot.
    pub(crate) stop_at: Option<Revision>,
    /// The snapshot: the keys, and which operations were placed before.
    pub(crate) snapshot: Option<(Vec<KeyValue>, Vec<bool>)>,
}

impl<'p> Search<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>) -> Search<'p> {
        Search {
            plan,
            store: Store::new(plan.initial),
            done: vec![false; plan.operations.len()],
            done_hash: 0,
            open: BTreeSet::new(),
            remembered: 0,
            event: 0,
            journal: Vec::new(),
            choices: Vec::new(),
            seen: HashSet::new(),
            hasty: false,
            blame: None,
            learnt: Learnt::default(),
            steps: 0,
            best: None,
            states: None,
            stop_at: None,
            snapshot: None,
        }
    }

    /// A search that goes back by guess: what it finds is an order, but if it finds none there may be one.
    pub(crate) fn hasty(plan: &'p Plan<'p>) -> Search<'p> {
        Search { hasty: true, ..Search::new(plan) }
    }

    /// Steps taken so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Searches, for at most so many steps.
    pub(crate) fn run(&mut self, steps_max: u64) -> End {
        loop {
            let Some(event) = self.plan.events.get(self.event) else {
                self.follow_watchers();
                return End::Ordered(self.truth());
            };
            let operation = event.operation;
            let went_on = if !event.is_return {
                // Going over the same events again is what takes the hasty search's time.
                self.steps += u64::from(self.hasty);
                self.call(operation)
            } else if self.done[operation] {
                self.event += 1;
                true
            } else if self.steps >= steps_max {
                return self.give_up();
            } else {
                self.demand(operation)
            };
            if !went_on && !self.backtrack() {
                return End::Failed(self.failure());
            }
        }
    }

    fn call(&mut self, operation: usize) -> bool {
        let ok = match self.plan.kinds[operation] {
            Kind::Slot(revision) if revision == self.store.revision() => self.observe(operation),
            Kind::Slot(revision) | Kind::Silent(revision) | Kind::Write(revision) | Kind::Revoke(revision)
                if revision < self.store.revision() =>
            {
                self.fail(operation, Reason::Overtaken)
            }
            Kind::Floating => {
                self.open.insert(operation);
                self.journal.push(Undo::Opened(operation));
                self.settle_open();
                true
            }
            Kind::Slot(_) | Kind::Silent(_) | Kind::Write(_) | Kind::Revoke(_) | Kind::Unknown => true,
        };
        self.event += usize::from(ok);
        ok
    }

    /// The operation returns and is not placed: takes one step towards it.
    fn demand(&mut self, operation: usize) -> bool {
        self.steps += 1;
        if !self.hasty && !self.choices.is_empty() && !self.seen.insert(self.key()) {
            return false;
        }
        self.blame = None;
        let mut moves = self.moves_for(operation);
        if let [only] = moves[..]
            && !(self.hasty && self.is_guess(only))
        {
            return self.apply(only);
        }
        if moves.is_empty() {
            return false;
        }
        if !self.hasty && self.choices.is_empty() {
            self.seen.insert(self.key());
        }
        if self.hasty {
            self.sort_by_score(&mut moves);
        }
        let (event, mark, revision, first) = (self.event, self.journal.len(), self.store.revision(), moves[0]);
        self.choices.push(Choice { event, mark, moves, next: 1, revision });
        self.apply(first)
    }

    /// Goes back to the last choice that has another way and takes it; false if there is none.
    fn backtrack(&mut self) -> bool {
        if self.hasty {
            self.steps += 1;
            return self.makes_progress() && self.repair();
        }
        while let Some(choice) = self.choices.last() {
            let (mark, event) = (choice.mark, choice.event);
            self.undo_to(mark);
            self.event = event;
            match self.next_way() {
                None => drop(self.choices.pop()),
                Some(way) => {
                    self.steps += 1;
                    if self.apply(way) {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// The next way of the last choice, whose state is the present one.
    fn next_way(&mut self) -> Option<Move> {
        let choice = self.choices.last_mut()?;
        choice.next += 1;
        choice.moves.get(choice.next - 1).copied()
    }

    /// Whether two moments of the search are one and the same, as far as anything after them goes.
    fn key(&self) -> u128 {
        hash_of(&(self.event, self.store.hash(), self.done_hash, self.remembered))
    }

    fn fail(&mut self, operation: usize, reason: Reason) -> bool {
        if self.hasty {
            self.blame = self.blame.take().or_else(|| self.blame_for(operation, &reason));
        }
        if self.best.as_ref().is_none_or(|best| self.event > best.event) {
            let revision = self.store.revision();
            self.best = Some(Failure { event: self.event, revision, operation, reason });
        }
        false
    }

    fn failure(&self) -> Failure {
        let nothing = Failure { event: 0, revision: self.store.revision(), operation: 0, reason: Reason::Unreachable };
        self.best.clone().unwrap_or(nothing)
    }

    fn give_up(&self) -> End {
        let failure = self.failure();
        let moment = |event: usize| self.plan.events.get(event).map_or(Moment(0), |event| event.at);
        let first = self.choices.first();
        let unknown = |at: &&usize| self.plan.called_at[**at] < failure.event && !self.done[**at];
        let window = Window {
            from_revision: first.map_or(self.store.revision(), |choice| choice.revision),
            to_revision: failure.revision.max(self.store.revision()),
            from: moment(first.map_or(0, |choice| choice.event)),
            to: moment(failure.event.max(self.event)),
            unknown: self.plan.unknowns.iter().filter(unknown).count(),
            steps: self.steps,
        };
        End::GaveUp(window, failure)
    }

    fn truth(&mut self) -> Truth {
        let mut truth = Truth::new(self.plan.initial);
        for undo in core::mem::take(&mut self.journal) {
            match undo {
                Undo::Advanced { changes, cause, .. } => truth.push(changes, cause),
                Undo::Compacted(_) | Undo::Done(_) | Undo::Opened(_) | Undo::Closed(_) | Undo::Lease { .. } => {}
            }
        }
        truth.set_compacted(self.store.compacted());
        truth
    }

    fn is_called(&self, operation: usize) -> bool {
        self.plan.called_at[operation] < self.event
    }

    fn is_open(&self, operation: usize) -> bool {
        self.is_called(operation) && !self.done[operation]
    }

    fn outcome(&self, operation: usize) -> &'p Outcome {
        &self.plan.operations[operation].outcome
    }
}
