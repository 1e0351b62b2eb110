//! The clock's law, on a small world of nodes that lead, lag, restart and disagree about the speed of time: no lease ends
//! before its client may believe so, and no time is lost but on the way to other nodes. The world is the log and nothing
//! else, so that only the clock can be at fault.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRng, TestRunner};
use tenure_core::apply::{ends_ms, renewal_counts_ms};
use tenure_core::row::{Incarnation, LeaseRow};

use super::*;

const NODES: usize = 3;

/// The one lease of the world, as its client sees it.
const TTL_MS: u64 = 10_000;

/// Nodes' and clients' clocks differ by at most half a percent, here in parts of a million of true time.
const RATE_PPM: i64 = 2_500;

/// By how much the clock of a leader may be behind its successor's when it answers by it, and rounding.
const CLOCKS_APART_MS: u64 = OWN_READING_AGE_MAX_MS / 200 + 2;

/// A reading is in whole milliseconds.
const ROUNDING_US: u64 = 1000;

#[derive(Clone, Debug)]
enum Step {
    /// True time goes on.
    Pass { ms: u64 },
    /// Some of what the log holds arrives at a node.
    Arrive { node: usize, entries: usize },
    /// A node applies some of what has arrived.
    Apply { node: usize, entries: usize },
    /// A node wins the next term; it has all of the log, or it would not win.
    Elect { node: usize },
    /// The leader takes a reading, and holds it for a while before its entry is appended.
    Propose { what: What },
    /// One of the entries held is appended, or refused because its term is over.
    Append { which: usize },
    /// A node learns the whole log, and answers a keepalive without adding to it, if it may.
    Answer { node: usize },
    /// A node starts again on what it had applied, but for some entries that it had not flushed.
    Restart { node: usize, lost: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Tick,
    Renew,
    Expire,
}

/// A bug planted in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Nodes count anew only when the largest reading moved.
    OnlyWhenItMoves,
    /// Nodes count anew only upwards.
    OnlyUpwards,
    /// Leases are due at their TTL, without a margin.
    NoMargin,
    /// Nodes count from before a reading arrived.
    ArrivedTooEarly,
    /// Nodes count from when a reading is applied: safe, but late.
    FromApply,
    /// Leaders answer keepalives by their clocks although no reading of their own is known.
    AnswerByAnyReading,
    /// They answer for much longer than lessors wait.
    AnswerForLong,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    term: Term,
    reading: u64,
    what: What,
    /// The true time, in microseconds, at which the reading was taken; the client asked just before.
    taken_us: u64,
    /// For an expiry: the renewals that the leader saw.
    renewals: u64,
    /// How much time the leader's clock may have lost, see [`Node::lost_us`].
    lost_us: u64,
}

/// What applying the log gives.
#[derive(Clone, Copy)]
struct State {
    clock_ms: u64,
    lease: LeaseRow,
}

impl State {
    fn new() -> State {
        let lease = LeaseRow {
            incarnation: Incarnation::default(),
            ttl_ms: TTL_MS,
            renewals: 0,
            clock_ms: 0,
            has_holder: false,
        };
        State { clock_ms: 0, lease }
    }

    fn apply(&mut self, entry: &Entry) {
        self.clock_ms = self.clock_ms.max(entry.reading);
        if entry.what == What::Renew {
            self.lease.renewals += 1;
            self.lease.clock_ms = self.clock_ms;
        }
    }

    fn due_ms(&self, bug: Option<Bug>) -> u64 {
        if bug == Some(Bug::NoMargin) { self.lease.clock_ms + TTL_MS } else { ends_ms(&self.lease) }
    }
}

struct Node {
    clock: LeaseClock,
    /// When each entry that is here arrived, by its own clock and in true time.
    arrived: Vec<(BootInstant, u64)>,
    applied: usize,
    state: State,
    rate_ppm: i64,
    /// How much time its clock may have lost: what the one that it was told by had lost, and what the telling was on its way.
    lost_us: u64,
}

struct World {
    start: BootInstant,
    now_us: u64,
    log: Vec<Entry>,
    /// The state after the whole log.
    state: State,
    held: Vec<Entry>,
    nodes: Vec<Node>,
    leader: usize,
    term: Term,
    /// The length of the log when the leader won; it hands out no reading before it has applied that much.
    term_begin: usize,
    /// How often a lease was ended.
    ended: usize,
    /// When a keepalive was last answered without the log, in true time, and how often.
    answered_us: u64,
    answers: usize,
    bug: Option<Bug>,
}

impl World {
    fn new(rates: &[i64], bug: Option<Bug>) -> World {
        let start = BootInstant::now();
        let node = |rate: &i64| {
            let clock = LeaseClock::new(0, start);
            Node { clock, arrived: Vec::new(), applied: 0, state: State::new(), rate_ppm: *rate, lost_us: 0 }
        };
        let nodes = rates.iter().map(node).collect();
        let (log, state, held, term) = (Vec::new(), State::new(), Vec::new(), Term(1));
        let (leader, term_begin, ended, answered_us, answers) = (0, 0, 0, 0, 0);
        World { start, now_us: 0, log, state, held, nodes, leader, term, term_begin, ended, answered_us, answers, bug }
    }

    /// The present by a node's own clock.
    fn now(&self, node: usize) -> BootInstant {
        let ppm = 1_000_000u64.checked_add_signed(self.nodes[node].rate_ppm).expect("a small rate");
        self.start + Duration::from_nanos(self.now_us * ppm / 1000)
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Pass { ms } => self.now_us += ms * 1000,
            Step::Arrive { node, entries } => self.arrive(*node, *entries),
            Step::Apply { node, entries } => {
                for _ in 0..*entries {
                    self.apply_next(*node);
                }
            }
            Step::Elect { node } => {
                self.arrive(*node, usize::MAX);
                self.leader = *node;
                self.term = Term(self.term.0 + 1);
                self.term_begin = self.log.len();
            }
            Step::Propose { what } => return self.propose(*what),
            Step::Append { which } => return self.append(*which),
            Step::Answer { node } => self.answer(*node),
            Step::Restart { node, lost } => self.restart(*node, *lost),
        }
        Ok(())
    }

    fn arrive(&mut self, at: usize, entries: usize) {
        let now = (self.now(at), self.now_us);
        let arrived = &mut self.nodes[at].arrived;
        arrived.resize(arrived.len().saturating_add(entries).min(self.log.len()), now);
    }

    fn apply_next(&mut self, at: usize) {
        let now = self.now(at);
        let node = &mut self.nodes[at];
        let Some((mut arrived, arrived_us)) = node.arrived.get(node.applied).copied() else { return };
        let entry = &self.log[node.applied];
        node.applied += 1;
        let moved = entry.reading > node.state.clock_ms;
        node.state.apply(entry);
        let counts = match self.bug {
            Some(Bug::OnlyWhenItMoves) => moved,
            Some(Bug::OnlyUpwards) => node.state.clock_ms > node.clock.reading(now),
            _ => true,
        };
        match self.bug {
            Some(Bug::ArrivedTooEarly) => arrived -= Duration::from_secs(2),
            Some(Bug::FromApply) => arrived = now,
            _ => {}
        }
        if node.clock.reckoning().own_term != Some(entry.term) {
            node.lost_us = entry.lost_us + (arrived_us - entry.taken_us) + ROUNDING_US;
        }
        if counts {
            node.clock.told(node.state.clock_ms, entry.term, arrived, now);
        }
    }

    fn propose(&mut self, what: What) -> Result<(), TestCaseError> {
        let (term, now) = (self.term, self.now(self.leader));
        let node = &mut self.nodes[self.leader];
        if node.applied < self.term_begin {
            return Ok(());
        }
        let reading = node.clock.hand_out(term, now);
        let slow_us = self.now_us * RATE_PPM.unsigned_abs() / 1_000_000;
        let behind_us = self.now_us.saturating_sub(1000 * reading);
        let may_us = node.lost_us + slow_us + ROUNDING_US;
        // What ends leases early must be found by that.
        let looks = matches!(self.bug, None | Some(Bug::FromApply | Bug::AnswerByAnyReading | Bug::AnswerForLong));
        prop_assert!(!looks || behind_us <= may_us, "{behind_us} µs behind, {may_us} µs of them on the way");
        if what == What::Expire && reading < node.state.due_ms(self.bug) {
            return Ok(());
        }
        let (renewals, lost_us) = (node.state.lease.renewals, node.lost_us);
        self.held.push(Entry { term, reading, what, taken_us: self.now_us, renewals, lost_us });
        Ok(())
    }

    fn append(&mut self, which: usize) -> Result<(), TestCaseError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let entry = self.held.swap_remove(which % self.held.len());
        if entry.term != self.term {
            return Ok(());
        }
        self.log.push(entry);
        self.arrive(self.leader, 1);
        self.state.apply(&entry);
        let holds = self.state.lease.renewals == entry.renewals && self.state.clock_ms >= self.state.due_ms(self.bug);
        if entry.what == What::Expire && holds {
            let renewals = self.log.iter().filter(|entry| entry.what == What::Renew);
            let renewed_us = renewals.map(|renewal| renewal.taken_us).max().unwrap_or(0).max(self.answered_us);
            let by_the_slowest_client =
                entry.taken_us.saturating_sub(renewed_us) * (1_000_000 - RATE_PPM.unsigned_abs()) / 1_000_000;
            prop_assert!(by_the_slowest_client >= TTL_MS * 1000, "ended after {by_the_slowest_client} µs");
            self.ended += 1;
        }
        Ok(())
    }

    fn answer(&mut self, at: usize) {
        // It has waited for a read index.
        self.arrive(at, usize::MAX);
        (0..self.log.len()).for_each(|_| self.apply_next(at));
        let (now, node) = (self.now(at), &self.nodes[at]);
        let Some(term) = node.clock.reckoning().own_term else { return };
        let by_any = (self.bug == Some(Bug::AnswerByAnyReading)).then(|| node.clock.reading(now));
        let counts_ms = if self.bug == Some(Bug::AnswerForLong) { TTL_MS / 3 } else { renewal_counts_ms(TTL_MS) };
        let reading = by_any.or_else(|| node.clock.leading(term, now));
        if reading.is_some_and(|reading| reading + CLOCKS_APART_MS <= self.state.lease.clock_ms + counts_ms) {
            (self.answered_us, self.answers) = (self.now_us, self.answers + 1);
        }
    }

    fn restart(&mut self, at: usize, lost: usize) {
        let (now, now_us) = (self.now(at), self.now_us);
        let node = &mut self.nodes[at];
        node.applied = node.applied.saturating_sub(lost);
        node.state = State::new();
        self.log[..node.applied].iter().for_each(|entry| node.state.apply(entry));
        node.clock = LeaseClock::new(node.state.clock_ms, now);
        // What it has in its log arrived before, nobody knows when.
        node.arrived.fill((now, now_us));
        let last = node.applied.checked_sub(1).map(|last| &self.log[last]);
        node.lost_us = last.map_or(now_us, |last| last.lost_us + (now_us - last.taken_us) + ROUNDING_US);
        if self.leader == at {
            // A term belongs to one process. Nobody leads until the next election.
            self.term = Term(self.term.0 + 1);
            self.term_begin = usize::MAX;
        }
    }
}

/// Out of small numbers rather than of nested strategies: stories are long, and there are many.
fn step((kind, by, ms): (u8, u8, u16)) -> Step {
    let (which, ms) = (usize::from(by), u64::from(ms));
    let node = which % NODES;
    match kind % 32 {
        0 | 1 => Step::Pass { ms: ms % 40 },
        2..=4 => Step::Pass { ms: ms % 800 },
        5 | 6 => Step::Pass { ms: ms % 6000 },
        7..=9 => Step::Arrive { node, entries: 1 + which % 5 },
        10..=12 => Step::Apply { node, entries: 1 + which % 5 },
        13 | 14 => Step::Elect { node },
        15..=17 => Step::Propose { what: What::Tick },
        18 | 19 => Step::Propose { what: What::Renew },
        20..=22 => Step::Propose { what: What::Expire },
        23..=28 => Step::Append { which },
        29 | 30 => Step::Answer { node },
        _ => Step::Restart { node, lost: which % 9 },
    }
}

type Story = (Vec<i64>, Vec<Step>);

fn story() -> impl Strategy<Value = Story> {
    let steps = vec(any::<(u8, u8, u16)>(), 20..200);
    (vec(-RATE_PPM..=RATE_PPM, NODES), steps.prop_map(|steps| steps.into_iter().map(step).collect()))
}

/// How many leases ended, and how many keepalives were answered without the log.
fn tell((rates, steps): &Story, bug: Option<Bug>) -> Result<(usize, usize), TestCaseError> {
    let mut world = World::new(rates, bug);
    for step in steps {
        world.step(step)?;
    }
    Ok((world.ended, world.answers))
}

fn runner(cases: u32) -> TestRunner {
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::with_cases(cases) };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    TestRunner::new_with_rng(config, rng)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn no_lease_ends_early_and_no_time_is_lost_whoever_leads(story in story()) {
        tell(&story, None)?;
    }
}

/// The law is not vacuous: leases do end in these stories, and bugs are found in them, each by the part that it breaks.
#[test]
fn planted_bugs_are_found() {
    let seen = std::cell::Cell::new((0, 0));
    let told = runner(2000).run(&story(), |story| {
        let ((ended, answers), (more_ended, more_answers)) = (seen.get(), tell(&story, None)?);
        seen.set((ended + more_ended, answers + more_answers));
        Ok(())
    });
    told.expect("the law holds");
    let (ended, answers) = seen.get();
    assert!(ended > 200 && answers > 200, "{ended} leases ended, {answers} keepalives were answered without the log");
    let early = [Bug::OnlyWhenItMoves, Bug::OnlyUpwards, Bug::NoMargin, Bug::ArrivedTooEarly];
    for bug in early.into_iter().chain([Bug::FromApply, Bug::AnswerByAnyReading, Bug::AnswerForLong]) {
        let result = runner(20_000).run(&story(), |story| tell(&story, Some(bug)).map(drop));
        let Err(TestError::Fail(reason, _)) = result else { panic!("{bug:?} was not found") };
        let part = if bug == Bug::FromApply { "on the way" } else { "ended after" };
        assert!(reason.message().contains(part), "{bug:?} is found as {reason}");
    }
}

#[test]
fn a_leader_goes_on_by_its_own_time_in_its_own_term() {
    let start = BootInstant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let clock = LeaseClock::new(1000, start);
    assert_eq!(clock.hand_out(Term(2), at(10)), 1010);
    clock.told(1010, Term(2), at(20), at(500));
    assert_eq!(clock.reading(at(600)), 1600, "the 490 ms that the commit took are not lost");
    assert_eq!(clock.told_at(), at(500));
    clock.told(1400, Term(3), at(700), at(700));
    assert_eq!(clock.reading(at(701)), 1401, "another leader's reading counts, even backwards");
    clock.told(1400, Term(3), at(900), at(900));
    assert_eq!(clock.reading(at(901)), 1401, "and again, although the largest did not move");
}

#[test]
fn changes_of_leader_cost_no_more_than_the_way_to_the_next_one() {
    const WAY_MS: u64 = 5;
    const WITHOUT_LEADER_MS: u64 = 1500;
    let start = BootInstant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let clocks = [LeaseClock::new(0, start), LeaseClock::new(0, start)];
    let mut now_ms = 0;
    for (term, leader) in (1..=20).zip([0, 1].into_iter().cycle()) {
        now_ms += 3000;
        let reading = clocks[leader].hand_out(Term(term), at(now_ms));
        // The leader dies, and the next applies this only once it leads.
        let (arrived, applied) = (at(now_ms + WAY_MS), at(now_ms + WITHOUT_LEADER_MS));
        clocks[1 - leader].told(reading, Term(term), arrived, applied);
        now_ms += WITHOUT_LEADER_MS;
    }
    let behind = now_ms - clocks[0].reading(at(now_ms));
    assert!(behind <= 20 * WAY_MS, "{behind} ms behind");
}

#[test]
fn a_snapshot_brings_its_own_clock() {
    let start = BootInstant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let clock = LeaseClock::new(0, start);
    clock.replaced(70_000, at(5000));
    assert_eq!(clock.reading(at(5001)), 70_001);
    assert_eq!(clock.told_at(), at(5000));
}

#[test]
fn a_clock_stands_rather_than_runs_back_or_over() {
    let start = BootInstant::now() + Duration::from_secs(1000);
    let clock = LeaseClock::new(u64::MAX - 1, start);
    assert_eq!(clock.reading(start - Duration::from_secs(10)), u64::MAX - 1);
    assert_eq!(clock.reading(start + Duration::from_secs(10)), u64::MAX);
}
