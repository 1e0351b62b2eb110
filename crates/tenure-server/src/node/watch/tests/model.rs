//! Random watchers, writes, compactions, snapshots and slow clients against a naive model: every watcher is told exactly
//! the events of its range, in order, each once, revisions whole; or that they are compacted, if they are.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::Revision;
use tenure_core::command::{Command, KeyRange};
use tenure_core::row::EventRow;
use tenure_core::state::StateRead;

use super::super::limits::StreamLimits;
use super::super::types::{CreateWatch, Kinds, Scope, WatchEvent, WatchId, WatchMessage};
use super::world::{Client, Told, World, bytes, delete, event_bytes, put, puts};

/// Seeds that are tried; each is a run of its own.
const SEEDS: u64 = 250;
const STEPS: usize = 250;
const KEYS: [&str; 8] = ["a", "aa", "ab", "b", "ba", "c", "d", "da"];

/// A watcher as the model sees it.
struct Expected {
    scope: Scope,
    start: Revision,
    /// How many of its events were told.
    told: usize,
    /// Everything up to here was told, or was not for it.
    complete: Revision,
    /// The last message ended within a revision.
    within: bool,
}

/// What one stream was told, held against the world.
#[derive(Default)]
struct Oracle {
    watchers: BTreeMap<WatchId, Expected>,
    /// Creates that were asked for and not answered.
    asked: std::collections::VecDeque<CreateWatch>,
    compacted: usize,
    events: usize,
    progress: usize,
}

impl Expected {
    /// The events that the watcher must be told in its life.
    fn events<'a>(&self, world: &'a World) -> Vec<&'a EventRow> {
        let is_for_it = |event: &&EventRow| event.meta.modified.revision >= self.start && self.scope.includes(event);
        world.events.iter().filter(is_for_it).collect()
    }

    fn check(&mut self, world: &World, revision: Revision, events: &[WatchEvent], fragment: bool) {
        assert!(!events.is_empty(), "a message without events");
        let expected = self.events(world);
        for (at, told) in events.iter().enumerate() {
            let want = expected.get(self.told + at).expect("an event that is not for it, or not yet");
            assert_eq!(told.event, **want, "another event");
            self.check_previous(world, told);
        }
        self.told += events.len();
        let last = events.last().unwrap().event.meta.modified.revision;
        assert!(revision <= world.revision() && revision >= last, "a header of another time");
        assert!(revision == last || self.is_at(world, revision), "a header that promises what was not told");
        let more = expected.get(self.told).is_some_and(|event| event.meta.modified.revision == last);
        assert_eq!(more, fragment, "a revision ends where its message does, unless it says otherwise");
        assert!(self.scope.fragment || !fragment, "a fragment to one that takes none");
        self.complete = if fragment { Revision(last.0 - 1) } else { revision };
        self.within = fragment;
    }

    fn check_previous(&self, world: &World, told: &WatchEvent) {
        let revision = told.event.meta.modified.revision;
        let exact = world.key_at(&told.event.key, Revision(revision.0 - 1));
        match &told.previous {
            Some(previous) => {
                assert!(self.scope.prev_kv);
                assert_eq!(Some(previous), exact.as_ref(), "another previous value");
            }
            None if self.scope.prev_kv && exact.is_some() => {
                let compacted = world.view().meta().compacted;
                assert!(revision.0 - 1 < compacted.0, "the previous value at {revision} is missing");
            }
            None => {}
        }
    }

    /// Whether everything up to a revision was told.
    fn is_at(&self, world: &World, revision: Revision) -> bool {
        let due = self.events(world).iter().filter(|event| event.meta.modified.revision <= revision).count();
        due <= self.told
    }
}

impl Oracle {
    fn check(&mut self, world: &World, message: WatchMessage) {
        let now = world.revision();
        assert!(
            self.watchers.iter().all(|(id, watcher)| !watcher.within
                || matches!(&message, WatchMessage::Events { id: next, .. } if next == id)),
            "something comes between the parts of a revision: {message:?}"
        );
        match message {
            WatchMessage::Created { id, revision } => {
                let CreateWatch { start, scope, id: chosen, .. } = self.asked.pop_front().unwrap();
                assert!(chosen.is_none_or(|chosen| chosen == id));
                let start = if start.0 == 0 { Revision(revision.0 + 1) } else { start };
                let complete = Revision(start.0 - 1);
                let expected = Expected { scope, start, told: 0, complete, within: false };
                assert!(self.watchers.insert(id, expected).is_none(), "two watchers with one id");
            }
            WatchMessage::Refused { .. } => drop(self.asked.pop_front()),
            WatchMessage::Canceled { id, .. } => assert!(self.watchers.remove(&id).is_some()),
            WatchMessage::Compacted { id, compacted } => {
                let watcher = self.watchers.remove(&id).expect("it was there");
                assert!(compacted <= world.view().meta().compacted);
                assert!(watcher.complete.0 + 1 < compacted.0, "what it needs is not compacted");
                self.compacted += 1;
            }
            WatchMessage::Failed { refusal, .. } => panic!("{refusal}"),
            WatchMessage::Events { id, revision, events, fragment } => {
                self.events += events.len();
                self.watchers.get_mut(&id).expect("created before").check(world, revision, &events, fragment);
            }
            WatchMessage::Progress { id, revision } => {
                assert!(revision <= now);
                self.progress += 1;
                for (other, watcher) in &mut self.watchers {
                    if id.is_none_or(|id| id == *other) {
                        assert!(watcher.start.0 <= revision.0 + 1, "progress before the start");
                        assert!(watcher.is_at(world, revision), "progress above an event that was not told");
                        watcher.complete = watcher.complete.max(revision);
                    }
                }
            }
        }
    }
}

fn random_range(rng: &mut StdRng) -> KeyRange {
    let key = bytes(KEYS[rng.random_range(0..KEYS.len())]);
    match rng.random_range(0..6) {
        0..3 => KeyRange::One(key),
        3 => KeyRange::Between(key.clone(), bytes(&format!("{}\u{7f}", std::str::from_utf8(&key).unwrap()))),
        4 => KeyRange::From(key),
        _ => KeyRange::Between(key, bytes(KEYS[rng.random_range(0..KEYS.len())])),
    }
}

fn random_watch(rng: &mut StdRng, world: &World) -> CreateWatch {
    let now = world.revision().0;
    let start = match rng.random_range(0..10) {
        0..4 => 0,
        4..8 => rng.random_range(1..=now),
        8 => now + rng.random_range(0..8),
        _ => world.view().meta().compacted.0.max(0) + rng.random_range(-1..2),
    };
    let filter = rng.random_range(0..6);
    CreateWatch {
        id: rng.random_ratio(1, 4).then(|| WatchId(rng.random_range(0..6))),
        start: Revision(start),
        scope: Scope {
            range: random_range(rng),
            kinds: Kinds { puts: filter != 0, deletes: filter != 1 },
            prev_kv: rng.random_ratio(1, 2),
            fragment: rng.random_ratio(1, 3),
        },
        progress_notify: rng.random_ratio(1, 2),
    }
}

fn random_command(rng: &mut StdRng) -> Command {
    let mut key = || KEYS[rng.random_range(0..KEYS.len())];
    let (one, other) = (key(), key());
    let value = format!("{}", rng.random_range(0..1_000_000));
    match rng.random_range(0..10) {
        0..6 => put(one, &value),
        6 => delete(KeyRange::One(bytes(one))),
        7 => delete(KeyRange::Between(bytes(one), bytes(other))),
        _ => puts(&BTreeMap::from([one, other, "ac"].map(|key| (key.to_owned(), value.clone())))),
    }
}

/// One run of everything.
struct Play {
    rng: StdRng,
    world: World,
    clients: Vec<(Client, Oracle)>,
    /// How many runs the hub was not told of.
    untold: usize,
}

impl Play {
    fn new(seed: u64) -> Play {
        let mut rng = StdRng::seed_from_u64(seed);
        let ring_bytes_max = if rng.random_ratio(1, 4) { 1 << 20 } else { rng.random_range(0..4000) };
        Play { rng, world: World::new(ring_bytes_max), clients: Vec::new(), untold: 0 }
    }

    fn limits(&mut self) -> StreamLimits {
        let rng = &mut self.rng;
        StreamLimits {
            message_revisions: rng.random_range(1..6),
            message_bytes: rng.random_range(1..2000),
            small_message_bytes: 1,
            fragment_bytes: rng.random_range(1..60),
            catch_up_rows: rng.random_range(1..12),
            catch_up_watchers: rng.random_range(1..6),
            turn_events: rng.random_range(1..8),
            inline_prev_kvs: rng.random_range(0..3),
            ..StreamLimits::new(1, event_bytes)
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..25 => self.write(Told::Yes),
            25..27 => {
                self.write(Told::No);
                self.untold += 1;
            }
            27..30 => {
                let view = self.world.view();
                let (compacted, now) = (view.meta().compacted.0.max(0), view.meta().revision.0);
                if compacted < now && self.untold == 0 {
                    let to = Revision(self.rng.random_range(compacted + 1..=now));
                    self.world.compact(to);
                }
            }
            30..32 => self.world.purge(),
            32..45 => drop(self.world.hub.shared().match_some()),
            45..48 if self.clients.len() < 4 => {
                let limits = self.limits();
                self.clients.push((Client::with(&self.world, limits), Oracle::default()));
            }
            45..49 if self.rng.random_ratio(1, 4) && !self.clients.is_empty() => {
                let gone = self.rng.random_range(0..self.clients.len());
                self.clients.swap_remove(gone);
            }
            _ => self.client_steps(),
        }
    }

    /// Runs that the hub is told of follow each other: after one that it was not told of comes a replacement.
    fn write(&mut self, told: Told) {
        if told == Told::Yes && self.untold > 0 {
            self.untold = 0;
            self.world.replace();
        }
        let commands: Vec<Command> = (0..self.rng.random_range(1..4)).map(|_| random_command(&mut self.rng)).collect();
        self.world.apply(&commands, told);
    }

    fn client_steps(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.clients.len());
        for _ in 0..self.rng.random_range(1..12) {
            self.client_step(at);
        }
    }

    fn client_step(&mut self, at: usize) {
        let (client, oracle) = &mut self.clients[at];
        let (rng, world) = (&mut self.rng, &self.world);
        let free = !client.stream.is_in_fragment();
        match rng.random_range(0..12) {
            0 | 1 if free => {
                let request = random_watch(rng, world);
                oracle.asked.push_back(request.clone());
                client.stream.create(request, &world.view());
            }
            2 if free && rng.random_ratio(1, 3) => {
                client.stream.cancel(WatchId(rng.random_range(0..6)), &world.view());
            }
            3 if free => match rng.random_range(0..4) {
                0 => client.stream.want_progress(&world.view()),
                1 => client.stream.try_progress(),
                2 => client.stream.give_up_progress(),
                _ => client.stream.notify_progress(),
            },
            4 => client.stream.collect(),
            5 if !client.works.is_empty() => {
                let place = rng.random_range(0..client.works.len());
                client.work(place, world);
            }
            6..9 => client.turn(world),
            _ => {
                if let Some(message) = client.stream.message() {
                    oracle.check(world, message);
                }
            }
        }
    }

    /// Lets everything that is pending happen, and sees that nothing is missing.
    fn settle(&mut self) {
        if self.untold > 0 {
            self.world.replace();
        }
        for (client, oracle) in &mut self.clients {
            for message in client.everything(&self.world) {
                oracle.check(&self.world, message);
            }
            let now = self.world.revision();
            for watcher in oracle.watchers.values() {
                assert!(watcher.is_at(&self.world, now), "something was never told: {:?}", watcher.scope);
            }
            let begun = oracle.watchers.values().all(|watcher| watcher.start.0 <= now.0 + 1);
            client.stream.want_progress(&self.world.view());
            client.stream.try_progress();
            let answer = client.stream.message();
            let expected = WatchMessage::Progress { id: None, revision: now };
            assert_eq!(answer, begun.then_some(expected), "progress is answered once all is told");
        }
    }
}

#[test]
fn every_watcher_is_told_its_events_or_that_they_are_compacted() {
    let (mut events, mut compacted, mut progress) = (0, 0, 0);
    for seed in 0..SEEDS {
        let played = std::panic::catch_unwind(|| {
            let mut play = Play::new(seed);
            for _ in 0..STEPS {
                play.step();
            }
            play.settle();
            let count = |what: fn(&Oracle) -> usize| play.clients.iter().map(|(_, oracle)| what(oracle)).sum::<usize>();
            let counts = [count(|o| o.events), count(|o| o.compacted), count(|o| o.progress)];
            play.clients.clear();
            let stats = play.world.hub.stats();
            assert_eq!((stats.streams, stats.watchers, stats.lagging, stats.ring_events), (0, 0, 0, 0));
            counts
        });
        let Ok([told, ended, progressed]) = played else { panic!("seed {seed}") };
        (events, compacted, progress) = (events + told, compacted + ended, progress + progressed);
    }
    assert!(events > 10_000 && compacted > 100 && progress > 100, "{events} events, {compacted} ended, {progress}");
}
