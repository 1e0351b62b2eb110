//! Clients of watch streams as they are in life: they resume where they were when a stream breaks, some read slowly, some
//! move about, some ask for progress; and they record all that they see.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_proto::etcdserverpb::WatchResponse;
use tenure_proto::mvccpb::Event;
use tenure_proto::mvccpb::event::EventType;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::watch_chaos::Stage;
use crate::watch_check::{Change, Seen, SeenEvent, Spec};
use crate::watch_writers::{KEYS, digest, key};
use crate::watching::{self, WatchStream, cancel, create, progress, revision_of};

/// How long a watcher may need to see everything once nothing more is written.
const END_PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(20);
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How often a client that asks for progress does so, and every client at the end.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A slow client stands still for up to this long.
const SLUMBER_MAX_MS: u64 = 2_500;

/// Where a watcher starts.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    Now,
    /// This many revisions back from what the historian has read, compacted or not.
    Back(i64),
    /// This many revisions ahead.
    Ahead(i64),
}

/// How a client treats its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Steady,
    Slow,
    /// Leaves for another member after some messages.
    Restless,
    Asking,
    /// Cancels and makes its watchers again.
    Fickle,
}

/// What a stream is to hold.
#[derive(Clone, Debug)]
pub struct StreamPlan {
    pub watchers: Vec<(Spec, Start)>,
    pub manner: Manner,
    pub endpoint: usize,
    pub seed: u64,
}

/// What one watcher saw.
#[derive(Clone, Debug)]
pub struct StreamRecord {
    pub spec: Spec,
    pub seen: Vec<Seen>,
    pub fragments: usize,
}

/// Plans streams with this many watchers in all, of every kind, on every member.
pub fn streams(watchers: usize, seed: u64) -> Vec<StreamPlan> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x57);
    let manners = [Manner::Steady, Manner::Slow, Manner::Restless, Manner::Asking, Manner::Fickle];
    let mut plans = Vec::new();
    let mut left = watchers;
    while left > 0 {
        let several = if rng.random_ratio(1, 4) { rng.random_range(2..9) } else { 1 };
        let watchers = (0..several.min(left)).map(|_| (random_spec(&mut rng), random_start(&mut rng))).collect();
        left -= several.min(left);
        let manner = manners[plans.len() % manners.len()];
        plans.push(StreamPlan { watchers, manner, endpoint: plans.len() % 3, seed: rng.random() });
    }
    plans
}

fn random_spec(rng: &mut StdRng) -> Spec {
    let first = rng.random_range(0..KEYS);
    let (key, range_end) = match rng.random_range(0..8) {
        0 | 1 => (key(first), String::new()),
        2 => ("w/1".to_owned(), "w/2".to_owned()),
        3 => (key(first), key(first + 12)),
        4 => (key(first), "\0".to_owned()),
        5 => ("z/".to_owned(), "z0".to_owned()),
        _ => ("\0".to_owned(), "\0".to_owned()),
    };
    let filter = rng.random_range(0..8);
    Spec {
        key,
        range_end,
        puts: filter != 0,
        deletes: filter != 1,
        prev_kv: rng.random_ratio(1, 2),
        fragment: rng.random_ratio(1, 2),
    }
}

fn random_start(rng: &mut StdRng) -> Start {
    match rng.random_range(0..6) {
        0 | 1 => Start::Now,
        2 => Start::Ahead(rng.random_range(0..100)),
        _ => Start::Back(rng.random_range(0..60)),
    }
}

#[derive(Debug)]
struct Watcher {
    spec: Spec,
    start: Start,
    /// The first revision that it has not seen; none before it was ever made.
    next: Option<i64>,
    /// Whether it is there on the present stream.
    live: bool,
    /// The parts of a message that is not whole yet.
    parts: Vec<SeenEvent>,
    seen: Vec<Seen>,
    fragments: usize,
}

/// One stream and what it goes through.
#[derive(Debug)]
pub struct StreamClient {
    plan: StreamPlan,
    stage: Arc<Stage>,
    reconnections: Arc<AtomicUsize>,
    rng: StdRng,
    /// By id less one.
    watchers: Vec<Watcher>,
    /// The watcher whose next part must come next.
    in_fragment: Option<i64>,
}

impl StreamClient {
    /// A client that has not connected yet.
    pub fn new(plan: StreamPlan, stage: Arc<Stage>, reconnections: Arc<AtomicUsize>) -> Self {
        let watcher = |(spec, start): &(Spec, Start)| Watcher {
            spec: spec.clone(),
            start: *start,
            next: None,
            live: false,
            parts: Vec::new(),
            seen: Vec::new(),
            fragments: 0,
        };
        let watchers = plan.watchers.iter().map(watcher).collect();
        let rng = StdRng::seed_from_u64(plan.seed);
        Self { plan, stage, reconnections, rng, watchers, in_fragment: None }
    }

    /// Watches until everything is seen; returns what each watcher saw.
    pub async fn run(mut self) -> Result<Vec<StreamRecord>> {
        let mut last = self.stage.last.subscribe();
        let over = async {
            // The sender outlives all clients.
            drop(last.wait_for(Option::is_some).await);
            sleep(END_PATIENCE).await;
        };
        let ended = tokio::select! {
            result = self.live() => Some(result),
            () = over => None,
        };
        match ended {
            Some(result) => result.with_context(|| format!("{:?}", self.plan))?,
            None => bail!("not everything was seen {END_PATIENCE:?} after the last write: {self:?}"),
        }
        let record = |watcher: Watcher| {
            let Watcher { spec, seen, fragments, .. } = watcher;
            StreamRecord { spec, seen, fragments }
        };
        Ok(self.watchers.into_iter().map(record).collect())
    }

    async fn live(&mut self) -> Result<()> {
        loop {
            let endpoint = self.stage.endpoints[self.plan.endpoint % self.stage.endpoints.len()].clone();
            if let Ok(Ok(stream)) = timeout(CONNECT_PATIENCE, watching::open(&endpoint)).await
                && self.on_stream(stream).await?
            {
                return Ok(());
            }
            self.plan.endpoint += 1;
            self.reconnections.fetch_add(1, Ordering::SeqCst);
            sleep(PAUSE_AFTER_ERROR).await;
        }
    }

    /// Watches on one stream; returns whether everything was seen.
    async fn on_stream(&mut self, mut stream: WatchStream) -> Result<bool> {
        self.in_fragment = None;
        for at in 0..self.watchers.len() {
            self.watchers[at].live = false;
            self.watchers[at].parts.clear();
            if !self.make(at, &stream).await? {
                return Ok(false);
            }
        }
        let mut messages_left = match self.plan.manner {
            Manner::Restless | Manner::Fickle => self.rng.random_range(20..400),
            Manner::Steady | Manner::Slow | Manner::Asking => u32::MAX,
        };
        let mut ask_at = Instant::now() + ASK_EVERY;
        while !self.has_seen_everything() {
            let message = tokio::select! {
                message = stream.next() => message,
                () = sleep_until(ask_at) => {
                    ask_at = Instant::now() + ASK_EVERY;
                    let asks = self.plan.manner == Manner::Asking || self.stage.is_over();
                    if asks && stream.send(progress()).await.is_err() {
                        return Ok(false);
                    }
                    continue;
                }
            };
            let Ok(Some(message)) = message else { return Ok(false) };
            if !self.take(message, &stream).await? {
                return Ok(false);
            }
            messages_left -= 1;
            if messages_left == 0 && !self.stage.is_over() {
                if self.plan.manner == Manner::Restless {
                    return Ok(false);
                }
                messages_left = self.rng.random_range(20..400);
                let id = self.rng.random_range(0..self.watchers.len()) + 1;
                if stream.send(cancel(i64::try_from(id)?)).await.is_err() {
                    return Ok(false);
                }
            }
            self.dawdle().await;
        }
        Ok(true)
    }

    /// What slow clients do between two messages.
    async fn dawdle(&mut self) {
        if self.plan.manner != Manner::Slow || self.stage.is_over() {
            return;
        }
        let pause = if self.rng.random_ratio(1, 50) { self.rng.random_range(0..SLUMBER_MAX_MS) } else { 10 };
        sleep(Duration::from_millis(pause)).await;
    }

    fn has_seen_everything(&self) -> bool {
        let Some(last) = *self.stage.last.borrow() else { return false };
        self.watchers.iter().all(|watcher| watcher.next.is_some_and(|next| next > last))
    }

    /// Asks for a watcher, from where it was. Returns whether the stream is still there.
    async fn make(&mut self, at: usize, stream: &WatchStream) -> Result<bool> {
        let watcher = &self.watchers[at];
        let read = self.stage.read.load(Ordering::SeqCst);
        let start = match (watcher.next, watcher.start) {
            (Some(next), _) => next,
            (None, Start::Now) => 0,
            (None, Start::Back(revisions)) => (read - revisions).max(1),
            // Not beyond the end: nobody would ever get there.
            (None, Start::Ahead(revisions)) if !self.stage.is_over() => read + revisions,
            (None, Start::Ahead(_)) => read,
        };
        let spec = watcher.spec.clone();
        let id = i64::try_from(at)? + 1;
        let filters = [(spec.puts, 0), (spec.deletes, 1)];
        let request = create(&spec.key, |request| {
            (request.range_end, request.start_revision) = (spec.range_end.clone().into(), start);
            request.filters = filters.into_iter().filter(|(wanted, _)| !wanted).map(|(_, filter)| filter).collect();
            (request.prev_kv, request.fragment, request.watch_id) = (spec.prev_kv, spec.fragment, id);
        });
        if start > 0 {
            self.watchers[at].next = Some(start);
        }
        Ok(stream.send(request).await.is_ok())
    }

    /// Records a message; an error is the server's fault. Returns whether the stream is still there.
    async fn take(&mut self, message: WatchResponse, stream: &WatchStream) -> Result<bool> {
        let follows = self.in_fragment.is_none_or(|id| id == message.watch_id && !message.events.is_empty());
        ensure!(follows, "something comes between the parts of a revision: {}", short(&message));
        let revision = revision_of(&message);
        if message.watch_id == -1 {
            let is_progress = !message.created && !message.canceled && message.events.is_empty();
            ensure!(is_progress, "no progress: {}", short(&message));
            self.watchers.iter_mut().filter(|watcher| watcher.live).for_each(|watcher| watcher.progress(revision));
            return Ok(true);
        }
        let at = usize::try_from(message.watch_id - 1)?;
        let Some(watcher) = self.watchers.get_mut(at) else { bail!("no watcher has this id: {}", short(&message)) };
        ensure!(watcher.live != message.created, "made twice, or told what is not there: {}", short(&message));
        if message.created {
            ensure!(!message.canceled, "refused: {}", short(&message));
            watcher.live = true;
            let next = *watcher.next.get_or_insert(revision + 1);
            watcher.seen.push(Seen::From(next));
        } else if message.canceled {
            ensure!(message.cancel_reason.is_empty(), "ended: {}", short(&message));
            watcher.live = false;
            watcher.parts.clear();
            if message.compact_revision > 0 {
                watcher.next = Some(message.compact_revision);
                watcher.seen.push(Seen::Compacted(message.compact_revision));
            }
            return self.make(at, stream).await;
        } else if message.events.is_empty() {
            watcher.progress(revision);
        } else {
            self.in_fragment = message.fragment.then_some(message.watch_id);
            watcher.events(&message, self.stage.compacted.load(Ordering::SeqCst))?;
        }
        Ok(true)
    }
}

impl Watcher {
    fn progress(&mut self, revision: i64) {
        self.seen.push(Seen::Progress(revision));
        self.next = self.next.map(|next| next.max(revision + 1));
    }

    fn events(&mut self, message: &WatchResponse, compacted: i64) -> Result<()> {
        ensure!(self.spec.fragment || !message.fragment, "a part for one that takes none: {}", short(message));
        self.parts.extend(message.events.iter().map(|event| seen_event(event, compacted)));
        let last = self.parts.last().map_or(0, |event| event.revision);
        let header = revision_of(message);
        ensure!(header == last || !message.fragment, "a part is headed by another revision: {}", short(message));
        self.fragments += usize::from(message.fragment);
        if !message.fragment {
            // It takes headers by their word: whatever one passes over is never asked for again.
            self.next = Some(header + 1);
            self.seen.extend([Seen::Message(std::mem::take(&mut self.parts)), Seen::Header(header)]);
        }
        Ok(())
    }
}

fn seen_event(event: &Event, compacted: i64) -> SeenEvent {
    let kv = event.kv.clone().unwrap_or_default();
    let value = (event.r#type == i32::from(EventType::Put)).then(|| digest(&kv.value));
    let previous = event.prev_kv.as_ref().map(|kv| digest(&kv.value));
    let key = String::from_utf8_lossy(&kv.key).into_owned();
    SeenEvent { revision: kv.mod_revision, change: Change { key, value, previous }, compacted }
}

/// Values are long and say little.
fn short(message: &WatchResponse) -> String {
    format!("{message:?}").chars().take(1_000).collect()
}
