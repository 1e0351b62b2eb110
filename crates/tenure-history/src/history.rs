//! A recorded history: who asked what, when, and how it ended; read from and written as JSON lines.
//!
//! An operation takes effect at one instant between its call and its return, by the rules of linearizability. One without
//! a known end may take effect at any time after its call, even after its client gave up, or never. So an operation's
//! `returned` binds only if its outcome is known; it is kept for unknown ones because people want to see it.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{ClientId, LeaseId, Moment, NodeId, Revision};
use crate::request::Request;
use crate::response::{KeyValue, Outcome, Response};

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked.
    pub client: ClientId,
    /// The node asked, where that is known. Promises made per node are checked only for such operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Just before the request was sent.
    pub called: Moment,
    /// Just after the answer arrived, or after the client gave up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<Moment>,
    /// What was asked.
    pub request: Request,
    /// How it ended.
    pub outcome: Outcome,
}

/// The store that a history begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initial {
    /// Its revision.
    pub revision: Revision,
    /// Its compacted revision; -1 if it was never compacted.
    pub compacted: Revision,
    /// Its keys. What they were before is unknown: reads below `revision` are judged only by what the history itself wrote.
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    /// Its leases.
    #[serde(default)]
    pub leases: Vec<LeaseId>,
}

/// Everything that a run's clients saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What was there before.
    pub initial: Initial,
    /// The operations, in any order.
    pub operations: Vec<Operation>,
}

/// Why a history cannot be judged at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line is no operation.
    #[error("line {line}: {error}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        error: String,
    },
    /// Time runs backwards.
    #[error("operation {at} returned before it was called: {operation}")]
    Backwards {
        /// Its place.
        at: usize,
        /// It.
        operation: String,
    },
    /// An answer without its instant cannot be placed.
    #[error("operation {at} was answered at no known instant: {operation}")]
    NoReturn {
        /// Its place.
        at: usize,
        /// It.
        operation: String,
    },
    /// The answer is to another kind of request.
    #[error("operation {at} has the answer of another kind of request: {operation}")]
    WrongKind {
        /// Its place.
        at: usize,
        /// It.
        operation: String,
    },
}

/// A line of a recorded history.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Initial { initial: Initial },
    Operation(Box<Operation>),
}

impl Default for Initial {
    fn default() -> Self {
        Initial { revision: Revision::FRESH, compacted: Revision(-1), kvs: Vec::new(), leases: Vec::new() }
    }
}

impl Operation {
    /// An operation just before its request is sent. It stays of unknown outcome until it is said how it ended, so a
    /// recorder that never hears of it again has the truth already.
    pub fn invoke(client: ClientId, node: Option<NodeId>, called: Moment, request: Request) -> Operation {
        Operation { client, node, called, returned: None, request, outcome: Outcome::Unknown }
    }

    /// It ended, at an instant taken just after the answer arrived or the client gave up.
    ///
    /// Only an answer, a refusal by the state machine, or an error that proves that nothing happened (the request was never
    /// sent, or refused before it was proposed) is a known end. A time-out, a broken connection and an error that does not
    /// say is [`Outcome::Unknown`]: whoever records it as failed accuses the store of what it was asked to do.
    #[must_use]
    pub fn complete(self, returned: Moment, outcome: Outcome) -> Operation {
        Operation { returned: Some(returned), outcome, ..self }
    }

    /// Its answer, if it was carried out.
    pub fn response(&self) -> Option<&Response> {
        match &self.outcome {
            Outcome::Ok(response) => Some(response),
            Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown => None,
        }
    }

    /// The latest instant at which it can have taken effect.
    pub fn deadline(&self) -> Moment {
        match self.outcome {
            Outcome::Unknown => Moment::NEVER,
            Outcome::Ok(_) | Outcome::Refused(_) | Outcome::Failed(_) => self.returned.unwrap_or(Moment::NEVER),
        }
    }
}

impl History {
    /// A history of a fresh store.
    pub fn of(operations: Vec<Operation>) -> History {
        History { initial: Initial::default(), operations }
    }

    /// Reads JSON lines: one operation each, and at most one `{"initial": …}`, which stands first. Blank lines are skipped.
    pub fn from_json_lines(text: &str) -> Result<History, HistoryError> {
        let mut history = History::default();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |error: String| HistoryError::Line { line: at + 1, error };
            match serde_json::from_str(line).map_err(|error| wrong(error.to_string()))? {
                Line::Initial { initial } if history.operations.is_empty() => history.initial = initial,
                Line::Initial { .. } => return Err(wrong("the initial state must stand first".to_owned())),
                Line::Operation(operation) => history.operations.push(*operation),
            }
        }
        Ok(history)
    }

    /// Writes JSON lines.
    pub fn to_json_lines(&self) -> Result<String, serde_json::Error> {
        let mut text = String::new();
        if self.initial != Initial::default() {
            text.push_str(&serde_json::to_string(&Line::Initial { initial: self.initial.clone() })?);
            text.push('\n');
        }
        for operation in &self.operations {
            text.push_str(&serde_json::to_string(operation)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// Refuses a history that no recorder can have made.
    pub fn validate(&self) -> Result<(), HistoryError> {
        for (at, operation) in self.operations.iter().enumerate() {
            let text = || operation.to_string();
            if operation.returned.is_some_and(|returned| returned < operation.called) {
                return Err(HistoryError::Backwards { at, operation: text() });
            }
            if operation.returned.is_none() && matches!(operation.outcome, Outcome::Ok(_) | Outcome::Refused(_)) {
                return Err(HistoryError::NoReturn { at, operation: text() });
            }
            if operation.response().is_some_and(|response| !answers(&operation.request, response)) {
                return Err(HistoryError::WrongKind { at, operation: text() });
            }
        }
        Ok(())
    }
}

fn answers(request: &Request, response: &Response) -> bool {
    use crate::response::Body;
    matches!(
        (request, &response.body),
        (Request::Range(_), Body::Range(_))
            | (Request::Put(_), Body::Put { .. })
            | (Request::DeleteRange(_), Body::DeleteRange { .. })
            | (Request::Txn(_), Body::Txn { .. })
            | (Request::Compact { .. }, Body::Compact)
            | (Request::LeaseGrant { .. }, Body::LeaseGrant { .. })
            | (Request::LeaseKeepAlive { .. }, Body::LeaseKeepAlive { .. })
            | (Request::LeaseRevoke { .. }, Body::LeaseRevoke)
            | (Request::LeaseTimeToLive { .. }, Body::LeaseTimeToLive { .. })
    )
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let returned = self.returned.map_or_else(|| "…".to_owned(), |returned| returned.to_string());
        write!(f, "client {:<3} {} – {returned}  {} → {}", self.client, self.called, self.request, self.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{KeyRange, Put, Range};
    use crate::response::{Body, RangeBody};

    fn some() -> History {
        let put = Put { key: "a".into(), value: vec![0, 255].into(), lease: LeaseId(7), prev_kv: true };
        let kv = KeyValue { key: "a".into(), value: "x".into(), version: 1, ..KeyValue::default() };
        let operation = |request, outcome, returned| Operation {
            client: ClientId(1),
            node: Some(NodeId(2)),
            called: Moment(5),
            returned,
            request,
            outcome,
        };
        let range = Range { keys: KeyRange::all(), ..Range::default() };
        let body = Body::Range(RangeBody { kvs: vec![kv], count: 1, more: false });
        let mut history = History::of(vec![
            operation(Request::Put(put), Outcome::Unknown, None),
            operation(Request::Range(range), Outcome::Ok(Response { revision: Revision(2), body }), Some(Moment(6))),
            operation(
                Request::Compact { revision: Revision(9) },
                Outcome::Refused(Refusal::FutureRevision),
                Some(Moment(6)),
            ),
            operation(Request::LeaseRevoke { id: LeaseId(-3) }, Outcome::Failed("no leader".into()), None),
        ]);
        history.initial.revision = Revision(3);
        history
    }
    use crate::response::Refusal;

    #[test]
    fn json_lines_read_back_are_the_same_history() {
        let text = some().to_json_lines().unwrap();
        assert_eq!(History::from_json_lines(&text).unwrap(), some());
        assert_eq!(text.lines().count(), 5);
        assert!(some().validate().is_ok());
    }

    #[test]
    fn what_no_recorder_writes_is_refused() {
        assert!(matches!(History::from_json_lines("\n{}"), Err(HistoryError::Line { line: 2, .. })));
        let mut history = some();
        history.operations[1].returned = Some(Moment(1));
        assert!(matches!(history.validate(), Err(HistoryError::Backwards { at: 1, .. })));
        history.operations[1].returned = None;
        assert!(matches!(history.validate(), Err(HistoryError::NoReturn { at: 1, .. })));
        history.operations[1] = some().operations[1].clone();
        history.operations[1].request = Request::Compact { revision: Revision(1) };
        assert!(matches!(history.validate(), Err(HistoryError::WrongKind { at: 1, .. })));
    }
}
