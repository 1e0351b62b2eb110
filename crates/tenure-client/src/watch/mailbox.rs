//! What was delivered to one watcher and is not yet read.
//!
//! A mailbox is bounded by events and by bytes, and whoever delivers never waits: a revision that finds it full is not taken, and
//! the deliverer detaches the watch until the reader has read down to half. So one reader that stands still costs at most its
//! mailbox, and no other watcher a moment. A revision that is larger than the whole mailbox is taken if nothing else is there.
//!
//! Events are never dropped to make room; signals are: what they say is also counted.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

use super::error::WatchError;
use super::joiner::Whole;
use super::table::WatchKey;
use crate::ids::Revision;

/// How much a watcher may leave unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MailboxLimits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// Something for the reader.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Letter {
    /// Whole revisions, in order; never none.
    Events(Vec<Whole>),
    Progress(Revision),
    Reconnected,
    Lagged,
}

/// Mailboxes whose readers want something of the deliverer. Each is named once, so there are never more than mailboxes.
#[derive(Debug, Default)]
pub(super) struct Attention {
    raised: Mutex<Vec<WatchKey>>,
    notify: Notify,
}

impl Attention {
    fn raise(&self, key: WatchKey) {
        self.raised.lock().push(key);
        self.notify.notify_one();
    }

    /// Wakes the deliverer for something else.
    pub(super) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits until somebody wants something. A wake that nobody waited for is not lost.
    pub(super) async fn wanted(&self) {
        self.notify.notified().await;
    }

    pub(super) fn take(&self) -> Vec<WatchKey> {
        std::mem::take(&mut self.raised.lock())
    }
}

/// What a reader wants of the deliverer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Nothing more, ever.
    Close,
    /// What comes after what it has read.
    More,
    Nothing,
}

/// What a mailbox has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// How often the watch went on after its reader had been too slow.
    pub lags: u64,
    /// How often it went on with another connection.
    pub reconnects: u64,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Mailbox {
    key: WatchKey,
    limits: MailboxLimits,
    attention: Arc<Attention>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    letters: VecDeque<Letter>,
    /// Events, and one for each letter that is none.
    events: usize,
    bytes: usize,
    /// The first revision that is told, once the server has said so.
    started: Option<Revision>,
    /// A revision was not taken, and none will be until the watch is attached again.
    is_detached: bool,
    is_raised: bool,
    is_closed: bool,
    end: Option<WatchError>,
    /// What went wrong last while there was no server that made the watch.
    setback: Option<WatchError>,
    counts: WatchCounts,
    reader: Option<Waker>,
}

impl Mailbox {
    pub(super) fn new(key: WatchKey, limits: MailboxLimits, attention: Arc<Attention>) -> Mailbox {
        Mailbox { key, limits, attention, state: Mutex::default() }
    }

    pub(super) fn key(&self) -> WatchKey {
        self.key
    }

    // -------------------------------------------------------------------------------------------- the deliverer's side

    /// Takes revisions until it is full. Returns the first one that it did not take: the watch is to be detached then.
    pub(super) fn deliver(&self, wholes: Vec<Whole>) -> Option<Revision> {
        let mut state = self.state.lock();
        if state.is_closed {
            return None;
        }
        let mut refused = None;
        for whole in wholes {
            let fits = state.events.saturating_add(whole.events.len()) <= self.limits.events
                && state.bytes.saturating_add(whole.bytes) <= self.limits.bytes;
            if !fits && state.bytes > 0 {
                state.is_detached = true;
                refused = Some(whole.revision);
                break;
            }
            state.events += whole.events.len();
            state.bytes += whole.bytes;
            match state.letters.back_mut() {
                Some(Letter::Events(unread)) => unread.push(whole),
                _ => state.letters.push_back(Letter::Events(vec![whole])),
            }
        }
        state.wake_reader();
        refused
    }

    /// The server has made the watch, for the first time or again.
    pub(super) fn started(&self, from: Revision) {
        let mut state = self.state.lock();
        state.setback = None;
        if state.started.is_none() {
            state.started = Some(from);
        } else if state.is_detached {
            state.is_detached = false;
            state.counts.lags += 1;
            state.signal(Letter::Lagged, self.limits);
        } else {
            state.counts.reconnects += 1;
            state.signal(Letter::Reconnected, self.limits);
        }
        state.wake_reader();
    }

    pub(super) fn progress(&self, revision: Revision) {
        let mut state = self.state.lock();
        state.signal(Letter::Progress(revision), self.limits);
        state.wake_reader();
    }

    /// There is nothing more. What is unread can still be read.
    pub(super) fn end(&self, why: WatchError) {
        let mut state = self.state.lock();
        state.end.get_or_insert(why);
        state.wake_reader();
    }

    /// There is no server that makes the watch, and this is why.
    pub(super) fn setback(&self, why: WatchError) {
        self.state.lock().setback = Some(why);
    }

    /// What the reader wants, now that it has raised its hand.
    pub(super) fn want(&self) -> Want {
        let mut state = self.state.lock();
        state.is_raised = false;
        if state.is_closed {
            Want::Close
        } else if state.is_detached && state.is_drained(self.limits) {
            Want::More
        } else {
            Want::Nothing
        }
    }

    // ----------------------------------------------------------------------------------------------- the reader's side

    /// The next letter; or why there is none and will be none.
    pub(super) fn poll_letter(&self, context: &Context<'_>) -> Poll<Result<Letter, WatchError>> {
        let mut state = self.state.lock();
        let Some(letter) = state.letters.pop_front() else {
            if let Some(end) = &state.end {
                return Poll::Ready(Err(end.clone()));
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        match &letter {
            Letter::Events(wholes) => {
                state.events -= wholes.iter().map(|whole| whole.events.len()).sum::<usize>();
                state.bytes -= wholes.iter().map(|whole| whole.bytes).sum::<usize>();
            }
            Letter::Progress(_) | Letter::Reconnected | Letter::Lagged => state.events -= 1,
        }
        if state.is_detached && state.is_drained(self.limits) {
            self.raise(&mut state);
        }
        Poll::Ready(Ok(letter))
    }

    /// Ready once the server has made the watch, with the first revision that it tells; or with why it did not.
    pub(super) fn poll_started(&self, context: &Context<'_>) -> Poll<Result<Revision, WatchError>> {
        let mut state = self.state.lock();
        if let Some(started) = state.started {
            return Poll::Ready(Ok(started));
        }
        if let Some(end) = &state.end {
            return Poll::Ready(Err(end.clone()));
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Ready once the watch has ended.
    pub(super) fn poll_end(&self, context: &Context<'_>) -> Poll<WatchError> {
        let mut state = self.state.lock();
        if let Some(end) = &state.end {
            return Poll::Ready(end.clone());
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// The reader wants nothing more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.letters.clear();
        (state.events, state.bytes) = (0, 0);
        if state.end.is_none() {
            self.raise(&mut state);
        }
    }

    pub(super) fn counts(&self) -> WatchCounts {
        self.state.lock().counts
    }

    pub(super) fn last_setback(&self) -> Option<WatchError> {
        self.state.lock().setback.clone()
    }

    fn raise(&self, state: &mut State) {
        if !state.is_raised {
            state.is_raised = true;
            self.attention.raise(self.key);
        }
    }
}

impl State {
    fn is_drained(&self, limits: MailboxLimits) -> bool {
        self.events <= limits.events / 2 && self.bytes <= limits.bytes / 2
    }

    fn signal(&mut self, signal: Letter, limits: MailboxLimits) {
        match (self.letters.back_mut(), &signal) {
            (Some(Letter::Progress(last)), Letter::Progress(revision)) => {
                *last = *revision;
                return;
            }
            (Some(last), signal) if last == signal => return,
            _ => {}
        }
        if !self.is_closed && self.events < limits.events {
            self.events += 1;
            self.letters.push_back(signal);
        }
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use futures::task::noop_waker;
    use tenure_proto::mvccpb::Event;

    use super::*;

    const LIMITS: MailboxLimits = MailboxLimits { events: 4, bytes: 1000 };

    fn mailbox() -> (Mailbox, Arc<Attention>) {
        let attention = Arc::new(Attention::default());
        (Mailbox::new(WatchKey(7), LIMITS, attention.clone()), attention)
    }

    fn whole(revision: i64, events: usize, bytes: usize) -> Whole {
        Whole { revision: Revision(revision), events: vec![Event::default(); events], bytes }
    }

    fn read(mailbox: &Mailbox) -> Option<Result<Letter, WatchError>> {
        let waker = noop_waker();
        match mailbox.poll_letter(&Context::from_waker(&waker)) {
            Poll::Ready(letter) => Some(letter),
            Poll::Pending => None,
        }
    }

    fn revisions(letter: Option<Result<Letter, WatchError>>) -> Vec<i64> {
        match letter {
            Some(Ok(Letter::Events(wholes))) => wholes.iter().map(|whole| whole.revision.0).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_mailbox_says_where_it_stopped_and_raises_its_hand_once_it_is_read() {
        let (mailbox, attention) = mailbox();
        mailbox.started(Revision(1));
        assert_eq!(mailbox.deliver(vec![whole(1, 2, 10), whole(2, 2, 10), whole(3, 1, 10)]), Some(Revision(3)));
        assert_eq!(mailbox.want(), Want::Nothing);
        assert_eq!(revisions(read(&mailbox)), [1, 2]);
        assert_eq!(attention.take(), [WatchKey(7)]);
        assert_eq!(mailbox.want(), Want::More);
        mailbox.started(Revision(3));
        assert_eq!(mailbox.deliver(vec![whole(3, 1, 10)]), None);
        assert_eq!(read(&mailbox).expect("a letter").expect("no end"), Letter::Lagged);
        assert_eq!(revisions(read(&mailbox)), [3]);
        assert_eq!(mailbox.counts(), WatchCounts { lags: 1, reconnects: 0 });
        assert_eq!(attention.take(), []);
    }

    #[test]
    fn bytes_fill_it_as_events_do_and_a_revision_larger_than_it_is_taken_alone() {
        let (mailbox, _attention) = mailbox();
        assert_eq!(mailbox.deliver(vec![whole(1, 1, 600), whole(2, 1, 600)]), Some(Revision(2)));
        assert_eq!(revisions(read(&mailbox)), [1]);
        mailbox.started(Revision(2));
        mailbox.started(Revision(2));
        assert_eq!(mailbox.deliver(vec![whole(2, 9, 5000)]), None, "nothing else is there");
        assert_eq!(mailbox.deliver(vec![whole(3, 1, 1)]), Some(Revision(3)));
    }

    #[test]
    fn what_is_unread_comes_before_the_end_and_the_end_stays() {
        let (mailbox, _attention) = mailbox();
        mailbox.deliver(vec![whole(1, 1, 1)]);
        mailbox.end(WatchError::Closed);
        mailbox.end(WatchError::Compacted { at: Revision(9) });
        assert_eq!(revisions(read(&mailbox)), [1]);
        for _ in 0..3 {
            assert!(matches!(read(&mailbox), Some(Err(WatchError::Closed))));
        }
    }

    #[test]
    fn signals_take_the_place_of_their_like_and_never_more_room_than_there_is() {
        let (mailbox, _attention) = mailbox();
        mailbox.started(Revision(1));
        for revision in 1..100 {
            mailbox.progress(Revision(revision));
        }
        assert_eq!(read(&mailbox).expect("a letter").expect("no end"), Letter::Progress(Revision(99)));
        for revision in 1..100 {
            mailbox.started(Revision(1));
            mailbox.progress(Revision(revision));
        }
        let letters = std::iter::from_fn(|| read(&mailbox)).count();
        assert_eq!((letters, mailbox.counts().reconnects), (LIMITS.events, 99));
    }

    #[test]
    fn a_reader_that_goes_is_noticed_once() {
        let (mailbox, attention) = mailbox();
        mailbox.deliver(vec![whole(1, 4, 1), whole(2, 1, 1)]);
        mailbox.close();
        mailbox.close();
        assert_eq!(attention.take(), [WatchKey(7)]);
        assert_eq!(mailbox.want(), Want::Close);
        assert_eq!(mailbox.deliver(vec![whole(3, 1, 1)]), None);
        assert!(read(&mailbox).is_none());
    }
}
