//! Which fault waits at which place, and the doing of it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::crash::crash;
use crate::point::Point;
use crate::term::{Action, TermError, Terms};

/// Why a fault cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no such place.
    #[error("there is no failpoint {0}")]
    Unknown(String),
    /// The text tells nothing.
    #[error("failpoint {0}: {1}")]
    Term(&'static str, TermError),
    /// The code there has no error to return.
    #[error("failpoint {0} is in code that has no error to return")]
    CannotFail(&'static str),
}

/// The faults of a process.
#[derive(Debug)]
pub struct Registry {
    slots: [Slot; Point::COUNT],
}

#[derive(Debug)]
struct Slot {
    /// Whether `terms` has something to do: read at every hit, where a lock would be too dear.
    armed: AtomicBool,
    fired: AtomicU64,
    terms: Mutex<Option<Terms>>,
}

impl Slot {
    const fn new() -> Slot {
        Slot { armed: AtomicBool::new(false), fired: AtomicU64::new(0), terms: Mutex::new(None) }
    }

    fn terms(&self) -> MutexGuard<'_, Option<Terms>> {
        // Whole at any time.
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, terms: Option<Terms>) {
        let mut slot = self.terms();
        self.armed.store(terms.is_some(), Ordering::Release);
        *slot = terms;
    }

    fn next(&self) -> Option<Action> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let mut slot = self.terms();
        let terms = slot.as_mut()?;
        let action = terms.next(|| rand::random_range(0.0..100.0)).filter(|action| *action != Action::Off);
        if terms.is_used_up() {
            self.armed.store(false, Ordering::Release);
        }
        if action.is_some() {
            self.fired.fetch_add(1, Ordering::Relaxed);
        }
        action
    }
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::new()
    }
}

impl Registry {
    /// Without faults.
    pub const fn new() -> Registry {
        Registry { slots: [const { Slot::new() }; Point::COUNT] }
    }

    /// Lets a fault wait at the place of this name, instead of the one before.
    ///
    /// # Errors
    /// If the name or the text means nothing, or the place cannot do it.
    pub fn set(&self, name: &str, text: &str) -> Result<(), SetError> {
        let (point, terms) = read(name, text)?;
        self.slot(point).set(Some(terms));
        Ok(())
    }

    /// Sets several, `A=term;B=term`: all of them or, if one means nothing, none.
    ///
    /// # Errors
    /// As [`Registry::set`].
    pub fn set_all(&self, text: &str) -> Result<(), SetError> {
        let parts = text.trim().split(';').filter(|part| !part.trim().is_empty());
        let read = parts.map(|part| {
            let (name, text) = part.split_once('=').unwrap_or((part, ""));
            read(name.trim(), text)
        });
        for (point, terms) in read.collect::<Result<Vec<_>, _>>()? {
            self.slot(point).set(Some(terms));
        }
        Ok(())
    }

    /// Lets nothing wait there any more.
    pub fn clear(&self, point: Point) {
        self.slot(point).set(None);
    }

    /// The same everywhere.
    pub fn clear_all(&self) {
        Point::all().for_each(|point| self.clear(point));
    }

    /// What waits there, as it was given; nothing if nothing does.
    pub fn text(&self, point: Point) -> String {
        self.slot(point).terms().as_ref().map_or_else(String::new, |terms| terms.text().to_owned())
    }

    /// How often a fault came of the place.
    pub fn fired(&self, point: Point) -> u64 {
        self.slot(point).fired.load(Ordering::Relaxed)
    }

    /// Does what waits there.
    ///
    /// # Errors
    /// If that is an error.
    pub fn hit(&self, point: Point) -> io::Result<()> {
        match self.slot(point).next() {
            None | Some(Action::Off) => {}
            Some(Action::Sleep(length)) => std::thread::sleep(length),
            Some(Action::Fail(errno)) => {
                tracing::warn!("failpoint {}: {}", point.name(), errno.error());
                return Err(errno.error());
            }
            Some(Action::Crash(text)) => crash(point, &text),
            Some(Action::Print) => print(point),
        }
        Ok(())
    }

    /// Does what waits there, but for a sleep, which is left to the caller.
    pub fn delay(&self, point: Point) -> Option<Duration> {
        match self.slot(point).next() {
            // Errors were refused when the fault was set.
            None | Some(Action::Off | Action::Fail(_)) => None,
            Some(Action::Sleep(length)) => Some(length),
            Some(Action::Crash(text)) => crash(point, &text),
            Some(Action::Print) => {
                print(point);
                None
            }
        }
    }

    fn slot(&self, point: Point) -> &Slot {
        &self.slots[point.index()]
    }
}

fn print(point: Point) {
    tracing::info!("failpoint {}", point.name());
}

fn read(name: &str, text: &str) -> Result<(Point, Terms), SetError> {
    let point = Point::named(name).ok_or_else(|| SetError::Unknown(name.to_owned()))?;
    let terms = Terms::parse(text).map_err(|error| SetError::Term(point.name(), error))?;
    if terms.can_fail() && !point.fails() {
        return Err(SetError::CannotFail(point.name()));
    }
    Ok((point, terms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Point = Point::WalBeforeSync;

    #[test]
    fn a_place_does_what_it_was_told_until_it_is_told_otherwise() {
        let registry = Registry::new();
        registry.hit(SYNC).unwrap();
        registry.set("walBeforeSync", "return(\"ENOSPC\")").unwrap();
        assert_eq!(registry.text(SYNC), "return(\"ENOSPC\")");
        assert_eq!(registry.hit(SYNC).unwrap_err().kind(), io::ErrorKind::StorageFull);
        registry.hit(Point::WalAfterSync).unwrap();
        registry.set("walBeforeSync", "1*return(\"EIO\")").unwrap();
        assert_eq!(registry.hit(SYNC).unwrap_err().raw_os_error(), Some(5));
        registry.hit(SYNC).unwrap();
        assert_eq!(registry.fired(SYNC), 2);
        registry.set("walBeforeSync", "return").unwrap();
        registry.clear(SYNC);
        registry.hit(SYNC).unwrap();
        assert_eq!(registry.text(SYNC), "");
    }

    #[test]
    fn a_place_that_is_off_counts_nothing() {
        let registry = Registry::new();
        registry.set("walBeforeSync", "off->return").unwrap();
        registry.hit(SYNC).unwrap();
        assert_eq!(registry.fired(SYNC), 0);
    }

    #[test]
    fn several_are_set_together_or_not_at_all() {
        let registry = Registry::new();
        assert!(registry.set_all("walBeforeSync=print;nowhere=print").is_err());
        assert!(registry.set_all("walBeforeSync=print;walAfterSync").is_err());
        assert_eq!(registry.text(SYNC), "");
        registry.set_all("walBeforeSync=print; beforeCommit=sleep(1);\n").unwrap();
        assert_eq!((registry.text(SYNC), registry.text(Point::BeforeCommit)), ("print".into(), "sleep(1)".into()));
        registry.clear_all();
        assert!(Point::all().all(|point| registry.text(point).is_empty()));
    }

    #[test]
    fn places_without_errors_refuse_them_and_leave_sleeping_to_the_caller() {
        let registry = Registry::new();
        let refused = registry.set("raftBeforeLeaderSend", "print->return");
        assert_eq!(refused, Err(SetError::CannotFail("raftBeforeLeaderSend")));
        registry.set("raftBeforeLeaderSend", "1*sleep(7)").unwrap();
        assert_eq!(registry.delay(Point::RaftBeforeLeaderSend), Some(Duration::from_millis(7)));
        assert_eq!(registry.delay(Point::RaftBeforeLeaderSend), None);
    }

    #[test]
    fn a_name_that_is_no_place_is_refused() {
        assert_eq!(Registry::new().set("nowhere", "print"), Err(SetError::Unknown("nowhere".into())));
    }
}
