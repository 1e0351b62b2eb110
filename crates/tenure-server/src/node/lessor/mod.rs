//! The lessor: lets leases end whose holders do not renew them. Only a leader's does anything.
//!
//! `logic` decides, `timers` says when, `feed` brings what was applied; here are the thread, the clock and the proposals.
//! It has a thread of its own because a promotion reads the whole lease table, and nothing else must wait for that. It
//! proposes directly, past the queues of writes, and what it proposes is fenced by term. Everything it knows is rebuilt
//! from the lease table at each promotion.

mod feed;
mod logic;
mod tally;
mod timers;

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tenure_core::command::{Command, LeaseRevoke, LockDelayEnd};
use tenure_core::lock::read::scan_delays;
use tenure_core::planted::{Bug, is_on};
use tenure_core::row::{AlarmKind, ClientName, LeaseRow, RevokedBy};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, LogIndex, Term};
use tenure_raft::RaftNode;
use tenure_raft::runtime::{self, BootInstant, Looping};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use feed::Waiting;
use logic::{Flight, Lessor};

pub use feed::LeaseFeed;
pub use tally::{LATENESS_BOUNDS_MS, Lateness, Tally};

/// How long the clock may go unread in the log while there are leases. A cluster that is restarted goes on from the last
/// reading, so this is what leases may live longer by it.
const TICK: Duration = Duration::from_millis(500);

/// The longest sleep. Promotions are noticed, changes taken and the quorum looked at this often, or four times an
/// election timeout where that is shorter: a gap must not look like an ordinary sleep.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// How long a proposal may take. As long as this leader leads, nothing that it appended is lost, so giving up is for
/// what consensus forgot to answer.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Lock-delays that one group ends, as many as leases.
const DELAYS_PER_GROUP_MAX: usize = 256;

/// How often the table of delays is read at most, and which part of the lessor's time that may take: one in this many.
const DELAYS_INTERVAL: Duration = Duration::from_millis(20);
const DELAYS_SCAN_SHARE: u32 = 20;

/// What the lessor did, for `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct LessorReport {
    /// Leases that this member times; none unless it leads.
    pub live: usize,
    /// How long the lease that is due for longest has been so.
    pub oldest_overdue: Duration,
    /// Promotions.
    pub promotions: u64,
    /// How long the last one took.
    pub promotion_took: Duration,
    /// How long all of them took.
    pub promotions_took: Duration,
    /// Groups that only told the time.
    pub ticks: u64,
    /// What happened to leases.
    pub tally: Tally,
}

/// Where others see the report.
#[derive(Clone, Debug, Default)]
pub struct LessorReports(Arc<Mutex<LessorReport>>);

impl LessorReports {
    /// The report as it is now.
    pub fn read(&self) -> LessorReport {
        self.report().clone()
    }

    fn report(&self) -> MutexGuard<'_, LessorReport> {
        // A half-written report would only be a wrong metric.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running lessor of a member. Dropping it ends it.
#[derive(Debug)]
pub struct LessorThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Looping,
}

impl LessorThread {
    /// Starts the lessor. The feed must be among the effects that the member was started with.
    pub fn start(raft: RaftNode, feed: Arc<LeaseFeed>, reports: LessorReports) -> io::Result<LessorThread> {
        let (stop, stopped) = oneshot::channel();
        let thread = runtime::spawn_loop("lessor", lessor_loop(Shell::new(raft, feed, reports), stopped))?;
        Ok(LessorThread { stop: Some(stop), thread })
    }
}

impl Drop for LessorThread {
    fn drop(&mut self) {
        // Whether it is told or finds the sender gone, it stops.
        self.stop.take();
        self.thread.join();
    }
}

async fn lessor_loop(mut shell: Shell, mut stopped: oneshot::Receiver<()>) {
    loop {
        let sleep = shell.turn();
        tokio::select! {
            _ = &mut stopped => return,
            () = tokio::time::sleep(sleep) => {}
            Some(landed) = shell.proposals.join_next() => shell.landed.extend(landed.ok()),
        }
    }
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landed {
    Flight(u64),
    Tick { applied: bool },
    Delays,
}

struct Shell {
    raft: RaftNode,
    feed: Arc<LeaseFeed>,
    reports: LessorReports,
    leading: Option<Leading>,
    proposals: JoinSet<Landed>,
    landed: Vec<Landed>,
}

/// What there is only while this member leads.
struct Leading {
    term: Term,
    lessor: Lessor,
    /// Runs up to here are in what the lessor began with.
    begun_at: LogIndex,
    ticking: bool,
    /// After a tick that came to nothing: when to try the next.
    tick_again_at: Option<BootInstant>,
    /// Whether ends of lock-delays are on their way, and from when on to look for others.
    ending_delays: bool,
    delays_again_at: BootInstant,
}

impl Shell {
    fn new(raft: RaftNode, feed: Arc<LeaseFeed>, reports: LessorReports) -> Shell {
        Shell { raft, feed, reports, leading: None, proposals: JoinSet::new(), landed: Vec::new() }
    }

    /// Does what is to be done now, and says how long nothing is.
    fn turn(&mut self) -> Duration {
        let sleep_max = SLEEP_MAX.min(self.raft.election_timeout() / 4);
        let promoted = self.raft.promoted();
        if self.leading.as_ref().map(|leading| leading.term) != promoted {
            self.demote();
            if let Some(term) = promoted {
                self.promote(term);
            }
        }
        let landed = std::mem::take(&mut self.landed);
        let Some(mut leading) = self.leading.take() else { return sleep_max };
        self.take_changes(&mut leading);
        let now_ms = self.reading();
        for landed in landed {
            match landed {
                Landed::Flight(number) => leading.lessor.landed(number, now_ms),
                Landed::Delays => leading.ending_delays = false,
                Landed::Tick { applied } => {
                    leading.ticking = false;
                    leading.tick_again_at = (!applied).then(|| BootInstant::now() + SLEEP_MAX);
                    self.reports.report().ticks += u64::from(applied);
                }
            }
        }
        let heard = self.raft.quorum_heard() || is_on(Bug::StaleLessor);
        let may_end = heard && !self.is_corrupt();
        leading.lessor.look(now_ms, may_end);
        if may_end {
            self.end_delays(&mut leading, now_ms);
        }
        for flight in self.flights(&mut leading, now_ms) {
            self.propose(leading.term, flight);
        }
        let until_tick = self.tick(&mut leading);
        self.report(&mut leading, now_ms);
        let until_look = leading.lessor.next_look_ms().map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
        self.leading = Some(leading);
        // A millisecond at least: a reading is rounded down, and may not have come to where it is waited for.
        let sleep = until_look.into_iter().chain(until_tick).min().unwrap_or(sleep_max);
        sleep.clamp(Duration::from_millis(1), sleep_max)
    }

    fn reading(&self) -> u64 {
        self.raft.lease_clock().reading(BootInstant::now())
    }

    /// Whether the alarm is raised under which apply refuses every revoke.
    fn is_corrupt(&self) -> bool {
        self.raft.view().meta().alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt)
    }

    fn promote(&mut self, term: Term) {
        let began = BootInstant::now();
        self.feed.open();
        let Some((begun_at, rows)) = self.lease_table() else { return };
        let grace_ms = u64::try_from(self.raft.election_timeout().as_millis()).unwrap_or(u64::MAX);
        let lessor = Lessor::promote(rows, self.reading(), grace_ms);
        let took = began.elapsed();
        tracing::info!(term = term.0, leases = lessor.live(), ?took, "this member's lessor takes over");
        let mut report = self.reports.report();
        report.promotions += 1;
        report.promotion_took = took;
        report.promotions_took += took;
        drop(report);
        let (ticking, tick_again_at, ending_delays) = (false, None, false);
        let delays_again_at = began;
        self.leading = Some(Leading { term, lessor, begun_at, ticking, tick_again_at, ending_delays, delays_again_at });
    }

    fn demote(&mut self) {
        let Some(mut leading) = self.leading.take() else { return };
        tracing::info!(term = leading.term.0, "this member's lessor steps down");
        self.feed.close();
        // They are fenced by the term that is over; nobody asks what became of them.
        self.proposals = JoinSet::new();
        self.landed.clear();
        let mut report = self.reports.report();
        report.tally.add(&std::mem::take(&mut leading.lessor.tally));
        report.live = 0;
        report.oldest_overdue = Duration::ZERO;
    }

    /// The leases as they are, and the index that they are of.
    fn lease_table(&self) -> Option<(LogIndex, Vec<(LeaseId, LeaseRow)>)> {
        let view = self.raft.view();
        let mut rows = Vec::new();
        let scanned = view.scan_leases(&mut |id, row| {
            rows.push((id, row));
            ControlFlow::Continue(())
        });
        match scanned {
            Ok(()) => Some((view.applied().index, rows)),
            Err(error) => {
                self.raft.fail(format!("reading the leases: {error}"));
                None
            }
        }
    }

    fn take_changes(&mut self, leading: &mut Leading) {
        match self.feed.take() {
            Waiting::Changes(changes) => {
                let now_ms = self.reading();
                for (index, leases) in changes {
                    if index > leading.begun_at {
                        leases.iter().for_each(|(id, row)| leading.lessor.changed(*id, *row, now_ms));
                    }
                }
            }
            Waiting::Latest(leases) => {
                let now_ms = self.reading();
                for (id, (index, row)) in leases {
                    if index > leading.begun_at {
                        leading.lessor.changed(id, row, now_ms);
                    }
                }
            }
            Waiting::Missed => {
                tracing::warn!("the lessor fell behind and reads the lease table again");
                self.feed.open();
                if let Some((begun_at, rows)) = self.lease_table() {
                    leading.lessor.reload(rows);
                    leading.begun_at = begun_at;
                }
            }
        }
    }

    fn flights(&self, leading: &mut Leading, now_ms: u64) -> Vec<Flight> {
        leading.lessor.revokes(now_ms, |leases| {
            if is_on(Bug::UnguardedExpiry) {
                return vec![false; leases.len()];
            }
            let renewing = self.raft.renewals().look();
            leases.iter().map(|(_, id)| renewing.contains(*id)).collect()
        })
    }

    /// Proposes to end leases whose end has come by the clock of this term. A later term's may be behind it.
    fn propose(&mut self, term: Term, flight: Flight) {
        let raft = self.raft.clone();
        let by = RevokedBy { member: raft.member(), client: ClientName::Unknown };
        let told = flight.revokes.into_iter().map(|revoke| LeaseRevoke { by: Some(by.clone()), ..revoke });
        let commands: Vec<Bytes> = told.map(|revoke| Command::LeaseRevoke(revoke).encode()).collect();
        runtime::spawn_on(&mut self.proposals, async move {
            // Whatever became of them: those whose leases are still there are proposed again.
            let proposed = tokio::time::timeout(PROPOSAL_TIMEOUT, raft.propose_timed_in(term, commands.iter())).await;
            if is_on(Bug::StaleLessor)
                && let (Ok(Err(_)), Some(leader)) = (proposed, raft.leader())
            {
                drop(raft.links().propose(leader, commands, PROPOSAL_TIMEOUT).await);
            }
            Landed::Flight(flight.number)
        });
    }

    /// Puts a reading into the log if none was for a while. Says when to look again.
    fn tick(&mut self, leading: &mut Leading) -> Option<Duration> {
        // Delays outlive their leases.
        let is_timed = leading.lessor.live() > 0 || self.raft.view().meta().locks.delays > 0;
        if !is_timed || leading.ticking {
            return None;
        }
        let told_at = self.raft.lease_clock().told_at();
        let tick_at = leading.tick_again_at.map_or(told_at + TICK, |again| again.max(told_at + TICK));
        let left = tick_at - BootInstant::now();
        if !left.is_zero() {
            return Some(left);
        }
        leading.ticking = true;
        let raft = self.raft.clone();
        runtime::spawn_on(&mut self.proposals, async move {
            let told = tokio::time::timeout(PROPOSAL_TIMEOUT, raft.propose_timed([].iter())).await;
            Landed::Tick { applied: matches!(told, Ok(Ok(_))) }
        });
        None
    }

    /// Ends the lock-delays that are over. They stand in a table of their own kind, which is empty but for a while after
    /// holders died, so it is read each time; the longer that takes, the less often.
    fn end_delays(&mut self, leading: &mut Leading, now_ms: u64) {
        let view = self.raft.view();
        let began = BootInstant::now();
        if view.meta().locks.delays == 0 || leading.ending_delays || began < leading.delays_again_at {
            return;
        }
        let mut ends: Vec<Bytes> = Vec::new();
        let scanned = scan_delays(&*view, LeaseId(i64::MIN), &mut |lease, key, delay| {
            if delay.ends_ms <= now_ms {
                ends.push(Command::LockDelayEnd(LockDelayEnd { lease, key, modified: delay.modified }).encode());
            }
            if ends.len() < DELAYS_PER_GROUP_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Err(error) = scanned {
            self.raft.fail(format!("reading the lock-delays: {error}"));
            return;
        }
        leading.delays_again_at = began + (began.elapsed() * DELAYS_SCAN_SHARE).max(DELAYS_INTERVAL);
        if ends.is_empty() {
            return;
        }
        leading.ending_delays = true;
        let raft = self.raft.clone();
        runtime::spawn_on(&mut self.proposals, async move {
            // Whatever became of them: those that are still there are proposed again.
            drop(tokio::time::timeout(PROPOSAL_TIMEOUT, raft.propose_timed(ends.iter())).await);
            Landed::Delays
        });
    }

    fn report(&self, leading: &mut Leading, now_ms: u64) {
        let mut report = self.reports.report();
        report.tally.add(&std::mem::take(&mut leading.lessor.tally));
        report.live = leading.lessor.live();
        report.oldest_overdue = Duration::from_millis(leading.lessor.oldest_overdue_ms(now_ms));
    }
}
