//! A model of a server, a network and slow readers, around the real table and the real mailboxes.
//!
//! The server keeps a history, makes watches and sends what they are owed in messages of any size, in parts or not. The network holds
//! messages back, repeats them and loses all of them when it is cut. Readers read when they like. Whatever the order of all
//! this: what a reader was given is, at any moment, a beginning of what the history has for it, revision by revision; and in the
//! end it is all of it, unless compaction took what came next, which the reader is then told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::task::noop_waker;
use proptest::prelude::*;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_proto::mvccpb::{Event, KeyValue};

use crate::ids::Revision;
use crate::watch::error::WatchError;
use crate::watch::mailbox::{Attention, Letter, Mailbox, MailboxLimits, Want};
use crate::watch::table::{Action, End, Scope, Table, WatchKey};

const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// What happens next. The numbers choose among what is possible.
#[derive(Clone, Debug)]
enum Step {
    /// A revision that changes these keys.
    Write(u8),
    /// The server gets what the client has sent.
    Flush,
    /// The server sends one watch some of what it is owed, in parts that end at these places.
    Send {
        watch: u8,
        revisions: u8,
        parts: u16,
    },
    /// The server says how far a watch is, or all of them.
    Progress(u8),
    /// The client gets some messages.
    Receive(u8),
    /// An earlier message of the stream comes again.
    Repeat(u8),
    Cut,
    Connect,
    /// A reader reads one letter.
    Read(u8),
    /// Everything before is forgotten.
    Compact(u8),
    Open {
        keys: u8,
        from: Option<u8>,
    },
    Close(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u8..64).prop_map(Step::Write),
        5 => Just(Step::Flush),
        8 => (any::<u8>(), 1u8..5, any::<u16>()).prop_map(|(watch, revisions, parts)| Step::Send { watch, revisions, parts }),
        1 => any::<u8>().prop_map(Step::Progress),
        8 => (1u8..6).prop_map(Step::Receive),
        1 => any::<u8>().prop_map(Step::Repeat),
        1 => Just(Step::Cut),
        3 => Just(Step::Connect),
        4 => any::<u8>().prop_map(Step::Read),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => (0u8..5, proptest::option::of(any::<u8>())).prop_map(|(keys, from)| Step::Open { keys, from }),
        1 => any::<u8>().prop_map(Step::Close),
    ]
}

/// A watch as the server sees it.
#[derive(Clone, Debug)]
struct Served {
    first_key: Bytes,
    /// The first revision that was not sent.
    next: i64,
}

#[derive(Debug, Default)]
struct Server {
    /// The keys that each revision changed; the first is revision 2.
    history: Vec<BTreeSet<&'static str>>,
    compacted: i64,
    served: BTreeMap<i64, Served>,
    /// On their way to the client.
    network: VecDeque<pb::WatchResponse>,
    /// What the stream has brought.
    brought: Vec<pb::WatchResponse>,
}

impl Server {
    fn revision(&self) -> i64 {
        i64::try_from(self.history.len()).expect("short") + 1
    }

    fn about(&self, watch_id: i64) -> pb::WatchResponse {
        let header = pb::ResponseHeader { revision: self.revision(), ..Default::default() };
        pb::WatchResponse { header: Some(header), watch_id, ..Default::default() }
    }

    /// The revisions from one on that a watch on all keys from `first_key` on is told of.
    fn owed(&self, first_key: &[u8], from: i64) -> Vec<(i64, Vec<&'static str>)> {
        let numbered = (2i64..).zip(&self.history).filter(|(revision, _)| *revision >= from);
        let told =
            |keys: &BTreeSet<&'static str>| keys.iter().copied().filter(|key| key.as_bytes() >= first_key).collect();
        numbered
            .map(|(revision, keys)| (revision, told(keys)))
            .filter(|(_, keys): &(_, Vec<_>)| !keys.is_empty())
            .collect()
    }

    fn asked(&mut self, request: pb::WatchRequest) {
        match request.request_union.expect("a request") {
            RequestUnion::CreateRequest(create) if create.range_end == "a" => {
                self.network.push_back(pb::WatchResponse { created: true, canceled: true, ..self.about(-1) });
            }
            RequestUnion::CreateRequest(create) => {
                let id = create.watch_id;
                self.network.push_back(pb::WatchResponse { created: true, ..self.about(id) });
                let start = if create.start_revision == 0 { self.revision() + 1 } else { create.start_revision };
                self.served.insert(id, Served { first_key: create.key, next: start });
            }
            RequestUnion::CancelRequest(cancel) => {
                if self.served.remove(&cancel.watch_id).is_some() {
                    self.network.push_back(pb::WatchResponse { canceled: true, ..self.about(cancel.watch_id) });
                }
            }
            RequestUnion::ProgressRequest(_) => self.progress_of_all(),
        }
    }

    fn is_told(&self, served: &Served) -> bool {
        served.next <= self.revision() + 1 && self.owed(&served.first_key, served.next).is_empty()
    }

    fn progress_of_all(&mut self) {
        if self.served.values().all(|served| self.is_told(served)) {
            self.network.push_back(self.about(-1));
        }
    }

    fn progress(&mut self, pick: u8) {
        let Some((id, served)) = nth(&self.served, pick) else { return };
        if pick.is_multiple_of(3) {
            self.progress_of_all();
        } else if self.is_told(served) {
            self.network.push_back(self.about(*id));
        }
    }

    fn send(&mut self, watch: u8, revisions: u8, parts: u16) {
        let Some((id, served)) = nth(&self.served, watch) else { return };
        let (id, served) = (*id, served.clone());
        if served.next < self.compacted {
            self.served.remove(&id);
            let compact_revision = self.compacted;
            self.network.push_back(pb::WatchResponse { canceled: true, compact_revision, ..self.about(id) });
            return;
        }
        let owed: Vec<_> = self.owed(&served.first_key, served.next).into_iter().take(revisions.into()).collect();
        let Some((last, _)) = owed.last() else { return };
        self.served.insert(id, Served { next: last + 1, ..served });
        let events: Vec<Event> = owed
            .into_iter()
            .flat_map(|(revision, keys)| keys.into_iter().map(move |key| event(revision, key)))
            .collect();
        // etcd's way: parts end anywhere, and all but the last say that more follows.
        let mut messages = vec![self.about(id)];
        for (place, event) in events.into_iter().enumerate() {
            if place > 0 && parts >> (place % 16) & 1 == 1 {
                messages.push(self.about(id));
            }
            messages.last_mut().expect("one").events.push(event);
        }
        let whole = messages.len() - 1;
        for (place, message) in messages.into_iter().enumerate() {
            self.network.push_back(pb::WatchResponse { fragment: place < whole, ..message });
        }
    }

    fn cut(&mut self) {
        self.served.clear();
        self.network.clear();
        self.brought.clear();
    }
}

fn event(revision: i64, key: &'static str) -> Event {
    Event { kv: Some(KeyValue { key: key.into(), mod_revision: revision, ..Default::default() }), ..Default::default() }
}

fn nth<K, V>(map: &BTreeMap<K, V>, pick: u8) -> Option<(&K, &V)> {
    map.iter().nth(usize::from(pick).checked_rem(map.len())?)
}

/// A watch as its reader sees it.
#[derive(Debug)]
struct Reader {
    mailbox: Mailbox,
    first_key: Bytes,
    given: Vec<(i64, Vec<String>)>,
    /// Where it begins, if that is known.
    from: Option<i64>,
    end: Option<WatchError>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct World {
    server: Server,
    table: Table,
    attention: Arc<Attention>,
    is_connected: bool,
    readers: BTreeMap<WatchKey, Reader>,
    closed: BTreeSet<WatchKey>,
}

const LIMITS: MailboxLimits = MailboxLimits { events: 6, bytes: 100_000 };

impl World {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(keys) => {
                let keys = KEYS.iter().enumerate().filter(|(place, _)| keys >> place & 1 == 1).map(|(_, key)| *key);
                self.server.history.push(keys.collect());
            }
            Step::Flush => self.flush(),
            Step::Send { watch, revisions, parts } => self.server.send(watch, revisions, parts),
            Step::Progress(pick) => self.server.progress(pick),
            Step::Receive(count) => (0..count).for_each(|_| self.receive()),
            Step::Repeat(pick) => {
                let brought = self.server.brought.len();
                if let Some(place) = usize::from(pick).checked_rem(brought) {
                    self.take(self.server.brought[place].clone());
                }
            }
            Step::Cut => self.cut(),
            Step::Connect => self.connect(),
            Step::Read(pick) => {
                if let Some(key) = nth(&self.readers, pick).map(|(key, _)| *key) {
                    self.read(key);
                }
            }
            Step::Compact(pick) => {
                let behind = i64::from(pick % 8);
                self.server.compacted = self.server.compacted.max(self.server.revision() - behind);
            }
            Step::Open { keys, from } => self.open(keys, from),
            Step::Close(pick) => {
                if let Some(key) = nth(&self.readers, pick).map(|(key, _)| *key) {
                    self.readers.get_mut(&key).expect("a reader").is_closed = true;
                    self.readers[&key].mailbox.close();
                }
            }
        }
        self.attend();
    }

    fn open(&mut self, keys: u8, from: Option<u8>) {
        if self.readers.len() >= 4 {
            return;
        }
        let key = WatchKey(self.readers.len() as u64);
        let first_key = Bytes::from(KEYS[usize::from(keys)]);
        let from = from.map(|back| (self.server.revision() + 2 - i64::from(back % 12)).max(1));
        let mailbox = Mailbox::new(key, LIMITS, self.attention.clone());
        let reader =
            Reader { mailbox, first_key: first_key.clone(), given: Vec::new(), from, end: None, is_closed: false };
        self.readers.insert(key, reader);
        let scope = Scope {
            key: first_key,
            range_end: "\0".into(),
            progress: true,
            revision_bytes_max: usize::MAX,
            ..Scope::default()
        };
        self.table.open(key, scope, from.map(Revision));
    }

    fn flush(&mut self) {
        if self.is_connected {
            while let Some(request) = self.table.next_request() {
                self.server.asked(request);
            }
        }
    }

    fn connect(&mut self) {
        if !self.is_connected {
            self.is_connected = true;
            self.table.connected(true);
        }
    }

    fn cut(&mut self) {
        if self.is_connected {
            self.is_connected = false;
            self.server.cut();
            let actions = self.table.lost();
            self.act(actions);
        }
    }

    fn receive(&mut self) {
        if let Some(message) = self.server.network.pop_front() {
            if !message.events.is_empty() {
                self.server.brought.push(message.clone());
            }
            self.take(message);
        }
    }

    fn take(&mut self, message: pb::WatchResponse) {
        let actions = self.table.message(message).expect("the model sends nothing wrong");
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Started(key, from) => {
                    let reader = self.readers.get_mut(&key).expect("a reader");
                    if let Some(known) = reader.from.filter(|_| reader.given.is_empty()) {
                        assert!(from.0 >= known, "it began before its start");
                    }
                    reader.from.get_or_insert(from.0);
                    reader.mailbox.started(from);
                }
                Action::Deliver(key, wholes) => {
                    if let Some(next) = self.readers[&key].mailbox.deliver(wholes) {
                        self.table.detach(key, next);
                    }
                }
                Action::Progress(key, revision) => self.readers[&key].mailbox.progress(revision),
                Action::End(key, End::Compacted(at)) => self.readers[&key].mailbox.end(WatchError::Compacted { at }),
                Action::End(_, end) => panic!("{end:?}"),
                Action::Closed(key) => assert!(self.closed.insert(key), "it was closed twice"),
            }
        }
    }

    fn attend(&mut self) {
        for key in self.attention.take() {
            match self.readers[&key].mailbox.want() {
                Want::Close => {
                    let action = self.table.close(key);
                    self.act(action.into_iter().collect());
                }
                Want::More => self.table.attach(key),
                Want::Nothing => {}
            }
        }
    }

    /// Reads one letter, and holds it against the history. Returns whether there was one.
    fn read(&mut self, key: WatchKey) -> bool {
        let reader = self.readers.get_mut(&key).expect("a reader");
        if reader.is_closed || reader.end.is_some() {
            return false;
        }
        let waker = noop_waker();
        match reader.mailbox.poll_letter(&Context::from_waker(&waker)) {
            Poll::Pending => return false,
            Poll::Ready(Ok(Letter::Events(wholes))) => {
                let name = |event: &Event| String::from_utf8_lossy(&event.kv.as_ref().expect("a key").key).into_owned();
                reader
                    .given
                    .extend(wholes.iter().map(|whole| (whole.revision.0, whole.events.iter().map(name).collect())));
            }
            Poll::Ready(Ok(Letter::Progress(revision))) => {
                let missing = self.server.owed(&reader.first_key, reader.from.expect("it has begun"));
                let missing = missing.iter().filter(|(owed, _)| *owed <= revision.0).count();
                assert!(missing <= reader.given.len(), "progress at {revision} came before an event");
            }
            Poll::Ready(Ok(Letter::Reconnected | Letter::Lagged)) => {}
            Poll::Ready(Err(end)) => reader.end = Some(end),
        }
        self.check(key);
        true
    }

    /// What was given is a beginning of what is owed.
    fn check(&self, key: WatchKey) {
        let reader = &self.readers[&key];
        let Some(from) = reader.from else { return assert!(reader.given.is_empty()) };
        let owed = self.server.owed(&reader.first_key, from);
        let owed = owed.into_iter().map(|(revision, keys)| (revision, keys.iter().map(ToString::to_string).collect()));
        let owed: Vec<(i64, Vec<String>)> = owed.take(reader.given.len()).collect();
        assert_eq!(reader.given, owed, "of {key:?}");
    }

    /// Lets everything take its course.
    fn settle(&mut self) {
        self.connect();
        let keys: Vec<WatchKey> = self.readers.keys().copied().collect();
        for _ in 0..10_000 {
            self.flush();
            let served = u8::try_from(self.server.served.len()).expect("few");
            (0..served).for_each(|watch| self.server.send(watch, 3, 0b0101));
            while !self.server.network.is_empty() {
                self.receive();
            }
            let mut is_read = false;
            for key in &keys {
                is_read |= self.read(*key);
            }
            self.attend();
            if !is_read && !self.table.has_requests() && self.server.network.is_empty() {
                return;
            }
        }
        panic!("it does not settle");
    }

    fn check_all(&self) {
        for (key, reader) in &self.readers {
            if reader.is_closed {
                assert!(
                    self.closed.contains(key)
                        || reader.mailbox.poll_end(&Context::from_waker(&noop_waker())).is_ready()
                );
                continue;
            }
            let owed = self.server.owed(&reader.first_key, reader.from.expect("it has begun"));
            match &reader.end {
                None => assert_eq!(reader.given.len(), owed.len(), "{key:?} misses something"),
                Some(WatchError::Compacted { at }) => {
                    let last = reader.given.last().map_or(0, |(revision, _)| *revision);
                    assert!(last < at.0 && at.0 <= self.server.compacted, "{key:?} was at {last}, compacted to {at}");
                }
                Some(end) => panic!("{end:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_is_given_each_revision_once_whole_and_in_order(steps in proptest::collection::vec(step(), 1..160)) {
        let mut world = World::default();
        world.open(0, None);
        world.connect();
        for step in &steps {
            world.step(step);
        }
        world.settle();
        world.check_all();
    }
}
