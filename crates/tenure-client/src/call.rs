//! How a request is carried out: which endpoint it goes to, and whether it goes to another if nothing comes of it.
//!
//! Two questions decide. Is it *known* that nothing was done? Then any request may be sent again. Does it do no harm if it is done twice?
//! Then it may be sent again whatever is known. Everything else is sent once, and its sender is told that nobody knows.

use std::time::Duration;

use tonic::Status;

use crate::clock::Instant;
use crate::error::{Error, Miss, Refusal, Setback, Setbacks, Verdict, reason};
use crate::transport::{EndpointId, Link};

/// Whether a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It changes nothing: freely.
    Read,
    /// Only if it is known not to be done.
    Write,
    /// Freely: done twice, it has one effect.
    Idempotent,
    /// Not at all.
    Never,
}

impl Retry {
    /// Whether a second try does no harm whatever became of the first.
    fn is_harmless(self) -> bool {
        matches!(self, Retry::Read | Retry::Idempotent)
    }
}

/// What is known of a request beforehand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct What {
    /// For messages and traces.
    pub(crate) name: &'static str,
    pub(crate) retry: Retry,
    /// How long it may take; as long as the client's options say if it is none.
    pub(crate) timeout: Option<Duration>,
    /// When it must be over, if that is known. The earlier of both counts.
    pub(crate) deadline: Option<Instant>,
    /// Whether a member may answer that knows no leader.
    pub(crate) is_local: bool,
    /// Whether it gives back what somebody had: a client that is closing carries it out still.
    pub(crate) is_farewell: bool,
}

impl What {
    pub(crate) const fn new(name: &'static str, retry: Retry) -> What {
        What { name, retry, timeout: None, deadline: None, is_local: false, is_farewell: false }
    }

    pub(crate) const fn read(name: &'static str) -> What {
        What::new(name, Retry::Read)
    }

    pub(crate) const fn write(name: &'static str) -> What {
        What::new(name, Retry::Write)
    }

    pub(crate) const fn idempotent(name: &'static str) -> What {
        What::new(name, Retry::Idempotent)
    }

    pub(crate) const fn timeout(mut self, timeout: Option<Duration>) -> What {
        self.timeout = timeout;
        self
    }

    pub(crate) const fn deadline(mut self, deadline: Option<Instant>) -> What {
        self.deadline = deadline;
        self
    }

    pub(crate) const fn local(mut self, is_local: bool) -> What {
        self.is_local = is_local;
        self
    }

    pub(crate) const fn farewell(mut self) -> What {
        self.is_farewell = true;
        self
    }
}

/// The tries of one request so far.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// Where nothing came of it, since the last pause.
    pub(crate) avoid: Vec<EndpointId>,
    /// The latest at each endpoint.
    setbacks: Vec<Setback>,
    /// Why the last one failed, if it is known that nothing was done.
    last: Option<Miss>,
    /// Whether some try may have been carried out.
    is_unanswered: bool,
    /// Rounds over all endpoints that failed.
    pub(crate) rounds: u32,
    logins: u32,
}

/// What to do after a try that failed.
#[derive(Debug)]
pub(crate) enum Next {
    /// Try again.
    Again,
    /// Give up.
    Fail(Error),
}

/// How often a request is sent again with a new token. A second refusal of a new one is no accident.
const LOGINS_MAX: u32 = 2;

impl Tries {
    /// Takes note of a try that ended with a status, and says how to go on.
    pub(crate) fn failed(&mut self, link: &Link, retry: Retry, status: &Status) -> Next {
        let verdict = Verdict::of(status, link.is_sent());
        let setback = Setback::new(link.address(), reason(status));
        match verdict {
            Verdict::Refused(_) => Next::Fail(Error::from_status(link, true, status)),
            Verdict::NotApplied(Miss::TokenExpired) if link.token().is_none() || self.logins >= LOGINS_MAX => {
                Next::Fail(Error::refused(link, Refusal::InvalidAuthToken, status))
            }
            Verdict::NotApplied(Miss::TokenExpired) => {
                self.logins += 1;
                self.note(setback, Some(Miss::TokenExpired));
                Next::Again
            }
            Verdict::NotApplied(miss) if retry == Retry::Never => Next::Fail(miss.into_error(vec![setback].into())),
            Verdict::NotApplied(miss) => {
                self.avoid.push(link.endpoint());
                self.note(setback, Some(miss));
                Next::Again
            }
            Verdict::Unknown => self.unanswered(link.endpoint(), setback, retry),
        }
    }

    /// Takes note of a try that had no answer in time.
    pub(crate) fn silent(&mut self, link: &Link, retry: Retry) -> Next {
        let setback = Setback::new(link.address(), "no answer in time");
        if link.is_sent() {
            return self.unanswered(link.endpoint(), setback, retry);
        }
        self.avoid.push(link.endpoint());
        self.note(setback, Some(Miss::Unreached));
        Next::Again
    }

    /// Takes note of an endpoint that gave no token, so that nothing was sent to it.
    pub(crate) fn could_not_log_in(&mut self, link: &Link, reason: String) {
        self.avoid.push(link.endpoint());
        self.note(Setback::new(link.address(), reason), Some(Miss::Unreached));
    }

    fn unanswered(&mut self, endpoint: EndpointId, setback: Setback, retry: Retry) -> Next {
        if !retry.is_harmless() {
            return Next::Fail(Error::Unknown(Box::new(setback)));
        }
        self.avoid.push(endpoint);
        self.is_unanswered = true;
        self.note(setback, None);
        Next::Again
    }

    fn note(&mut self, setback: Setback, miss: Option<Miss>) {
        self.last = miss;
        self.setbacks.retain(|known| known.endpoint != setback.endpoint);
        self.setbacks.push(setback);
    }

    /// What to say when the deadline has come. `down` is what is wrong with endpoints that were not even tried.
    pub(crate) fn expired(self, retry: Retry, down: &Setbacks) -> Error {
        let mut setbacks = self.setbacks;
        if setbacks.is_empty() {
            return Error::Unreachable(down.clone());
        }
        // Once done is done, whatever became of the tries that followed.
        if self.is_unanswered && retry != Retry::Read {
            return Error::Unknown(Box::new(setbacks.swap_remove(setbacks.len() - 1)));
        }
        match self.last {
            Some(miss) => miss.into_error(setbacks.into()),
            None => Error::Timeout(setbacks.into()),
        }
    }
}
