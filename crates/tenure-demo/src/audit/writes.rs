//! Were all acknowledged writes kept? Compares the ledger with the whole history and with the newest values.
//!
//! History is what makes this exact. Keys are written over and over, so the newest values show only the last write of
//! each; history shows every one, at its revision, with versions that count up by one. A write of unknown fate may be
//! there, once, wherever it is; one that nobody made may not.

use std::collections::BTreeMap;

use bytes::Bytes;
use tenure_proto::mvccpb::event::EventType;
use tenure_proto::mvccpb::{Event, KeyValue};

use crate::audit::Findings;
use crate::ledger::{Fate, Lane};
use crate::load::Names;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct WritesVerdict {
    pub(crate) acked: u64,
    /// Acknowledged writes that history has as they were acknowledged.
    pub(crate) read_back: u64,
    pub(crate) unknown: u64,
    /// Writes of unknown fate that history has.
    pub(crate) unknown_in_history: u64,
    pub(crate) keys: usize,
    pub(crate) wrong: Findings,
}

/// The comparison, event by event.
#[derive(Debug)]
pub(crate) struct WritesAudit<'a> {
    names: &'a Names,
    lanes: &'a [Lane],
    seen: Vec<Vec<bool>>,
    newest: BTreeMap<Bytes, KeyValue>,
    verdict: WritesVerdict,
}

impl<'a> WritesAudit<'a> {
    /// Compares with this ledger.
    pub(crate) fn new(names: &'a Names, lanes: &'a [Lane]) -> Self {
        let mut verdict = WritesVerdict::default();
        for fate in lanes.iter().flatten() {
            match fate {
                Fate::Acked(_) => verdict.acked += 1,
                Fate::Unknown => verdict.unknown += 1,
            }
        }
        let seen = lanes.iter().map(|lane| vec![false; lane.len()]).collect();
        Self { names, lanes, seen, newest: BTreeMap::new(), verdict }
    }

    /// Takes the next event of history.
    pub(crate) fn event(&mut self, event: Event) {
        let is_put = event.r#type() == EventType::Put;
        let Some(kv) = event.kv else { return };
        let path = String::from_utf8_lossy(&kv.key).into_owned();
        if !is_put {
            return self.verdict.wrong.add(format!("{path} was deleted at revision {}", kv.mod_revision));
        }
        self.find_write(&path, &kv);
        self.follow_versions(&path, kv);
    }

    /// Takes the newest values, when all history has been told, and answers what was found.
    pub(crate) fn end(mut self, newest: &[KeyValue]) -> WritesVerdict {
        for (lane, fates) in self.lanes.iter().enumerate() {
            for (number, fate) in fates.iter().enumerate() {
                if let (Fate::Acked(revision), false) = (fate, self.seen[lane][number]) {
                    let text = format!("write {number} of lane {lane}, acknowledged at revision {revision}, is lost");
                    self.verdict.wrong.add(text);
                }
            }
        }
        for kv in newest {
            let path = String::from_utf8_lossy(&kv.key);
            match self.newest.remove(&kv.key) {
                Some(last) if last == *kv => self.verdict.keys += 1,
                Some(last) => self.verdict.wrong.add(format!(
                    "{path} has version {} of revision {}, but its history ends with version {} of revision {}",
                    kv.version, kv.mod_revision, last.version, last.mod_revision
                )),
                None => self.verdict.wrong.add(format!("{path} has no history")),
            }
        }
        for path in self.newest.keys() {
            self.verdict.wrong.add(format!("{} is gone", String::from_utf8_lossy(path)));
        }
        self.verdict
    }

    fn find_write(&mut self, path: &str, kv: &KeyValue) {
        let value = String::from_utf8_lossy(&kv.value);
        let write = self.names.write_of(path, &value).and_then(|(lane, number)| {
            let place = usize::try_from(number).ok()?;
            Some((lane, place, *self.lanes.get(lane)?.get(place)?))
        });
        let Some((lane, place, fate)) = write else {
            let text = format!("{path} has {value:?} at revision {}, which nobody wrote", kv.mod_revision);
            return self.verdict.wrong.add(text);
        };
        if std::mem::replace(&mut self.seen[lane][place], true) {
            return self.verdict.wrong.add(format!("{value} is there twice, again at revision {}", kv.mod_revision));
        }
        match fate {
            Fate::Acked(revision) if revision == kv.mod_revision => self.verdict.read_back += 1,
            Fate::Acked(revision) => self.verdict.wrong.add(format!(
                "{value} was acknowledged at revision {revision} and stands at revision {}",
                kv.mod_revision
            )),
            Fate::Unknown => self.verdict.unknown_in_history += 1,
        }
    }

    fn follow_versions(&mut self, path: &str, kv: KeyValue) {
        let (version, created) = match self.newest.get(&kv.key) {
            Some(before) => (before.version + 1, before.create_revision),
            None => (1, kv.mod_revision),
        };
        if (kv.version, kv.create_revision) != (version, created) {
            self.verdict.wrong.add(format!(
                "{path} has version {} since revision {} at revision {}; it should be version {version} since {created}",
                kv.version, kv.create_revision, kv.mod_revision
            ));
        }
        self.newest.insert(kv.key.clone(), kv);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::KEYS_PER_LANE;
    use crate::store::key;

    /// A store that does as it should, so that each test can let it do one thing wrong.
    #[derive(Default)]
    struct History {
        events: Vec<Event>,
        newest: BTreeMap<Bytes, KeyValue>,
        revision: i64,
    }

    impl History {
        fn put(&mut self, lane: usize, number: u32) -> Fate {
            self.revision += 1;
            let path = key(&Names::new(1).write(lane, number));
            let before = self.newest.get(&path);
            let kv = KeyValue {
                key: path.clone(),
                value: key(&Names::value(lane, number)),
                create_revision: before.map_or(self.revision, |kv| kv.create_revision),
                mod_revision: self.revision,
                version: before.map_or(1, |kv| kv.version + 1),
                lease: 0,
            };
            self.newest.insert(path, kv.clone());
            self.events.push(Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: None });
            Fate::Acked(self.revision)
        }

        fn audit(self, lanes: &[Lane]) -> WritesVerdict {
            let names = Names::new(1);
            let mut audit = WritesAudit::new(&names, lanes);
            self.events.into_iter().for_each(|event| audit.event(event));
            audit.end(&self.newest.into_values().collect::<Vec<_>>())
        }
    }

    /// Two lanes that went round their keys more than twice.
    fn good() -> (History, Vec<Lane>) {
        let mut history = History::default();
        let mut lanes = vec![Lane::new(), Lane::new()];
        for number in 0..KEYS_PER_LANE * 2 + 3 {
            for (lane, fates) in lanes.iter_mut().enumerate() {
                fates.push(history.put(lane, number));
            }
        }
        (history, lanes)
    }

    fn only_finding(verdict: &WritesVerdict) -> &str {
        assert_eq!(verdict.wrong.count(), 1, "{:?}", verdict.wrong);
        verdict.wrong.texts().next().unwrap()
    }

    #[test]
    fn a_store_that_kept_everything_is_found_good() {
        let (history, lanes) = good();
        let verdict = history.audit(&lanes);
        assert_eq!(verdict.wrong.count(), 0, "{:?}", verdict.wrong);
        assert_eq!((verdict.acked, verdict.read_back, verdict.keys), (106, 106, 50));
    }

    #[test]
    fn a_lost_write_is_found_even_if_its_key_was_written_again() {
        let (mut history, mut lanes) = good();
        lanes[1].push(Fate::Acked(1_000));
        let number = u32::try_from(lanes[1].len()).unwrap();
        history.revision = 1_000;
        lanes[1].push(history.put(1, number));
        assert_eq!(only_finding(&history.audit(&lanes)), "write 53 of lane 1, acknowledged at revision 1000, is lost");
    }

    #[test]
    fn a_lost_last_write_is_found() {
        let (mut history, lanes) = good();
        let lost = history.events.pop().unwrap().kv.unwrap();
        history
            .newest
            .insert(lost.key.clone(), history.events[5].kv.clone().map(|kv| KeyValue { key: lost.key, ..kv }).unwrap());
        let verdict = history.audit(&lanes);
        assert!(verdict.wrong.texts().any(|text| text.ends_with("is lost")), "{:?}", verdict.wrong);
        assert!(verdict.wrong.texts().any(|text| text.contains("but its history ends with")), "{:?}", verdict.wrong);
    }

    #[test]
    fn a_write_at_another_revision_or_twice_or_by_nobody_is_found() {
        let (history, mut lanes) = good();
        lanes[0][4] = Fate::Acked(4_711);
        assert!(only_finding(&history.audit(&lanes)).contains("was acknowledged at revision 4711 and stands at"));

        let (mut history, lanes) = good();
        history.put(0, 4);
        assert!(only_finding(&history.audit(&lanes)).starts_with("write 4 of lane 0 is there twice"));

        let (mut history, lanes) = good();
        history.put(0, 99_999);
        assert!(only_finding(&history.audit(&lanes)).contains("which nobody wrote"));
    }

    #[test]
    fn a_version_that_skips_or_a_deletion_is_found() {
        let (mut history, lanes) = good();
        let last = history.events.last_mut().and_then(|event| event.kv.as_mut()).unwrap();
        last.version += 1;
        history.newest.insert(last.key.clone(), last.clone());
        assert!(only_finding(&history.audit(&lanes)).contains("it should be version 3"));

        let (mut history, lanes) = good();
        let kv = history.events[0].kv.clone();
        history.events.push(Event { r#type: EventType::Delete.into(), kv, prev_kv: None });
        assert!(only_finding(&history.audit(&lanes)).contains("was deleted"));
    }

    #[test]
    fn a_key_that_is_gone_is_found() {
        let (mut history, lanes) = good();
        history.newest.pop_first();
        assert!(only_finding(&history.audit(&lanes)).ends_with("is gone"));
    }

    #[test]
    fn a_write_of_unknown_fate_may_be_there_or_not_even_late() {
        let (mut history, mut lanes) = good();
        let number = u32::try_from(lanes[0].len()).unwrap();
        lanes[0].extend([Fate::Unknown, Fate::Unknown]);
        let after = history.put(0, number + 2);
        lanes[0].push(after);
        history.put(0, number);
        let verdict = history.audit(&lanes);
        assert_eq!(verdict.wrong.count(), 0, "{:?}", verdict.wrong);
        assert_eq!((verdict.unknown, verdict.unknown_in_history), (2, 1));
    }
}
