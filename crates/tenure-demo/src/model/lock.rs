//! The contended lock: the queue as the store has it, and the holder as the contenders know it from their answers.

use std::time::Duration;

use crate::clock::Moment;
use crate::model::{EventLog, Kind};

/// One key of the lock: the oldest create revision owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub contender: String,
    /// The key's create revision, which fences what the owner does.
    pub token: i64,
}

/// Who was told that the lock is theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub contender: String,
    pub token: i64,
    pub since: Moment,
}

/// The lock.
#[derive(Clone, Debug, Default)]
pub struct LockModel {
    pub queue: Vec<Place>,
    pub holder: Option<Holder>,
    freed: Option<(String, Moment)>,
    /// How often it was taken.
    pub taken: u64,
    /// From one holder's release to the next one's answer, the last time.
    pub last_handover: Option<Duration>,
    /// The same, the longest.
    pub slowest_handover: Option<Duration>,
}

impl LockModel {
    pub(crate) fn taken(&mut self, at: Moment, contender: String, token: i64, events: &mut EventLog) {
        self.taken += 1;
        let text = match self.freed.take() {
            None => format!("lock → {contender}, token {token}"),
            Some((from, freed)) => {
                let took = at.saturating_sub(freed);
                self.last_handover = Some(took);
                self.slowest_handover = self.slowest_handover.max(Some(took));
                format!("lock {from} → {contender} in {}, token {token}", milliseconds(took))
            }
        };
        self.holder = Some(Holder { contender, token, since: at });
        events.add_over(at, Kind::Lock, text);
    }

    pub(crate) fn freed(&mut self, at: Moment, contender: &str) {
        if self.holder.take_if(|holder| holder.contender == contender).is_some() {
            self.freed = Some((contender.to_owned(), at));
        }
    }

    pub(crate) fn lost(&mut self, now: Moment, contender: &str, events: &mut EventLog) {
        self.holder.take_if(|holder| holder.contender == contender);
        events.add(now, Kind::Problem, format!("{contender} lost the lock: its lease ended"));
    }

    pub(crate) fn end(&mut self) {
        self.holder = None;
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
