//! The last-known-good rule: what is served although the store says that it is gone, because too much is gone at once.
//!
//! Instances end one by one, a lease at a time, also when an outage took them all. So ends are counted over a window, and those
//! over the limit are held, not those before it: a cache never loses more than the given part within a window without being told
//! twice. What says that it goes by its own will is not counted.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::event::{Protection, RemovedWhy};
use super::snapshot::Entry;
use crate::clock::Instant;

#[derive(Debug)]
pub(super) struct Holds {
    protection: Option<Protection>,
    /// What went without being held, not longer ago than the window, the oldest first.
    recent: VecDeque<(Instant, Bytes)>,
    held: BTreeMap<Bytes, Held>,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    entry: Entry,
    why: RemovedWhy,
}

impl Holds {
    pub(super) fn new(protection: Option<Protection>) -> Self {
        Self { protection, recent: VecDeque::new(), held: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether so many that vanish now are to be held, and if so, out of how many. `served` counts them, and all that is held.
    pub(super) fn judge(&mut self, now: Instant, vanishing: usize, served: usize) -> Option<usize> {
        let protection = self.protection?;
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > protection.window) {
            self.recent.pop_front();
        }
        let vanished = vanishing + self.recent.len() + self.held.len();
        let of = served + self.recent.len();
        let too_many = vanished.saturating_mul(100) > of.saturating_mul(usize::from(protection.percent));
        (vanishing > 0 && of >= protection.instances_min && too_many).then_some(of)
    }

    /// Holds an instance from now on.
    pub(super) fn hold(&mut self, now: Instant, key: Bytes, entry: Entry, why: RemovedWhy) {
        let Some(protection) = self.protection else { return };
        self.held.insert(key, Held { until: now + protection.grace, entry, why });
    }

    /// An instance goes without being held.
    pub(super) fn let_go(&mut self, now: Instant, key: Bytes) {
        if self.protection.is_some() {
            self.recent.push_back((now, key));
        }
    }

    /// An instance is back. Gives it as it was if it was held.
    pub(super) fn returned(&mut self, key: &Bytes) -> Option<Entry> {
        self.recent.retain(|(_, gone)| gone != key);
        self.held.remove(key).map(|held| Entry { held: None, ..held.entry })
    }

    /// Takes out those whose grace is over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Entry, RemovedWhy)> {
        let due: Vec<Bytes> =
            self.held.iter().filter(|(_, held)| held.until <= now).map(|(key, _)| key.clone()).collect();
        due.iter().filter_map(|key| self.held.remove(key)).map(|held| (held.entry, held.why)).collect()
    }

    /// When the first grace is over.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.held.values().map(|held| held.until).min()
    }
}
