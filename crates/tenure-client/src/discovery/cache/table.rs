//! The state of a cache: what it knows of the store, and what follows from each thing that it hears. No tasks, no clock, no wire.
//!
//! It hears four things: whole *listings* of the registry at a revision, *changes* from a watch in the order of revisions,
//! *probes* (how many keys there are and which was written last), and the passing of time. Listings and changes are on their way at the
//! same time, so either can be ahead of the other:
//!
//! - A change at or below the revision of a listing that was taken in is old news, and is dropped.
//! - A listing that is behind the changes takes away only keys that were not written since it was made, and brings back no key that was
//!   deleted since: deletions are remembered while a listing is under way.
//! - A probe that agrees (below) counts as a listing at its revision.
//!
//! So the rows are those of the store at `revision()`, whatever order things come in; the property tests hold it against a model
//! of the store. What is *served* differs from the rows in two ways: filtered, leaving and unreadable rows are not served, and when
//! too many are gone at once they are (`hold`).
//!
//! **How old it may be.** A cache that holds as many keys as the store, and whose last written key was written in the same revision, has
//! the same content: every put since would show a later revision, unless its key was deleted again, and every other
//! deletion leaves fewer keys. So a probe that agrees proves that what was there when the probe was *sent* is in the cache. One that does not
//! agree proves the same as soon as the watch has passed the revision that the probe was answered at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::filter::Filter;
use super::super::instance::Instance;
use super::super::key::parse_key;
use super::super::record::Record;
use super::event::{Event, Protection, RemovedWhy, StaleWhy};
use super::hold::Holds;
use super::snapshot::{Entry, Snapshot};
use crate::Revision;
use crate::clock::Instant;

/// How many probes may wait for the watch to pass their revision. The oldest one proves least, and goes first.
const PROBES_MAX: usize = 16;

/// A key as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Stored {
    pub(in super::super) key: Bytes,
    pub(in super::super) value: Bytes,
    pub(in super::super) create_revision: i64,
    pub(in super::super) mod_revision: i64,
    pub(in super::super) lease: i64,
}

/// A change that a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Change {
    Put(Stored),
    Delete { key: Bytes, revision: i64 },
}

/// The whole content of the store at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Listing {
    pub(in super::super) revision: i64,
    pub(in super::super) stored: Vec<Stored>,
}

/// What is enough to tell whether a cache has the content of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Probe {
    /// The store's revision when it answered.
    pub(in super::super) revision: i64,
    /// How many keys there were.
    pub(in super::super) keys: usize,
    /// The greatest mod revision of them; 0 if there were none.
    pub(in super::super) mod_revision: i64,
}

/// What a cache keeps, and how it judges.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// What the keys of the registry begin with.
    pub(super) prefix: String,
    pub(super) filter: Filter,
    /// The kind and id of an instance that is not served.
    pub(super) hidden: Option<(String, String)>,
    pub(super) protection: Option<Protection>,
    /// The staleness above which listeners are told.
    pub(super) stale_after: Duration,
}

/// What stands at a key.
#[derive(Clone, Debug)]
struct Row {
    mod_revision: i64,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Served(Entry),
    /// Of another kind than those that are kept, or the hidden one.
    Ignored,
    Leaving,
    Unreadable,
}

/// What a step did to one key: what was served before it, and if that is gone, why.
#[derive(Clone, Debug)]
struct Touched {
    before: Option<Entry>,
    why: RemovedWhy,
}

/// The keys that a step touched, and the events that do not depend on how it ends.
#[derive(Default)]
struct Step {
    touched: BTreeMap<Bytes, Touched>,
    skipped: Vec<Event>,
}

/// A listing that is under way.
#[derive(Debug)]
struct Underway {
    sent: Instant,
    /// Where the cache was when it was asked for: a listing at a lower revision is of another history.
    revision: i64,
    /// What was deleted since, and in which revision.
    deleted: BTreeMap<Bytes, i64>,
}

/// The state of a cache.
#[derive(Debug)]
pub(super) struct Table {
    settings: Settings,
    rows: BTreeMap<Bytes, Row>,
    /// Changes up to this revision are old news.
    floor: i64,
    /// The watch has told everything up to this revision.
    watched: i64,
    underway: Option<Underway>,
    /// Probes that did not agree, and when they were sent.
    probes: Vec<(Instant, Probe)>,
    /// What was in the store by then is in the rows.
    verified: Option<Instant>,
    no_contact: bool,
    holds: Holds,
    view: Snapshot,
}

impl Table {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            holds: Holds::new(settings.protection),
            settings,
            rows: BTreeMap::new(),
            floor: 0,
            watched: 0,
            underway: None,
            probes: Vec::new(),
            verified: None,
            no_contact: false,
            view: Snapshot::default(),
        }
    }

    /// The revision whose content the rows are.
    pub(super) fn revision(&self) -> i64 {
        self.floor.max(self.watched)
    }

    /// What is served now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut view = self.view.clone();
        view.revision = self.revision();
        view
    }

    /// The instant by which everything that was in the store is in the rows; none before the first listing.
    pub(super) fn verified(&self) -> Option<Instant> {
        self.verified
    }

    /// How long ago a probe was sent that the watch still owes an answer to: the oldest.
    pub(super) fn unsettled(&self, now: Instant) -> Option<Duration> {
        self.probes.first().map(|(sent, _)| now.saturating_duration_since(*sent))
    }

    /// A listing is asked for, now. It takes the place of one that is under way.
    pub(super) fn list_begins(&mut self, now: Instant) {
        self.underway = Some(Underway { sent: now, revision: self.revision(), deleted: BTreeMap::new() });
    }

    /// The listing came, by a linearizable read. Gives whether it is of another history than what was known, as after a
    /// restore from a backup: then what a watch of before tells must not be taken in any more.
    pub(super) fn listed(&mut self, now: Instant, listing: Listing) -> (Vec<Event>, bool) {
        let Some(underway) = self.underway.take() else { return (Vec::new(), false) };
        let rewound = listing.revision < underway.revision;
        if rewound {
            (self.floor, self.watched) = (0, 0);
            self.probes.clear();
            for row in self.rows.values_mut() {
                // Older than all that the listing has, so that it wins.
                row.mod_revision = 0;
            }
        }
        // A probe has shown since that the rows are those of a later revision: there is nothing to learn.
        let is_old = listing.revision < self.floor;
        let mut step = Step::default();
        let mut kept: Vec<Bytes> = Vec::with_capacity(listing.stored.len());
        for stored in listing.stored {
            kept.push(stored.key.clone());
            let is_deleted = underway.deleted.get(&stored.key).is_some_and(|revision| *revision > stored.mod_revision);
            let is_known =
                is_old || self.rows.get(&stored.key).is_some_and(|row| row.mod_revision >= stored.mod_revision);
            if rewound || (!is_deleted && !is_known) {
                self.put(&mut step, stored);
            }
        }
        kept.sort_unstable();
        let gone: Vec<Bytes> = self
            .rows
            .iter()
            .filter(|(key, row)| row.mod_revision <= listing.revision && kept.binary_search(key).is_err())
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.delete(&mut step, key, Some(RemovedWhy::Unknown));
        }
        self.floor = self.floor.max(listing.revision);
        let (mut events, differences) = self.settle(now, step);
        events.push(Event::Resynced { revision: Revision(listing.revision), differences });
        self.verify(underway.sent);
        self.freshen(now, &mut events);
        (events, rewound)
    }

    /// The watch tells changes: all of them up to `revision`, and whole revisions.
    pub(super) fn changed(&mut self, now: Instant, revision: i64, changes: Vec<Change>) -> Vec<Event> {
        let mut step = Step::default();
        for change in changes {
            match change {
                Change::Put(stored) => {
                    if stored.mod_revision > self.floor {
                        self.put(&mut step, stored);
                    }
                }
                Change::Delete { key, revision } => {
                    if revision > self.floor {
                        if let Some(underway) = &mut self.underway {
                            underway.deleted.insert(key.clone(), revision);
                        }
                        self.delete(&mut step, key, None);
                    }
                }
            }
        }
        self.watched = self.watched.max(revision);
        let (mut events, _) = self.settle(now, step);
        self.check_probes();
        self.freshen(now, &mut events);
        events
    }

    /// A linearizable probe that was sent at `sent` came back.
    pub(super) fn probed(&mut self, now: Instant, sent: Instant, probe: Probe) -> Vec<Event> {
        if self.probes.len() == PROBES_MAX {
            self.probes.remove(0);
        }
        self.probes.push((sent, probe));
        self.check_probes();
        let mut events = Vec::new();
        self.freshen(now, &mut events);
        events
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for (entry, why) in self.holds.due(now) {
            self.view.remove(&entry.instance);
            events.push(Event::Removed { instance: entry.instance, why });
        }
        if !events.is_empty() && self.holds.is_empty() && !self.no_contact {
            events.push(Event::Fresh);
        }
        self.freshen(now, &mut events);
        events
    }

    /// When `tick` has something to do, if nothing is heard until then.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let stale = self.verified.filter(|_| !self.no_contact).map(|verified| verified + self.settings.stale_after);
        [stale, self.holds.next_due()].into_iter().flatten().min()
    }

    fn put(&mut self, step: &mut Step, stored: Stored) {
        let Stored { key, value, create_revision, mod_revision, lease } = stored;
        let (content, why) = match self.read(&key, &value) {
            Read::Served(instance) => {
                let instance = Arc::new(instance);
                let entry = Entry { instance, create_revision, mod_revision, lease, held: None };
                (Content::Served(entry), RemovedWhy::Unknown)
            }
            Read::Ignored => (Content::Ignored, RemovedWhy::Unknown),
            Read::Leaving => (Content::Leaving, RemovedWhy::Deregistered),
            Read::Unreadable(why) => {
                step.skipped.push(Event::Skipped { key: String::from_utf8_lossy(&key).into_owned(), why });
                (Content::Unreadable, RemovedWhy::Unreadable)
            }
        };
        let before = self.rows.insert(key.clone(), Row { mod_revision, content });
        step.touch(key, before, why);
    }

    /// `why` is none if it was seen to go.
    fn delete(&mut self, step: &mut Step, key: Bytes, why: Option<RemovedWhy>) {
        let Some(row) = self.rows.remove(&key) else { return };
        let why = match &row.content {
            Content::Leaving => RemovedWhy::Deregistered,
            Content::Unreadable => RemovedWhy::Unreadable,
            Content::Ignored => RemovedWhy::Unknown,
            Content::Served(_) if why.is_some() => RemovedWhy::Unknown,
            Content::Served(entry) if entry.lease == 0 => RemovedWhy::Deleted,
            Content::Served(_) => RemovedWhy::Expired,
        };
        step.touch(key, Some(row), why);
    }

    fn read(&self, key: &[u8], value: &[u8]) -> Read {
        let Some((kind, id)) = parse_key(&self.settings.prefix, key) else {
            return Read::Unreadable("its key is not <kind>/<id>, each name percent-encoded".to_owned());
        };
        let is_hidden = self.settings.hidden.as_ref().is_some_and(|hidden| hidden.0 == kind && hidden.1 == id);
        if is_hidden || !self.settings.filter.keeps(&kind) {
            return Read::Ignored;
        }
        match Record::decode(&kind, &id, value) {
            Ok(record) if record.leaving => Read::Leaving,
            Ok(record) => Read::Served(record.instance),
            Err(why) => Read::Unreadable(why),
        }
    }

    /// Turns what a step did to the rows into what is served, and tells how many instances are concerned.
    fn settle(&mut self, now: Instant, step: Step) -> (Vec<Event>, usize) {
        let mut events = step.skipped;
        let mut gone = Vec::new();
        let (mut differences, was_holding) = (0, !self.holds.is_empty());
        for (key, Touched { before, why }) in step.touched {
            let after = match self.rows.get(&key).map(|row| &row.content) {
                Some(Content::Served(entry)) => Some(entry.clone()),
                Some(Content::Ignored | Content::Leaving | Content::Unreadable) | None => None,
            };
            let Some(new) = after else {
                match before {
                    Some(entry) => gone.push((key, entry, why)),
                    // It is held, and says now that it goes by its own will.
                    None if why == RemovedWhy::Deregistered => {
                        gone.extend(self.holds.returned(&key).map(|entry| (key, entry, why)));
                    }
                    None => {}
                }
                continue;
            };
            // Whether it was held, or gone a moment ago: it is back.
            let held = self.holds.returned(&key);
            match before.or(held) {
                None => events.push(Event::Added(new.instance.clone())),
                Some(old) if old.instance != new.instance => {
                    events.push(Event::Updated { old: old.instance, new: new.instance.clone() });
                }
                Some(_) => {
                    self.view.set(new);
                    continue;
                }
            }
            differences += 1;
            self.view.set(new);
        }
        differences += gone.len();
        self.let_go(now, gone, &mut events);
        if was_holding && self.holds.is_empty() && !self.no_contact {
            events.push(Event::Fresh);
        }
        (events, differences)
    }

    /// Removes what is gone, or holds it if it is too much.
    fn let_go(&mut self, now: Instant, gone: Vec<(Bytes, Entry, RemovedWhy)>, events: &mut Vec<Event>) {
        let (by_will, vanished): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|(_, _, why)| *why == RemovedWhy::Deregistered);
        let served = self.view.len().saturating_sub(by_will.len());
        let hold = self.holds.judge(now, vanished.len(), served);
        for (_, entry, why) in by_will {
            self.view.remove(&entry.instance);
            events.push(Event::Removed { instance: entry.instance, why });
        }
        let held = vanished.len();
        for (key, mut entry, why) in vanished {
            if hold.is_some() {
                entry.held = Some(why);
                self.view.set(entry.clone());
                self.holds.hold(now, key, entry, why);
            } else {
                self.view.remove(&entry.instance);
                self.holds.let_go(now, key);
                events.push(Event::Removed { instance: entry.instance, why });
            }
        }
        if let Some(of) = hold {
            events.push(Event::Stale(StaleWhy::ManyGone { held, of }));
        }
    }

    /// Takes the proof of each probe that agrees by now, or that the watch has passed.
    fn check_probes(&mut self) {
        let Some((_, last)) = self.probes.last() else { return };
        // Only then is it worth while to look through all rows.
        let agrees = last.keys == self.rows.len()
            && self.rows.values().map(|row| row.mod_revision).max().unwrap_or(0) == last.mod_revision;
        let (last, revision) = (*last, self.revision());
        let (proven, open): (Vec<_>, Vec<_>) =
            self.probes.drain(..).partition(|(_, probe)| probe.revision <= revision || (agrees && *probe == last));
        if agrees {
            // It is as good as a listing without differences: what the watch tells late up to there must not bring the past back.
            self.floor = self.floor.max(last.revision);
        }
        // A probe that agrees also settles those that were sent before it.
        self.probes = if agrees { Vec::new() } else { open };
        if let Some(sent) = proven.into_iter().map(|(sent, _)| sent).max() {
            self.verify(sent);
        }
    }

    fn verify(&mut self, sent: Instant) {
        self.verified = self.verified.max(Some(sent));
        self.probes.retain(|(at, _)| *at > sent);
    }

    /// Tells when contact with the cluster is lost for too long, and when it is back.
    fn freshen(&mut self, now: Instant, events: &mut Vec<Event>) {
        let Some(verified) = self.verified else { return };
        let staleness = now.saturating_duration_since(verified);
        let no_contact = staleness >= self.settings.stale_after;
        if no_contact && !self.no_contact {
            events.push(Event::Stale(StaleWhy::NoContact { staleness }));
        } else if !no_contact && self.no_contact && self.holds.is_empty() {
            events.push(Event::Fresh);
        }
        self.no_contact = no_contact;
    }
}

/// What a value is to a cache.
enum Read {
    Served(Instance),
    Ignored,
    Leaving,
    Unreadable(String),
}

impl Step {
    fn touch(&mut self, key: Bytes, row: Option<Row>, why: RemovedWhy) {
        let served = row.and_then(|row| match row.content {
            Content::Served(entry) => Some(entry),
            Content::Ignored | Content::Leaving | Content::Unreadable => None,
        });
        // What was served before the first time that the step touched it counts, and why it went the last time.
        self.touched.entry(key).and_modify(|touched| touched.why = why).or_insert(Touched { before: served, why });
    }
}

#[cfg(test)]
mod tests;
