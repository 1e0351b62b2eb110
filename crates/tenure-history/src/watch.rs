//! Did a watcher get what it had to get?
//!
//! Ordered: revisions rise. Unique: no event twice. Atomic: the events of a revision come whole and in one message (parts
//! of a fragmented message count as one). Reliable: no event of the range is left out. Resumable: started again from a
//! revision it goes on there. Bookmarkable: a progress note of revision r means that everything up to r was delivered.
//! Previous values are right, or absent where compaction allows it; and nobody is told "compacted" who need not be.
//!
//! Judged by the known order of the writes ([`Truth`]). Where that order was itself found by a search among unknown
//! writes, give the search what the watchers saw ([`Seen`](crate::seen::Seen)), else it may have picked another writer for a
//! revision.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Moment, Revision};
use crate::model::Change;
use crate::request::KeyRange;
use crate::response::KeyValue;
use crate::text::Shown;
use crate::truth::Truth;
use crate::verdict::{Verdict, Violation};

const CHECKER: &str = "watch";
/// Lines of what came before the failure.
const LINES_BEFORE: usize = 4;

/// What a watcher asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Which keys.
    pub keys: KeyRange,
    /// Whether puts are wanted.
    pub puts: bool,
    /// Whether deletes are wanted.
    pub deletes: bool,
    /// Whether previous key-values are wanted.
    pub prev_kv: bool,
}

/// One event as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// A delete, with no more in `kv` than key and modification revision.
    #[serde(default)]
    pub delete: bool,
    /// The key-value.
    pub kv: KeyValue,
    /// The previous one.
    #[serde(default)]
    pub prev_kv: Option<KeyValue>,
}

/// What happened to a watcher, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It was made, or made again, to begin at this revision.
    From(Revision),
    /// A message.
    Message {
        /// When it came.
        at: Moment,
        /// Its header's revision.
        revision: Revision,
        /// Whether more parts of it follow.
        #[serde(default)]
        fragment: bool,
        /// The events.
        events: Vec<Event>,
    },
    /// A message without events: everything up to here was told.
    Progress(Revision),
    /// It ended because what it needs is compacted to here.
    Compacted(Revision),
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Watchers.
    pub watchers: usize,
    /// Events.
    pub events: usize,
    /// Messages, their parts joined.
    pub messages: usize,
    /// Progress notes.
    pub progress: usize,
    /// Ends by compaction.
    pub compacted: usize,
    /// Previous key-values that were right.
    pub previous: usize,
    /// Previous key-values left out because they may be compacted.
    pub previous_compacted: usize,
}

/// Checks one watcher. It must have been told everything up to `last`, if it was still there then.
pub fn check(truth: &Truth, spec: &Spec, steps: &[Step], last: Option<Revision>) -> Verdict<Counts> {
    let mut check =
        Check { truth, spec, next: None, parts: Vec::new(), counts: Counts { watchers: 1, ..Counts::default() } };
    for (at, step) in steps.iter().enumerate() {
        if let Err((promise, detail)) = check.step(step) {
            let from = at.saturating_sub(LINES_BEFORE);
            let mut lines: Vec<String> = (at > from).then(|| format!("… {from} steps before")).into_iter().collect();
            lines.extend(steps[from..=at].iter().map(ToString::to_string));
            return Violation::verdict(CHECKER, promise, detail, lines);
        }
    }
    if let Some((revision, changes)) = last.and_then(|last| check.due(last)) {
        let lines = steps.iter().rev().take(LINES_BEFORE).rev().map(ToString::to_string).collect();
        let detail = format!("never told of revision {revision}: {}", show(&changes));
        return Violation::verdict(CHECKER, "reliable", detail, lines);
    }
    Verdict::Ok(check.counts)
}

type Wrong = (&'static str, String);

struct Check<'a> {
    truth: &'a Truth,
    spec: &'a Spec,
    /// The first revision that was not told of; none while there is no watcher.
    next: Option<Revision>,
    parts: Vec<Event>,
    counts: Counts,
}

impl<'a> Check<'a> {
    fn step(&mut self, step: &Step) -> Result<(), Wrong> {
        if !self.parts.is_empty() && !matches!(step, Step::Message { .. }) {
            self.parts.clear();
            if !matches!(step, Step::From(_)) {
                return Err(("atomic", "a message whose last part never came".to_owned()));
            }
        }
        match step {
            Step::From(revision) => self.next = Some(*revision),
            Step::Message { revision, fragment, events, .. } => {
                self.parts.extend(events.iter().cloned());
                if !*fragment {
                    let events = core::mem::take(&mut self.parts);
                    self.message(*revision, &events)?;
                }
            }
            Step::Progress(revision) => {
                if let Some((due, changes)) = self.due(*revision) {
                    let detail = format!("progress at {revision} ahead of revision {due}: {}", show(&changes));
                    return Err(("bookmarkable", detail));
                }
                self.next = self.next.map(|next| next.max(revision.next()));
                self.counts.progress += 1;
            }
            Step::Compacted(revision) => self.compacted(*revision)?,
        }
        Ok(())
    }

    fn compacted(&mut self, revision: Revision) -> Result<(), Wrong> {
        let next = self.next.take().ok_or(("compacted", "ended before it was made".to_owned()))?;
        if revision > self.truth.compacted() {
            return Err(("compacted", format!("nobody compacted to {revision}")));
        }
        if revision <= next {
            return Err(("compacted", format!("ended for a compaction to {revision}, but it needs only {next}")));
        }
        self.counts.compacted += 1;
        Ok(())
    }

    fn message(&mut self, header: Revision, events: &[Event]) -> Result<(), Wrong> {
        self.counts.messages += 1;
        let mut rest = events;
        while let Some(first) = rest.first() {
            let revision = first.kv.modified;
            let count = rest.iter().take_while(|event| event.kv.modified == revision).count();
            let (of_revision, later) = rest.split_at(count);
            self.revision(revision, of_revision)?;
            rest = later;
        }
        let newest = events.last().map_or(Revision(0), |event| event.kv.modified);
        if header < newest {
            return Err(("ordered", format!("an event of revision {newest} under a header of {header}")));
        }
        Ok(())
    }

    fn revision(&mut self, revision: Revision, events: &[Event]) -> Result<(), Wrong> {
        let next = self.next.ok_or(("ordered", "events while there is no watcher".to_owned()))?;
        if revision < next {
            return Err(("unique", format!("revision {revision} again, or too late: {next} was to come")));
        }
        if let Some((due, changes)) = self.due(revision.previous()) {
            return Err(("reliable", format!("revision {revision} came, {due} did not: {}", show(&changes))));
        }
        let Some(expected) = self.wanted(revision) else {
            return Err(("reliable", format!("there is no revision {revision}")));
        };
        self.same_events(revision, events, &expected)?;
        events.iter().try_for_each(|event| self.previous(event))?;
        self.counts.events += events.len();
        self.next = Some(revision.next());
        Ok(())
    }

    fn same_events(&self, revision: Revision, events: &[Event], expected: &[&Change]) -> Result<(), Wrong> {
        let is = |event: &Event, change: &Change| match &change.kv {
            Some(kv) => !event.delete && event.kv == *kv,
            None => event.delete && event.kv.key == change.key,
        };
        for (at, event) in events.iter().enumerate() {
            if events[..at].iter().any(|earlier| earlier.kv.key == event.kv.key) {
                return Err(("unique", format!("{event} twice")));
            }
            if !expected.iter().any(|change| is(event, change)) {
                return Err(("exact", format!("{event} is not what revision {revision} did: {}", show(expected))));
            }
        }
        if events.len() < expected.len() {
            let detail =
                format!("{} of {} events of revision {revision}: {}", events.len(), expected.len(), show(expected));
            return Err(("atomic", detail));
        }
        let in_order = events.iter().zip(expected).all(|(event, change)| is(event, change));
        if in_order {
            Ok(())
        } else {
            Err(("ordered", format!("revision {revision} out of order: {}", show(expected))))
        }
    }

    fn previous(&mut self, event: &Event) -> Result<(), Wrong> {
        if !self.spec.prev_kv {
            let none = event.prev_kv.is_none();
            return if none { Ok(()) } else { Err(("prev_kv", format!("{event}: nobody asked for it"))) };
        }
        let before = event.kv.modified.previous();
        match (self.truth.key_at(&event.kv.key, before), &event.prev_kv) {
            (None, None) => Ok(()),
            (Some(kv), Some(shown)) if kv == shown => {
                self.counts.previous += 1;
                Ok(())
            }
            (Some(_), None) if before < self.truth.compacted() => {
                self.counts.previous_compacted += 1;
                Ok(())
            }
            (Some(kv), _) => Err(("prev_kv", format!("{event}: it was {kv}"))),
            (None, Some(_)) => Err(("prev_kv", format!("{event}: there was none"))),
        }
    }

    /// The first revision up to `last` that has events for the watcher and was not told of.
    fn due(&self, last: Revision) -> Option<(Revision, Vec<&'a Change>)> {
        let revisions = self.truth.between(self.next?, last);
        revisions.filter_map(|(at, _)| Some((at, self.wanted(at)?))).find(|(_, changes)| !changes.is_empty())
    }

    fn wanted(&self, revision: Revision) -> Option<Vec<&'a Change>> {
        let made = self.truth.made(revision)?;
        let wanted = |change: &&Change| {
            let kind = if change.kv.is_some() { self.spec.puts } else { self.spec.deletes };
            kind && self.spec.keys.contains(&change.key)
        };
        Some(made.changes.iter().filter(wanted).collect())
    }
}

fn show(changes: &[&Change]) -> String {
    let one = |change: &&Change| match &change.kv {
        Some(kv) => format!("put {kv}"),
        None => format!("delete {}", Shown(&change.key)),
    };
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.delete {
            write!(f, "delete {} (mod {})", Shown(&self.kv.key), self.kv.modified)?;
        } else {
            write!(f, "put {}", self.kv)?;
        }
        self.prev_kv.as_ref().map_or(Ok(()), |kv| write!(f, ", was {kv}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::From(revision) => write!(f, "watch from {revision}"),
            Step::Message { at, revision, fragment, events } => {
                let events: Vec<String> = events.iter().map(ToString::to_string).collect();
                let part = if *fragment { " (more follows)" } else { "" };
                write!(f, "{at} message @{revision}{part}: {}", events.join("; "))
            }
            Step::Progress(revision) => write!(f, "progress @{revision}"),
            Step::Compacted(revision) => write!(f, "ended: compacted to {revision}"),
        }
    }
}

impl Counts {
    /// Adds what another watcher was checked for.
    pub fn add(&mut self, other: Counts) {
        let Counts { watchers, events, messages, progress, compacted, previous, previous_compacted } = other;
        self.watchers += watchers;
        self.events += events;
        self.messages += messages;
        self.progress += progress;
        self.compacted += compacted;
        self.previous += previous;
        self.previous_compacted += previous_compacted;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { watchers, events, messages, progress, compacted, previous, previous_compacted } = self;
        write!(
            f,
            "{watchers} watchers: {events} events in {messages} messages, {progress} progress notes, {compacted} ends by compaction, \
             {previous} previous values right and {previous_compacted} compacted"
        )
    }
}
