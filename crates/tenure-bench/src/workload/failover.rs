//! `failover`: for how long nothing can be written while something happens to the cluster.
//!
//! Two kinds of clients find out. *Probes* are puts at fixed times to all endpoints in turn, whether those before were
//! answered or not: the longest time without an answer to any of them is the cluster's gap, to a probe's interval. *The
//! writer* is what a program would do: one put after the other, at the next endpoint when one fails or is silent for too long.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::put::Putter;
use super::trigger::Trigger;
use crate::drive::{Scope, own_cpu};
use crate::failure::{Error, Failure};
use crate::histogram::millis;
use crate::keys::{Keys, Values};
use crate::pace::Amount;
use crate::report::Report;
use crate::target::within;

/// Probes under way at once; more are not sent.
const PROBES_MAX: usize = 4096;
/// A writer that was refused tries again after this.
const WRITER_PAUSE: Duration = Duration::from_millis(5);

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Failover {
    pub keys: Keys,
    pub value_bytes: usize,
    pub trigger: Trigger,
    /// How long it writes before that.
    pub after: Duration,
    /// From one probe to the next.
    pub probe_interval: Duration,
    /// The writer goes to the next endpoint when one is silent for so long.
    pub attempt: Duration,
}

/// The longest time between two acknowledgements, of those that ended after a moment.
#[derive(Debug)]
struct Gap {
    last: Cell<Instant>,
    longest: Cell<Duration>,
    since: Cell<Option<Instant>>,
}

impl Failover {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let Amount::Time(time) = scope.settings.amount else {
            return Err(Error::Settings("failover goes by time and has no total".to_owned()));
        };
        let putters = self.putters(scope).map_err(Error::preparing("preparing"))?;
        let (cpu, started) = (own_cpu(), Instant::now());
        let (probed, written) = (Rc::new(Gap::new(started)), Rc::new(Gap::new(started)));
        scope.observer.begun();
        scope.recorder.begin(started);
        let probes = spawn_local(probe_loop(self.clone(), putters.clone(), scope.clone(), probed.clone()));
        let writer = spawn_local(write_loop(self.clone(), putters, scope.clone(), written.clone()));
        sleep(self.after).await;
        scope.observer.stage("setting off what is to happen");
        let triggered = Instant::now();
        [&probed, &written].iter().for_each(|gap| gap.since.set(Some(triggered)));
        let done = self.trigger.run().await;
        scope.recorder.figure("trigger_ms", millis(triggered.elapsed()));
        if done.is_ok() {
            sleep_until(started + time).await;
        }
        scope.observer.ended();
        probes.abort();
        writer.abort();
        done?;
        for (name, gap) in [("gap_ms", &probed), ("writer_gap_ms", &written)] {
            scope.recorder.figure(name, millis(gap.longest(Instant::now())));
        }
        if probed.last.get() < triggered {
            scope.failed(&Failure::answer("nothing was written after what happened"));
        }
        Ok(scope.report("failover", started.elapsed(), own_cpu().saturating_sub(cpu)))
    }

    /// One for each connection; connections go to the endpoints in turn.
    fn putters(&self, scope: &Scope) -> Result<Rc<[Putter]>, Failure> {
        let (keys, values) = (Rc::new(self.keys.clone()), Values::new(self.value_bytes, true));
        scope.callers.iter().map(|caller| Putter::new(caller.clone(), keys.clone(), values.clone())).collect()
    }
}

impl Gap {
    fn new(now: Instant) -> Gap {
        Gap { last: Cell::new(now), longest: Cell::default(), since: Cell::default() }
    }

    fn acked(&self, now: Instant) {
        self.longest.set(self.longest(now));
        self.last.set(self.last.get().max(now));
    }

    /// With what is under way now.
    fn longest(&self, now: Instant) -> Duration {
        let under_way = now.saturating_duration_since(self.last.get());
        if self.since.get().is_some_and(|since| now >= since) {
            under_way.max(self.longest.get())
        } else {
            Duration::ZERO
        }
    }
}

async fn probe_loop(this: Failover, putters: Rc<[Putter]>, scope: Rc<Scope>, gap: Rc<Gap>) {
    let (values, mut ticks) = (Values::new(this.value_bytes, true), interval(this.probe_interval));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let tasks = RefCell::new(JoinSet::new());
    for number in 0.. {
        ticks.tick().await;
        let mut tasks = tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= PROBES_MAX {
            continue;
        }
        let at = usize::try_from(number).unwrap_or(0) % putters.len();
        let (putters, scope, gap) = (putters.clone(), scope.clone(), gap.clone());
        let (key, value): (Bytes, Bytes) = (this.keys.of(number), values.of(number));
        tasks.spawn_local(async move {
            let sent = Instant::now();
            match within(scope.settings.patience, putters[at].put(key, value)).await {
                Ok(()) => {
                    gap.acked(Instant::now());
                    scope.recorder.success(sent);
                }
                Err(failure) => scope.recorder.refused(&failure),
            }
        });
    }
}

async fn write_loop(this: Failover, putters: Rc<[Putter]>, scope: Rc<Scope>, gap: Rc<Gap>) {
    let values = Values::new(this.value_bytes, true);
    let mut endpoint = 0;
    for number in 0.. {
        let sent = Instant::now();
        let (key, value) = (this.keys.of(number), values.of(number));
        match within(this.attempt, putters[endpoint % putters.len()].put(key, value)).await {
            Ok(()) => {
                gap.acked(Instant::now());
                scope.recorder.part("writer", sent);
                // The probes are the load; the writer only looks.
                sleep(WRITER_PAUSE).await;
            }
            Err(_) => {
                endpoint += 1;
                sleep(WRITER_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_gap_counts_only_if_it_ends_after_what_happened() {
        let gap = Gap::new(Instant::now());
        let mut steps = Vec::new();
        for (wait, triggers) in [(50, false), (10, true), (30, false), (20, false)] {
            advance(Duration::from_millis(wait)).await;
            if triggers {
                gap.since.set(Some(Instant::now()));
            }
            gap.acked(Instant::now());
            steps.push(gap.longest(Instant::now()).as_millis());
        }
        assert_eq!(steps, [0, 10, 30, 30]);
        advance(Duration::from_millis(70)).await;
        assert_eq!(gap.longest(Instant::now()).as_millis(), 70);
    }
}
