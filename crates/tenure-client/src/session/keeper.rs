//! The one task of a client that renews all of its sessions.
//!
//! It decides nothing by itself: [`Schedule`] says what is due, and each session's [`Core`] what an answer means. It waits for
//! answers, for the next thing that is due and for the next change of a state, whichever comes first, and never for anybody
//! who is told about it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::ready;
use futures::stream::{AbortHandle, BoxStream, SelectAll, abortable, once};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::core::Core;
use super::schedule::{Due, RoundId, Schedule};
use super::state::LostReason;
use crate::clock::{Clock, Instant};
use crate::ids::LeaseId;

/// What became of one lease in a renewal: the TTL that it has, or nothing if there is no such lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) lease: LeaseId,
    pub(crate) ttl: Option<Duration>,
}

/// Some answers of a round, or why there are none for the rest.
pub(crate) type Answer = Result<Vec<Kept>, Arc<str>>;

/// What a client has done so far to renew its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenewalCounts {
    /// Rounds of renewals that were sent, each to one server. A round is one message on Tenure, and one for each lease on etcd.
    pub rounds: u64,
    /// Renewals that were acknowledged.
    pub renewed: u64,
    /// Rounds that failed, or had no answer for some of their leases.
    pub failed: u64,
}

/// How renewals reach a server.
pub(crate) trait LeaseWire: Send + Sync + 'static {
    /// Renews leases, at most [`BATCH_MAX`](super::schedule::BATCH_MAX), by one server. `elsewhere` says that the last try failed or is silent:
    /// another endpoint is better. What is not answered when the stream ends has failed. Dropping the stream cancels it.
    fn renew(&self, leases: Vec<(LeaseId, Duration)>, elsewhere: bool) -> BoxStream<'static, Answer>;
}

/// See the module's header.
pub(crate) struct Keeper {
    clock: Arc<dyn Clock>,
    wire: Arc<dyn LeaseWire>,
    table: Mutex<Table>,
    changed: Notify,
    is_over: AtomicBool,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<LeaseId, Entry>,
    schedule: Schedule,
    timers: BTreeSet<(Instant, LeaseId)>,
    rounds: HashMap<RoundId, Round>,
    round_next: RoundId,
    counts: RenewalCounts,
}

struct Entry {
    core: Arc<Core>,
    /// Under which it stands among the timers.
    timer: Option<Instant>,
}

struct Round {
    sent: Instant,
    pending: HashSet<LeaseId>,
    abort: AbortHandle,
}

/// An answer with its round; without one, the round is over.
type Arrived = (RoundId, Option<Answer>);

impl Keeper {
    pub(crate) fn new(clock: Arc<dyn Clock>, wire: Arc<dyn LeaseWire>) -> Arc<Keeper> {
        let (table, changed, is_over) = (Mutex::default(), Notify::new(), AtomicBool::new(false));
        Arc::new(Keeper { clock, wire, table, changed, is_over })
    }

    /// Renews this session from now on; its grant was sent then.
    pub(crate) fn add(&self, core: &Arc<Core>, sent: Instant) {
        let (lease, random) = (core.lease, self.clock.random());
        {
            let mut table = self.table.lock();
            table.schedule.add(lease, core.terms(), sent, random);
            table.sessions.insert(lease, Entry { core: core.clone(), timer: None });
            table.set_timer(lease);
        }
        if self.is_over.load(Ordering::SeqCst) {
            core.lose(LostReason::ClientClosed);
        }
        self.changed.notify_one();
    }

    /// Stops renewing it. What is under way for nobody else is cancelled; other answers about it are not listened to.
    pub(crate) fn remove(&self, lease: LeaseId) {
        self.table.lock().remove(lease);
        self.changed.notify_one();
    }

    pub(crate) fn counts(&self) -> RenewalCounts {
        self.table.lock().counts
    }

    /// Has a session renewed now, unless that is under way.
    pub(crate) fn hurry(&self, lease: LeaseId) {
        let now = self.clock.now();
        self.table.lock().schedule.hurry(lease, now);
        self.changed.notify_one();
    }

    /// Renews until the future is dropped, be it before it was polled. Then all sessions are lost.
    pub(crate) fn run(self: Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let over = Over(self);
        async move {
            let keeper = &over.0;
            let mut answers: SelectAll<BoxStream<'static, Arrived>> = SelectAll::new();
            loop {
                let now = keeper.clock.now();
                keeper.look(now);
                answers.extend(keeper.begin_rounds(now));
                let next = keeper.table.lock().next();
                tokio::select! {
                    biased;
                    Some((round, answer)) = answers.next() => keeper.arrived(round, answer),
                    () = keeper.changed.notified() => {}
                    () = keeper.clock.sleep_until(next.unwrap_or(Instant::FAR_FUTURE)) => {}
                }
            }
        }
    }

    /// Has the sessions whose time has come look at it.
    fn look(&self, now: Instant) {
        loop {
            let mut table = self.table.lock();
            let Some((_, lease)) = table.timers.first().filter(|(at, _)| *at <= now).copied() else { return };
            if let Some(entry) = table.sessions.get(&lease) {
                entry.core.look();
            }
            table.settle(lease);
        }
    }

    fn begin_rounds(&self, now: Instant) -> Vec<BoxStream<'static, Arrived>> {
        let (first, rounds) = {
            let mut table = self.table.lock();
            let Table { sessions, schedule, round_next, .. } = &mut *table;
            let left = |lease| sessions.get(&lease).map_or(Duration::ZERO, |entry| entry.core.time_left(now));
            let rounds = schedule.take_due(now, *round_next, left);
            let first = *round_next;
            *round_next += rounds.len() as RoundId;
            (first, rounds)
        };
        (first..).zip(rounds).filter_map(|(round, due)| self.begin_round(round, &due)).collect()
    }

    fn begin_round(&self, round: RoundId, due: &[Due]) -> Option<BoxStream<'static, Arrived>> {
        let mut table = self.table.lock();
        // Before it is sent: the server may count from right then.
        let sent = self.clock.now();
        let mut leases = Vec::with_capacity(due.len());
        let mut listening = Duration::ZERO;
        for Due { lease, silent, .. } in due {
            let Some(entry) = table.sessions.get(lease) else { continue };
            let (core, terms) = (entry.core.clone(), entry.core.terms());
            if let Some(consecutive) = *silent {
                core.refresh_failed(&"no answer yet".into(), consecutive, sent);
                if core.changes_at().is_none() {
                    table.settle(*lease);
                    continue;
                }
            }
            core.refresh_begins(sent);
            listening = listening.max(terms.listening());
            leases.push((*lease, terms.ttl));
        }
        if leases.is_empty() {
            return None;
        }
        let elsewhere = due.iter().any(|due| due.is_retry);
        let pending = leases.iter().map(|(lease, _)| *lease).collect();
        let answers = self.wire.renew(leases, elsewhere).map(move |answer| (round, Some(answer)));
        let limit = self.clock.sleep_until(sent + listening);
        let end = once(ready((round, None)));
        let (answers, abort) = abortable(answers.take_until(limit).chain(end));
        table.rounds.insert(round, Round { sent, pending, abort });
        table.counts.rounds += 1;
        Some(answers.boxed())
    }

    fn arrived(&self, round: RoundId, answer: Option<Answer>) {
        let now = self.clock.now();
        let mut table = self.table.lock();
        match answer {
            Some(Ok(kept)) => {
                for kept in kept {
                    table.kept(round, kept, now, self.clock.random());
                }
                table.close_if_answered(round);
            }
            Some(Err(error)) => self.failed(&mut table, round, &error, now),
            None => self.failed(&mut table, round, &"no answer".into(), now),
        }
    }

    fn failed(&self, table: &mut Table, round: RoundId, error: &Arc<str>, now: Instant) {
        let Some(failed) = table.rounds.remove(&round) else { return };
        table.counts.failed += 1;
        failed.abort.abort();
        for lease in failed.pending {
            let Some(consecutive) = table.schedule.failed(lease, round, now, self.clock.random()) else { continue };
            if let Some(entry) = table.sessions.get(&lease) {
                entry.core.refresh_failed(error, consecutive, now);
            }
            table.settle(lease);
        }
    }
}

impl Table {
    fn next(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        self.schedule.next().into_iter().chain(timer).min()
    }

    fn kept(&mut self, round: RoundId, kept: Kept, now: Instant, random: u64) {
        let Some(answered) = self.rounds.get_mut(&round) else { return };
        if !answered.pending.remove(&kept.lease) {
            return;
        }
        let Some(entry) = self.sessions.get(&kept.lease) else { return };
        match kept.ttl {
            Some(ttl) => {
                self.counts.renewed += 1;
                if let Some(terms) = entry.core.acknowledged(answered.sent, ttl, now) {
                    self.schedule.acknowledged(kept.lease, terms, answered.sent, now, random);
                }
            }
            None => entry.core.not_found(),
        }
        self.settle(kept.lease);
    }

    fn close_if_answered(&mut self, round: RoundId) {
        if self.rounds.get(&round).is_some_and(|round| round.pending.is_empty())
            && let Some(round) = self.rounds.remove(&round)
        {
            round.abort.abort();
        }
    }

    /// Sets a session's timer anew, or removes the session if it is over.
    fn settle(&mut self, lease: LeaseId) {
        match self.sessions.get(&lease) {
            Some(entry) if entry.core.changes_at().is_none() => self.remove(lease),
            Some(_) => self.set_timer(lease),
            None => self.timers.retain(|(_, other)| *other != lease),
        }
    }

    fn set_timer(&mut self, lease: LeaseId) {
        let Some(entry) = self.sessions.get_mut(&lease) else { return };
        let at = entry.core.changes_at();
        if let Some(at) = std::mem::replace(&mut entry.timer, at) {
            self.timers.remove(&(at, lease));
        }
        self.timers.extend(at.map(|at| (at, lease)));
    }

    fn remove(&mut self, lease: LeaseId) {
        self.schedule.remove(lease);
        if let Some(Entry { timer: Some(at), .. }) = self.sessions.remove(&lease) {
            self.timers.remove(&(at, lease));
        }
        self.rounds.retain(|_, round| {
            let is_needed = !round.pending.remove(&lease) || !round.pending.is_empty();
            if !is_needed {
                round.abort.abort();
            }
            is_needed
        });
    }
}

/// Tells all sessions when nobody renews them any more.
struct Over(Arc<Keeper>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        let sessions = std::mem::take(&mut self.0.table.lock().sessions);
        sessions.values().for_each(|entry| entry.core.lose(LostReason::ClientClosed));
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Keeper").field("sessions", &self.table.lock().sessions.len()).finish_non_exhaustive()
    }
}
