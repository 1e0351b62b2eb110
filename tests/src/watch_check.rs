//! Whether what a watcher saw is what it had to see: every event of its range, in order, each once, revisions whole, the
//! previous values exact, progress never ahead of an event; or that it was compacted, if it was.
//!
//! The truth is what every revision changed, read back independently of any watch. Pure: a run records, this judges.

use std::collections::BTreeMap;

/// What one operation did to one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub key: String,
    /// The value put; none for a delete.
    pub value: Option<String>,
    /// The value before, if the key existed.
    pub previous: Option<String>,
}

/// What one revision changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    pub changes: Vec<Change>,
    /// Whether `changes` stand in the order of the operations; else only which there are is known.
    pub in_order: bool,
}

/// Every revision of a store.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub revisions: BTreeMap<i64, Revision>,
    /// The highest revision that anybody asked to compact to.
    pub compacted: i64,
}

/// What a watcher asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub key: String,
    /// As on the wire: empty for one key, a zero byte for everything from `key` on.
    pub range_end: String,
    pub puts: bool,
    pub deletes: bool,
    pub prev_kv: bool,
    pub fragment: bool,
}

impl Spec {
    fn includes(&self, change: &Change) -> bool {
        let in_range = match self.range_end.as_str() {
            "" => change.key == self.key,
            "\0" => change.key >= self.key,
            end => change.key >= self.key && change.key.as_str() < end,
        };
        in_range && if change.value.is_some() { self.puts } else { self.deletes }
    }
}

/// One event as a watcher saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenEvent {
    pub revision: i64,
    pub change: Change,
    /// The highest compaction asked for when it came: below it a previous value may be missing.
    pub compacted: i64,
}

/// What happened to a watcher, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was made (again), from this revision on.
    From(i64),
    /// A message, its parts joined.
    Message(Vec<SeenEvent>),
    /// Everything up to this revision was told.
    Progress(i64),
    /// A message with events was headed by this revision: after it some clients resume.
    Header(i64),
    /// It ended: what it needs is compacted to this revision.
    Compacted(i64),
}

/// What a check counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: usize,
    pub messages: usize,
    pub progress: usize,
    pub compacted: usize,
    /// Previous values that were left out because they were compacted.
    pub previous_compacted: usize,
    pub previous_exact: usize,
}

/// Holds one watcher's record against the truth. It must have seen everything up to `last`.
pub fn check(truth: &Truth, spec: &Spec, seen: &[Seen], last: i64) -> Result<Counts, String> {
    let mut check = Check { truth, spec, next: None, counts: Counts::default() };
    for (at, step) in seen.iter().enumerate() {
        check.step(step).map_err(|error| format!("step {at} of {}: {error}", seen.len()))?;
    }
    match (check.next, check.due(last)) {
        (None, _) => Err("it was never made".to_owned()),
        (_, Some((revision, changes))) => Err(format!("lost at the end: revision {revision}: {changes:?}")),
        (Some(_), None) => Ok(check.counts),
    }
}

struct Check<'a> {
    truth: &'a Truth,
    spec: &'a Spec,
    /// The first revision that it was not told.
    next: Option<i64>,
    counts: Counts,
}

impl Check<'_> {
    /// The first revision up to `last` that has changes for the watcher and was not told.
    fn due(&self, last: i64) -> Option<(i64, Vec<&Change>)> {
        let next = self.next?;
        if last < next {
            return None;
        }
        self.truth.revisions.range(next..=last).find_map(|(revision, of_all)| {
            let changes: Vec<&Change> = of_all.changes.iter().filter(|change| self.spec.includes(change)).collect();
            (!changes.is_empty()).then_some((*revision, changes))
        })
    }

    fn step(&mut self, step: &Seen) -> Result<(), String> {
        match step {
            Seen::From(revision) => match self.next {
                None => self.next = Some(*revision),
                Some(next) if next == *revision => {}
                Some(next) => return Err(format!("made again from {revision} instead of {next}")),
            },
            Seen::Message(events) => self.message(events)?,
            Seen::Progress(revision) => {
                self.promise("progress", *revision)?;
                self.counts.progress += 1;
            }
            Seen::Header(revision) => {
                if self.next.is_none_or(|next| *revision < next - 1) {
                    return Err(format!("a header at {revision} behind its events"));
                }
                self.promise("a header", *revision)?;
            }
            Seen::Compacted(revision) => {
                let next = self.next.ok_or("compacted before it was made")?;
                if *revision > self.truth.compacted {
                    return Err(format!("nobody compacted to {revision}"));
                }
                if *revision <= next {
                    return Err(format!("ended for a compaction to {revision}, but it needs only {next}"));
                }
                self.next = Some(*revision);
                self.counts.compacted += 1;
            }
        }
        Ok(())
    }

    /// Everything up to a revision is said to have been told.
    fn promise(&mut self, what: &str, revision: i64) -> Result<(), String> {
        if let Some((due, changes)) = self.due(revision) {
            return Err(format!("{what} at {revision} ahead of revision {due}: {changes:?}"));
        }
        self.next = self.next.map(|next| next.max(revision + 1));
        Ok(())
    }

    fn message(&mut self, events: &[SeenEvent]) -> Result<(), String> {
        self.counts.messages += 1;
        for group in events.chunk_by(|one, other| one.revision == other.revision) {
            let revision = group[0].revision;
            let next = self.next.ok_or("events before it was made")?;
            if revision < next {
                return Err(format!("doubled or out of order: {:?} although the next is {next}", group[0]));
            }
            match self.due(revision) {
                Some((due, changes)) if due < revision => return Err(format!("lost: revision {due}: {changes:?}")),
                Some((_, changes)) => self.counts = self.same(group, &changes)?,
                None => return Err(format!("nothing for it at revision {revision}: {group:?}")),
            }
            self.next = Some(revision + 1);
        }
        Ok(())
    }

    /// The counts, if a revision was told whole and exactly.
    fn same(&self, group: &[SeenEvent], changes: &[&Change]) -> Result<Counts, String> {
        let revision = group[0].revision;
        let mut counts = self.counts;
        let mut told: Vec<&SeenEvent> = group.iter().collect();
        let mut wanted = changes.to_vec();
        if self.truth.revisions.get(&revision).is_some_and(|of_all| !of_all.in_order) {
            told.sort_by(|one, other| one.change.key.cmp(&other.change.key));
            wanted.sort();
        }
        let alike = told.len() == wanted.len()
            && told
                .iter()
                .zip(&wanted)
                .all(|(told, wanted)| (&told.change.key, &told.change.value) == (&wanted.key, &wanted.value));
        if !alike {
            return Err(format!("revision {revision} is told as {group:?} and is {changes:?}"));
        }
        for (told, wanted) in told.into_iter().zip(wanted) {
            counts.events += 1;
            match (&told.change.previous, &wanted.previous) {
                (None, None) => {}
                (None, Some(_)) if !self.spec.prev_kv => {}
                (None, Some(_)) if revision - 1 < told.compacted => counts.previous_compacted += 1,
                (Some(told), Some(wanted)) if told == wanted && self.spec.prev_kv => counts.previous_exact += 1,
                _ => return Err(format!("before revision {revision}, {wanted:?}; told: {told:?}")),
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>, previous: Option<&str>) -> Change {
        Change { key: key.to_owned(), value: value.map(str::to_owned), previous: previous.map(str::to_owned) }
    }

    /// Revision 2 makes a and b, 3 changes a, 4 deletes a and changes b, 5 makes a again.
    fn truth() -> Truth {
        let revision = |changes: &[Change]| Revision { changes: changes.to_vec(), in_order: true };
        let revisions = [
            revision(&[change("b", Some("1"), None), change("a", Some("1"), None)]),
            revision(&[change("a", Some("2"), Some("1"))]),
            revision(&[change("a", None, Some("2")), change("b", Some("2"), Some("1"))]),
            revision(&[change("a", Some("3"), None)]),
        ];
        Truth { revisions: (2..).zip(revisions).collect(), compacted: 4 }
    }

    fn spec() -> Spec {
        let (key, range_end) = ("a".to_owned(), "c".to_owned());
        Spec { key, range_end, puts: true, deletes: true, prev_kv: true, fragment: false }
    }

    /// What a watcher from 2 on must see, with a reconnection.
    fn seen() -> Vec<Seen> {
        let truth = truth();
        let told = |revisions: std::ops::RangeInclusive<i64>| {
            let events = truth.revisions.range(revisions).flat_map(|(revision, of_all)| {
                of_all.changes.iter().map(|change| SeenEvent {
                    revision: *revision,
                    change: change.clone(),
                    compacted: 0,
                })
            });
            Seen::Message(events.collect())
        };
        let (header, progress) = (Seen::Header, Seen::Progress);
        vec![Seen::From(2), told(2..=3), progress(3), Seen::From(4), told(4..=4), told(5..=5), header(8), progress(9)]
    }

    fn events(step: &mut Seen) -> &mut Vec<SeenEvent> {
        match step {
            Seen::Message(events) => events,
            other => panic!("{other:?} is no message"),
        }
    }

    /// Plants a fault into what was seen; returns what the check says.
    fn with(fault: impl FnOnce(&mut Vec<Seen>)) -> String {
        let mut seen = seen();
        fault(&mut seen);
        check(&truth(), &spec(), &seen, 5).expect_err("the fault is not seen")
    }

    #[test]
    fn what_is_right_passes() {
        let counts = check(&truth(), &spec(), &seen(), 5).unwrap();
        assert_eq!((counts.events, counts.messages, counts.progress, counts.previous_exact), (6, 3, 2, 3));
    }

    #[test]
    fn every_planted_fault_is_seen() {
        assert!(with(|seen| drop(events(&mut seen[1]).remove(2))).contains("progress at 3 ahead of revision 3"));
        assert!(with(|seen| drop(events(&mut seen[1]).remove(0))).contains("revision 2 is told as"));
        assert!(with(|seen| drop(seen.remove(4))).contains("lost: revision 4"));
        assert!(with(|seen| drop(seen.drain(5..))).contains("lost at the end: revision 5"));
        assert!(with(|seen| seen.insert(5, seen[4].clone())).contains("doubled"));
        assert!(with(|seen| seen.swap(4, 5)).contains("lost: revision 4"));
        assert!(with(|seen| events(&mut seen[1]).swap(0, 1)).contains("revision 2 is told as"));
        assert!(
            with(|seen| events(&mut seen[4])[0].change.previous = Some("1".to_owned())).contains("before revision 4")
        );
        assert!(with(|seen| events(&mut seen[4])[0].change.previous = None).contains("before revision 4"));
        assert!(
            with(|seen| events(&mut seen[5])[0].change.value = Some("2".to_owned())).contains("revision 5 is told")
        );
        assert!(with(|seen| seen[2] = Seen::Progress(4)).contains("progress at 4 ahead"));
        assert!(with(|seen| seen.insert(2, Seen::Header(4))).contains("a header at 4 ahead"));
        assert!(with(|seen| seen.insert(2, Seen::Header(2))).contains("a header at 2 behind"));
        assert!(with(|seen| seen[3] = Seen::From(5)).contains("made again from 5"));
        assert!(with(|seen| seen[2] = Seen::Compacted(4)).contains("needs only 4"));
        assert!(with(|seen| drop(seen.splice(1..4, [Seen::Compacted(5), Seen::From(5)]))).contains("nobody compacted"));
        // A revision that comes in two messages is doubled in part, or lost in part.
        let split = |seen: &mut Vec<Seen>| {
            let second = events(&mut seen[4]).split_off(1);
            seen.insert(5, Seen::Message(second));
        };
        assert!(with(split).contains("revision 4 is told as"));
    }

    #[test]
    fn what_is_compacted_may_be_missing_if_the_watcher_is_told_so() {
        let mut shortened = seen();
        shortened.splice(1..4, [Seen::Compacted(4), Seen::From(4)]);
        let counts = check(&truth(), &spec(), &shortened, 5).unwrap();
        assert_eq!((counts.events, counts.compacted), (3, 1));
        let mut without = seen();
        let deleted = &mut events(&mut without[4])[0];
        (deleted.change.previous, deleted.compacted) = (None, 4);
        assert_eq!(check(&truth(), &spec(), &without, 5).unwrap().previous_compacted, 1);
    }

    #[test]
    fn ranges_and_filters_are_those_of_the_wire() {
        let seen = |key: &str, range_end: &str, puts: bool, deletes: bool| {
            let spec = Spec { key: key.to_owned(), range_end: range_end.to_owned(), puts, deletes, ..spec() };
            let truth = truth();
            let changes = truth.revisions.values().flat_map(|revision| &revision.changes);
            changes.filter(|change| spec.includes(change)).count()
        };
        assert_eq!(seen("a", "", true, true), 4);
        assert_eq!(seen("a", "", false, true), 1);
        assert_eq!(seen("b", "\0", true, false), 2);
        assert_eq!(seen("a", "b", true, false), 3);
        assert_eq!(seen("0", "\0", false, false), 0);
    }
}
