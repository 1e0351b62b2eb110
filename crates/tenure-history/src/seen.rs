//! What a watcher saw, as advice for the search among writes of unknown outcome.
//!
//! A watcher says more than its events: between the revision that it began at and the last that it was told of, nothing else
//! happened to its keys. So for a revision that nobody claims it tells which candidate made it. The search follows the
//! advice first and without obligation: watchers are judged later, by the order that was found.

use std::collections::HashMap;

use bytes::Bytes;

use crate::ids::Revision;
use crate::model::Change;
use crate::request::KeyRange;
use crate::response::KeyValue;
use crate::watch::{Spec, Step};

/// What one watcher saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    keys: KeyRange,
    puts: bool,
    deletes: bool,
    /// From which revision to which, both included, it was told of everything.
    spans: Vec<(Revision, Revision)>,
    events: HashMap<Revision, Vec<(Bytes, Option<KeyValue>)>>,
}

/// What a watcher says about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// It was exactly this, as far as the watcher's keys go.
    Yes,
    /// It was something else.
    No,
    /// The watcher does not know, or nothing of this concerns it.
    Silent,
}

impl Seen {
    /// What a watcher's steps say.
    pub fn of(spec: &Spec, steps: &[Step]) -> Seen {
        let mut seen = Seen {
            keys: spec.keys.clone(),
            puts: spec.puts,
            deletes: spec.deletes,
            spans: Vec::new(),
            events: HashMap::new(),
        };
        let mut next: Option<Revision> = None;
        for step in steps {
            match step {
                Step::From(revision) => next = Some(*revision),
                Step::Compacted(_) => next = None,
                Step::Progress(revision) => seen.extend(&mut next, *revision),
                Step::Message { events, .. } => {
                    for event in events {
                        let change = (event.kv.key.clone(), (!event.delete).then(|| event.kv.clone()));
                        let known = seen.events.entry(event.kv.modified).or_default();
                        if !known.contains(&change) {
                            known.push(change);
                        }
                        seen.extend(&mut next, event.kv.modified);
                    }
                }
            }
        }
        seen.spans.sort_unstable();
        seen
    }

    fn extend(&mut self, next: &mut Option<Revision>, to: Revision) {
        let Some(from) = *next else { return };
        if to < from {
            return;
        }
        match self.spans.last_mut() {
            Some(last) if last.1.next() == from => last.1 = to,
            Some(_) | None => self.spans.push((from, to)),
        }
        *next = Some(to.next());
    }

    /// The last revision of which it saw something.
    pub(crate) fn last(&self) -> Option<Revision> {
        self.events.keys().max().copied()
    }

    /// What it says about these changes as the whole of a revision.
    pub(crate) fn advise(&self, at: Revision, changes: &[Change]) -> Advice {
        let after = self.spans.partition_point(|(from, _)| *from <= at);
        let spans = self.spans[..after].iter().rev();
        // A watcher that resumed may have been told of some revisions twice, so an earlier span may reach further.
        if !spans.take(SPANS_LOOKED_AT).any(|(_, to)| at <= *to) {
            return Advice::Silent;
        }
        let wanted = |change: &&Change| {
            self.keys.contains(&change.key) && if change.kv.is_some() { self.puts } else { self.deletes }
        };
        let wanted: Vec<&Change> = changes.iter().filter(wanted).collect();
        let seen = self.events.get(&at).map_or(&[][..], |events| events);
        let is_seen = |change: &&Change| seen.iter().any(|(key, kv)| *key == change.key && *kv == change.kv);
        match (wanted.is_empty(), seen.is_empty()) {
            (true, true) => Advice::Silent,
            _ if wanted.len() == seen.len() && wanted.iter().all(is_seen) => Advice::Yes,
            _ => Advice::No,
        }
    }
}

/// Spans before a revision that are looked at: those of one watcher overlap only where it resumed.
const SPANS_LOOKED_AT: usize = 4;
