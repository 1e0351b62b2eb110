//! Watchdogs: listeners that are told all that becomes of a session, a lock or a leadership.
//!
//! Renewing is not a watchdog's business: one task of the client renews all sessions, and no watchdog can delay it or miss
//! its duty. A watchdog has an id of its own, is bound for life to one subject, and hears events in their order from a bounded
//! queue. `Exited` is the last, exactly once.

mod dog;
mod event;
mod kennel;

use std::error::Error as StdError;
use std::sync::Arc;

pub use dog::Events;
pub use event::{EventKind, ID_PREFIX, Subject, WatchdogEvent, WatchdogId};

pub(crate) use dog::Dog;
pub(crate) use kennel::Kennel;

use crate::clock::Instant;

/// A listener that a [`WatchdogFactory`] made for one subject.
///
/// All watchdogs of a client run on one thread, apart from the client's runtime. One that blocks delays other watchdogs and
/// nothing else; one that is more than 64 events behind loses the oldest of them. It is dropped after `Exited`.
pub trait Watchdog: Send + 'static {
    /// Hears an event. One that panics hears no more.
    fn on_event(&mut self, event: &WatchdogEvent);
}

impl<F: FnMut(&WatchdogEvent) + Send + 'static> Watchdog for F {
    fn on_event(&mut self, event: &WatchdogEvent) {
        self(event);
    }
}

/// Makes a watchdog for each session, lock or leadership that it is given to.
///
/// ```
/// use std::sync::Arc;
/// use tenure_client::watchdog::{Subject, Watchdog, WatchdogEvent, WatchdogFactory, WatchdogId};
///
/// struct Log;
///
/// impl WatchdogFactory for Log {
///     fn name(&self) -> &str {
///         "log"
///     }
///
///     fn make(&self, id: &WatchdogId, _: &Subject) -> Result<Box<dyn Watchdog>, Box<dyn std::error::Error + Send + Sync>> {
///         assert!(id.as_str().starts_with("tenure-watchdog-"));
///         Ok(Box::new(|event: &WatchdogEvent| println!("{} {:?}", event.watchdog, event.kind)))
///     }
/// }
/// # let _factory: Arc<dyn WatchdogFactory> = Arc::new(Log);
/// ```
pub trait WatchdogFactory: Send + Sync + 'static {
    /// The name of the implementation. Every event bears it.
    fn name(&self) -> &str;

    /// Makes a watchdog. An error fails what was to be watched: the session ends, the lock is let go.
    ///
    /// # Errors
    ///
    /// Whatever keeps the watchdog from being made.
    fn make(&self, id: &WatchdogId, subject: &Subject) -> Result<Box<dyn Watchdog>, Box<dyn StdError + Send + Sync>>;
}

/// A watchdog could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no watchdog: {0}")]
pub struct WatchdogError(Box<dyn StdError + Send + Sync>);

/// Makes a dog for a subject, and has it run if there is a factory.
pub(crate) fn start(
    kennel: &Kennel,
    factory: Option<&Arc<dyn WatchdogFactory>>,
    subject: Subject,
    (now, random): (Instant, u64),
) -> Result<Arc<Dog>, WatchdogError> {
    let (id, subject) = (WatchdogId::random(random), Arc::new(subject));
    let (name, mailbox) = match factory {
        Some(factory) => {
            let watchdog = factory.make(&id, &subject).map_err(WatchdogError)?;
            let mailbox = kennel.house(watchdog).map_err(|error| WatchdogError(error.into()))?;
            (factory.name().into(), Some(mailbox))
        }
        None => ("events".into(), None),
    };
    let dog = Arc::new(Dog::new(id, name, subject, mailbox));
    dog.tell(EventKind::Created, now);
    dog.tell(EventKind::Started, now);
    Ok(dog)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refusing;

    impl WatchdogFactory for Refusing {
        fn name(&self) -> &'static str {
            "refusing"
        }

        fn make(
            &self,
            id: &WatchdogId,
            subject: &Subject,
        ) -> Result<Box<dyn Watchdog>, Box<dyn StdError + Send + Sync>> {
            Err(format!("none for {id} and lease {}", subject.lease).into())
        }
    }

    #[test]
    fn a_watchdog_that_cannot_be_made_is_an_error_that_says_why() {
        let factory: Arc<dyn WatchdogFactory> = Arc::new(Refusing);
        let subject = Subject::clone(&dog::tests::subject());
        let made = start(&Kennel::default(), Some(&factory), subject, (Instant::ORIGIN, 0xabc));
        let text = made.expect_err("none is made").to_string();
        assert_eq!(text, "no watchdog: none for tenure-watchdog-0000000000000abc and lease 7");
    }
}
