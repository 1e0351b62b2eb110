//! What the demo knows, as plain data: fed with news and the time, read by the screen.
//!
//! It does no IO and reads no clock, so a story of news can be told to it in a test and the screen compared. It decides
//! what an event is (a leader that changed, a lease that ran out); it does not decide whether anything was lost, which is
//! the business of `audit` and its ledgers.

mod events;
mod lock;
mod news;
mod nodes;
mod services;
mod writes;

pub use events::{Entry, EventLog, Kind};
pub use lock::{Holder, LockModel, Place};
pub use news::{Answer, News, Process, Verb};
pub use nodes::{NodeModel, NodeState, NodesModel};
pub use services::{Service, ServiceState, ServicesModel};
pub(crate) use writes::percentile;
pub use writes::{BUCKETS_PER_SECOND, Bucket, Latencies, WINDOW, WritesModel};

use std::time::Duration;

use crate::clock::Moment;

/// A stall of writes that is worth a line.
const STALL_MIN: Duration = Duration::from_millis(500);

/// What the demo is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The nodes are being started.
    Starting,
    /// The load is on.
    Running,
    /// The load is off, nodes that are down are brought back, and what was acknowledged is read back.
    Checking,
}

/// How the demo was set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The nodes' names and endpoints.
    pub nodes: Vec<(String, String)>,
    /// Whether the nodes are the demo's own, to kill and to restart.
    pub nodes_are_ours: bool,
    pub services: usize,
    pub contenders: usize,
    pub writes_per_second: u32,
}

/// The whole picture.
#[derive(Clone, Debug)]
pub struct Model {
    pub setup: Setup,
    pub phase: Phase,
    pub nodes: NodesModel,
    pub services: ServicesModel,
    pub lock: LockModel,
    pub writes: WritesModel,
    pub events: EventLog,
    /// News that were dropped because the screen did not take them.
    pub missed: u64,
}

impl Model {
    /// Before anything happened.
    pub fn new(setup: Setup) -> Self {
        Self {
            phase: Phase::Starting,
            nodes: NodesModel::new(&setup.nodes),
            services: ServicesModel::new(setup.services),
            lock: LockModel::default(),
            writes: WritesModel::default(),
            events: EventLog::default(),
            missed: 0,
            setup,
        }
    }

    /// Takes in one piece of news that became known at `now`.
    pub fn apply(&mut self, now: Moment, news: News) {
        match news {
            News::Phase(phase) => self.enter(now, phase),
            News::Said { kind, text } => self.events.add(now, kind, text),
            News::Answered { node, answer } => self.nodes.answered(now, node, answer, &mut self.events),
            News::ProcessIs { node, process } => self.nodes.process_is(now, node, process, &mut self.events),
            News::CommandBegan { node, verb, line } => {
                self.nodes.command_began(now, node, verb);
                self.events.add(now, Kind::Command, format!("$ {line}"));
            }
            News::CommandEnded { node, verb, problem } => {
                self.nodes.command_ended(now, node, verb, problem.as_deref(), &mut self.events);
            }
            News::WriteAcked { at, latency } => self.acked(at, latency),
            News::WriteUnanswered => self.writes.unanswered += 1,
            News::LeaseGranted { service, sent, ttl } => self.services.granted(service, sent, ttl),
            News::LeaseRenewed { service, sent, ttl } => self.services.renewed(service, sent, ttl),
            News::LeaseStopped { service } => self.services.stopped(now, service, &mut self.events),
            News::LeaseEnded { service, seen, overdue_from } => {
                self.services.ended(seen, overdue_from, service, &mut self.events);
            }
            News::LockQueue { places } => self.lock.queue = places,
            News::LockTaken { contender, token, at } => self.lock.taken(at, contender, token, &mut self.events),
            News::LockFreed { contender, at } => self.lock.freed(at, &contender),
            News::LockLost { contender } => self.lock.lost(now, &contender, &mut self.events),
        }
    }

    /// Lets time pass: what is due by time alone happens.
    pub fn advance(&mut self, now: Moment) {
        self.nodes.advance(now, &mut self.events);
        if self.phase == Phase::Running {
            self.writes.advance(now);
        }
    }

    fn enter(&mut self, now: Moment, phase: Phase) {
        self.phase = phase;
        match phase {
            Phase::Starting => {}
            Phase::Running => self.writes.begin(now),
            Phase::Checking => {
                self.writes.end(now);
                self.lock.end();
            }
        }
    }

    fn acked(&mut self, at: Moment, latency: Duration) {
        let Some(gap) = self.writes.acked(at, latency) else { return };
        if gap >= STALL_MIN {
            self.events.add(at, Kind::Write, format!("writes go on after {:.2} s without an ack", gap.as_secs_f64()));
        }
    }
}
