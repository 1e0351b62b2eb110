//! The shell around one stream: waits for the client, the hub, work done elsewhere and the clock, and asks the stream's
//! bookkeeping what to do.
//!
//! It is polled by whoever sends, and only when there is room to send: a client that does not read gets nothing gathered
//! for it. What it hands out goes on meanwhile, in tasks of its own: if it were polled here, a client that stops reading
//! would stand in the queue for the few places of reads, and be given one that it never uses. Dropping the session ends
//! its watchers and tasks.

use std::convert::identity;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{Stream, StreamExt};
use rand::RngExt;
use tenure_raft::{RaftNode, runtime};
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::limits::{PROGRESS_PATIENCE, StreamLimits};
use super::stream::WatchStream;
use super::turns::Turn;
use super::types::{WatchMessage, WatchRequest};
use super::work::{Work, WorkDone};
use crate::node::{Node, RequestError};

/// See [`WatchSession::turns_left`].
const TURNS_AT_ONCE: usize = 64;

pub(super) type Worked = Result<Result<WorkDone, StorageError>, JoinError>;

/// See the module's header. `R` is what the client asks, `E` how the stream ends.
pub struct WatchSession<R, E> {
    node: Node,
    stream: WatchStream,
    wake: Arc<Notify>,
    /// None once the client has asked all that it will; it may go on listening.
    requests: Option<R>,
    /// Why the server ends the stream.
    end: Pin<Box<dyn Future<Output = E> + Send>>,
    works: JoinSet<Worked>,
    progress_deadline: Option<Instant>,
    notices: Interval,
    /// Turns before the client and the hub are looked at again.
    turns_left: usize,
    over: bool,
}

impl Node {
    /// Opens a stream of watchers. It lasts until `end` says otherwise, or it is dropped.
    pub fn watch<R, E>(
        &self,
        requests: R,
        end: impl Future<Output = E> + Send + 'static,
        limits: StreamLimits,
    ) -> Result<WatchSession<R, E>, RequestError> {
        let shared = self.shared();
        let wake = Arc::new(Notify::new());
        let stream =
            WatchStream::open(&shared.watches, limits, wake.clone()).map_err(|_| RequestError::TooManyRequests)?;
        // Up to a tenth later, so that the streams of one restart do not all speak at once ever after.
        let period = shared.watch_progress_interval.mul_f64(1.0 + rand::rng().random_range(0.0..0.1));
        let mut notices = interval_at(Instant::now() + period, period);
        notices.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(WatchSession {
            node: self.clone(),
            stream,
            wake,
            requests: Some(requests),
            end: Box::pin(end),
            works: JoinSet::new(),
            progress_deadline: None,
            notices,
            turns_left: TURNS_AT_ONCE,
            over: false,
        })
    }
}

impl<R, E> WatchSession<R, E>
where
    R: Stream<Item = Result<WatchRequest, E>> + Unpin,
    E: From<RequestError>,
{
    /// The next message to the client. An error is the last one; none means that the stream is over.
    pub async fn next(&mut self) -> Option<Result<WatchMessage, E>> {
        while !self.over {
            if let Some(message) = self.stream.message() {
                return Some(Ok(message));
            }
            // Many watchers may have something to be told: then only work that is done is looked at before each of them.
            if self.turns_left > 0 && self.stream.has_turn() {
                self.turns_left -= 1;
                if let Err(error) = self.turn_at_once().await {
                    self.over = true;
                    return Some(Err(error));
                }
                continue;
            }
            self.turns_left = TURNS_AT_ONCE;
            if let Err(error) = self.step().await {
                self.over = true;
                return Some(Err(error));
            }
        }
        None
    }

    async fn turn_at_once(&mut self) -> Result<(), E> {
        if let Some(done) = self.works.try_join_next() {
            self.finish(done.and_then(identity))?;
        }
        self.turn().await?;
        self.answer_progress();
        Ok(())
    }

    /// Answers a request for progress, if that can be.
    fn answer_progress(&mut self) {
        if !self.stream.is_in_fragment() {
            self.stream.try_progress();
            if !self.stream.wants_progress() {
                self.progress_deadline = None;
            }
        }
    }

    /// Waits for something to happen and deals with it.
    async fn step(&mut self) -> Result<(), E> {
        let free = !self.stream.is_in_fragment();
        let deadline = self.progress_deadline;
        tokio::select! {
            // In this order: the last is often ready, and has its turn without being looked at here.
            biased;
            error = &mut self.end => return Err(error),
            request = next_request(&mut self.requests), if free => self.answer(request)?,
            () = self.wake.notified() => self.stream.collect(),
            Some(done) = self.works.join_next() => self.finish(done.and_then(identity))?,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if free && deadline.is_some() => {
                self.progress_deadline = None;
                self.stream.give_up_progress();
            }
            _ = self.notices.tick(), if free => self.stream.notify_progress(),
            () = std::future::ready(()), if self.stream.has_turn() => self.turn().await?,
        }
        self.answer_progress();
        Ok(())
    }

    fn answer(&mut self, request: Option<Result<WatchRequest, E>>) -> Result<(), E> {
        let view = self.node.shared().raft.view();
        match request.transpose()? {
            None => self.requests = None,
            Some(WatchRequest::Create(create)) => self.stream.create(create, &view),
            Some(WatchRequest::Cancel(id)) => self.stream.cancel(id, &view),
            Some(WatchRequest::Progress) => {
                self.stream.want_progress(&view);
                if self.progress_deadline.is_none() {
                    self.progress_deadline = Some(Instant::now() + PROGRESS_PATIENCE);
                }
            }
        }
        Ok(())
    }

    async fn turn(&mut self) -> Result<(), E> {
        let views = newest_view(&self.node.shared().raft);
        match self.stream.turn(&views) {
            Ok(Turn::Work(work)) => {
                let places = self.node.shared().watches.places(&work);
                runtime::spawn_on(&mut self.works, elsewhere(work, places, views));
            }
            // Many turns without a message: others of this thread want to go on, too.
            Ok(Turn::More) if !self.stream.has_message() => tokio::task::yield_now().await,
            Ok(Turn::More) => {}
            Ok(Turn::Idle) => {}
            Err(error) => return Err(self.node.storage_failed(&error).into()),
        }
        Ok(())
    }

    fn finish(&mut self, done: Worked) -> Result<(), E> {
        match done {
            Ok(Ok(done)) => {
                self.stream.finish(done);
                Ok(())
            }
            Ok(Err(error)) => Err(self.node.storage_failed(&error).into()),
            Err(_) => Err(RequestError::Storage.into()),
        }
    }
}

fn newest_view(raft: &RaftNode) -> impl Fn() -> Arc<StateView> + Send + use<> {
    let raft = raft.clone();
    move || raft.view()
}

/// Waits for a request; for ever, once there are no more.
async fn next_request<R: Stream + Unpin>(requests: &mut Option<R>) -> Option<R::Item> {
    match requests {
        Some(requests) => requests.next().await,
        None => std::future::pending().await,
    }
}

/// Does work on a thread of its own, once there is a place for it.
pub(super) async fn elsewhere(
    work: Work,
    places: Arc<Semaphore>,
    views: impl Fn() -> Arc<StateView> + Send + 'static,
) -> Worked {
    // The semaphore is never closed; without a permit the work would merely not be counted.
    let place = places.acquire_owned().await.ok();
    let run = move || {
        let done = work.run(&views);
        drop(place);
        done
    };
    runtime::blocking(run).await
}
