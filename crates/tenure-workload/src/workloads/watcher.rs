//! A client of a watch stream as they are in life: it resumes where it was when a stream breaks, perhaps at another member;
//! some read slowly, some move about, some ask for progress. It records all that each of its watchers saw.
//!
//! It resumes behind the last *event* that it saw, or behind the last progress: never by a header alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_history::Revision;
use tenure_history::watch::{Event, Spec, Step};
use tenure_proto::etcdserverpb::WatchResponse;
use tenure_proto::mvccpb;
use tenure_proto::mvccpb::event::EventType;
use tokio::time::{Instant, sleep, sleep_until};

use crate::recorder::Watched;
use crate::stage::{Phase, Stage};
use crate::stream::{WatchStream, cancel, create, progress, revision_of};
use crate::translate;

/// How long a watcher may need to see everything once nothing more is written.
const END_PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(40);
/// How often those who ask for progress do so, and all of them at the end.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// A client that hears nothing for so long although it asks goes to another member.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// A slow client stands still for up to this long.
const SLUMBER_MAX_MS: u64 = 2_500;
/// One of so many watchers that are made again begins where the store is compacted, the first revision that it may.
const BACK_TO_COMPACTED: u32 = 3;

/// Where a watcher starts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    /// Behind the revision that the round began with.
    Round,
    Now,
    /// This many revisions back from what an observer has seen, compacted or not.
    Back(i64),
    /// This many revisions ahead of that.
    Ahead(i64),
}

/// How a client treats its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Steady,
    Slow,
    /// Leaves for another member after some messages.
    Restless,
    Asking,
    /// Cancels and makes its watchers again.
    Fickle,
    /// Asks, and tells the others how far it has seen everything.
    Observer,
}

/// What a stream is to hold.
#[derive(Clone, Debug)]
pub(super) struct StreamPlan {
    /// What each watcher watches, whether it takes fragments, and where it starts.
    pub(super) watchers: Vec<(Spec, bool, Start)>,
    pub(super) manner: Manner,
    pub(super) member: usize,
    pub(super) seed: u64,
}

#[derive(Debug)]
struct Watcher {
    spec: Spec,
    fragment: bool,
    start: Start,
    /// The first revision that it was not told of; none before it was ever made.
    next: Option<Revision>,
    /// Whether it is there on the present stream.
    live: bool,
    steps: Vec<Step>,
}

/// One stream and what it goes through.
#[derive(Debug)]
pub(super) struct WatchClient {
    plan: StreamPlan,
    stage: Arc<Stage>,
    rng: StdRng,
    /// By id less one.
    watchers: Vec<Watcher>,
    /// The watcher whose next part must come next.
    in_fragment: Option<i64>,
    reconnections: u64,
    number: u32,
}

impl WatchClient {
    /// A client that has not connected yet.
    pub(super) fn new(plan: StreamPlan, stage: Arc<Stage>) -> WatchClient {
        let watcher = |(spec, fragment, start): &(Spec, bool, Start)| Watcher {
            spec: spec.clone(),
            fragment: *fragment,
            start: *start,
            next: None,
            live: false,
            steps: Vec::new(),
        };
        let watchers = plan.watchers.iter().map(watcher).collect();
        let (rng, number) = (StdRng::seed_from_u64(plan.seed), stage.new_client());
        WatchClient { plan, stage, rng, watchers, in_fragment: None, reconnections: 0, number }
    }

    /// Watches until everything is seen. An error is the server's fault; what was seen is recorded all the same.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut phases = self.stage.phases();
        let over = async {
            // The sender outlives all clients.
            drop(phases.wait_for(|phase| matches!(phase, Phase::Over(_))).await);
            sleep(END_PATIENCE).await;
        };
        let ended = tokio::select! {
            result = self.live() => result,
            () = over => Err(anyhow::anyhow!("not everything was seen {END_PATIENCE:?} after the last write")),
        };
        let next: Vec<_> = self.watchers.iter().map(|watcher| watcher.next).collect();
        let ended = ended.with_context(|| format!("watchers that stand at {next:?}: {:?}", self.plan));
        for watcher in self.watchers {
            let observer = self.plan.manner == Manner::Observer;
            let Watcher { spec, steps, .. } = watcher;
            self.stage.recorder.note_watched(Watched { spec, steps, observer }, self.reconnections);
            self.reconnections = 0;
        }
        ended
    }

    async fn live(&mut self) -> Result<()> {
        loop {
            let member = self.plan.member % self.stage.connect.members();
            let channel = self.stage.connect.connect(self.number, member);
            if self.on_stream(WatchStream::open(channel)).await? {
                return Ok(());
            }
            self.plan.member += 1;
            self.reconnections += 1;
            sleep(PAUSE_AFTER_ERROR).await;
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.stage.phase(), Phase::Over(_))
    }

    fn asks(&self) -> bool {
        matches!(self.plan.manner, Manner::Asking | Manner::Observer) || self.is_over()
    }

    /// Watches on one stream; returns whether everything was seen.
    async fn on_stream(&mut self, mut stream: WatchStream) -> Result<bool> {
        self.in_fragment = None;
        for at in 0..self.watchers.len() {
            self.watchers[at].live = false;
            if !self.make(at, &stream).await? {
                return Ok(false);
            }
        }
        let mut messages_left = match self.plan.manner {
            Manner::Restless | Manner::Fickle => self.rng.random_range(20..400),
            Manner::Steady | Manner::Slow | Manner::Asking | Manner::Observer => u32::MAX,
        };
        let mut ask_at = Instant::now() + ASK_EVERY;
        let mut heard_at = Instant::now();
        while !self.has_seen_everything() {
            let message = tokio::select! {
                message = stream.next() => message,
                () = sleep_until(ask_at) => {
                    ask_at = Instant::now() + ASK_EVERY;
                    if self.asks() && (heard_at.elapsed() > SILENCE_MAX || stream.send(progress()).await.is_err()) {
                        return Ok(false);
                    }
                    continue;
                }
            };
            let Ok(Some(message)) = message else { return Ok(false) };
            heard_at = Instant::now();
            if !self.take(message, &stream).await? {
                return Ok(false);
            }
            messages_left -= 1;
            if messages_left == 0 && !self.is_over() {
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
        if self.plan.manner != Manner::Slow || self.is_over() {
            return;
        }
        let pause = if self.rng.random_ratio(1, 50) { self.rng.random_range(0..SLUMBER_MAX_MS) } else { 10 };
        sleep(Duration::from_millis(pause)).await;
    }

    fn has_seen_everything(&self) -> bool {
        let Phase::Over(last) = self.stage.phase() else { return false };
        self.watchers.iter().all(|watcher| watcher.next.is_some_and(|next| next > last))
    }

    /// Asks for a watcher, from where it was. Returns whether the stream is still there.
    async fn make(&mut self, at: usize, stream: &WatchStream) -> Result<bool> {
        let seen = self.stage.observed().0;
        let compacted = self.stage.compacted();
        let goes_back = self.plan.manner != Manner::Observer
            && !self.is_over()
            && compacted > self.stage.first
            && self.rng.random_ratio(1, BACK_TO_COMPACTED);
        let watcher = &self.watchers[at];
        let start = match (watcher.next, watcher.start) {
            (Some(next), _) if goes_back => next.min(compacted).0,
            (Some(next), _) => next.0,
            (None, Start::Round) => self.stage.first.next().0,
            (None, Start::Now) => 0,
            (None, Start::Back(revisions)) => (seen - revisions).max(self.stage.first.next().0),
            // Not beyond the end: nobody would ever get there.
            (None, Start::Ahead(revisions)) if self.stage.is_working() => seen + revisions,
            (None, Start::Ahead(_)) => seen,
        };
        let (spec, fragment) = (watcher.spec.clone(), watcher.fragment);
        let id = i64::try_from(at)? + 1;
        let filters = [(spec.puts, 0), (spec.deletes, 1)];
        let request = create("", |request| {
            (request.key, request.range_end, request.start_revision) = (spec.keys.key, spec.keys.end, start);
            request.filters = filters.into_iter().filter(|(wanted, _)| !wanted).map(|(_, filter)| filter).collect();
            (request.prev_kv, request.fragment, request.watch_id) = (spec.prev_kv, fragment, id);
        });
        if start > 0 {
            self.watchers[at].next = Some(Revision(start));
        }
        Ok(stream.send(request).await.is_ok())
    }

    /// Records a message; an error is the server's fault. Returns whether the stream is still there.
    async fn take(&mut self, message: WatchResponse, stream: &WatchStream) -> Result<bool> {
        let follows = self.in_fragment.is_none_or(|id| id == message.watch_id && !message.events.is_empty());
        ensure!(follows, "something comes between the parts of a revision: {}", short(&message));
        let revision = Revision(revision_of(&message));
        if message.watch_id == -1 {
            let is_progress = !message.created && !message.canceled && message.events.is_empty();
            ensure!(is_progress, "no progress: {}", short(&message));
            self.watchers.iter_mut().filter(|watcher| watcher.live).for_each(|watcher| watcher.progress(revision));
            self.tell();
            return Ok(true);
        }
        let at = usize::try_from(message.watch_id - 1)?;
        let now = self.stage.recorder.now();
        let Some(watcher) = self.watchers.get_mut(at) else { bail!("no watcher has this id: {}", short(&message)) };
        ensure!(watcher.live != message.created, "made twice, or told what is not there: {}", short(&message));
        if message.created {
            ensure!(!message.canceled, "refused: {}", short(&message));
            watcher.live = true;
            let next = *watcher.next.get_or_insert(revision.next());
            watcher.steps.push(Step::From(next));
        } else if message.canceled {
            ensure!(message.cancel_reason.is_empty() || message.compact_revision > 0, "ended: {}", short(&message));
            watcher.live = false;
            if message.compact_revision > 0 {
                let compacted = Revision(message.compact_revision);
                watcher.next = Some(compacted);
                watcher.steps.push(Step::Compacted(compacted));
            }
            return self.make(at, stream).await;
        } else if message.events.is_empty() {
            watcher.progress(revision);
        } else {
            ensure!(watcher.fragment || !message.fragment, "a part for one that takes none: {}", short(&message));
            self.in_fragment = message.fragment.then_some(message.watch_id);
            let events: Vec<Event> = message.events.into_iter().map(event).collect();
            if let Some(last) = events.last().filter(|_| !message.fragment) {
                watcher.next = Some(last.kv.modified.next());
            }
            watcher.steps.push(Step::Message { at: now, revision, fragment: message.fragment, events });
        }
        self.tell();
        Ok(true)
    }

    /// An observer says how far it has seen everything.
    fn tell(&self) {
        if self.plan.manner == Manner::Observer
            && let Some(next) = self.watchers[0].next
        {
            self.stage.saw(next.previous());
        }
    }
}

impl Watcher {
    fn progress(&mut self, revision: Revision) {
        self.steps.push(Step::Progress(revision));
        self.next = self.next.map(|next| next.max(revision.next()));
    }
}

fn event(event: mvccpb::Event) -> Event {
    Event {
        delete: event.r#type == i32::from(EventType::Delete),
        kv: event.kv.map(translate::key_value).unwrap_or_default(),
        prev_kv: event.prev_kv.map(translate::key_value),
    }
}

/// Values are long and say little.
fn short(message: &WatchResponse) -> String {
    format!("{message:?}").chars().take(1_000).collect()
}
