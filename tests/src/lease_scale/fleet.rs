//! Clients that keep very many leases alive over few streams.
//!
//! A keeper has one stream at a time and a part of the leases. Each is renewed when a third of its TTL is over, so the
//! renewals are as spread as the grants were. Answers come in the order of the requests. A stream that breaks or says
//! nothing for a while is left for one at the next member, which is asked first for what was not answered.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tonic::transport::Channel;

use super::ms;
use super::seed::Granted;
use super::wire::{Answers, Ask, Way};
use crate::lease_check::Moment;
use crate::samples::percentile;

/// A stream on which nothing was answered for so long is left. Servers answer or refuse within seven seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// The pause after a failure, so that a dead member is not hammered.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a keeper looks which leases have their turn.
const TURN: Duration = Duration::from_millis(20);
/// Streams to each member.
const STREAMS: usize = 4;

/// Keepers at work.
pub struct Fleet {
    channels: Vec<Channel>,
    patience: Duration,
    way: Way,
    counters: Arc<Counters>,
    keepers: JoinSet<Kept>,
    placed: usize,
}

#[derive(Debug, Default)]
struct Counters {
    stop: AtomicBool,
    acked: AtomicU64,
}

/// What became of the leases.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub leases: usize,
    /// How long each acknowledged renewal took.
    latencies: Vec<Duration>,
    /// Leases that a member said were gone, and how long after the last renewal that was acknowledged.
    pub lost: Vec<String>,
    /// Those of them that it said before the TTL was over.
    pub early: usize,
    /// Streams that were left before their time, and why the first was.
    pub left: Vec<String>,
}

impl Fleet {
    /// A fleet without leases. A stream that is silent for `patience` is left.
    pub fn new(channels: &[Channel]) -> Fleet {
        Fleet {
            channels: channels.to_vec(),
            patience: PATIENCE,
            way: Way::Each,
            counters: Arc::default(),
            keepers: JoinSet::new(),
            placed: 0,
        }
    }

    /// The same with another patience: where members are stopped, a client that wants to keep its leases has less.
    pub fn with_patience(channels: &[Channel], patience: Duration) -> Fleet {
        Fleet { patience, ..Fleet::new(channels) }
    }

    /// The same, asking in another way.
    pub fn that_asks(channels: &[Channel], way: Way) -> Fleet {
        Fleet { way, ..Fleet::new(channels) }
    }

    /// Keeps these leases alive from now on, too.
    pub fn add(&mut self, leases: &[Granted]) {
        let part = leases.len().div_ceil(STREAMS * self.channels.len()).max(1);
        for leases in leases.chunks(part) {
            let keeper = Keeper {
                channels: self.channels.clone(),
                at: self.placed,
                patience: self.patience,
                way: self.way,
                counters: self.counters.clone(),
                leases: leases.iter().map(|granted| Held { granted: *granted, acked_sent: granted.sent }).collect(),
                turns: VecDeque::new(),
                under_way: VecDeque::new(),
                kept: Kept { leases: leases.len(), ..Kept::default() },
            };
            self.placed += 1;
            self.keepers.spawn(keeper.keep());
        }
    }

    /// Renewals acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.counters.acked.load(Ordering::Relaxed)
    }

    /// Renews nothing any more, and says what became of the leases.
    pub async fn finish(mut self) -> Result<Kept> {
        self.counters.stop.store(true, Ordering::Relaxed);
        let mut all = Kept::default();
        while let Some(kept) = self.keepers.join_next().await {
            let kept = kept?;
            all.leases += kept.leases;
            all.latencies.extend(kept.latencies);
            all.lost.extend(kept.lost);
            all.early += kept.early;
            all.left.extend(kept.left);
        }
        all.latencies.sort_unstable();
        Ok(all)
    }
}

impl Kept {
    /// How many renewals were acknowledged.
    pub fn renewals(&self) -> usize {
        self.latencies.len()
    }

    /// Fails if a lease was lost or renewed by nobody.
    pub fn none_lost(&self) -> Result<()> {
        let shown: Vec<&str> = self.lost.iter().take(5).map(String::as_str).collect();
        ensure!(self.lost.is_empty(), "{} of {} leases were lost: {}", self.lost.len(), self.leases, shown.join("; "));
        ensure!(self.renewals() >= self.leases, "{} renewals of {} leases", self.renewals(), self.leases);
        Ok(())
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, high, worst] = [50, 99, 100].map(|percent| ms(percentile(&self.latencies, percent)));
        write!(
            f,
            "{} lost ({} early), {} renewals acked (median {median}, p99 {high}, worst {worst}), {} streams left{}",
            self.lost.len(),
            self.early,
            self.renewals(),
            self.left.len(),
            self.left.first().map(|why| format!(" ({why})")).unwrap_or_default()
        )
    }
}

struct Held {
    granted: Granted,
    /// When the last acknowledged renewal was sent, or the grant.
    acked_sent: Moment,
}

/// A renewal under way: which lease, and when it was sent.
type UnderWay = (usize, Moment);

struct Keeper {
    channels: Vec<Channel>,
    at: usize,
    patience: Duration,
    way: Way,
    counters: Arc<Counters>,
    leases: Vec<Held>,
    /// When each lease is to be renewed, the next one first.
    turns: VecDeque<(Moment, usize)>,
    under_way: VecDeque<UnderWay>,
    kept: Kept,
}

impl Keeper {
    async fn keep(mut self) -> Kept {
        let mut turns: Vec<(Moment, usize)> =
            self.leases.iter().enumerate().map(|(at, held)| (turn_after(held.granted.sent, held), at)).collect();
        turns.sort_unstable();
        self.turns = turns.into();
        while !self.stopped() && !self.turns.is_empty() {
            if let Err(why) = self.one_stream().await {
                self.kept.left.push(why);
                // What was not answered comes first.
                let again = std::mem::take(&mut self.under_way);
                again.into_iter().rev().for_each(|(at, sent)| self.turns.push_front((sent, at)));
                self.at += 1;
                sleep(PAUSE).await;
            }
        }
        self.kept
    }

    fn stopped(&self) -> bool {
        self.counters.stop.load(Ordering::Relaxed)
    }

    /// Renews over one stream until it is asked to stop; otherwise says why the stream was left.
    async fn one_stream(&mut self) -> Result<(), String> {
        let mut looks = interval(TURN);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (ask, asked) = self.way.begin();
        // etcd opens a stream only when there is something on it.
        while self.under_way.is_empty() {
            looks.tick().await;
            if self.stopped() {
                return Ok(());
            }
            self.ask(&ask);
        }
        let channel = self.channels[self.at % self.channels.len()].clone();
        let opened = timeout(self.patience, asked.open(channel)).await;
        let answers = opened.map_err(|_| "no stream in time".to_owned())?.map_err(|status| status.to_string())?;
        self.renew_over(&ask, answers, looks).await
    }

    async fn renew_over(&mut self, ask: &Ask, mut answers: Answers, mut looks: Interval) -> Result<(), String> {
        loop {
            tokio::select! {
                biased;
                answer = answers.next() => match answer {
                    Ok(Some(answer)) => if self.take(&answer)?.is_break() { return Ok(()) },
                    Ok(None) => return Err("the stream ended".to_owned()),
                    Err(status) => return Err(status.to_string()),
                },
                _ = looks.tick() => {
                    if self.stopped() {
                        return Ok(());
                    }
                    self.ask(ask);
                    if let Some((_, sent)) = self.under_way.front() && Moment::now().since(*sent) > self.patience {
                        return Err("no answer in time".to_owned());
                    }
                }
            }
        }
    }

    /// Sends what has its turn, as far as there is room.
    fn ask(&mut self, ask: &Ask) {
        let now = Moment::now();
        let due = self.turns.iter().take_while(|(turn, _)| *turn <= now);
        let ids: Vec<i64> = due.map(|(_, at)| self.leases[*at].granted.id).collect();
        let sent = ask.send(&ids);
        self.under_way.extend(self.turns.drain(..sent).map(|(_, at)| (at, now)));
    }

    /// Takes an answer, which is to the oldest requests. Breaks when there is nothing left to renew.
    fn take(&mut self, answer: &[(i64, bool)]) -> Result<ControlFlow<()>, String> {
        let now = Moment::now();
        for (id, lives) in answer {
            let Some((at, sent)) = self.under_way.pop_front() else { return Err("an answer to nothing".to_owned()) };
            let held = &mut self.leases[at];
            if *id != held.granted.id {
                return Err(format!("an answer about {id} where {} was asked about", held.granted.id));
            }
            if *lives {
                held.acked_sent = sent;
                self.turns.push_back((turn_after(sent, held), at));
                self.kept.latencies.push(now.since(sent));
                self.counters.acked.fetch_add(1, Ordering::Relaxed);
            } else {
                let (asked, told) = (sent.since(held.acked_sent), now.since(held.acked_sent));
                self.kept.early += usize::from(told < held.granted.ttl);
                self.kept.lost.push(format!("{id} asked {asked:.1?} and told {told:.1?} after the last ack"));
            }
        }
        let nothing_left = self.turns.is_empty() && self.under_way.is_empty();
        Ok(if nothing_left { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// When a lease that was renewed then is to be renewed again.
fn turn_after(sent: Moment, held: &Held) -> Moment {
    sent.plus(held.granted.ttl / 3)
}
