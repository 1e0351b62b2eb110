//! Puts revisions together that a server told in parts.
//!
//! The unit of everything here is a whole revision: what is delivered is delivered with all of its events, so the revision after
//! it is where a watch can always go on. A server may split a large revision (Tenure), or any run of revisions at any event
//! (etcd); either way, only the last revision of a message that announces more can be incomplete. It is held back until the
//! rest is there. If the stream breaks before, it is forgotten and told again from its first event.

use std::collections::HashSet;
use std::mem::take;

use bytes::Bytes;
use tenure_proto::mvccpb::{Event, KeyValue};
use thiserror::Error;

use crate::ids::Revision;

/// The events of one revision that a watcher is to be told, all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Whole {
    pub(super) revision: Revision,
    pub(super) events: Vec<Event>,
    /// What the events take in memory, roughly.
    pub(super) bytes: usize,
}

impl Whole {
    fn of(revision: Revision) -> Whole {
        Whole { revision, ..Whole::default() }
    }

    fn push(&mut self, event: Event) {
        self.bytes += event_bytes(&event);
        self.events.push(event);
    }
}

/// What no server may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Disorder {
    #[error("an event came after one of a later revision")]
    Backwards,
    #[error("an event has no key")]
    NoKey,
}

/// The revision that is incomplete, if one is.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    whole: Whole,
    /// A key changes once in a revision: what comes twice was repeated.
    keys: HashSet<Bytes>,
}

impl Joiner {
    /// Takes a message's events and returns the revisions that are complete with them. Revisions before `next` were delivered
    /// before and are left out.
    pub(super) fn take(
        &mut self,
        events: Vec<Event>,
        is_fragment: bool,
        next: Revision,
    ) -> Result<Vec<Whole>, Disorder> {
        let (mut wholes, mut is_news): (Vec<Whole>, bool) = (Vec::new(), false);
        let mut latest = self.partial.as_ref().map_or(Revision::NONE, |partial| partial.whole.revision);
        for event in events {
            let Some(kv) = &event.kv else { return Err(Disorder::NoKey) };
            let revision = Revision(kv.mod_revision);
            if revision < next {
                continue;
            }
            if revision < latest {
                return Err(Disorder::Backwards);
            }
            (latest, is_news) = (revision, true);
            if let Some(partial) = &mut self.partial {
                if partial.whole.revision == revision {
                    partial.add(event);
                    continue;
                }
                wholes.extend(self.finish());
            }
            if wholes.last().is_none_or(|whole| whole.revision != revision) {
                wholes.push(Whole::of(revision));
            }
            if let Some(whole) = wholes.last_mut() {
                whole.push(event);
            }
        }
        // A message that was repeated says nothing of what came after it.
        if !is_fragment && is_news {
            // If something is still held, this message brought the rest of it and nothing else.
            wholes.extend(self.finish());
            return Ok(wholes);
        }
        if is_fragment && self.partial.is_none() {
            self.partial = wholes.pop().map(Partial::from);
        }
        Ok(wholes)
    }

    /// What the revision that is incomplete takes in memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.whole.bytes)
    }

    /// The revision that is incomplete.
    pub(super) fn held(&self) -> Option<Revision> {
        self.partial.as_ref().map(|partial| partial.whole.revision)
    }

    /// Forgets what is incomplete: the stream that would have told the rest is gone.
    pub(super) fn forget(&mut self) {
        self.partial = None;
    }

    fn finish(&mut self) -> Option<Whole> {
        self.partial.as_mut().map(|partial| take(&mut partial.whole)).inspect(|_| self.partial = None)
    }
}

impl Partial {
    fn add(&mut self, event: Event) {
        let key = event.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
        if self.keys.insert(key) {
            self.whole.push(event);
        }
    }
}

impl From<Whole> for Partial {
    fn from(whole: Whole) -> Partial {
        let keys = whole.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.key.clone()).collect();
        Partial { whole, keys }
    }
}

fn event_bytes(event: &Event) -> usize {
    let bytes = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
    size_of::<Event>() + bytes(&event.kv) + bytes(&event.prev_kv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: i64, key: &'static str) -> Event {
        let kv = KeyValue { key: key.into(), mod_revision: revision, ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    fn told(wholes: &[Whole]) -> Vec<(i64, String)> {
        let name = |event: &Event| String::from_utf8_lossy(&event.kv.as_ref().expect("a key").key).into_owned();
        let line = |whole: &Whole| (whole.revision.0, whole.events.iter().map(name).collect::<Vec<_>>().join(""));
        wholes.iter().map(line).collect()
    }

    fn take(joiner: &mut Joiner, events: &[(i64, &'static str)], is_fragment: bool, next: i64) -> Vec<(i64, String)> {
        let events = events.iter().map(|(revision, key)| event(*revision, key)).collect();
        told(&joiner.take(events, is_fragment, Revision(next)).expect("order"))
    }

    fn line(revision: i64, keys: &str) -> (i64, String) {
        (revision, keys.to_owned())
    }

    #[test]
    fn a_revision_in_parts_is_told_once_it_is_whole() {
        let mut joiner = Joiner::default();
        assert_eq!(take(&mut joiner, &[(4, "a"), (5, "a"), (5, "b")], true, 1), [line(4, "a")]);
        assert_eq!(take(&mut joiner, &[(5, "c")], true, 5), []);
        assert_eq!(take(&mut joiner, &[(5, "d"), (6, "a")], true, 5), [line(5, "abcd")]);
        assert_eq!(take(&mut joiner, &[(7, "a"), (8, "b")], false, 6), [line(6, "a"), line(7, "a"), line(8, "b")]);
        assert_eq!((joiner.held(), joiner.held_bytes()), (None, 0));
    }

    #[test]
    fn the_last_part_may_bring_nothing_of_the_revision_that_was_held() {
        let mut joiner = Joiner::default();
        assert_eq!(take(&mut joiner, &[(5, "a")], true, 1), []);
        assert_eq!(take(&mut joiner, &[(6, "a")], false, 5), [line(5, "a"), line(6, "a")]);
    }

    #[test]
    fn a_part_that_is_repeated_changes_nothing() {
        let mut joiner = Joiner::default();
        for _ in 0..3 {
            assert_eq!(take(&mut joiner, &[(5, "a"), (5, "b")], true, 5), []);
        }
        assert_eq!(take(&mut joiner, &[(5, "b"), (5, "c")], false, 5), [line(5, "abc")]);
        assert_eq!(take(&mut joiner, &[(6, "a")], true, 6), []);
        assert_eq!(take(&mut joiner, &[(5, "b"), (5, "c")], false, 6), [], "it was delivered, and says nothing of 6");
        assert_eq!(take(&mut joiner, &[(6, "b")], false, 6), [line(6, "ab")]);
    }

    #[test]
    fn what_was_held_is_forgotten_with_its_stream_and_told_again_whole() {
        let mut joiner = Joiner::default();
        assert_eq!(take(&mut joiner, &[(5, "a")], true, 5), []);
        joiner.forget();
        assert_eq!(take(&mut joiner, &[(5, "a"), (5, "b")], false, 5), [line(5, "ab")]);
    }

    #[test]
    fn a_server_that_goes_backwards_is_not_followed() {
        let mut joiner = Joiner::default();
        let backwards = vec![event(6, "a"), event(5, "a")];
        assert_eq!(joiner.take(backwards, false, Revision(1)), Err(Disorder::Backwards));
        assert_eq!(joiner.take(vec![Event::default()], false, Revision(1)), Err(Disorder::NoKey));
    }
}
