//! Sessions against a simulated server: one client, clocks that run at different rates, a network that delays, loses and
//! cuts off, and a process that is stopped.
//!
//! The server is the worst that the promise allows: it ends a lease exactly one TTL after it received the last renewal, by a
//! clock that may be half a percent fast, while the client's may be half a percent slow.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use tokio::time::Instant as TrueTime;

use super::core::{Core, Made};
use super::keeper::{Answer, Keeper, Kept, LeaseWire};
use super::standing::Standing;
use super::state::{LostReason, SessionState};
use super::terms::Asked;
use crate::clock::{Clock, Instant, TokioClock};
use crate::ids::LeaseId;

/// In parts, which run at the same time.
const PARTS: u64 = 4;
const ROUNDS: u64 = 10_000 / PARTS;

/// What befalls the client, in true time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Weather {
    delay_max: Duration,
    /// Of a thousand messages.
    lost: u64,
    /// From when on nothing gets through, either way.
    cut_off: Option<TrueTime>,
    /// The process does nothing from the first moment to the second.
    stopped: Option<(TrueTime, TrueTime)>,
}

#[derive(Debug)]
struct World {
    random: TokioClock,
    begun: TrueTime,
    client_rate: f64,
    server_rate: f64,
    /// For how long a renewal makes a session certain.
    certain: Duration,
    weather: Mutex<Weather>,
    /// When the server ends each lease; it is renewed no more after that.
    ends: Mutex<HashMap<LeaseId, TrueTime>>,
    /// When the last renewal was sent that the client heard an answer to.
    heard: Mutex<HashMap<LeaseId, TrueTime>>,
}

impl World {
    fn client_now(&self) -> Instant {
        Instant::since_origin(self.begun.elapsed().mul_f64(self.client_rate))
    }

    fn ttl_at_server(&self, ttl: Duration) -> Duration {
        ttl.div_f64(self.server_rate)
    }

    fn one_of(&self, count: u64) -> u64 {
        self.random.random() % count
    }

    fn span(&self, most: Duration) -> Duration {
        most.mul_f64(self.one_of(1_000_001) as f64 / 1e6)
    }

    /// Waits until it is then, and until the process runs.
    async fn until(&self, at: TrueTime) {
        tokio::time::sleep_until(at).await;
        let stopped = self.weather.lock().stopped;
        if let Some((from, to)) = stopped.filter(|(from, to)| (*from..*to).contains(&TrueTime::now())) {
            debug_assert!(from < to);
            tokio::time::sleep_until(to).await;
        }
    }

    /// A message takes its time, or never arrives.
    async fn travel(&self) {
        let weather = *self.weather.lock();
        tokio::time::sleep(self.span(weather.delay_max)).await;
        let is_cut_off = self.weather.lock().cut_off.is_some_and(|at| TrueTime::now() >= at);
        if is_cut_off || self.one_of(1000) < weather.lost {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug)]
struct ClientClock(Arc<World>);

impl Clock for ClientClock {
    fn now(&self) -> Instant {
        self.0.client_now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let world = self.0.clone();
        Box::pin(async move {
            // Beyond what can be told, it is never.
            let spans = at.to_origin().as_secs_f64() / world.client_rate;
            if spans > 1e9 {
                return std::future::pending().await;
            }
            // A nanosecond of rounding must not wake anybody early.
            let due = world.begun + Duration::from_secs_f64(spans) + Duration::from_nanos(100);
            world.until(due).await;
        })
    }

    fn random(&self) -> u64 {
        self.0.random.random()
    }
}

struct Wire(Arc<World>);

impl LeaseWire for Wire {
    fn renew(&self, leases: Vec<(LeaseId, Duration)>, _: bool) -> BoxStream<'static, Answer> {
        let (world, sent) = (self.0.clone(), TrueTime::now());
        stream::once(async move {
            world.travel().await;
            let renew = |(lease, ttl): (LeaseId, Duration)| {
                let mut ends = world.ends.lock();
                let end = ends.get_mut(&lease).filter(|end| **end > TrueTime::now());
                Kept { lease, ttl: end.map(|end| (*end = TrueTime::now() + world.ttl_at_server(ttl), ttl).1) }
            };
            let kept: Vec<Kept> = leases.into_iter().map(renew).collect();
            world.travel().await;
            world.until(TrueTime::now()).await;
            let mut heard = world.heard.lock();
            for kept in kept.iter().filter(|kept| kept.ttl.is_some()) {
                let last = heard.entry(kept.lease).or_insert(sent);
                // What is heard after the deadline is too late, and rightly does not count.
                if TrueTime::now() < *last + world.certain {
                    *last = sent.max(*last);
                }
            }
            drop(heard);
            Ok(kept)
        })
        .boxed()
    }
}

struct Run {
    seed: u64,
    world: Arc<World>,
    cores: Vec<Arc<Core>>,
    task: tokio::task::JoinHandle<()>,
    ttl: Duration,
}

impl Run {
    fn new(seed: u64) -> Run {
        let random = TokioClock::seeded(seed);
        let pick = |of: u64| random.random() % of;
        let ttl = Duration::from_millis(1500 + pick(10) * 700);
        let rate = |step: u64| 0.995 + step as f64 / 100_000.0;
        let (client_rate, server_rate) = (rate(pick(1001)), rate(pick(1001)));
        let lost = [0, 0, 50, 200][usize::try_from(pick(4)).unwrap()];
        let delay_max = ttl.mul_f64([0.001, 0.01, 0.05][usize::try_from(pick(3)).unwrap()]);
        let weather = Mutex::new(Weather { delay_max, lost, cut_off: None, stopped: None });
        let sessions = 1 + pick(3);
        let begun = TrueTime::now();
        let (ends, heard) = (Mutex::default(), Mutex::default());
        // Without a margin only what is given up for the clocks keeps the promise.
        let margin = (pick(2) == 0).then_some(Duration::ZERO);
        let asked = Asked { ttl, margin, interval: None, is_margin_skipped: true };
        let certain = asked.check().unwrap().certain().div_f64(client_rate);
        let world = Arc::new(World { random, begun, client_rate, server_rate, certain, weather, ends, heard });
        let clock: Arc<dyn Clock> = Arc::new(ClientClock(world.clone()));
        let keeper = Keeper::new(clock.clone(), Arc::new(Wire(world.clone())));
        let made = |lease| {
            let sent = clock.now();
            world.ends.lock().insert(lease, begun + world.ttl_at_server(ttl));
            world.heard.lock().insert(lease, begun);
            let standing = Standing::granted(asked.check().unwrap(), sent, sent);
            let core = Core::new(clock.clone(), Made { lease, owner: "me".into(), give_up_after: None, standing });
            keeper.add(&core, sent);
            core
        };
        let cores = (1..=sessions).map(|id| made(LeaseId(id.cast_signed()))).collect();
        let task = tokio::spawn(keeper.run());
        Run { seed, world, cores, task, ttl }
    }

    /// Probes until then, at random moments, and never while the process is stopped.
    async fn probe_until(&self, end: TrueTime) {
        while TrueTime::now() < end {
            let next = TrueTime::now() + self.world.span(self.ttl / 20);
            self.world.until(next.min(end)).await;
            self.cores.iter().for_each(|core| self.check(core));
        }
    }

    fn is_stopped(&self) -> bool {
        self.world.weather.lock().stopped.is_some_and(|(from, to)| (from..to).contains(&TrueTime::now()))
    }

    /// The promise: whoever asks is not told anything else than Lost once the server may have ended the lease. And the other
    /// way round: it is not lost while renewals are answered.
    fn check(&self, core: &Core) {
        let (seed, now) = (self.seed, TrueTime::now());
        // Before anybody looks: what is told without being asked.
        let told = core.peek();
        let state = core.look();
        let end = self.world.ends.lock()[&core.lease];
        let heard = self.world.heard.lock()[&core.lease];
        let certain = self.world.certain;
        let slack = Duration::from_micros(1);
        if state.is_final() {
            let since = now.duration_since(heard);
            assert!(since + slack >= certain, "seed {seed}: lost {since:?} after a renewal that was answered");
            let reason = state.lost_reason().unwrap();
            let is_deadline = matches!(reason, LostReason::DeadlinePassed { .. });
            assert!(is_deadline, "seed {seed}: {reason}: the deadline comes before any server can say so");
        } else {
            assert!(now < end, "seed {seed}: {state:?} although the server has ended the lease");
            assert!(now < heard + certain + slack, "seed {seed}: {state:?} after the deadline");
        }
        // The change was told by itself, up to the moment at which timers fire.
        let is_recent = now < heard + certain + Duration::from_millis(2);
        assert!(told.is_final() || is_recent || self.was_stopped_just_now(), "seed {seed}: nobody was told: {told:?}");
    }

    fn was_stopped_just_now(&self) -> bool {
        let stopped = self.world.weather.lock().stopped;
        stopped.is_some_and(|(_, to)| to <= TrueTime::now() && TrueTime::now() < to + Duration::from_millis(2))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    partitions: u32,
    stops: u32,
    recovered: u32,
    ended_by_a_stop: u32,
    lost: u32,
}

/// One life: healthy for a while, then stopped, then cut off, or some of it.
async fn round(seed: u64, seen: &mut Seen) {
    let run = Run::new(seed);
    let (world, ttl) = (run.world.clone(), run.ttl);
    let mut states: Vec<_> = run.cores.iter().map(|core| core.subscribe()).collect();
    let is_calm = world.weather.lock().lost == 0;
    run.probe_until(TrueTime::now() + world.span(ttl * 3)).await;
    if is_calm {
        assert!(run.cores.iter().all(|core| core.look().is_safe()), "seed {seed}: not safe in calm weather");
    }
    let is_stopped = world.one_of(2) == 0;
    if is_stopped {
        seen.stops += 1;
        let from = TrueTime::now() + world.span(ttl / 2);
        let to = from + world.span(ttl * 2);
        world.weather.lock().stopped = Some((from, to));
        run.probe_until(to).await;
        assert!(!run.is_stopped());
        // The first thing that is seen after the stop.
        run.cores.iter().for_each(|core| run.check(core));
        run.probe_until(to + ttl).await;
    }
    // How it ends: cut off, and told in this order.
    seen.partitions += 1;
    let cut_off = TrueTime::now() + world.span(ttl / 2);
    world.weather.lock().cut_off = Some(cut_off);
    let was_safe: Vec<bool> = run.cores.iter().map(|core| core.look().is_safe()).collect();
    states.iter_mut().for_each(|state| state.mark_unchanged());
    let mut told: Vec<Vec<SessionState>> = vec![Vec::new(); states.len()];
    let end = TrueTime::now() + ttl * 2;
    while TrueTime::now() < end {
        run.probe_until(TrueTime::now() + Duration::from_millis(1)).await;
        for (state, told) in states.iter_mut().zip(&mut told) {
            if state.has_changed().unwrap_or(false) {
                told.push(*state.borrow_and_update());
            }
        }
        tokio::time::sleep(ttl / 100).await;
    }
    for ((core, told), was_safe) in run.cores.iter().zip(&told).zip(was_safe) {
        assert!(core.look().is_final(), "seed {seed}: cut off and not lost");
        seen.lost += 1;
        if was_safe {
            let jeopardy = told.iter().position(|state| matches!(state, SessionState::Jeopardy { .. }));
            let lost = told.iter().position(SessionState::is_final);
            assert!(jeopardy.is_some() && jeopardy < lost, "seed {seed}: {told:?}");
            seen.recovered += u32::from(told.iter().skip(jeopardy.unwrap_or(0)).any(SessionState::is_safe));
        } else if core.look().is_final() && told.is_empty() {
            seen.ended_by_a_stop += 1;
        }
    }
    run.task.abort();
}

async fn rounds(part: u64) -> Seen {
    let mut seen = Seen::default();
    for seed in part * ROUNDS..(part + 1) * ROUNDS {
        round(seed, &mut seen).await;
    }
    seen
}

#[test]
fn a_client_that_is_cut_off_is_in_jeopardy_and_then_lost_before_any_server_ends_its_lease() {
    let parts: Vec<_> = (0..PARTS)
        .map(|part| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
                runtime.unwrap().block_on(rounds(part))
            })
        })
        .collect();
    for part in parts {
        let seen = part.join().unwrap();
        // The rounds were what they were meant to be.
        assert!(u64::from(seen.lost) > ROUNDS && u64::from(seen.stops) > ROUNDS / 3, "{seen:?}");
        assert!(u64::from(seen.partitions) == ROUNDS, "{seen:?}");
        assert!(u64::from(seen.ended_by_a_stop) > ROUNDS / 20, "{seen:?}");
    }
}

/// Answers everything, and counts.
struct Counting {
    messages: Mutex<Vec<usize>>,
}

impl LeaseWire for Counting {
    fn renew(&self, leases: Vec<(LeaseId, Duration)>, _: bool) -> BoxStream<'static, Answer> {
        self.messages.lock().push(leases.len());
        let kept = leases.into_iter().map(|(lease, ttl)| Kept { lease, ttl: Some(ttl) }).collect();
        stream::once(async { Ok(kept) }).boxed()
    }
}

/// Ten thousand sessions, started one by one: a few messages in each interval renew them all, and no session is late.
#[tokio::test(start_paused = true)]
async fn ten_thousand_sessions_are_renewed_by_a_few_messages() {
    const SESSIONS: i64 = 10_000;
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::seeded(1));
    let wire = Arc::new(Counting { messages: Mutex::default() });
    let keeper = Keeper::new(clock.clone(), wire.clone());
    let task = tokio::spawn(keeper.clone().run());
    let ttl = Duration::from_secs(30);
    let terms = Asked { ttl, margin: None, interval: None, is_margin_skipped: false }.check().unwrap();
    let mut cores = Vec::new();
    for id in 1..=SESSIONS {
        let sent = clock.now();
        let standing = Standing::granted(terms, sent, sent);
        let made = Made { lease: LeaseId(id), owner: "me".into(), give_up_after: None, standing };
        let core = Core::new(clock.clone(), made);
        keeper.add(&core, sent);
        cores.push(core);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(ttl * 2).await;
    wire.messages.lock().clear();
    // Ten intervals.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(cores.iter().all(|core| core.peek().is_safe()));
    }
    let messages = wire.messages.lock().clone();
    let renewed: usize = messages.iter().sum();
    // All of them, about once in an interval, and at least a thousand in the average message.
    assert!((100_000..160_000).contains(&renewed), "{renewed} renewals");
    assert!(messages.len() <= 100 && messages.iter().all(|count| *count <= 4096), "{messages:?}");
    task.abort();
}

/// A server that nobody can reach for a while, and then again: no session is lost for it.
#[tokio::test(start_paused = true)]
async fn jeopardy_ends_with_the_first_renewal_that_is_answered() {
    let mut recovered = 0;
    for seed in 0..200 {
        let run = Run::new(seed);
        run.world.weather.lock().lost = 0;
        let terms = run.cores[0].terms();
        let gap = terms.overdue_after() + (terms.certain() - terms.overdue_after()).mul_f64(0.3);
        run.world.weather.lock().cut_off = Some(TrueTime::now());
        tokio::time::sleep(gap.div_f64(run.world.client_rate)).await;
        assert!(matches!(run.cores[0].look(), SessionState::Jeopardy { .. }), "seed {seed}");
        run.world.weather.lock().cut_off = None;
        tokio::time::sleep(terms.ttl / 6).await;
        recovered += u32::from(run.cores[0].look().is_safe());
        assert!(!run.cores[0].look().is_final(), "seed {seed}: {:?}", run.cores[0].look());
        run.task.abort();
    }
    assert!(recovered > 150, "{recovered} of 200 within a sixth of the TTL");
}
