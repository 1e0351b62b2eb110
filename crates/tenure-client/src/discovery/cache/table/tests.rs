//! The table against a model of the store: whatever comes in whatever order, its rows are the store's at its revision.
//!
//! A random run writes to the model store, and lets a watch, listings and probes run behind it, each as late as it likes. What the
//! events say is replayed by a listener, who must end up with what the table serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::subscription::Known;
use super::*;
use crate::LeaseId;

const PREFIX: &str = "discovery/prod/";

fn settings(protection: Option<Protection>) -> Settings {
    Settings {
        prefix: PREFIX.to_owned(),
        filter: Filter::deny(["bot"]),
        hidden: Some(("room".to_owned(), "self".to_owned())),
        protection,
        stale_after: Duration::from_secs(15),
    }
}

fn at(ms: u64) -> Instant {
    Instant::since_origin(Duration::from_millis(ms))
}

fn key(kind: &str, id: &str) -> Bytes {
    Bytes::from(format!("{PREFIX}{kind}/{id}"))
}

fn stored(key: Bytes, value: &str, revision: i64) -> Stored {
    Stored { key, value: Bytes::from(value.to_owned()), create_revision: revision, mod_revision: revision, lease: 7 }
}

fn addr(addr: &str) -> String {
    format!(r#"{{"v":1,"addr":"{addr}"}}"#)
}

/// A listing of so many rooms at a revision; each was written at the revision that is its number plus 10.
fn rooms(count: i64, revision: i64) -> Listing {
    let stored = (0..count).map(|room| stored(key("room", &format!("{room:02}")), &addr("a:1"), room + 10)).collect();
    Listing { revision, stored }
}

fn ready(table: &mut Table, listing: Listing) -> Vec<Event> {
    table.list_begins(at(0));
    table.listed(at(0), listing).0
}

fn delete(room: i64, revision: i64) -> Change {
    Change::Delete { key: key("room", &format!("{room:02}")), revision }
}

fn addrs(snapshot: &Snapshot) -> Vec<(String, String, bool)> {
    snapshot
        .entries()
        .map(|entry| {
            let addr = entry.instance().addr_text().unwrap_or_default().to_owned();
            (entry.instance().id().to_owned(), addr, entry.is_stale())
        })
        .collect()
}

fn ids(table: &Table) -> Vec<String> {
    table.snapshot().all().map(|instance| instance.id().to_owned()).collect()
}

fn removed(events: &[Event]) -> Vec<(String, RemovedWhy)> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Removed { instance, why } => Some((instance.id().to_owned(), *why)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_list_that_is_behind_the_watch_deletes_nothing_newer_and_revives_nothing() {
    let mut table = Table::new(settings(None));
    ready(&mut table, rooms(2, 20));
    // A listing is asked for at 20, and answers with the content of 21; the watch is ahead of it.
    table.list_begins(at(5));
    table.changed(at(6), 22, vec![Change::Put(stored(key("room", "new"), &addr("b:1"), 22))]);
    table.changed(at(7), 23, vec![delete(0, 23)]);
    let (events, _) = table.listed(at(8), rooms(2, 21));
    assert_eq!(ids(&table), ["01", "new"]);
    assert_eq!(events, [Event::Resynced { revision: Revision(21), differences: 0 }]);
    assert_eq!(table.revision(), 23);
}

#[test]
fn a_change_that_is_behind_the_list_is_old_news() {
    let mut table = Table::new(settings(None));
    ready(&mut table, rooms(1, 30));
    let old = vec![Change::Put(stored(key("room", "gone"), &addr("b:1"), 25)), delete(0, 26)];
    assert_eq!(table.changed(at(1), 26, old), []);
    assert_eq!(ids(&table), ["00"]);
    assert_eq!(table.revision(), 30);
}

#[test]
fn a_resync_repairs_what_the_watch_did_not_tell() {
    let mut table = Table::new(settings(None));
    ready(&mut table, rooms(3, 20));
    table.list_begins(at(1));
    let mut listing = rooms(2, 25);
    listing.stored[1] = stored(key("room", "01"), &addr("moved:1"), 24);
    listing.stored.push(stored(key("room", "new"), &addr("n:1"), 25));
    let (events, _) = table.listed(at(2), listing);
    assert_eq!(removed(&events), [("02".to_owned(), RemovedWhy::Unknown)]);
    assert_eq!(events.last(), Some(&Event::Resynced { revision: Revision(25), differences: 3 }));
    assert_eq!(ids(&table), ["00", "01", "new"]);
}

#[test]
fn a_new_lease_with_the_same_content_is_no_event() {
    let mut table = Table::new(settings(Some(Protection::default())));
    ready(&mut table, rooms(1, 20));
    let again = Stored { lease: 8, ..stored(key("room", "00"), &addr("a:1"), 22) };
    assert_eq!(table.changed(at(1), 22, vec![delete(0, 21), Change::Put(again)]), []);
    assert_eq!(table.snapshot().entry("room", "00").map(Entry::lease), Some(LeaseId(8)));
}

#[test]
fn changed_metadata_is_an_update_with_the_old_and_the_new() {
    let mut table = Table::new(settings(None));
    ready(&mut table, rooms(1, 20));
    let old = table.snapshot().get("00").cloned().unwrap();
    let events =
        table.changed(at(1), 21, vec![Change::Put(stored(key("room", "00"), r#"{"v":1,"meta":{"a":1}}"#, 21))]);
    let new = table.snapshot().get("00").cloned().unwrap();
    assert_eq!(new.get_meta("a"), Some(&1.into()));
    assert_eq!(events, [Event::Updated { old, new }]);
}

#[test]
fn why_an_instance_is_gone_is_told_as_far_as_it_can_be() {
    let mut table = Table::new(settings(None));
    ready(&mut table, rooms(4, 20));
    table.changed(at(1), 21, vec![Change::Put(Stored { lease: 0, ..stored(key("room", "03"), &addr("a:1"), 21) })]);
    let leaving = Change::Put(stored(key("room", "00"), r#"{"v":1,"leaving":true}"#, 22));
    let bad = Change::Put(stored(key("room", "02"), "nonsense", 24));
    let events = table.changed(at(2), 25, vec![leaving, delete(1, 23), bad, delete(3, 25)]);
    let expected = [
        ("00", RemovedWhy::Deregistered),
        ("01", RemovedWhy::Expired),
        ("02", RemovedWhy::Unreadable),
        ("03", RemovedWhy::Deleted),
    ];
    let mut found = removed(&events);
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found, expected.map(|(id, why)| (id.to_owned(), why)));
    // What follows the mark is no second end.
    assert_eq!(table.changed(at(3), 26, vec![delete(0, 26)]), []);
}

#[test]
fn bad_keys_and_values_are_skipped_with_an_event_and_harm_nothing_else() {
    let mut table = Table::new(settings(None));
    let mut listing = rooms(1, 20);
    for (name, value) in
        [("room/a%2f", "{}"), ("room", "{}"), ("room/x/y", "{}"), ("room/bad", "\u{0}"), ("room/v9", "{\"v\":9}")]
    {
        listing.stored.push(stored(Bytes::from(format!("{PREFIX}{name}")), value, 15));
    }
    let events = ready(&mut table, listing);
    let skipped = events.iter().filter(|event| matches!(event, Event::Skipped { .. })).count();
    assert_eq!(skipped, 5);
    assert_eq!(ids(&table), ["00"]);
    // A listing that still has them does not tell them again.
    table.list_begins(at(1));
    let again = Listing {
        revision: 21,
        stored: table.rows.iter().map(|(key, row)| stored(key.clone(), "{}", row.mod_revision)).collect(),
    };
    let (events, _) = table.listed(at(1), again);
    assert_eq!(events, [Event::Resynced { revision: Revision(21), differences: 0 }]);
}

#[test]
fn filtered_kinds_and_the_hidden_instance_are_not_served() {
    let mut table = Table::new(settings(None));
    let mut listing = rooms(1, 20);
    listing.stored.push(stored(key("bot", "1"), &addr("b:1"), 12));
    listing.stored.push(stored(key("room", "self"), &addr("s:1"), 13));
    let events = ready(&mut table, listing);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Added(_))).count(), 1);
    assert_eq!(ids(&table), ["00"]);
    // They count as keys for probes all the same.
    let probe = Probe { revision: 90, keys: 3, mod_revision: 13 };
    table.probed(at(70), at(60), probe);
    assert_eq!(table.verified(), Some(at(60)));
}

#[test]
fn an_empty_answer_of_the_store_empties_no_routing_table_at_once() {
    let protection = Protection::default();
    let mut table = Table::new(settings(Some(protection)));
    ready(&mut table, rooms(4, 20));
    table.list_begins(at(1000));
    let (events, _) = table.listed(at(1000), Listing { revision: 30, stored: vec![] });
    assert_eq!(
        events,
        [
            Event::Stale(StaleWhy::ManyGone { held: 4, of: 4 }),
            Event::Resynced { revision: Revision(30), differences: 4 },
        ]
    );
    assert!(addrs(&table.snapshot()).iter().all(|(_, _, is_stale)| *is_stale));
    assert_eq!(table.snapshot().len(), 4);
    // One comes back: it is neither added again nor stale.
    assert_eq!(table.changed(at(2000), 31, vec![Change::Put(stored(key("room", "00"), &addr("a:1"), 31))]), []);
    assert!(table.snapshot().entry("room", "00").is_some_and(|entry| !entry.is_stale()));
    // The others are removed after the grace, and not before.
    let due = at(1000) + protection.grace;
    assert_eq!(removed(&table.tick(due.saturating_sub(Duration::from_millis(1)))), []);
    table.probed(due, due, Probe { revision: 31, keys: 1, mod_revision: 31 });
    let events = table.tick(due);
    assert_eq!(removed(&events).len(), 3);
    assert_eq!(events.last(), Some(&Event::Fresh));
    assert_eq!(ids(&table), ["00"]);
}

#[test]
fn leases_that_end_one_by_one_are_counted_over_the_window() {
    let mut table = Table::new(settings(Some(Protection::default())));
    ready(&mut table, rooms(10, 20));
    for room in 0..10 {
        table.changed(at(100 * u64::try_from(room).unwrap()), 30 + room, vec![delete(room, 30 + room)]);
    }
    // Five of ten is not more than half; the sixth is, and so are those after it.
    assert_eq!(ids(&table), ["05", "06", "07", "08", "09"]);
}

#[test]
fn ends_that_are_further_apart_than_the_window_are_not_held() {
    let mut table = Table::new(settings(Some(Protection::default())));
    ready(&mut table, rooms(10, 20));
    for room in 0..10 {
        table.changed(at(11_000 * u64::try_from(room).unwrap()), 30 + room, vec![delete(room, 30 + room)]);
    }
    // The last two are fewer than `instances_min`.
    assert!(table.snapshot().is_empty());
}

#[test]
fn few_instances_and_those_that_say_goodbye_are_not_held() {
    let mut table = Table::new(settings(Some(Protection::default())));
    ready(&mut table, rooms(2, 20));
    table.changed(at(1), 30, vec![delete(0, 30), delete(1, 30)]);
    assert!(table.snapshot().is_empty());

    let mut table = Table::new(settings(Some(Protection::default())));
    ready(&mut table, rooms(9, 20));
    let leaving = (0..9)
        .map(|room| Change::Put(stored(key("room", &format!("{room:02}")), r#"{"v":1,"leaving":true}"#, 30 + room)));
    let events = table.changed(at(1), 38, leaving.collect());
    assert_eq!(removed(&events).len(), 9);
    assert!(table.snapshot().is_empty());
}

#[test]
fn a_probe_that_agrees_proves_freshness_and_one_that_does_not_waits_for_the_watch() {
    let mut table = Table::new(settings(None));
    ready(&mut table, rooms(3, 20));
    table.probed(at(6000), at(5000), Probe { revision: 90, keys: 3, mod_revision: 12 });
    assert_eq!(table.verified(), Some(at(5000)));
    // A key was written that the watch has not told.
    table.probed(at(10_100), at(10_000), Probe { revision: 100, keys: 3, mod_revision: 95 });
    assert_eq!(table.verified(), Some(at(5000)));
    assert_eq!(table.unsettled(at(12_000)), Some(Duration::from_secs(2)));
    table.changed(at(12_000), 95, vec![Change::Put(stored(key("room", "00"), &addr("a:1"), 95))]);
    assert_eq!(table.verified(), Some(at(10_000)));
    // A key was deleted: there are fewer, though the last that was written is the same.
    table.probed(at(15_100), at(15_000), Probe { revision: 120, keys: 2, mod_revision: 95 });
    assert_eq!(table.verified(), Some(at(10_000)));
    table.changed(at(15_200), 130, vec![]);
    assert_eq!(table.verified(), Some(at(15_000)));
}

#[test]
fn after_a_probe_that_agrees_the_past_does_not_come_back() {
    let mut table = Table::new(settings(None));
    ready(&mut table, rooms(2, 20));
    // A key was put at 30 and deleted at 31. The watch has told neither, and a listing of 30 is on its way.
    table.list_begins(at(1));
    table.probed(at(3), at(2), Probe { revision: 31, keys: 2, mod_revision: 11 });
    assert_eq!((table.revision(), table.verified()), (31, Some(at(2))));
    let passing = stored(key("room", "passing"), &addr("p:1"), 30);
    assert_eq!(table.changed(at(4), 30, vec![Change::Put(passing.clone())]), []);
    let mut listing = rooms(2, 30);
    listing.stored.push(passing);
    let (events, rewound) = table.listed(at(5), listing);
    assert_eq!((events, rewound), (vec![Event::Resynced { revision: Revision(30), differences: 0 }], false));
    assert_eq!(ids(&table), ["00", "01"]);
}

#[test]
fn listeners_are_told_when_contact_is_lost_and_when_it_is_back() {
    let mut table = Table::new(settings(None));
    ready(&mut table, rooms(1, 20));
    assert_eq!(table.next_tick(), Some(at(15_000)));
    assert_eq!(table.tick(at(14_999)), []);
    let staleness = Duration::from_secs(15);
    assert_eq!(table.tick(at(15_000)), [Event::Stale(StaleWhy::NoContact { staleness })]);
    assert_eq!(table.tick(at(16_000)), []);
    assert_eq!(table.probed(at(20_000), at(19_000), Probe { revision: 30, keys: 1, mod_revision: 10 }), [Event::Fresh]);
}

#[test]
fn a_store_that_was_set_back_is_believed() {
    let mut table = Table::new(settings(None));
    ready(&mut table, rooms(3, 500));
    table.list_begins(at(1));
    let (events, rewound) = table.listed(at(1), rooms(2, 20));
    assert!(rewound);
    assert_eq!(removed(&events), [("02".to_owned(), RemovedWhy::Unknown)]);
    assert_eq!(table.revision(), 20);
    table.changed(at(2), 21, vec![delete(0, 21)]);
    assert_eq!(ids(&table), ["01"]);
}

/// A write of the model store.
#[derive(Clone, Debug)]
enum Write {
    /// An instance that says this much of itself.
    Put(u8, u8),
    Leaving(u8),
    Nonsense(u8),
    Delete(u8),
}

/// What happens next.
#[derive(Clone, Debug)]
enum Happening {
    /// A transaction; one without writes is one of other keys.
    Txn(Vec<Write>),
    /// The watch tells at most so many revisions at once.
    Deliver(usize),
    /// The watch breaks; the next listing opens it again.
    Break,
    ListBegins,
    /// The listing comes, made so late between when it was asked for and now, in hundredths.
    ListEnds(i64),
    ProbeBegins,
    ProbeEnds(i64),
    Time(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let write = prop_oneof![
        4 => (0..8u8, 0..3u8).prop_map(|(key, content)| Write::Put(key, content)),
        1 => (0..8u8).prop_map(Write::Leaving),
        1 => (0..8u8).prop_map(Write::Nonsense),
        3 => (0..8u8).prop_map(Write::Delete),
    ];
    prop_oneof![
        6 => prop::collection::vec(write, 0..3).prop_map(Happening::Txn),
        4 => (1..5usize).prop_map(Happening::Deliver),
        1 => Just(Happening::Break),
        2 => Just(Happening::ListBegins),
        2 => (0..=100i64).prop_map(Happening::ListEnds),
        2 => Just(Happening::ProbeBegins),
        2 => (0..=100i64).prop_map(Happening::ProbeEnds),
        1 => (1..20_000u64).prop_map(Happening::Time),
    ]
}

/// A store that remembers all its states, and what of it is on its way to the table.
struct Model {
    /// The state at revision `index`; the first two are empty.
    states: Vec<BTreeMap<Bytes, Stored>>,
    changes: Vec<Vec<Change>>,
    /// The revision that the watch tells next; none while it is broken.
    watch: Option<usize>,
    listing: Option<usize>,
    probe: Option<(Instant, usize)>,
    /// The store's revision when something was sent.
    sent: BTreeMap<Instant, usize>,
    now: Instant,
    listener: BTreeMap<(String, String), Arc<Instance>>,
}

impl Model {
    fn new() -> Self {
        Self {
            states: vec![BTreeMap::new(); 2],
            changes: vec![vec![]; 2],
            watch: None,
            listing: None,
            probe: None,
            sent: BTreeMap::new(),
            now: at(0),
            listener: BTreeMap::new(),
        }
    }

    fn revision(&self) -> usize {
        self.states.len() - 1
    }

    /// Moments differ, so that what was sent at one can be told from the rest.
    fn send(&mut self) -> Instant {
        self.now = self.now + Duration::from_millis(1);
        self.sent.insert(self.now, self.revision());
        self.now
    }

    fn key(number: u8) -> Bytes {
        match number {
            0 => key("room", "self"),
            1 => key("bot", "1"),
            2 => Bytes::from_static(b"discovery/prod/not an instance"),
            other => key(if other % 2 == 0 { "room" } else { "hall" }, &other.to_string()),
        }
    }

    fn txn(&mut self, writes: &[Write]) {
        let mut state = self.states.last().cloned().unwrap_or_default();
        let revision = i64::try_from(self.states.len()).unwrap();
        let mut changes = BTreeMap::new();
        for write in writes {
            let (number, value) = match write {
                Write::Put(number, content) => (*number, Some(addr(&content.to_string()))),
                Write::Leaving(number) => (*number, Some(r#"{"v":1,"leaving":true}"#.to_owned())),
                Write::Nonsense(number) => (*number, Some("nonsense".to_owned())),
                Write::Delete(number) => (*number, None),
            };
            let key = Self::key(number);
            // A transaction changes a key once.
            if changes.contains_key(&key) {
                continue;
            }
            let Some(value) = value else {
                if state.remove(&key).is_some() {
                    changes.insert(key.clone(), Change::Delete { key, revision });
                }
                continue;
            };
            let mut new = stored(key.clone(), &value, revision);
            if let Some(old) = state.get(&key) {
                new.create_revision = old.create_revision;
            }
            state.insert(key.clone(), new.clone());
            changes.insert(key, Change::Put(new));
        }
        self.states.push(state);
        self.changes.push(changes.into_values().collect());
    }

    fn deliver(&mut self, table: &mut Table, revisions: usize) -> Vec<Event> {
        let Some(from) = self.watch else { return vec![] };
        let until = (from + revisions).min(self.states.len());
        if from == until {
            return vec![];
        }
        self.watch = Some(until);
        let changes = self.changes[from..until].concat();
        table.changed(self.now, i64::try_from(until - 1).unwrap(), changes)
    }

    fn list(&mut self, table: &mut Table, late: i64) -> Vec<Event> {
        let Some(sent) = self.listing.take() else { return vec![] };
        let revision = sent + (self.revision() - sent) * usize::try_from(late).unwrap() / 100;
        let stored = self.states[revision].values().cloned().collect();
        let (events, rewound) = table.listed(self.now, Listing { revision: i64::try_from(revision).unwrap(), stored });
        assert!(!rewound);
        self.watch = self.watch.or(Some(revision + 1));
        events
    }

    fn step(&mut self, table: &mut Table, happening: &Happening) {
        let events = match happening {
            Happening::Txn(writes) => {
                self.txn(writes);
                vec![]
            }
            Happening::Deliver(revisions) => self.deliver(table, *revisions),
            Happening::Break => {
                (self.watch, self.listing) = (None, None);
                vec![]
            }
            Happening::ListBegins => {
                let now = self.send();
                table.list_begins(now);
                self.listing = Some(self.revision());
                vec![]
            }
            Happening::ListEnds(late) => self.list(table, *late),
            Happening::ProbeBegins => {
                let now = self.send();
                self.probe = Some((now, self.revision()));
                vec![]
            }
            Happening::ProbeEnds(late) => self.probe.take().map_or_else(Vec::new, |(sent, from)| {
                let revision = from + (self.revision() - from) * usize::try_from(*late).unwrap() / 100;
                let state = &self.states[revision];
                let mod_revision = state.values().map(|stored| stored.mod_revision).max().unwrap_or(0);
                let probe = Probe { revision: i64::try_from(revision).unwrap(), keys: state.len(), mod_revision };
                table.probed(self.now, sent, probe)
            }),
            Happening::Time(ms) => {
                self.now = self.now + Duration::from_millis(*ms);
                table.tick(self.now)
            }
        };
        self.listen(&events);
    }

    /// Follows the events as a listener does that knows nothing else.
    fn listen(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Added(new) => {
                    let name = (new.kind().to_owned(), new.id().to_owned());
                    assert!(self.listener.insert(name, new.clone()).is_none(), "{event:?} was there");
                }
                Event::Updated { old, new } => {
                    assert_ne!(old, new);
                    let name = (new.kind().to_owned(), new.id().to_owned());
                    assert_eq!(self.listener.insert(name, new.clone()).as_ref(), Some(old), "{event:?}");
                }
                Event::Removed { instance, .. } => {
                    let name = (instance.kind().to_owned(), instance.id().to_owned());
                    assert_eq!(self.listener.remove(&name).as_ref(), Some(instance), "{event:?}");
                }
                _ => {}
            }
        }
    }

    /// What a cache without protection serves of a state.
    fn served(&self, table: &Table, revision: usize) -> BTreeMap<(String, String), Arc<Instance>> {
        let mut fresh = Table::new(Settings { protection: None, ..table.settings.clone() });
        let stored = self.states[revision].values().cloned().collect();
        ready(&mut fresh, Listing { revision: i64::try_from(revision).unwrap(), stored });
        content(&fresh.snapshot(), false)
    }

    fn check(&self, table: &Table) {
        let revision = usize::try_from(table.revision()).unwrap();
        let rows: BTreeMap<_, _> = table.rows.iter().map(|(key, row)| (key.clone(), row.mod_revision)).collect();
        let state: BTreeMap<_, _> =
            self.states[revision].iter().map(|(key, stored)| (key.clone(), stored.mod_revision)).collect();
        assert_eq!(rows, state, "at revision {revision}");
        assert_eq!(content(&table.snapshot(), true), self.listener, "what the events say");
        assert_eq!(content(&table.snapshot(), false), self.served(table, revision), "what is served and not stale");
        if let Some(verified) = table.verified() {
            let sent = self.sent[&verified];
            assert!(sent <= revision, "verified as of {sent}, at {revision}");
        }
    }
}

fn content(snapshot: &Snapshot, with_stale: bool) -> BTreeMap<(String, String), Arc<Instance>> {
    let entries = snapshot.entries().filter(|entry| with_stale || !entry.is_stale());
    entries
        .map(|entry| ((entry.instance().kind().to_owned(), entry.instance().id().to_owned()), entry.instance().clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_rows_are_those_of_the_store_at_the_tables_revision(
        happenings in prop::collection::vec(happening(), 0..60), is_protected in any::<bool>(),
    ) {
        let mut model = Model::new();
        let mut table = Table::new(settings(is_protected.then(Protection::default)));
        model.step(&mut table, &Happening::ListBegins);
        model.step(&mut table, &Happening::ListEnds(100));
        for happening in &happenings {
            model.step(&mut table, happening);
            model.check(&table);
        }
        // In the end everything arrives, and everything that is held is let go.
        for happening in [Happening::ListBegins, Happening::ListEnds(100), Happening::Deliver(99), Happening::Time(99_999)] {
            model.step(&mut table, &happening);
            model.check(&table);
        }
        prop_assert_eq!(table.revision(), i64::try_from(model.revision()).unwrap());
        prop_assert!(table.snapshot().entries().all(|entry| !entry.is_stale()));
    }

    #[test]
    fn what_is_held_is_removed_at_the_end_of_its_grace_at_the_latest(gone in prop::collection::btree_set(0..12i64, 0..12), step_ms in 1..2000u64) {
        let protection = Protection::default();
        let mut table = Table::new(settings(Some(protection)));
        ready(&mut table, rooms(12, 40));
        let mut now = at(0);
        for (room, revision) in gone.iter().zip(50..) {
            now = now + Duration::from_millis(step_ms);
            table.changed(now, revision, vec![delete(*room, revision)]);
        }
        // At least half is served while the grace lasts, whatever went within the window.
        if step_ms * 12 <= 10_000 {
            prop_assert!(table.snapshot().len() >= 6);
        }
        table.tick(now + protection.grace);
        prop_assert_eq!(table.snapshot().len(), 12 - gone.len());
    }

    #[test]
    fn differences_of_two_snapshots_lead_from_one_to_the_other(
        one in prop::collection::btree_map(0..8u8, 0..3u8, 0..8), other in prop::collection::btree_map(0..8u8, 0..3u8, 0..8),
    ) {
        let snapshot = |content: &BTreeMap<u8, u8>| {
            let stored = content.iter().map(|(number, content)| stored(Model::key(*number), &addr(&content.to_string()), 5));
            let mut table = Table::new(settings(None));
            ready(&mut table, Listing { revision: 9, stored: stored.collect() });
            table.snapshot()
        };
        let (one, other) = (snapshot(&one), snapshot(&other));
        let mut model = Model::new();
        model.listener = content(&one, true);
        model.listen(&Known::new(&one).differences(&other));
        prop_assert_eq!(model.listener, content(&other, true));
    }
}
