//! etcd's stream of keepalives: those that a renewal in the log counts for already are answered right here.
//!
//! They wait for one confirmation together, all of the stream that are there, and are answered in their order. As soon
//! as one of them needs the log, it and what comes after it go the way of all streams of keepalives
//! (`node/keepalives.rs`), until all of those are answered.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{BoxStream, StreamExt};
use tenure_core::LeaseId;
use tenure_http2::{Dialogue, Farewell, Heard, Line};
use tenure_proto::etcdserverpb as pb;
use tenure_raft::RenewalsNoted;
use tenure_storage::state_view::StateView;
use tonic::Status;

use super::super::{convert, header, lease};
use super::spoken::{HEARD_AT_ONCE_MAX, LeaderLost, Requests, decode, failed, farewell, say};
use crate::node::{Node, RequestError};

/// Keepalives that are carried out at once; further ones wait in the connection.
const AT_ONCE_MAX: usize = 1024;

/// Answers that one reading of the lease clock is for: they take a while.
const ANSWERED_BY_ONE_READING: usize = 64;

type Confirmation = Pin<Box<dyn Future<Output = Result<Arc<StateView>, RequestError>> + Send>>;

/// The way through the log.
struct Logged {
    requests: Requests<pb::LeaseKeepAliveRequest>,
    answers: BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>,
    unanswered: usize,
}

impl Logged {
    fn new(node: &Node) -> Logged {
        let requests = Requests::new();
        let answers = lease::keep_alive(node.clone(), requests.taken());
        Logged { requests, answers, unanswered: 0 }
    }

    fn push(&mut self, id: LeaseId) {
        self.requests.push(Ok(pb::LeaseKeepAliveRequest { id: id.0 }), 0);
        self.unanswered += 1;
    }
}

/// See the module's header.
pub(super) struct KeepAlives {
    node: Node,
    lost: LeaderLost,
    /// Those that wait, in their order, and how many of them the confirmation is for.
    asked: VecDeque<LeaseId>,
    confirming: Option<(usize, Confirmation)>,
    /// The lessor leaves alone what may have to be renewed before it is due.
    noted: Vec<RenewalsNoted>,
    logged: Option<Logged>,
    /// The last that was answered without the log: the next of the same lease is likely to be, too.
    last_counted: Option<LeaseId>,
    /// The client asks no more, or nothing that could be read; then the stream ends with that once all is answered.
    end: Option<Result<(), Status>>,
}

impl KeepAlives {
    pub(super) fn new(node: &Node, lost: LeaderLost) -> KeepAlives {
        let (confirming, logged, last_counted, end) = (None, None, None, None);
        let (node, asked, noted) = (node.clone(), VecDeque::new(), Vec::new());
        KeepAlives { node, lost, asked, confirming, noted, logged, last_counted, end }
    }

    fn has_place(&self) -> bool {
        let logged = self.logged.as_ref().map_or(0, |logged| logged.unanswered);
        self.end.is_none() && self.asked.len() + logged < AT_ONCE_MAX
    }

    /// Answers how many it heard, and whether there may be more, for which there is no place.
    fn hear(&mut self, line: &mut dyn Line) -> (usize, bool) {
        let mut count = 0;
        while self.has_place() {
            match line.hear() {
                Heard::Message(bytes) => match decode::<pb::LeaseKeepAliveRequest>(bytes) {
                    Ok(request) => self.ask(LeaseId(request.id)),
                    Err(status) => self.end = Some(Err(status)),
                },
                Heard::Nothing => return (count, false),
                Heard::End => self.end = Some(Ok(())),
                Heard::Failed { code, message } => self.end = Some(Err(failed(code, &message))),
            }
            count += 1;
        }
        (count, self.end.is_none())
    }

    fn ask(&mut self, id: LeaseId) {
        // What counted a moment ago is not due soon.
        if self.last_counted != Some(id) {
            self.noted.push(self.node.shared().raft.renewals().note(vec![id]));
        }
        self.asked.push_back(id);
    }

    /// All that wait go to the log.
    fn log_all(&mut self) {
        let logged = self.logged.get_or_insert_with(|| Logged::new(&self.node));
        self.asked.drain(..).for_each(|id| logged.push(id));
        (self.confirming, self.last_counted) = (None, None);
    }

    /// Answers the first that wait, who are confirmed by a view, as far as there is room, until one of them needs the
    /// log. For the others a view is made again: one that was kept would keep all that it shows from being purged.
    fn answer_confirmed(&mut self, count: usize, view: &Arc<StateView>, line: &mut dyn Line) -> Result<(), Status> {
        let mut left = count;
        while left > 0 {
            let renewals = self.node.counting_renewals(view.clone());
            let some = left.min(ANSWERED_BY_ONE_READING);
            for _ in 0..some {
                let Some(id) = self.asked.front().copied().filter(|_| line.has_room()) else { return Ok(()) };
                let counted = match &renewals {
                    Some(renewals) => renewals.counted(id).map_err(|error| lease::unanswered(&self.node, error))?,
                    None => None,
                };
                let Some(outcome) = counted else {
                    self.log_all();
                    return Ok(());
                };
                self.last_counted = self.asked.pop_front();
                let header = header(&self.node, outcome.revision);
                say(line, &convert::lease_keep_alive_answer(header, id, &outcome)?);
            }
            left -= some;
        }
        Ok(())
    }

    /// Begins to confirm for all that wait, or sends them to the log if that would be in vain.
    fn begin(&mut self) {
        let Some(first) = self.asked.front() else { return };
        if self.last_counted == Some(*first) || self.node.looks_renewed(*first).unwrap_or(false) {
            self.confirming = Some((self.asked.len(), Box::pin(self.node.confirmation())));
        } else {
            self.log_all();
        }
    }

    /// Goes on with what is in the log. Answers whether something is left there.
    fn answer_logged(&mut self, cx: &mut Context<'_>, line: &mut dyn Line) -> Result<bool, Status> {
        let Some(logged) = &mut self.logged else { return Ok(false) };
        if logged.unanswered == 0 {
            return Ok(false);
        }
        self.asked.drain(..).for_each(|id| logged.push(id));
        while logged.unanswered > 0 && line.has_room() {
            match logged.answers.poll_next_unpin(cx) {
                Poll::Ready(Some(answer)) => {
                    say(line, &answer?);
                    logged.unanswered -= 1;
                }
                // It ends by an error only, which came before.
                Poll::Ready(None) | Poll::Pending => return Ok(true),
            }
        }
        Ok(logged.unanswered > 0)
    }

    /// Does what can be done now. Answers whether it waits for something.
    fn step(&mut self, cx: &mut Context<'_>, line: &mut dyn Line) -> Result<bool, Status> {
        if self.answer_logged(cx, line)? {
            return Ok(true);
        }
        if let Some((count, confirmation)) = &mut self.confirming {
            let count = *count;
            let Poll::Ready(confirmed) = confirmation.as_mut().poll(cx) else { return Ok(true) };
            self.confirming = None;
            match confirmed {
                Ok(view) => self.answer_confirmed(count, &view, line)?,
                // It knows better how to wait.
                Err(_) => self.log_all(),
            }
        } else if !line.has_room() {
            return Ok(true);
        } else {
            self.begin();
        }
        Ok(false)
    }

    fn go_on(&mut self, cx: &mut Context<'_>, line: &mut dyn Line) -> Result<Poll<()>, Status> {
        let mut heard = 0;
        loop {
            let (count, was_full) = self.hear(line);
            let waits = self.step(cx, line)?;
            if self.asked.is_empty() {
                // What is in the log by now is noted there.
                self.noted.clear();
            }
            heard += count;
            if heard > HEARD_AT_ONCE_MAX {
                cx.waker().wake_by_ref();
                return Ok(Poll::Pending);
            }
            if was_full && self.has_place() {
                continue;
            }
            let is_done = self.asked.is_empty() && self.logged.as_ref().is_none_or(|logged| logged.unanswered == 0);
            match &mut self.end {
                Some(end) if is_done => return std::mem::replace(end, Ok(())).map(Poll::Ready),
                _ if waits || is_done => return Ok(Poll::Pending),
                _ => {}
            }
        }
    }
}

impl Dialogue for KeepAlives {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, line: &mut dyn Line) -> Poll<Farewell> {
        if let Poll::Ready(lost) = self.lost.poll(cx) {
            return Poll::Ready(farewell(&lost));
        }
        match self.go_on(cx, line) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(Farewell::OK),
            Err(status) => Poll::Ready(farewell(&status)),
        }
    }
}
