//! Where watchdogs run: one thread for all of a client's, apart from its runtime.
//!
//! A watchdog is the user's code, and may block. On a thread of its own it delays other watchdogs, and nothing else: no
//! renewal waits for it. Each watchdog has a bounded mailbox, and a mailbox that has mail is in the queue once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::dog::EVENTS_MAX;
use super::{EventKind, Watchdog, WatchdogEvent};

/// See the module's header. The thread is started with the first mailbox, and ends when the kennel has gone and all mail
/// is delivered.
#[derive(Debug, Default)]
pub(crate) struct Kennel {
    shared: Mutex<Option<Arc<Shared>>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    mail: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Arc<Mailbox>>,
    is_closed: bool,
}

impl Kennel {
    /// A mailbox that hands its events to a watchdog.
    pub(crate) fn house(&self, watchdog: Box<dyn Watchdog>) -> std::io::Result<Arc<Mailbox>> {
        let mut shared = self.shared.lock();
        let shared = match &*shared {
            Some(shared) => shared.clone(),
            None => {
                let made = Arc::new(Shared::default());
                let theirs = made.clone();
                thread::Builder::new().name("tenure-watchdogs".to_owned()).spawn(move || theirs.run())?;
                shared.insert(made).clone()
            }
        };
        let inbox = Mutex::new(Inbox { events: VecDeque::new(), is_queued: false, missed: 0 });
        Ok(Arc::new(Mailbox { shared: Arc::downgrade(&shared), inbox, watchdog: Mutex::new(Some(watchdog)) }))
    }
}

impl Drop for Kennel {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.get_mut() {
            shared.queue.lock().is_closed = true;
            shared.mail.notify_all();
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mailbox = {
                let mut queue = self.queue.lock();
                loop {
                    if let Some(mailbox) = queue.ready.pop_front() {
                        break mailbox;
                    }
                    if queue.is_closed {
                        return;
                    }
                    self.mail.wait(&mut queue);
                }
            };
            mailbox.deliver();
        }
    }
}

/// What a watchdog was not told yet.
pub(crate) struct Mailbox {
    shared: Weak<Shared>,
    inbox: Mutex<Inbox>,
    /// Gone after its last event.
    watchdog: Mutex<Option<Box<dyn Watchdog>>>,
}

struct Inbox {
    events: VecDeque<WatchdogEvent>,
    is_queued: bool,
    missed: u64,
}

impl Mailbox {
    /// How many events were dropped because the watchdog was slow.
    pub(crate) fn missed(&self) -> u64 {
        self.inbox.lock().missed
    }

    /// Puts an event at the end, and drops the oldest if there are too many.
    pub(super) fn put(self: &Arc<Self>, event: WatchdogEvent) {
        let mut inbox = self.inbox.lock();
        if inbox.events.len() >= EVENTS_MAX {
            inbox.events.pop_front();
            inbox.missed = inbox.missed.saturating_add(1);
        }
        inbox.events.push_back(event);
        if std::mem::replace(&mut inbox.is_queued, true) {
            return;
        }
        drop(inbox);
        // Once the kennel has gone, and its thread with it, nobody is told any more.
        if let Some(shared) = self.shared.upgrade() {
            shared.queue.lock().ready.push_back(self.clone());
            shared.mail.notify_one();
        }
    }

    /// Tells the watchdog all that there is, one by one.
    fn deliver(&self) {
        let mut watchdog = self.watchdog.lock();
        loop {
            let event = {
                let mut inbox = self.inbox.lock();
                let event = inbox.events.pop_front();
                inbox.is_queued = event.is_some();
                event
            };
            let Some(event) = event else { return };
            let is_last = matches!(event.kind, EventKind::Exited { .. });
            let Some(told) = watchdog.as_mut() else { continue };
            // A watchdog that panics is not asked again, and takes no other along.
            let heard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| told.on_event(&event)));
            if heard.is_err() || is_last {
                if heard.is_err() {
                    tracing::warn!(watchdog = %event.watchdog, "a watchdog panicked, and is told nothing any more");
                }
                *watchdog = None;
            }
        }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::time::Duration;

    use super::*;
    use crate::clock::Instant;
    use crate::watchdog::dog::tests::subject;
    use crate::watchdog::{Dog, WatchdogId};

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Teller(SyncSender<EventKind>, Option<Receiver<()>>);

    impl Watchdog for Teller {
        fn on_event(&mut self, event: &WatchdogEvent) {
            if let Some(gate) = self.1.take() {
                gate.recv().unwrap();
            }
            assert!(!matches!(event.kind, EventKind::NotOwner { .. }), "this one panics");
            self.0.send(event.kind.clone()).unwrap();
        }
    }

    fn housed(kennel: &Kennel, watchdog: Teller) -> Dog {
        let mailbox = kennel.house(Box::new(watchdog)).unwrap();
        Dog::new(WatchdogId::random(1), "teller".into(), subject(), Some(mailbox))
    }

    #[test]
    fn a_watchdog_that_blocks_delays_no_teller_and_is_told_the_end() {
        let (kennel, now) = (Kennel::default(), Instant::ORIGIN);
        let (tell, told) = sync_channel(1000);
        let (open, gate) = sync_channel(1);
        let dog = housed(&kennel, Teller(tell, Some(gate)));
        // More than any queue holds, while the watchdog stands still.
        for _ in 0..500 {
            dog.refreshed(Duration::ZERO, now, now);
        }
        dog.exit(now);
        drop(kennel);
        open.send(()).unwrap();
        let mut last = None;
        while let Ok(kind) = told.recv_timeout(PATIENCE) {
            last = Some(kind);
        }
        assert_eq!(last, Some(EventKind::Exited { refreshes: 500, consecutive_errors: 0 }));
        assert!(dog.missed() >= 436, "{}", dog.missed());
    }

    #[test]
    fn a_watchdog_that_panics_takes_no_other_along() {
        let (kennel, now) = (Kennel::default(), Instant::ORIGIN);
        let (tell, told) = sync_channel(10);
        let (tell_other, told_other) = sync_channel(10);
        let bad = housed(&kennel, Teller(tell, None));
        let good = housed(&kennel, Teller(tell_other, None));
        bad.tell(EventKind::NotOwner { token: crate::ids::Revision(1), lease: crate::ids::LeaseId(1) }, now);
        bad.tell(EventKind::Started, now);
        good.tell(EventKind::Started, now);
        assert_eq!(told_other.recv_timeout(PATIENCE), Ok(EventKind::Started));
        assert!(told.recv_timeout(PATIENCE).is_err(), "it was told more after it panicked");
    }
}
