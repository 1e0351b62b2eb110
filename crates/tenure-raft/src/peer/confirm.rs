//! The questions by which a leader learns that it led when it asked: one stream to each voter, one question at a time.
//!
//! A question is answered by what the voter's log holds as its vote when it reads the question, and not by consensus, which
//! has other work. That is enough: who gives its vote to a candidate notes it there first, so as long as a majority has noted none of a
//! later term, nobody was elected. An answer counts for the question that it bears the number of, and so for all who asked before that
//! one was sent; how long it was under way does not matter, and neither does any clock.
//!
//! The streams belong to the runtime that asks first, as all connections of its [`Links`] do.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tenure_core::planted::{Bug, is_on};
use tenure_faults::Point;
use tenure_proto::tenure::peer::v1::{ConfirmRequest, ConfirmResponse, Route};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::link::{Lane, Links};
use super::{meet, wire};
use crate::runtime;
use crate::types::Vote;

/// Before a voter is asked again that did not answer.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest that an answer is waited for. A question may have been lost with its connection.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// What a voter says of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It had given its vote to nobody later when it read the question.
    Follows,
    /// It has given its vote to somebody later.
    Overruled,
    /// It did not answer.
    Nothing,
}

/// Asks the voters. Ends its streams when it is dropped.
pub(crate) struct Voters {
    links: Links,
    /// For how long an answer is waited for.
    patience: Duration,
    askers: Mutex<BTreeMap<u64, Asker>>,
}

/// The way to the task that asks one voter.
struct Asker {
    wanted: watch::Sender<Question>,
    answered: watch::Receiver<Answer>,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    number: u64,
    vote: Vote,
}

/// To all questions up to a number.
#[derive(Clone, Copy, Debug)]
struct Answer {
    to: Question,
    heard: Heard,
}

impl Voters {
    pub(crate) fn new(links: Links, patience: Duration) -> Voters {
        Voters { links, patience: patience.min(PATIENCE_MAX), askers: Mutex::default() }
    }

    /// What a voter says of a vote, to a question that is sent after this was called and before the future is waited for.
    pub(crate) fn ask(&self, voter: u64, vote: Vote) -> impl Future<Output = Heard> + Send + use<> {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let asker = askers.entry(voter).or_insert_with(|| self.start(voter, vote));
        let mut number = 0;
        asker.wanted.send_modify(|wanted| {
            *wanted = Question { number: wanted.number + 1, vote };
            number = if is_on(Bug::ConfirmedBefore) { wanted.number - 1 } else { wanted.number };
        });
        let mut answered = asker.answered.clone();
        async move {
            match answered.wait_for(|answer| answer.to.number >= number).await {
                // A later question may have been about a later vote.
                Ok(answer) if answer.to.vote == vote => answer.heard,
                Ok(_) | Err(_) => Heard::Nothing,
            }
        }
    }

    fn start(&self, voter: u64, vote: Vote) -> Asker {
        let nothing = Question { number: 0, vote };
        let (wanted, questions) = watch::channel(nothing);
        let (answers, answered) = watch::channel(Answer { to: nothing, heard: Heard::Nothing });
        let asking = Asking { links: self.links.clone(), voter, patience: self.patience, questions, answers };
        // It returns when this is dropped, and the senders of its questions with it.
        drop(runtime::spawn(asking.run()));
        Asker { wanted, answered }
    }
}

/// The task that asks one voter.
struct Asking {
    links: Links,
    voter: u64,
    patience: Duration,
    questions: watch::Receiver<Question>,
    answers: watch::Sender<Answer>,
}

/// A stream to the voter.
struct Line {
    route: Route,
    questions: mpsc::Sender<ConfirmRequest>,
    answers: Streaming<ConfirmResponse>,
}

impl Asking {
    async fn run(mut self) {
        let mut line: Option<Line> = None;
        while self.questions.changed().await.is_ok() {
            let question = *self.questions.borrow_and_update();
            let asked = tokio::time::timeout(self.patience, self.ask(&mut line, question)).await;
            let heard = asked.ok().flatten();
            if heard.is_none() {
                // Whether the connection is broken the heartbeats find out; the stream is.
                line = None;
                self.links.forget(self.voter, Lane::Reads);
            }
            self.answers.send_replace(Answer { to: question, heard: heard.unwrap_or(Heard::Nothing) });
            if heard.is_none() {
                // A voter that is gone is not dialled anew for each read.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Nothing if the stream is of no use any more.
    async fn ask(&self, line: &mut Option<Line>, question: Question) -> Option<Heard> {
        let line = match line {
            Some(line) => line,
            None => line.insert(self.open().await?),
        };
        let vote = wire::vote_bytes(&question.vote);
        meet(Point::RaftBeforeLeaderSend).await;
        let request = ConfirmRequest { route: Some(line.route), vote, number: question.number };
        line.questions.send(request).await.ok()?;
        let answer = line.answers.message().await.ok()??;
        match (answer.number == question.number, answer.overruled) {
            (true, false) => Some(Heard::Follows),
            (true, true) => Some(Heard::Overruled),
            (false, _) => None,
        }
    }

    async fn open(&self) -> Option<Line> {
        let (mut client, route) = self.links.client(self.voter, Lane::Reads).await.ok()?;
        let (questions, asked) = mpsc::channel(1);
        let answers = client.confirm(ReceiverStream::new(asked)).await.ok()?.into_inner();
        Some(Line { route, questions, answers })
    }
}
